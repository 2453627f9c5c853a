package kernel

import (
	"context"
	"maps"
	"slices"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// OpenSession implements store.Leases.
func (s *Store) OpenSession(ctx context.Context, session store.Session) error {
	if err := admissible(session); err != nil {
		return err
	}
	return s.one(ctx, func(u *unit) error {
		u.fail(u.tx.PutSession(session))
		return u.err
	})
}

// Exchange implements store.Leases.
func (s *Store) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	var reply store.ExchangeReply
	var refused error
	err := s.do(ctx, func(u *unit) error {
		reply, refused = store.ExchangeReply{Errs: make([]error, len(req.Reports))}, nil
		for i := range req.Reports {
			reply.Errs[i] = u.report(req.Tenant, &req.Reports[i])
		}
		if req.Resync {
			u.resync(&req)
		}
		if req.Max > 0 {
			reply.Grants, refused = u.claim(&req)
		}
		return u.err
	})
	if err != nil {
		return store.ExchangeReply{}, err // what was accepted or granted is not known, whatever the session is
	}
	return reply, refused
}

// resync gives back the leases that the session's worker never heard of.
func (u *unit) resync(req *store.ExchangeRequest) {
	u.fail(u.flush())
	leases, err := u.tx.LeasesBySession(req.Session)
	u.fail(err)
	for _, ref := range leases {
		if ref.Tenant != req.Tenant {
			continue
		}
		h, err := u.open(ref.Tenant, ref.Run)
		if err != nil {
			u.fail(err)
			return
		}
		row := h.Step(ref.Step)
		// By its token: the worker may still be busy with an earlier attempt of the same step.
		known := slices.ContainsFunc(req.Holding, func(c store.AckCommand) bool {
			return c.Run == ref.Run && c.Step == ref.Step && row != nil && c.Token.Epoch == row.Epoch
		})
		if known {
			continue
		}
		u.giveBack(ref, req.Session, "the grant got lost on its way to the worker")
	}
}

// giveBack revokes a lease without a charge: nobody is to blame.
func (u *unit) giveBack(ref StepRef, session, why string) {
	h, err := u.open(ref.Tenant, ref.Run)
	if err != nil {
		u.fail(err)
		return
	}
	row := h.Step(ref.Step)
	if row == nil || row.Lease == nil || row.Lease.Session != session {
		return
	}
	incarnation := u.s.driver.Incarnation()
	u.fail(engine.Revoke(h.graph, h, u.now, ref.Step, work.RevokedData{
		Token:  work.Token{Incarnation: incarnation, Epoch: row.Epoch},
		Reason: work.Reason{Code: work.EndedByWorkerLoss, Subject: row.Lease.Worker, Message: why},
	}, incarnation))
}

func (u *unit) report(tenant work.Tenant, c *store.ReportCommand) error {
	h, err := u.open(tenant, c.Run)
	if err != nil {
		return err
	}
	if err := admissible(&c.Report); err != nil {
		return err
	}
	if err := engine.Report(h.graph, h, u.now, c.Step, c.Report, u.s.driver.Incarnation()); err != nil {
		return err
	}
	r := &c.Report
	if r.CacheKey != "" && r.State == work.Succeeded && r.CachedFrom == nil {
		u.fail(u.tx.PutCached(tenant, r.CacheKey, store.CachedResult{
			Origin:  work.CacheOrigin{Run: c.Run, Step: c.Step, Attempt: h.Step(c.Step).Attempt},
			Outputs: r.Outputs, Artifacts: r.Artifacts,
		}))
	}
	return nil
}

// page is how many ready steps are looked at in one go, beyond those that are wanted.
const page = 32

// claim grants up to Max leases in the order of the queue. Steps that wait for a concurrency key or for a label the worker lacks
// are passed over and say so.
func (u *unit) claim(req *store.ExchangeRequest) ([]store.Grant, error) {
	sessions, err := u.tx.Sessions(req.Session, 0)
	if err != nil {
		u.fail(err)
		return nil, err
	}
	if len(sessions) == 0 || sessions[0].Tenant != req.Tenant {
		return nil, fault.New(fault.NotFound, "session %s has ended", req.Session).WithHint("open a new session")
	}
	var grants []store.Grant
	held := map[string]int{}
	var after *ReadyStep
	for len(grants) < req.Max {
		if err := u.flush(); err != nil {
			return nil, err
		}
		limit := req.Max - len(grants) + page
		ready, err := u.tx.Ready(req.Tenant, req.Runners, after, limit)
		if err != nil {
			u.fail(err)
			return nil, err
		}
		for i := range ready {
			if len(grants) == req.Max {
				break
			}
			g, err := u.grant(req, &ready[i], sessions[0].Worker, held)
			if err != nil {
				return nil, err
			}
			if g != nil {
				grants = append(grants, *g)
			}
		}
		if len(ready) < limit {
			break
		}
		after = &ready[len(ready)-1]
	}
	return grants, nil
}

