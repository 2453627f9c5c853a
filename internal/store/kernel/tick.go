package kernel

import (
	"context"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Tick implements store.Leases.
func (s *Store) Tick(ctx context.Context, limit int) (work.Time, error) {
	var next work.Time
	err := s.one(ctx, Needs{}, func(u *unit) error {
		if err := u.flush(); err != nil {
			return err
		}
		if err := u.endSessions("", work.Reason{
			Code: work.EndedByWorkerLoss, Message: "the worker stopped answering",
		}, true); err != nil {
			return err
		}
		if err := u.dueSteps(limit); err != nil {
			return err
		}
		if err := u.dueRuns(limit); err != nil {
			return err
		}
		if err := u.flush(); err != nil {
			return err
		}
		var err error
		next, err = u.tx.NextDue()
		u.fail(err)
		return u.err
	})
	return next, err
}

// Recover implements store.Leases.
func (s *Store) Recover(ctx context.Context) error {
	return s.one(ctx, Needs{}, func(u *unit) error {
		return u.endSessions("*local", work.Reason{
			Code: work.EndedByWorkerLoss, Message: "the process that ran it was stopped",
		}, false)
	})
}

// endSessions revokes the leases of sessions and forgets them: those that expired for "", the local ones for "*local".
func (u *unit) endSessions(which string, reason work.Reason, charge bool) error {
	sessions, err := u.tx.Sessions(which, u.now)
	if err != nil {
		u.fail(err)
		return err
	}
	for _, session := range sessions {
		if err := u.endSession(session, reason, charge); err != nil {
			return err
		}
	}
	return u.err
}

func (u *unit) endSession(session store.Session, reason work.Reason, charge bool) error {
	reason.Subject = session.Worker
	all, err := u.tx.LeasesBySession(session.ID)
	if err != nil {
		u.fail(err)
		return err
	}
	leases, err := u.try(all)
	if err != nil {
		return err
	}
	incarnation := u.s.driver.Incarnation()
	for _, ref := range leases {
		h, err := u.sound(ref.Tenant, ref.Run)
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		row := h.Step(ref.Step)
		if row == nil || row.Lease == nil || row.Lease.Session != session.ID {
			continue
		}
		err = engine.Revoke(h.graph, h, u.now, ref.Step, work.RevokedData{
			Token: work.Token{Incarnation: incarnation, Epoch: row.Epoch}, Reason: reason, Charge: charge,
		}, incarnation)
		if err != nil && fault.CodeOf(err) != fault.Stale {
			return err
		}
	}
	if len(leases) == len(all) { // else it ends next time: a lease must not outlive its session
		u.fail(u.tx.DeleteSession(session.ID))
	}
	return u.err
}

func (u *unit) dueSteps(limit int) error {
	due, err := u.tx.DueSteps(u.now, limit)
	if err != nil {
		u.fail(err)
		return err
	}
	if due, err = u.try(due); err != nil {
		return err
	}
	for _, ref := range due {
		h, err := u.sound(ref.Tenant, ref.Run)
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		engine.DueStep(h.graph, h, u.now, ref.Step, u.s.driver.Incarnation())
	}
	return u.err
}

func (u *unit) dueRuns(limit int) error {
	due, err := u.tx.DueRuns(u.now, limit)
	if err != nil {
		u.fail(err)
		return err
	}
	if due, err = u.try(due); err != nil {
		return err
	}
	for _, ref := range due {
		h, err := u.sound(ref.Tenant, ref.Run)
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		if h.run.Phase == work.PhaseDelayed {
			busy, err := u.keyTaken(h.run, h.graph)
			if err != nil {
				return err
			}
			engine.Begin(h.graph, h, u.now, busy)
			continue
		}
		engine.Due(h.graph, h, u.now)
	}
	return u.err
}
