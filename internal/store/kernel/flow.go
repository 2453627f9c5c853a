package kernel

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// flow is what holds back the work of a tenant, and in a transaction that grants leases, what runs.
type flow struct {
	store.Flow
	counted bool           // against limits
	seen    bool           // the total is that of the tenant
	total   int            // live leases, with those granted here
	queues  map[string]int // by queue
}

// full reports whether the tenant may have no more leases.
func (f *flow) full() bool { return f.Max > 0 && f.total >= f.Max }

func (f *flow) queueFull(queue string) bool {
	limit := f.Queue(queue).Max
	return limit > 0 && f.queues[queue] >= limit
}

// shut reports whether nothing is to be had from a queue. What the driver returns was not, but what is fresh or seen by a claim before may be.
func (f *flow) shut(queue string) bool {
	return len(f.Queues) > 0 && (f.Queue(queue).Paused != nil || f.queueFull(queue))
}

func (f *flow) granted(queue string) {
	if f.total++; f.counted {
		f.queues[queue]++
	}
}

// closed returns the queues from which nothing is to be had.
func (f *flow) closed() []string {
	if len(f.Queues)+len(f.Packs) == 0 {
		return nil
	}
	out := f.Shut()
	for pack, v := range f.Packs {
		if v.Paused != nil {
			out = append(out, work.LanesAside(pack))
		}
	}
	for queue := range f.queues {
		if f.queueFull(queue) && !slices.Contains(out, queue) {
			out = append(out, queue)
		}
	}
	slices.Sort(out)
	return out
}

// flow returns how the work of a tenant flows. A store of its own keeps it in memory; where others may change it, it stays as it is
// until the commit.
func (u *unit) flow(tenant work.Tenant) (*flow, error) {
	if f := u.flows[tenant]; f != nil {
		return f, nil
	}
	f := &flow{}
	known := false
	if u.s.rows != nil {
		f.Flow, known = u.s.rows.flows[tenant]
	}
	if !known {
		if err := u.readFlow(tenant, &f.Flow); err != nil {
			u.fail(err)
			return nil, err
		}
	}
	u.setFlow(tenant, f)
	return f, nil
}

func (u *unit) setFlow(tenant work.Tenant, f *flow) {
	if u.flows == nil {
		u.flows = map[work.Tenant]*flow{}
	}
	u.flows[tenant] = f
}

func (u *unit) readFlow(tenant work.Tenant, into *store.Flow) error {
	var row *store.Record
	var err error
	if u.lock != nil {
		row, err = u.lock.Share(tenant, store.FlowKind, store.FlowKind)
	} else {
		row, err = u.tx.Record(tenant, store.FlowKind, store.FlowKind)
	}
	if err != nil || row == nil {
		return err
	}
	return fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, into), "the flow of %s", tenant)
}

// count counts the leases of a tenant against its limits, once in a transaction.
func (u *unit) count(tenant work.Tenant, f *flow) error {
	if f.counted {
		return nil
	}
	if u.lock != nil {
		if err := u.lock.LockLimits(tenant); err != nil {
			u.fail(err)
			return err
		}
	}
	if err := u.flush(); err != nil {
		return err
	}
	counts, err := u.tx.Leases(tenant)
	if err != nil {
		u.fail(err)
		return err
	}
	f.counted, f.total, f.queues = true, 0, map[string]int{}
	for _, c := range counts {
		f.queues[c.Queue] += c.N
		f.total += c.N
	}
	return nil
}

// admits refuses a submission that goes beyond the quota of its tenant.
func (u *unit) admits(tenant work.Tenant) error {
	f, err := u.flow(tenant)
	if err != nil || f.Quota == (store.Quota{}) {
		return err
	}
	if err := u.admitsBytes(tenant, f.Quota.Bytes); err != nil {
		return err
	}
	if u.lock != nil {
		if err := u.lock.LockLimits(tenant); err != nil {
			u.fail(err)
			return err
		}
	}
	if err := u.flush(); err != nil {
		return err
	}
	if most := f.Quota.Runs; most > 0 {
		n, err := u.tx.LiveRuns(tenant, most)
		if err != nil {
			u.fail(err)
			return err
		}
		if n >= most {
			return fault.New(fault.Exhausted, "the tenant %s has %s under way, of %d that it may have", tenant, work.Count(n, "run"), most).
				WithHint("wait until some have ended, or ask the operator: orrery tenant quota --runs")
		}
	}
	if most := f.Quota.Steps; most > 0 {
		depths, err := u.tx.Depths(tenant, most)
		if err != nil {
			u.fail(err)
			return err
		}
		n := 0
		for _, d := range depths {
			n += d.Ready
		}
		if n >= most {
			return fault.New(fault.Exhausted, "the tenant %s has %s waiting for a worker, of %d that it may have", tenant, work.Count(n, "step"), most).
				WithHint("wait until some have run, or ask the operator: orrery tenant quota --steps")
		}
	}
	return nil
}

