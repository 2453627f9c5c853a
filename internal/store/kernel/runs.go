package kernel

import (
	"context"
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Submit implements store.Runs.
func (s *Store) Submit(ctx context.Context, batch []store.Submission) []store.Submitted {
	prepared, refused := s.prepare(batch)
	var needs Needs
	for i := range batch {
		if prepared[i] != nil {
			needs.New, needs.Flows = append(needs.New, &batch[i]), append(needs.Flows, batch[i].Run.Tenant)
		}
	}
	answer := store.AnswerOf(ctx)
	if answer != nil {
		needs.Records = []store.RecordRef{refOf(&answer.Record)}
	}
	var out []store.Submitted
	changed, kept := false, false
	err := s.do(ctx, needs, func(u *unit) error {
		out, changed, kept = slices.Clone(refused), false, false
		if answer != nil {
			if err := u.unanswered(answer); err != nil {
				for i := range out {
					out[i] = store.Submitted{Err: err}
				}
				return u.err
			}
		}
		for i := range batch {
			if prepared[i] != nil {
				out[i] = u.submit(&batch[i], prepared[i])
				changed = changed || out[i].Err == nil && !out[i].Existed
			}
		}
		if answer != nil {
			kept = u.answer(answer, out)
			changed = changed || kept
		}
		if changed {
			u.audit(ctx)
		}
		return u.err
	})
	if err != nil {
		out = slices.Repeat([]store.Submitted{{Err: err}}, len(batch))
	}
	if err == nil && changed {
		wrote(ctx)
	}
	if err == nil && kept {
		answer.Keep()
	}
	for i := range out {
		if out[i].Err == nil {
			s.graphs.put(batch[i].Run.Tenant, prepared[i])
			if !out[i].Existed && batch[i].Request != nil {
				s.signed.put(runKey{batch[i].Run.Tenant, batch[i].Run.ID}, batch[i].Request)
			}
		}
	}
	return out
}

// prepare returns the graphs of plans, nil for those that are refused, and why they are.
func (s *Store) prepare(batch []store.Submission) ([]*engine.Graph, []store.Submitted) {
	refused := make([]store.Submitted, len(batch))
	prepared := make([]*engine.Graph, len(batch))
	for i := range batch {
		if refused[i].Err = batch[i].Refused; refused[i].Err != nil {
			continue
		}
		g := s.graphs.get(batch[i].Run.Tenant, batch[i].Run.PlanHash)
		if g == nil {
			var err error
			if g, err = newGraph(batch[i].Canonical, batch[i].Run.PlanHash); err != nil {
				refused[i].Err = err
				continue
			}
		}
		if err := admissible(&batch[i].Data); err != nil {
			refused[i].Err = err
			continue
		}
		prepared[i] = g
	}
	return prepared, refused
}

func (u *unit) submit(c *store.Submission, g *engine.Graph) store.Submitted {
	run := c.Run
	if run.RunToken != "" {
		earlier, err := u.tx.RunByToken(run.Tenant, run.RunToken)
		u.fail(err)
		if earlier != nil {
			if earlier.PlanHash != run.PlanHash {
				return store.Submitted{Err: fault.New(fault.Conflict, "the run token was used for another plan, %s", earlier.PlanHash)}
			}
			return store.Submitted{Run: *earlier, Existed: true}
		}
	}
	other, err := u.tx.Run(run.Tenant, run.ID)
	u.fail(err)
	if other != nil {
		return store.Submitted{Err: fault.New(fault.Conflict, "there is a run %s already", run.ID)}
	}
	if run.Name, err = u.freeName(c); err != nil {
		return store.Submitted{Err: err}
	}
	busy, err := u.keyTaken(&run, g) // before the quota: who claims has the locks of both in this order, too
	if err != nil {
		return store.Submitted{Err: err}
	}
	if err := u.admits(run.Tenant); err != nil {
		return store.Submitted{Err: err}
	}
	if u.s.graphs.get(run.Tenant, run.PlanHash) == nil { // else it is stored already
		u.fail(u.tx.PutPlan(run.Tenant, run.PlanHash, c.Canonical))
	}
	if c.Request != nil {
		u.fail(u.tx.PutDocument(run.Tenant, run.ID, DocumentRequest, c.Request))
	}
	if run.RetryOf != "" {
		u.fail(u.tx.ResolveDeadLetters(run.Tenant, run.RetryOf, "", work.Actor{
			Name: run.Submitter, Key: run.SubmitterKey, Reason: "retried by " + run.Name, At: u.now,
		}))
	}
	row := run
	h := &hot{u: u, graph: g, run: &row, isNew: true, steps: map[work.StepID]*slot{}}
	u.use(runKey{run.Tenant, run.ID}, h)
	if u.lock != nil {
		u.lock.Fresh(run.Tenant, run.ID)
	}
	data := c.Data
	data.Name, data.Project, data.NotBefore = run.Name, run.Project, run.NotBefore
	data.Incarnation = u.s.driver.Incarnation()
	engine.Submit(g, h, u.now, data, busy)
	// The row must be findable by name and token for the next command of the batch.
	u.fail(u.flushRun(h))
	return store.Submitted{Run: *h.run}
}

// freeName returns the first name of a submission that no run has. Error: fault.Conflict.
func (u *unit) freeName(c *store.Submission) (string, error) {
	name := c.Run.Name
	for i := 0; ; i++ {
		taken, err := u.tx.NameTaken(c.Run.Tenant, name)
		if err != nil {
			u.fail(err)
			return "", err
		}
		if !taken {
			return name, nil
		}
		if i == len(c.Names) {
			return "", fault.New(fault.Conflict, "there is a run %s already", name)
		}
		name = c.Names[i]
	}
}

// keyTaken reports whether as many runs as may have the concurrency key of a run.
func (u *unit) keyTaken(run *work.Run, g *engine.Graph) (bool, error) {
	cc := g.Plan.Concurrency
	if cc == nil || run.ConcurrencyKey == "" {
		return false, nil
	}
	u.fail(u.flush())
	active, err := u.tx.ActiveRuns(run.Tenant, run.ConcurrencyKey)
	u.fail(err)
	return active >= cc.Max, u.err
}

// DocumentRequest is the kind under which a run's signed submission is kept.
const DocumentRequest = "request"

// Decide implements store.Runs.
func (s *Store) Decide(ctx context.Context, batch []store.DecideCommand) []error {
	needs := needSteps(batch, func(c *store.DecideCommand) StepRef {
		if c.Ruling != nil {
			return StepRef{c.Tenant, c.Run, c.Ruling.Gate}
		}
		return StepRef{c.Tenant, c.Run, c.Decision.Gate}
	})
	return s.each(ctx, needs, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		if c.Ruling != nil {
			return rule(h, u.now, c.Ruling)
		}
		if err := admissible(&c.Decision); err != nil {
			return err
		}
		return engine.Decide(h.graph, h, u.now, c.Decision)
	})
}

