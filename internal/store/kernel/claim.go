package kernel

import (
	"cmp"
	"slices"
	"strings"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// page is how many ready steps are looked at in one go, beyond those that are wanted.
const page = 32

// triesToClaim is how often a worker that got nothing waits for those who had the runs of what is ready.
const triesToClaim = 2

// queue is what the claims of one batch have seen of what is ready for some runners, and have not granted.
type queue struct {
	steps  []ReadyStep
	fresh  []ReadyStep      // ready by this transaction and not written yet, as far as they are not in steps
	own    map[StepRef]bool // all that were fresh: what the driver says of them is older
	after  *ReadyStep       // the last one that was seen
	end    bool             // there is nothing behind it
	part   bool             // some queues were left out
	missed []StepRef        // somebody else is changing their runs
}

// queue returns the queue of a tenant and runners. What the commands before have made ready is in it. A store of its own takes that from
// memory, so that a step which is made ready and claimed in one transaction is written once.
func (u *unit) queue(tenant work.Tenant, runners []string) (*queue, error) {
	key := string(tenant) + "\x00" + strings.Join(runners, "\x00")
	if q := u.queues[key]; q != nil {
		return q, nil
	}
	q := &queue{}
	if u.s.rows == nil {
		if err := u.flush(); err != nil {
			return nil, err
		}
	} else {
		u.collect(q, tenant, runners)
		q.end = u.s.rows.drained[key]
	}
	if u.queues == nil {
		u.queues = map[string]*queue{}
	}
	u.queues[key] = q
	if q.end {
		q.steps, q.fresh = q.fresh, nil
	}
	return q, nil
}

// collect finds the steps of a tenant that this transaction has made ready and not written.
func (u *unit) collect(q *queue, tenant work.Tenant, runners []string) {
	for _, h := range u.order {
		if h.run.Tenant != tenant {
			continue
		}
		for _, s := range h.changed {
			row := s.row
			if !s.dirty || !claimable(row) || !slices.Contains(runners, row.Queue.Runner) {
				continue
			}
			if q.own == nil {
				q.own = map[StepRef]bool{}
			}
			r := ReadyStep{StepRef{tenant, row.Run, row.ID}, *row.Queue}
			q.fresh, q.own[r.StepRef] = append(q.fresh, r), true
		}
	}
	slices.SortFunc(q.fresh, CompareReady)
}

func claimable(row *work.Step) bool { return row.State == work.Queued && row.Queue != nil && !row.Held }

// merge puts what comes next in the queue behind what was seen: a page of the driver, and what is fresh and comes before its end.
func (q *queue) merge(page []ReadyStep) {
	for i := range page {
		for len(q.fresh) > 0 && CompareReady(q.fresh[0], page[i]) < 0 {
			q.steps, q.fresh = append(q.steps, q.fresh[0]), q.fresh[1:]
		}
		if !q.own[page[i].StepRef] {
			q.steps = append(q.steps, page[i])
		}
	}
	if q.end {
		q.steps, q.fresh = append(q.steps, q.fresh...), nil
	}
}

// CompareReady orders what is ready as workers get it.
func CompareReady(a, b ReadyStep) int {
	return cmp.Or(
		cmp.Compare(b.Queue.Priority, a.Queue.Priority), cmp.Compare(a.Queue.At, b.Queue.At),
		cmp.Compare(a.Run, b.Run), cmp.Compare(a.Step, b.Step),
	)
}

// more looks further into a queue for as many steps as are wanted. A shared store is asked for no more than that at first: what is
// looked at is kept from others until the commit.
func (u *unit) more(q *queue, t *taker, wanted int) error {
	limit := wanted + page
	if u.lock != nil {
		if limit = max(u.wants, wanted); q.after != nil {
			limit += page
		}
	}
	if t.aside > 0 { // of a paused pack there is more where that came from
		limit = max(limit, mostAside/2)
	}
	closed := t.f.closed()
	ready, err := u.tx.Ready(t.tenant, t.req.Runners, closed, q.after, limit)
	if err != nil {
		u.fail(err)
		return err
	}
	q.end, q.part = len(ready) < limit, q.part || len(closed) > 0
	if u.lock == nil {
		q.merge(ready)
	}
	if len(ready) == 0 {
		return nil
	}
	q.after = &ready[len(ready)-1]
	if u.lock == nil {
		return nil
	}
	refs := make([]StepRef, len(ready))
	for i := range ready {
		refs[i] = ready[i].StepRef
	}
	locked, err := u.lock.TryLock(refs)
	if err != nil {
		u.fail(err)
		return err
	}
	for i, ok := range locked {
		if ok {
			q.steps = append(q.steps, ready[i])
		} else {
			q.missed = append(q.missed, refs[i])
		}
	}
	return nil
}

// leases returns the count of leases under a concurrency key, to be raised by who grants another; nil while another server is
// granting under it.
func (u *unit) leases(key freedKey) (*int, error) {
	if n, known := u.held[key]; known {
		return n, nil
	}
	if u.held == nil {
		u.held = map[freedKey]*int{}
	}
	if u.lock != nil {
		if mine, err := u.lock.TryKey(key.tenant, key.key); err != nil || !mine {
			u.fail(err)
			u.held[key] = nil
			return nil, err
		}
	}
	if err := u.flush(); err != nil {
		return nil, err
	}
	n, err := u.tx.LeasesByKey(key.tenant, key.key)
	if err != nil {
		u.fail(err)
		return nil, err
	}
	u.held[key] = &n
	return &n, nil
}

// claim grants up to Max leases in the order of the queue. Steps that wait for a concurrency key, a limit or a label the worker lacks
// are passed over. Missed is what it could not look at, since others were changing the runs.
func (u *unit) claim(req *store.ExchangeRequest) (grants []store.Grant, missed []StepRef, err error) {
	sessions, err := u.tx.Sessions(req.Session, 0)
	if err != nil {
		u.fail(err)
		return nil, nil, err
	}
	if len(sessions) == 0 || sessions[0].Tenant != req.Tenant {
		return nil, nil, fault.New(fault.NotFound, "session %s has ended", req.Session).WithHint("open a new session")
	}
	if req.Tenant == store.Installation {
		return u.claimShared(req, sessions[0].Worker)
	}
	t, err := u.taker(req, req.Tenant, sessions[0].Worker)
	if err != nil || t == nil {
		return nil, nil, err
	}
	defer t.close()
	for len(grants) < req.Max {
		g, err := t.next(req.Max - len(grants))
		if err != nil {
			return nil, nil, err
		}
		if g == nil {
			break
		}
		grants = append(grants, *g)
	}
	return grants, t.q.missed, nil
}

// taker takes leases for one request out of the queues of one tenant.
type taker struct {
	u      *unit
	req    *store.ExchangeRequest
	tenant work.Tenant
	worker string
	f      *flow
	q      *queue
	at     int // the next step of q that has not been tried
	share  *share
	aside  int // steps that it has set aside
}

// mostAside is how many steps of paused packs one request sets aside: each is met once, and no commit takes long for it.
const mostAside = 500

// taker returns nil when the tenant or the worker is held back.
func (u *unit) taker(req *store.ExchangeRequest, tenant work.Tenant, worker string) (*taker, error) {
	f, err := u.flow(tenant)
	if err != nil {
		return nil, err
	}
	if f.Paused != nil || f.Worker(worker).Paused != nil {
		return nil, nil
	}
	if f.Limited() {
		if err := u.count(tenant, f); err != nil {
			return nil, err
		}
	}
	q, err := u.queue(tenant, req.Runners)
	if err != nil {
		return nil, err
	}
	return &taker{u: u, req: req, tenant: tenant, worker: worker, f: f, q: q}, nil
}

// next grants one lease, nil when there is none to be had. Wanted is how many may still be asked for.
func (t *taker) next(wanted int) (*store.Grant, error) {
	for !t.f.full() && t.aside < mostAside {
		if t.at == len(t.q.steps) {
			if t.q.end {
				break
			}
			if err := t.u.more(t.q, t, wanted); err != nil {
				return nil, err
			}
			continue
		}
		g, done, err := t.u.grant(t, &t.q.steps[t.at])
		if err != nil {
			return nil, err
		}
		if done {
			t.q.steps[t.at].Run = "" // taken out at the end, all at once
		}
		t.at++
		if g != nil {
			return g, nil
		}
	}
	return nil, nil
}

func (t *taker) close() {
	t.q.steps = slices.DeleteFunc(t.q.steps, func(r ReadyStep) bool { return r.Run == "" })
}

// grant gives a step to a worker, nil when it cannot have it. Done means that nobody else of the batch can have it either.
func (u *unit) grant(t *taker, r *ReadyStep) (g *store.Grant, done bool, err error) {
	queue := r.Queue.Name()
	if r.Run == "" || t.f.shut(queue) && r.Queue.Queue == queue {
		return nil, r.Run == "", nil
	}
	req, q := t.req, t.q
	h, err := u.sound(r.Tenant, r.Run)
	if err != nil || h == nil {
		return nil, h == nil, err
	}
	row := h.Step(r.Step)
	if row == nil || row.Queue == nil || row.Held {
		return nil, true, u.err // taken within this transaction
	}
	if pack := h.run.Pack.Name; t.f.Packs[pack].Paused != nil {
		if row.Queue.Queue == queue {
			row.Queue.SetAside(pack)
			h.Save(row)
			t.aside++
		}
		return nil, true, nil
	}
	if t.f.shut(queue) { // it was set aside, and now it is its queue that gives nothing
		row.Queue.Queue = queue
		h.Save(row)
		t.aside++
		return nil, true, nil
	}
	spec := h.graph.Spec(r.Step)
	if missing := offered(req).Lacks(spec.Run); missing != "" {
		// Workers differ in what they lack. If each wrote its own reason, every write would wake the next one to write.
		if row.Reason.Code != work.WaitsForCapability && row.Reason.Code != work.WaitsForConcurrency {
			h.explain(row, work.Reason{Code: work.WaitsForCapability, Subject: missing})
		}
		return nil, false, nil
	}
	if key := row.Queue.Concurrency; key != "" {
		count, err := u.leases(freedKey{r.Tenant, key})
		if err != nil {
			return nil, false, err
		}
		if count == nil {
			q.missed = append(q.missed, r.StepRef)
			return nil, true, nil
		}
		if *count >= row.Queue.Max {
			h.explain(row, work.Reason{Code: work.WaitsForConcurrency, Subject: key})
			return nil, false, nil
		}
		*count++
	}
	incarnation, queued := u.s.driver.Incarnation(), row.Queue.At
	bindings, err := engine.Claim(h.graph, h, u.now, r.Step, req.Session, t.worker, incarnation)
	if err != nil {
		return nil, true, u.err // the step ended instead; its history says why
	}
	t.f.granted(queue)
	u.waited(queued)
	trace := h.run.TraceParent
	if u.s.trace != nil {
		trace = u.s.trace(h.run, r.Step, row.Attempt)
	}
	return &store.Grant{
		Session: req.Session, Tenant: r.Tenant, Run: r.Run, RunName: h.run.Name, PlanHash: h.run.PlanHash, Step: r.Step, Attempt: row.Attempt,
		Token: work.Token{Incarnation: incarnation, Epoch: row.Epoch}, Deadline: row.Lease.Deadline,
		Trace: trace, TraceState: h.run.TraceState, Baggage: h.run.Baggage, Bindings: bindings,
	}, true, nil
}

func (h *hot) explain(row *work.Step, reason work.Reason) {
	if row.Reason.Code != reason.Code || row.Reason.Subject != reason.Subject {
		row.Reason = reason
		h.Save(row)
	}
}

func offered(req *store.ExchangeRequest) *store.Offer {
	return &store.Offer{Runners: req.Runners, Labels: req.Labels, Tier: req.MinTier}
}