// admitsBytes refuses a submission of a tenant that stores as much as it may.
func (u *unit) admitsBytes(tenant work.Tenant, most int64) error {
	if most == 0 {
		return nil
	}
	var row *store.Record
	var err error
	if u.lock != nil {
		row, err = u.lock.Share(tenant, store.UsageKind, store.UsageKind)
	} else {
		row, err = u.tx.Record(tenant, store.UsageKind, store.UsageKind)
	}
	if err != nil || row == nil {
		u.fail(err)
		return err
	}
	var usage store.Usage
	if err := json.Unmarshal(row.Doc, &usage); err != nil {
		return fault.Wrap(fault.Internal, err, "the usage of %s", tenant)
	}
	if usage.Bytes() >= most {
		return fault.New(fault.OverQuota, "the tenant %s stores %d bytes of files, and may store %d", tenant, usage.Bytes(), most).
			WithHint("let old runs go (orrery retention set, orrery gc), or ask the operator: orrery tenant quota --bytes")
	}
	return nil
}

// Flow implements store.Flows.
func (s *Store) Flow(ctx context.Context, tenant work.Tenant) (store.Flow, error) {
	var f store.Flow
	row, err := glance(ctx, s, func(r Reader) (*store.Record, error) { return r.Record(tenant, store.FlowKind, store.FlowKind) })
	if err != nil || row == nil {
		return f, err
	}
	return f, fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &f), "the flow of %s", tenant)
}

// ChangeFlow implements store.Flows.
func (s *Store) ChangeFlow(ctx context.Context, c store.FlowChange) (store.Flow, error) {
	var out store.Flow
	err := s.one(ctx, Needs{}, func(u *unit) error {
		row, err := u.tx.Record(c.Tenant, store.FlowKind, store.FlowKind)
		u.fail(err)
		if row == nil {
			row = &store.Record{Tenant: c.Tenant, Kind: store.FlowKind, ID: store.FlowKind}
		}
		next := &flow{}
		if len(row.Doc) > 0 {
			if err := json.Unmarshal(row.Doc, &next.Flow); err != nil {
				u.fail(err)
				return err
			}
		}
		c.Actor.At = u.now
		if err := next.Apply(c); err != nil {
			return err
		}
		if row.Doc, err = json.Marshal(&next.Flow); err != nil {
			u.fail(err)
			return err
		}
		row.Version++
		u.fail(u.tx.PutRecord(*row))
		u.setFlow(c.Tenant, next) // claims run after it: those of this batch go by it, too
		u.wrote, out = true, next.Flow
		return u.err
	})
	return out, err
}

// mostCounted is how far the steps of a queue are counted for people.
const mostCounted = 10_000

// Depths implements store.Flows.
func (s *Store) Depths(ctx context.Context, tenant work.Tenant) ([]store.QueueDepth, error) {
	return read(ctx, s, func(r Reader) ([]store.QueueDepth, error) {
		waiting, err := r.Depths(tenant, mostCounted)
		if err != nil {
			return nil, err
		}
		leases, err := r.Leases(tenant)
		if err != nil {
			return nil, err
		}
		of := map[string]store.QueueDepth{}
		for _, d := range waiting { // what is set aside waits in its queue
			queue := (&work.QueueEntry{Queue: d.Queue}).Name()
			if known, has := of[queue]; has {
				d.Ready, d.Oldest = min(d.Ready+known.Ready, mostCounted), min(d.Oldest, known.Oldest)
			}
			d.Queue = queue
			of[queue] = d
		}
		for _, l := range leases {
			d := of[l.Queue]
			d.Tenant, d.Queue, d.Running = tenant, l.Queue, l.N
			of[l.Queue] = d
		}
		out := make([]store.QueueDepth, 0, len(of))
		for _, queue := range slices.Sorted(maps.Keys(of)) {
			d := of[queue]
			d.Queue = cmp.Or(d.Queue, work.DefaultQueue)
			out = append(out, d)
		}
		return out, nil
	})
}

// Workers implements store.Flows.
func (s *Store) Workers(ctx context.Context, tenant work.Tenant) ([]store.Session, error) {
	out, err := read(ctx, s, func(r Reader) ([]store.Session, error) { return r.Sessions("*live", s.now()) })
	out = slices.DeleteFunc(out, func(x store.Session) bool { return x.Tenant != tenant && x.Tenant != store.Installation })
	slices.SortFunc(out, func(a, b store.Session) int { return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.ID, b.ID)) })
	return out, err
}

