package memory

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

func copyStep(s *work.Step) *work.Step {
	c := *s
	c.Lease, c.Queue = copyOf(s.Lease), copyOf(s.Queue)
	c.Artifacts, c.Decisions = slices.Clone(s.Artifacts), slices.Clone(s.Decisions)
	return &c
}

// Step implements kernel.StepReader.
func (r reader) Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error) {
	if row := r.d.steps[kernel.StepRef{Tenant: tenant, Run: run, Step: id}]; row != nil {
		return copyStep(row), nil
	}
	return nil, nil
}

// within returns the steps of one run among refs, which start somewhere in that run.
func within(refs []kernel.StepRef, tenant work.Tenant, run work.RunID, limit int) []kernel.StepRef {
	for i, ref := range refs {
		if ref.Tenant != tenant || ref.Run != run || limit > 0 && i == limit {
			return refs[:i]
		}
	}
	return refs
}

// Steps implements kernel.StepReader.
func (r reader) Steps(tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) {
	var out []work.Step
	for _, ref := range within(r.d.stepIDs.after(kernel.StepRef{Tenant: tenant, Run: run, Step: after}), tenant, run, limit) {
		out = append(out, *copyStep(r.d.steps[ref]))
	}
	return out, nil
}

// LiveSteps implements kernel.StepReader.
func (r reader) LiveSteps(tenant work.Tenant, run work.RunID) ([]work.StepID, error) {
	var out []work.StepID
	for _, ref := range within(r.d.live.from(kernel.StepRef{Tenant: tenant, Run: run}), tenant, run, 0) {
		out = append(out, ref.Step)
	}
	return out, nil
}

// FirstHeld implements kernel.StepReader.
func (r reader) FirstHeld(tenant work.Tenant, run work.RunID, after work.StepID) (work.StepID, error) {
	for _, ref := range within(r.d.held.after(kernel.StepRef{Tenant: tenant, Run: run, Step: after}), tenant, run, 1) {
		return ref.Step, nil
	}
	return "", nil
}

// Ready implements kernel.QueueReader.
func (r reader) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	if after == nil {
		after = &kernel.ReadyStep{StepRef: kernel.StepRef{Tenant: tenant}, Queue: work.QueueEntry{Priority: math.MaxInt}}
	}
	var out []kernel.ReadyStep
	for _, step := range r.d.ready.after(*after) {
		if step.Tenant != tenant || limit > 0 && len(out) == limit {
			break
		}
		if slices.Contains(runners, step.Queue.Runner) && !work.Left(except, step.Queue.Queue) {
			out = append(out, step)
		}
	}
	return out, nil
}

// leases returns the leases of a group among those that start with it.
func leases(o *ordered[leaseOrder], tenant work.Tenant, group string) []leaseOrder {
	rest := o.from(leaseOrder{tenant: tenant, group: group})
	end := slices.IndexFunc(rest, func(l leaseOrder) bool { return l.tenant != tenant || l.group != group })
	if end < 0 {
		return rest
	}
	return rest[:end]
}

// LeasesByKey implements kernel.QueueReader.
func (r reader) LeasesByKey(tenant work.Tenant, key string) (int, error) {
	return len(leases(r.d.byKey, tenant, key)), nil
}

// LeasesBySession implements kernel.QueueReader.
func (r reader) LeasesBySession(session string) ([]kernel.StepRef, error) {
	var out []kernel.StepRef
	for _, l := range leases(r.d.bySess, "", session) {
		out = append(out, l.ref)
	}
	return out, nil
}

func due(o *ordered[dueOrder], now work.Time, limit int) []kernel.StepRef {
	var out []kernel.StepRef
	for _, d := range o.items {
		if d.at > now || limit > 0 && len(out) == limit {
			break
		}
		out = append(out, d.ref)
	}
	return out
}

// DueSteps implements kernel.QueueReader.
func (r reader) DueSteps(now work.Time, limit int) ([]kernel.StepRef, error) {
	return due(r.d.dueSteps, now, limit), nil
}