func (u *unit) grant(req *store.ExchangeRequest, r *ReadyStep, worker string, held map[string]int) (*store.Grant, error) {
	h, err := u.open(r.Tenant, r.Run)
	if err != nil {
		return nil, err
	}
	row := h.Step(r.Step)
	if row == nil || row.Queue == nil || row.Held {
		return nil, u.err // taken within this transaction
	}
	spec := h.graph.Spec(r.Step)
	if missing, ok := offers(req, spec.Run); !ok {
		// Workers differ in what they lack. If each wrote its own reason, every write would wake the next one to write.
		if row.Reason.Code != work.WaitsForCapability && row.Reason.Code != work.WaitsForConcurrency {
			h.explain(row, work.Reason{Code: work.WaitsForCapability, Subject: missing})
		}
		return nil, nil
	}
	if key := row.Queue.Concurrency; key != "" {
		if _, known := held[key]; !known {
			if held[key], err = u.tx.LeasesByKey(r.Tenant, key); err != nil {
				u.fail(err)
				return nil, err
			}
		}
		if held[key] >= row.Queue.Max {
			h.explain(row, work.Reason{Code: work.WaitsForConcurrency, Subject: key})
			return nil, nil
		}
		held[key]++
	}
	incarnation := u.s.driver.Incarnation()
	bindings, err := engine.Claim(h.graph, h, u.now, r.Step, req.Session, worker, incarnation)
	if err != nil {
		return nil, u.err // the step ended instead; its history says why
	}
	return &store.Grant{
		Tenant: r.Tenant, Run: r.Run, RunName: h.run.Name, PlanHash: h.run.PlanHash, Step: r.Step, Attempt: row.Attempt,
		Token: work.Token{Incarnation: incarnation, Epoch: row.Epoch}, Deadline: row.Lease.Deadline,
		Trace: h.run.TraceParent, Bindings: bindings,
	}, nil
}

func (h *hot) explain(row *work.Step, reason work.Reason) {
	if row.Reason.Code != reason.Code || row.Reason.Subject != reason.Subject {
		row.Reason = reason
		h.Save(row)
	}
}

// offers reports whether the worker has what the step asks for, and if not, what is missing.
func offers(req *store.ExchangeRequest, spec *work.RunSpec) (string, bool) {
	for _, k := range slices.Sorted(maps.Keys(spec.Labels)) {
		if v := spec.Labels[k]; req.Labels[k] != v {
			return "label " + k + "=" + v, false
		}
	}
	if t := spec.Sandbox.MinTier; len(t) == 2 && int(t[1]-'0') > req.MinTier {
		return "sandbox " + t, false
	}
	return "", true
}

// Ack implements store.Leases.
func (s *Store) Ack(ctx context.Context, batch []store.AckCommand) []error {
	return s.each(ctx, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		return engine.Ack(h.graph, h, u.now, c.Step, c.Token, s.driver.Incarnation())
	})
}

// Heartbeat implements store.Leases.
func (s *Store) Heartbeat(ctx context.Context, session string, expires work.Time) (store.Orders, error) {
	var orders store.Orders
	err := s.one(ctx, func(u *unit) error {
		orders = store.Orders{}
		sessions, err := u.tx.Sessions(session, 0)
		if err != nil {
			u.fail(err)
			return err
		}
		if len(sessions) == 0 {
			return fault.New(fault.NotFound, "session %s has ended", session).WithHint("open a new session")
		}
		renewed := sessions[0]
		renewed.Expires = expires
		u.fail(u.tx.PutSession(renewed))
		u.fail(u.flush())
		leases, err := u.tx.LeasesBySession(session)
		u.fail(err)
		for _, ref := range leases {
			h, err := u.open(ref.Tenant, ref.Run)
			if err != nil {
				return err
			}
			row := h.Step(ref.Step)
			if row != nil && row.Lease != nil && row.Lease.Incarnation != s.driver.Incarnation() {
				// Its worker is alive, but holds a token from before a restore, under which it can report nothing any more.
				u.giveBack(ref, session, "the store was restored from a backup")
				continue
			}
			if row != nil && row.Lease != nil && row.Lease.Cancel {
				orders.Cancel = append(orders.Cancel, store.AckCommand{
					Tenant: ref.Tenant, Run: ref.Run, Step: ref.Step,
					Token: work.Token{Incarnation: s.driver.Incarnation(), Epoch: row.Epoch},
				})
			}
		}
		return u.err
	})
	return orders, err
}

// AppendLines implements store.Leases.
func (s *Store) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	return s.each(ctx, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		row := h.Step(c.Step)
		if row == nil || row.Lease == nil || c.Token.Epoch != row.Epoch || c.Token.Incarnation != s.driver.Incarnation() {
			return fault.New(fault.Stale, "the lease on step %q is no longer held under this token", c.Step)
		}
		lines, err := unheard(row, c)
		if err != nil {
			return err
		}
		run := h.Run()
		for _, line := range lines {
			run.LogSeq++
			line.Run, line.Seq, line.Step, line.Attempt = c.Run, run.LogSeq, c.Step, row.Attempt
			h.lines = append(h.lines, line)
		}
		if c.From > 0 && len(lines) > 0 {
			row.Lease.Lines += int64(len(lines))
			h.Save(row)
		}
		return nil
	})
}

// unheard returns the lines of a command that are not there yet.
func unheard(row *work.Step, c *store.LinesCommand) ([]work.LogLine, error) {
	if c.From == 0 {
		return c.Lines, nil
	}
	next := row.Lease.Lines + 1
	if c.From > next {
		return nil, fault.New(fault.Conflict, "line %d of step %q comes before line %d", c.From, c.Step, next)
	}
	return c.Lines[min(next-c.From, int64(len(c.Lines))):], nil
}