func rule(h *hot, now work.Time, r *store.Ruling) error {
	if err := admissible(r); err != nil {
		return err
	}
	if r.Answer == nil {
		return engine.Unanswered(h.graph, h, now, r.Gate, r.Unavailable)
	}
	return engine.Rule(h.graph, h, now, r.Gate, *r.Answer)
}

// asks keeps the record that a gate waits for a policy engine, for as long as it does.
func (u *unit) asks(row *work.Step, g *engine.Graph) error {
	waits := row.State == work.Waiting && row.Reason.Code == work.WaitsForPolicy
	if !waits {
		if row.Inputs == nil || !row.State.Terminal() {
			return nil
		}
		if spec := g.Spec(row.ID); spec == nil || spec.Policy == nil {
			return nil
		}
	}
	ask := store.Ask{Tenant: row.Tenant, Run: row.Run, Gate: row.ID}
	if !waits {
		return u.tx.DeleteRecord(store.Installation, store.AskKind, ask.ID())
	}
	doc, err := json.Marshal(ask)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a question to a policy engine")
	}
	return u.tx.PutRecord(store.Record{Tenant: store.Installation, Kind: store.AskKind, ID: ask.ID(), Version: 1, Doc: doc})
}

// Control implements store.Runs.
func (s *Store) Control(ctx context.Context, batch []store.ControlCommand) []error {
	needs := needSteps(batch, func(c *store.ControlCommand) StepRef { return StepRef{Tenant: c.Tenant, Run: c.Run} })
	return s.each(ctx, needs, len(batch), func(u *unit, i int) error {
		c := &batch[i]
		h, err := u.open(c.Tenant, c.Run)
		if err != nil {
			return err
		}
		if err := admissible(&c.Actor); err != nil {
			return err
		}
		switch c.Verb {
		case "cancel":
			return engine.Cancel(h.graph, h, u.now, c.Actor)
		case "pause":
			return engine.Pause(h.graph, h, u.now, c.Actor)
		case "resume":
			return engine.Resume(h.graph, h, u.now, c.Actor)
		default:
			return fault.New(fault.Invalid, "a run can be cancelled, paused and resumed, not %q", c.Verb)
		}
	})
}