// DueRuns implements kernel.QueueReader.
func (r reader) DueRuns(now work.Time, limit int) ([]kernel.StepRef, error) {
	return due(r.d.dueRuns, now, limit), nil
}

// NextDue implements kernel.QueueReader.
func (r reader) NextDue() (work.Time, error) {
	var next work.Time
	sooner := func(t work.Time) {
		if t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	for _, o := range []*ordered[dueOrder]{r.d.dueSteps, r.d.dueRuns} {
		if len(o.items) > 0 {
			sooner(o.items[0].at)
		}
	}
	for _, s := range r.d.sessions {
		sooner(s.Expires)
	}
	return next, nil
}

// Sessions implements kernel.QueueReader.
func (r reader) Sessions(id string, now work.Time) ([]store.Session, error) {
	if s, ok := r.d.sessions[id]; ok {
		return []store.Session{s}, nil
	}
	var out []store.Session
	for _, s := range r.d.sessions {
		if id == "" && s.Expires <= now || id == "*local" && s.Local || id == "*live" && s.Expires > now {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b store.Session) int {
		return cmp.Or(cmp.Compare(a.Expires, b.Expires), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// PutStep implements kernel.RowWriter.
func (t *tx) PutStep(row *work.Step) error {
	ref := kernel.StepRef{Tenant: row.Tenant, Run: row.Run, Step: row.ID}
	if old := t.d.steps[ref]; old != nil {
		t.orderStep(old, ref, false)
	} else {
		set(t, t.d.stepIDs, ref, true)
	}
	row = copyStep(row)
	put(t, t.d.steps, ref, row)
	t.orderStep(row, ref, true)
	return nil
}

// orderStep puts a row into every order it belongs to, or takes it out of them.
func (t *tx) orderStep(row *work.Step, ref kernel.StepRef, member bool) {
	switch row.State {
	case work.Queued, work.Throttled, work.Running, work.Waiting, work.Retrying:
		set(t, t.d.live, ref, member)
	}
	if row.State == work.Queued && row.Held {
		set(t, t.d.held, ref, member)
	}
	if row.State == work.Queued && !row.Held && row.Queue != nil {
		set(t, t.d.ready, kernel.ReadyStep{StepRef: ref, Queue: *row.Queue}, member)
	}
	if row.Timer != 0 {
		set(t, t.d.dueSteps, dueOrder{row.Timer, ref}, member)
	}
	if l := row.Lease; l != nil {
		set(t, t.d.bySess, leaseOrder{"", l.Session, ref}, member)
		if l.Concurrency != "" {
			set(t, t.d.byKey, leaseOrder{row.Tenant, l.Concurrency, ref}, member)
		}
	}
}

// Census implements kernel.CensusReader.
func (r reader) Census(now work.Time) ([]store.Census, error) {
	found := map[work.Tenant]*store.Census{}
	of := func(tenant work.Tenant) *store.Census {
		if found[tenant] == nil {
			found[tenant] = &store.Census{Tenant: tenant}
		}
		return found[tenant]
	}
	for _, step := range r.d.ready.items {
		c := of(step.Tenant)
		if c.Queued++; c.Queued == 1 || step.Queue.At < c.Oldest {
			c.Oldest = step.Queue.At
		}
	}
	for _, row := range r.d.steps {
		if row.Lease == nil {
			continue
		}
		c := of(row.Tenant)
		if c.Leases++; r.d.sessions[row.Lease.Session].Expires <= now {
			c.Lost++
		}
	}
	for _, s := range r.d.sessions {
		if s.Expires > now {
			of(s.Tenant).Workers++
		}
	}
	for ref, l := range r.d.letters {
		if l.resolved == nil {
			of(ref.Tenant).DeadLetters++
		}
	}
	for _, o := range r.d.unsealed.items {
		of(o.tenant).Unsealed++
	}
	var out []store.Census
	for _, tenant := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[tenant])
	}
	return out, nil
}