// Holders implements store.Flows.
func (s *Store) Holders(ctx context.Context, tenant work.Tenant, key string) ([]store.Holder, error) {
	return read(ctx, s, func(r Reader) ([]store.Holder, error) {
		const most = 100
		refs, err := r.Holders(tenant, key, most)
		if err != nil {
			return nil, err
		}
		out := make([]store.Holder, 0, len(refs))
		for _, ref := range refs {
			run, err := r.Run(tenant, ref.Run)
			if err != nil {
				return nil, err
			}
			if run == nil {
				continue
			}
			h := store.Holder{Run: ref.Run, RunName: run.Name, Step: ref.Step, Since: run.Started}
			if ref.Step != "" {
				row, err := r.Step(tenant, ref.Run, ref.Step)
				if err != nil {
					return nil, err
				}
				if row == nil || row.Lease == nil {
					continue
				}
				h.Worker, h.Since = row.Lease.Worker, row.Lease.Granted
			}
			out = append(out, h)
		}
		return out, nil
	})
}

// shares remembers whose turn it is among tenants that share workers. It is a memory of one process, and losing it costs fairness for a
// moment and nothing else.
type shares struct {
	mu    sync.Mutex
	of    map[work.Tenant]*share
	floor int64 // the highest turn at which anybody was served
	count int64 // leases that were granted
}

// share is the place of a tenant: its turn rises with every lease by the inverse of its weight, and the lowest is served first.
type share struct{ turn, last int64 }

const wholeTurn = 1 << 30

func (s *shares) enter(tenant work.Tenant) *share {
	sh := s.of[tenant]
	if sh == nil {
		sh = &share{}
		if s.of == nil {
			s.of = map[work.Tenant]*share{}
		}
		s.of[tenant] = sh
	}
	s.raise(sh)
	return sh
}

// raise lets nobody stand behind a turn at which another was served: who asked for nothing, or had more running and was passed over, has not
// saved anything for later. So no two turns are further apart than one lease.
func (s *shares) raise(sh *share) { sh.turn = max(sh.turn, s.floor) }

func (s *shares) served(sh *share, weight int64) {
	s.floor = max(s.floor, sh.turn)
	sh.turn += (wholeTurn + weight - 1) / weight
	s.count++
	sh.last = s.count
}

// weight is how many parts of the workers a tenant has.
func (f *flow) weight() int64 { return int64(max(1, f.Weight)) }

// claimShared grants up to Max leases of all tenants, in fair shares: next is the tenant that has the fewest leases for its weight, and
// among equals the one whose turn is the longest ago. So nobody with work waits for more than one lease of every other, however much
// the others bring.
func (u *unit) claimShared(req *store.ExchangeRequest, worker string) (grants []store.Grant, missed []StepRef, err error) {
	whole, err := u.flow(store.Installation)
	if err != nil || whole.Paused != nil || whole.Worker(worker).Paused != nil {
		return nil, nil, err
	}
	takers, err := u.takers(req, worker)
	if err != nil {
		return nil, nil, err
	}
	u.s.shares.mu.Lock()
	defer u.s.shares.mu.Unlock()
	for _, t := range takers {
		t.share = u.s.shares.enter(t.tenant)
	}
	defer func() {
		for _, t := range takers {
			t.close()
			missed = append(missed, t.q.missed...)
		}
	}()
	for waiting := slices.Clone(takers); len(waiting) > 0 && len(grants) < req.Max; {
		at := 0
		for i := range waiting {
			if waiting[i].before(waiting[at]) {
				at = i
			}
		}
		t := waiting[at]
		g, err := t.next(1)
		if err != nil {
			return nil, nil, err
		}
		if g == nil {
			waiting = slices.Delete(waiting, at, at+1)
			continue
		}
		u.s.shares.served(t.share, t.f.weight())
		for _, other := range waiting {
			u.s.shares.raise(other.share)
		}
		grants = append(grants, *g)
	}
	return grants, nil, nil
}

// before reports whether a tenant is served before another.
func (t *taker) before(o *taker) bool {
	return cmp.Or(
		cmp.Compare(int64(t.f.total)*o.f.weight(), int64(o.f.total)*t.f.weight()),
		cmp.Compare(t.share.turn, o.share.turn), cmp.Compare(t.share.last, o.share.last), cmp.Compare(t.tenant, o.tenant)) < 0
}

// takers returns one taker for every tenant that has work and is not held back, by name, with their leases counted.
func (u *unit) takers(req *store.ExchangeRequest, worker string) ([]*taker, error) {
	if err := u.flush(); err != nil {
		return nil, err
	}
	tenants, err := u.tx.ReadyTenants()
	if err != nil {
		u.fail(err)
		return nil, err
	}
	var out []*taker
	for _, tenant := range tenants {
		t, err := u.taker(req, tenant, worker)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, t)
		}
	}
	if len(out) < 2 {
		return out, nil
	}
	counts, err := u.tx.Leases("")
	if err != nil {
		u.fail(err)
		return nil, err
	}
	for _, t := range out {
		if t.f.counted || t.f.seen {
			continue
		}
		t.f.seen, t.f.total = true, 0
		for _, c := range counts {
			if c.Tenant == t.tenant {
				t.f.total += c.N
			}
		}
	}
	return out, nil
}
