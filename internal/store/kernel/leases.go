package kernel

import (
	"cmp"
	"context"
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
	return s.one(ctx, Needs{}, func(u *unit) error {
		u.fail(u.tx.PutSession(session))
		return u.err
	})
}

// Exchange implements store.Leases.
func (s *Store) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	var reply store.ExchangeReply
	var refused error
	var missed []StepRef
	r := &request{
		needs: needSteps(req.Reports, func(c *store.ReportCommand) StepRef { return StepRef{cmp.Or(c.Tenant, req.Tenant), c.Run, c.Step} }),
		run: func(u *unit) error {
			reply, refused = store.ExchangeReply{Errs: make([]error, len(req.Reports))}, nil
			for i := range req.Reports {
				reply.Errs[i] = u.report(&req, &req.Reports[i])
			}
			if req.Resync {
				u.resync(&req)
			}
			return u.err
		},
	}
	if req.Max > 0 {
		r.wants, r.needs.Sessions, r.needs.Flows = req.Max, []string{req.Session}, []work.Tenant{req.Tenant}
		r.claim = func(u *unit) error {
			reply.Grants, missed, refused = u.claim(&req)
			return u.err
		}
	}
	err := s.submitted(ctx, r)
	for range triesToClaim {
		if err != nil || refused != nil || len(reply.Grants) > 0 || len(missed) == 0 {
			break
		}
		// There was work, but somebody else had all of its runs. What they left is asked for once more, waiting for them this time.
		err = s.submitted(ctx, &request{
			needs: Needs{Steps: missed, Sessions: r.needs.Sessions, Flows: r.needs.Flows}, run: func(*unit) error { return nil }, claim: r.claim, wants: r.wants,
		})
	}
	if err != nil {
		return store.ExchangeReply{}, err // what was accepted or granted is not known, whatever the session is
	}
	s.hand(context.WithoutCancel(ctx), reply.Grants)
	return reply, refused
}

// resync gives back the leases that the session's worker never heard of.
func (u *unit) resync(req *store.ExchangeRequest) {
	u.fail(u.flush())
	leases, err := u.tx.LeasesBySession(req.Session)
	u.fail(err)
	for _, ref := range leases {
		if ref.Tenant != req.Tenant && req.Tenant != store.Installation {
			continue
		}
		h, err := u.sound(ref.Tenant, ref.Run)
		if err != nil {
			u.fail(err)
			return
		}
		if h == nil {
			continue
		}
		row := h.Step(ref.Step)
		// By its token: the worker may still be busy with an earlier attempt of the same step.
		known := slices.ContainsFunc(req.Holding, func(c store.AckCommand) bool {
			return c.Tenant == ref.Tenant && c.Run == ref.Run && c.Step == ref.Step && row != nil && c.Token.Epoch == row.Epoch
		})
		if known {
			continue
		}
		u.giveBack(ref, req.Session, "the grant got lost on its way to the worker")
	}
}

// giveBack revokes a lease without a charge: nobody is to blame.
func (u *unit) giveBack(ref StepRef, session, why string) {
	h, err := u.sound(ref.Tenant, ref.Run)
	if err != nil || h == nil {
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

func (u *unit) report(req *store.ExchangeRequest, c *store.ReportCommand) error {
	tenant := cmp.Or(c.Tenant, req.Tenant)
	if tenant != req.Tenant && req.Tenant != store.Installation {
		return fault.New(fault.NotFound, "there is no run %s", c.Run)
	}
	h, err := u.open(tenant, c.Run)
	if err != nil {
		return err
	}
	if err := h.heldBy(c.Step, req.Session); err != nil {
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

// heldBy refuses who is not the one that the lease was granted to: to know its token is not enough.
func (h *hot) heldBy(step work.StepID, session string) error {
	if row := h.Step(step); row == nil || row.Lease == nil || row.Lease.Session != session {
		return fault.New(fault.Stale, "the lease on step %q is not held by this session", step)
	}
	return nil
}

// Ack implements store.Leases.
func (s *Store) Ack(ctx context.Context, batch []store.AckCommand) []error {
	needs := needSteps(batch, func(c *store.AckCommand) StepRef { return StepRef{c.Tenant, c.Run, c.Step} })
	return s.each(ctx, needs, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		if err := h.heldBy(c.Step, c.Session); err != nil {
			return err
		}
		return engine.Ack(h.graph, h, u.now, c.Step, c.Token, s.driver.Incarnation())
	})
}

// Heartbeat implements store.Leases.
func (s *Store) Heartbeat(ctx context.Context, session string, expires work.Time) (store.Orders, error) {
	var orders store.Orders
	err := s.one(ctx, Needs{Sessions: []string{session}}, func(u *unit) error {
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
		f, err := u.flow(renewed.Tenant)
		if err != nil {
			return err
		}
		orders.Drain = f.Worker(renewed.Worker).Drain
		u.fail(u.flush())
		leases, err := u.tx.LeasesBySession(session)
		u.fail(err)
		rows, err := u.look(leases)
		u.fail(err)
		for _, row := range rows {
			if row == nil || row.Lease == nil || row.Lease.Session != session {
				continue
			}
			ref := StepRef{row.Tenant, row.Run, row.ID}
			if row.Lease.Incarnation != s.driver.Incarnation() {
				// Its worker is alive, but holds a token from before a restore, under which it can report nothing any more.
				u.giveBack(ref, session, "the store was restored from a backup")
				continue
			}
			if row.Lease.Cancel {
				orders.Cancel = append(orders.Cancel, store.AckCommand{
					Session: session, Tenant: ref.Tenant, Run: ref.Run, Step: ref.Step,
					Token: work.Token{Incarnation: s.driver.Incarnation(), Epoch: row.Epoch},
				})
			}
		}
		return u.err
	})
	return orders, err
}

// look returns the rows of steps, nil for those that are not there. Where others change the store as well their runs are not locked for
// it: a heartbeat only tells what it sees.
func (u *unit) look(refs []StepRef) ([]*work.Step, error) {
	if u.lock != nil {
		return u.lock.Peek(refs)
	}
	out := make([]*work.Step, len(refs))
	for i, ref := range refs {
		h, err := u.sound(ref.Tenant, ref.Run)
		if err != nil {
			return nil, err
		}
		if h != nil {
			out[i] = h.Step(ref.Step)
		}
	}
	return out, nil
}

// AppendLines implements store.Leases.
func (s *Store) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	needs := needSteps(batch, func(c *store.LinesCommand) StepRef { return StepRef{c.Tenant, c.Run, c.Step} })
	return s.each(ctx, needs, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		row := h.Step(c.Step)
		if err := h.heldBy(c.Step, c.Session); err != nil {
			return err
		}
		if c.Token.Epoch != row.Epoch || c.Token.Incarnation != s.driver.Incarnation() {
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
