package simulator

import (
	"encoding/json"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// event checks one event when it is committed. What it checks against is only what earlier events said.
func (c *checker) event(e *work.Event) {
	w := c.w
	a := c.books.account(e.Tenant, e.Run)
	w.tell("%s %d %s %s #%d", e.Run, e.Seq, e.Type, e.Step, e.Attempt)
	if err := a.chain.Check(e); err != nil {
		w.violate("I6: run %s: %v", e.Run, err)
		return
	}
	if e.Time < a.last {
		w.violate("I20: event %d of run %s is at %s, the one before it at %s", e.Seq, e.Run, e.Time, a.last)
	}
	a.last = e.Time
	a.events = append(a.events, *e)
	if a.overs > 0 {
		w.violate("I1: event %d of run %s, %s, comes after its end", e.Seq, e.Run, e.Type)
	}
	if end, over := a.ended[e.Step]; over && e.Step != "" {
		w.violate("I1: event %d of run %s, %s, comes after step %s ended as %s", e.Seq, e.Run, e.Type, e.Step, end.State)
	}
	switch e.Type {
	case work.RunCancelAsked:
		a.cancelled, a.paused = true, false
	case work.RunPaused:
		a.paused = true
	case work.RunResumed:
		a.paused = false
	case work.RunDue:
		a.paused = a.paused && a.row.Phase == work.PhaseDelayed // out of time it ends; when its time has come it stays paused
	case work.RunEnded:
		a.overs++
	case work.RunStarted:
		c.startsInTime(a, e)
	case work.StepQueued, work.StepStarted, work.StepWaiting, work.PolicyDecided, work.StepCarried:
		c.begin(a, e)
	case work.StepClaimed:
		c.claimed(a, e)
	case work.StepAcked:
		var d work.AckedData
		c.read(e, &d)
		c.fenced(a, e, d.Token)
	case work.StepReported:
		c.reported(a, e)
	case work.StepRevoked:
		c.revoked(a, e)
	case work.StepEnded:
		var d work.EndedData
		c.read(e, &d)
		a.ended[e.Step] = d
	}
}

func (c *checker) read(e *work.Event, data any) {
	if err := json.Unmarshal(e.Data, data); err != nil {
		c.w.violate("I6: event %d of run %s cannot be read: %v", e.Seq, e.Run, err)
	}
}

func (c *checker) spec(a *account, id work.StepID) *work.PlanStep {
	if p := c.w.plans[c.planOf(a)]; p != nil {
		for i := range p.plan.Steps {
			if p.plan.Steps[i].ID == id.Template() {
				return &p.plan.Steps[i]
			}
		}
	}
	return nil
}

// planOf returns the plan that a run was submitted with: of its first event, because its row may come later.
func (c *checker) planOf(a *account) work.Digest {
	if a.row.PlanHash != "" {
		return a.row.PlanHash
	}
	var d work.SubmittedData
	c.read(&a.events[0], &d)
	return d.PlanHash
}

// begin checks that what a step needs has ended in a way that lets it start (I12).
func (c *checker) begin(a *account, e *work.Event) {
	if e.Type == work.StepQueued {
		a.queued[e.Step] = e.Time
	}
	if a.begun[e.Step] {
		if e.Type != work.StepQueued {
			c.w.violate("I12: step %s of run %s starts a second time", e.Step, e.Run)
		}
		return
	}
	a.begun[e.Step] = true
	spec := c.spec(a, e.Step)
	if spec == nil {
		c.w.violate("I11: step %s of run %s is not in its plan", e.Step, e.Run)
		return
	}
	for _, need := range spec.Needs {
		end, over := a.ended[need.Instantiate(e.Step.Indices())]
		soft := end.State == work.Skipped && end.Reason.Code == work.SkippedByCondition
		forgiven := end.State.Failure() && c.spec(a, need).ContinueOnError
		if !over || end.State != work.Succeeded && !soft && !forgiven {
			c.w.violate("I12: step %s of run %s starts, but %s, which it needs, is %q", e.Step, e.Run, need, end.State)
		}
	}
	if a.cancelled && !spec.Finally && !c.cleanup(a, spec) {
		c.w.violate("I14: step %s of run %s starts after the run was cancelled", e.Step, e.Run)
	}
}

// cleanup reports whether a step belongs to the finally part.
func (c *checker) cleanup(a *account, spec *work.PlanStep) bool {
	for spec != nil && spec.Parent != "" {
		spec = c.spec(a, spec.Parent)
	}
	return spec != nil && spec.Finally
}

// claimed checks that a lease goes to one worker of the run's tenant, under a new epoch, of a run that lets work start
// (I2, I5, I14).
func (c *checker) claimed(a *account, e *work.Event) {
	var d work.ClaimedData
	c.read(e, &d)
	session, ok := c.books.sessions[d.Session]
	if !ok || session.Tenant != e.Tenant && session.Tenant != store.Installation {
		c.w.violate("I5: step %s of run %s of %s goes to session %s of %q", e.Step, e.Run, e.Tenant, d.Session, session.Tenant)
	}
	if h, held := a.holders[e.Step]; held {
		c.w.violate("I2: step %s of run %s goes to %s while %s holds it", e.Step, e.Run, d.Session, h.session)
	}
	m := a.marks[e.Step]
	if d.Token.Epoch <= m.epoch || d.Token.Incarnation != c.incarnation {
		c.w.violate("I2: step %s of run %s is claimed under %d.%d after epoch %d of incarnation %d",
			e.Step, e.Run, d.Token.Incarnation, d.Token.Epoch, m.epoch, c.incarnation)
	}
	m.epoch = d.Token.Epoch
	a.marks[e.Step] = m
	a.holders[e.Step] = holder{token: d.Token, session: d.Session, at: c.w.now}
	spec := c.spec(a, e.Step)
	if a.cancelled && spec != nil && !c.cleanup(a, spec) {
		c.w.violate("I14: step %s of run %s is claimed after the run was cancelled", e.Step, e.Run)
	}
	if a.paused {
		c.w.violate("I14: step %s of run %s is claimed while the run is paused", e.Step, e.Run)
	}
	c.admitted(a, e, &session)
}

// fenced checks that what a worker says was accepted under the token of the lease that is held now (I2).
func (c *checker) fenced(a *account, e *work.Event, token work.Token) (holder, bool) {
	h, held := a.holders[e.Step]
	if !held || h.token != token || token.Incarnation != c.incarnation {
		c.w.violate("I2: %s of step %s of run %s is accepted under %d.%d; held %t under %d.%d, incarnation %d",
			e.Type, e.Step, e.Run, token.Incarnation, token.Epoch, held, h.token.Incarnation, h.token.Epoch, c.incarnation)
		return h, false
	}
	return h, true
}

func (c *checker) reported(a *account, e *work.Event) {
	var d work.ReportedData
	c.read(e, &d)
	h, ok := c.fenced(a, e, d.Token)
	if ok && d.Worker != h.session {
		c.w.violate("I2: the report on step %s of run %s is by %s, but %s holds it", e.Step, e.Run, d.Worker, h.session)
	}
	if ok && d.StartedAt < h.at {
		c.w.violate("I2: the report on step %s of run %s is of an attempt that began %s before the lease was granted",
			e.Step, e.Run, h.at.Sub(d.StartedAt))
	}
	delete(a.holders, e.Step)
	if d.State != work.Succeeded && d.State != work.Cancelled {
		c.failed(a, e)
	}
}

// failed checks that a step fails no oftener than its plan lets it try (I9).
func (c *checker) failed(a *account, e *work.Event) {
	m := a.marks[e.Step]
	m.failed++
	a.marks[e.Step] = m
	if spec := c.spec(a, e.Step); spec != nil && m.failed > spec.Run.Retry.MaxAttempts {
		c.w.violate("I9: step %s of run %s failed %d times and may try %d times", e.Step, e.Run, m.failed, spec.Run.Retry.MaxAttempts)
	}
	if m.failed > 1 {
		c.w.cover["attempts after a failure"]++
	}
}

// lostTooLong is how long a lease may stay with a living session whose worker never heard of it.
const lostTooLong = 45 * time.Second

// revoked checks that a lease is not taken away before its time by the store's clock (I3), and that a step takes no more
// than three workers with it (I9).
func (c *checker) revoked(a *account, e *work.Event) {
	var d work.RevokedData
	c.read(e, &d)
	h, held := a.holders[e.Step]
	if !held || d.Token.Epoch != h.token.Epoch {
		c.w.violate("I2: step %s of run %s is revoked under epoch %d, but held under %d", e.Step, e.Run, d.Token.Epoch, h.token.Epoch)
	}
	delete(a.holders, e.Step)
	now := c.w.storeClock()
	switch session, open := c.books.sessions[h.session]; {
	case d.Reason.Code == work.EndedByTimeout:
		c.w.cover["deadlines missed"]++
		if !h.began && c.w.now.Sub(h.at) > lostTooLong {
			c.w.violate("I8: step %s of run %s failed by its deadline, but %s never heard of it", e.Step, e.Run, h.session)
		}
		row := a.steps[e.Step]
		if row.Lease != nil && now < row.Lease.Deadline {
			c.w.violate("I3: step %s of run %s is revoked %s before its deadline", e.Step, e.Run, row.Lease.Deadline.Sub(now))
		}
		c.failed(a, e)
	case d.Charge:
		c.w.cover["leases of dead sessions"]++
		if open && now < session.Expires {
			c.w.violate("I3: session %s loses step %s of run %s %s before it expires",
				h.session, e.Step, e.Run, session.Expires.Sub(now).Round(time.Millisecond))
		}
		m := a.marks[e.Step]
		m.charged++
		a.marks[e.Step] = m
		if m.charged > 3 {
			c.w.violate("I9: step %s of run %s has taken %d workers with it", e.Step, e.Run, m.charged)
		}
	default:
		c.w.cover["leases given back"]++
		if h.token.Incarnation != c.incarnation {
			c.w.cover["leases from before a restore"]++
		}
	}
}