// Acknowledge implements store.Runs.
func (s *Store) Acknowledge(ctx context.Context, tenant work.Tenant, run work.RunID) error {
	return s.one(ctx, needRun(tenant, run), func(u *unit) error {
		h, err := u.open(tenant, run)
		if err != nil {
			return err
		}
		if !h.run.Acknowledged {
			h.Run().Acknowledged = true
		}
		return nil
	})
}

// ResolveDeadLetter implements store.Runs.
func (s *Store) ResolveDeadLetter(ctx context.Context, tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error {
	return s.one(ctx, Needs{}, func(u *unit) error {
		by.At = u.now
		return u.tx.ResolveDeadLetters(tenant, run, step, by)
	})
}

// Attach implements store.Runs.
func (s *Store) Attach(ctx context.Context, tenant work.Tenant, run work.RunID, kind string, data []byte) error {
	return s.one(ctx, needRun(tenant, run), func(u *unit) error {
		if _, err := u.open(tenant, run); err != nil {
			return err
		}
		earlier, err := u.tx.Document(tenant, run, kind)
		if err != nil {
			u.fail(err)
			return err
		}
		if earlier != nil {
			if string(earlier) != string(data) {
				return fault.New(fault.Conflict, "run %s has another document %q already", run, kind)
			}
			return nil
		}
		u.fail(u.tx.PutDocument(tenant, run, kind, data))
		return u.err
	})
}

func needSteps[C any](batch []C, ref func(*C) StepRef) Needs {
	n := Needs{Steps: make([]StepRef, len(batch))}
	for i := range batch {
		n.Steps[i] = ref(&batch[i])
	}
	return n
}

func needRun(tenant work.Tenant, run work.RunID) Needs {
	return Needs{Steps: []StepRef{{Tenant: tenant, Run: run}}}
}

// each runs one command per index in a shared transaction and returns their errors.
func (s *Store) each(ctx context.Context, needs Needs, n int, command func(*unit, int) error) []error {
	errs := make([]error, n)
	err := s.do(ctx, needs, func(u *unit) error {
		done := false
		for i := range errs {
			errs[i] = command(u, i)
			done = done || errs[i] == nil
		}
		if done {
			u.audit(ctx)
		}
		return u.err
	})
	for i := range errs {
		if err != nil {
			errs[i] = err
		} else if errs[i] == nil {
			wrote(ctx)
		}
	}
	return errs
}

func (s *Store) one(ctx context.Context, needs Needs, command func(*unit) error) error {
	return s.each(ctx, needs, 1, func(u *unit, _ int) error { return command(u) })[0]
}
