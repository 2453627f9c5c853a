package memory

import (
	"cmp"
	"maps"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// copyRun returns a row that shares nothing that anybody changes. JSON texts are never changed in place.
func copyRun(r *work.Run) *work.Run {
	c := *r
	c.Labels = maps.Clone(r.Labels)
	c.Paused, c.Cancel = copyOf(r.Paused), copyOf(r.Cancel)
	return &c
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// Run implements kernel.RunReader.
func (r reader) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	if row := r.d.runs[runKey{tenant, id}]; row != nil {
		return copyRun(row), nil
	}
	return nil, nil
}

// NameTaken implements kernel.NameReader.
func (r reader) NameTaken(tenant work.Tenant, name string) (bool, error) {
	run, err := r.RunByName(tenant, name)
	return run != nil, err
}

// RunByName implements kernel.NameReader.
func (r reader) RunByName(tenant work.Tenant, name string) (*work.Run, error) {
	return r.Run(tenant, r.d.names[textKey{tenant, name}])
}

// RunByToken implements kernel.NameReader.
func (r reader) RunByToken(tenant work.Tenant, token string) (*work.Run, error) {
	return r.Run(tenant, r.d.tokens[textKey{tenant, token}])
}

// FindRuns implements kernel.RunReader.
func (r reader) FindRuns(tenant work.Tenant, q store.RunQuery) ([]work.Run, error) {
	var out []work.Run
	all := r.d.created.from(runOrder{tenant: tenant})
	end := slices.IndexFunc(all, func(o runOrder) bool { return o.tenant != tenant })
	if end < 0 {
		end = len(all)
	}
	for _, o := range slices.Backward(all[:end]) {
		row := r.d.runs[runKey{tenant, o.id}]
		if !selects(&q, row) {
			continue
		}
		out = append(out, *copyRun(row))
		if len(out) == q.Limit {
			break
		}
	}
	return out, nil
}

// RunsAfter implements kernel.ListReader.
func (r reader) RunsAfter(tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error) {
	var out []work.Run
	for key, row := range r.d.runs {
		if key.tenant == tenant && key.run > after {
			out = append(out, *copyRun(row))
		}
	}
	slices.SortFunc(out, func(a, b work.Run) int { return cmp.Compare(a.ID, b.ID) })
	return atMost(out, limit), nil
}

func selects(q *store.RunQuery, row *work.Run) bool {
	switch {
	case q.Project != "" && row.Project != q.Project, !carries(row.Labels, q.Labels),
		len(q.States) > 0 && !slices.Contains(q.States, row.State),
		q.Pack != "" && row.Pack.Name != q.Pack,
		q.PlanHash != "" && row.PlanHash != q.PlanHash,
		row.Created < q.Since,
		q.Before != 0 && row.Created >= q.Before,
		q.Open && row.State.Terminal() && row.Acknowledged:
		return false
	default:
		return true
	}
}

func carries(has, wants map[string]string) bool {
	for k, v := range wants {
		if got, ok := has[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// ActiveRuns implements kernel.RunReader.
func (r reader) ActiveRuns(tenant work.Tenant, key string) (int, error) {
	n := 0
	for _, o := range r.d.keyed.from(keyedOrder{tenant: tenant, key: key}) {
		if o.tenant != tenant || o.key != key || o.waiting {
			break
		}
		n++
	}
	return n, nil
}

// FirstWaiting implements kernel.RunReader.
func (r reader) FirstWaiting(tenant work.Tenant, key string) (*work.Run, error) {
	waiting := r.d.keyed.from(keyedOrder{tenant: tenant, key: key, waiting: true})
	if len(waiting) == 0 || waiting[0].tenant != tenant || waiting[0].key != key {
		return nil, nil
	}
	return r.Run(tenant, waiting[0].id)
}

// Unsealed implements kernel.RunReader.
func (r reader) Unsealed(tenant work.Tenant, limit int) ([]work.Run, error) {
	var out []work.Run
	for _, o := range r.d.unsealed.from(runOrder{tenant: tenant}) {
		if o.tenant != tenant || limit > 0 && len(out) == limit {
			break
		}
		out = append(out, *copyRun(r.d.runs[runKey{tenant, o.id}]))
	}
	return out, nil
}

// PutRun implements kernel.RowWriter.
func (t *tx) PutRun(row *work.Run) error {
	key := runKey{row.Tenant, row.ID}
	old := t.d.runs[key]
	if old != nil && (old.Name != row.Name || old.Created != row.Created || old.Ended != 0 && row.Ended == 0) {
		return fault.New(fault.Conflict, "run %s cannot change its name or time of creation, nor that it has ended", row.ID)
	}
	if old == nil {
		if err := t.claimNames(row); err != nil {
			return err
		}
	} else {
		t.orderRun(old, false)
	}
	row = copyRun(row)
	put(t, t.d.runs, key, row)
	t.orderRun(row, true)
	return nil
}

func (t *tx) claimNames(row *work.Run) error {
	name, token := textKey{row.Tenant, row.Name}, textKey{row.Tenant, row.RunToken}
	if _, taken := t.d.names[name]; taken {
		return fault.New(fault.Conflict, "there is a run %s already", row.Name)
	}
	if _, taken := t.d.tokens[token]; taken && row.RunToken != "" {
		return fault.New(fault.Conflict, "the run token has been used")
	}
	put(t, t.d.names, name, row.ID)
	if row.RunToken != "" {
		put(t, t.d.tokens, token, row.ID)
	}
	return nil
}

// orderRun puts a row into every order it belongs to, or takes it out of them.
func (t *tx) orderRun(row *work.Run, member bool) {
	set(t, t.d.created, runOrder{row.Tenant, row.Created, row.ID}, member)
	if row.ConcurrencyKey != "" && row.Phase != work.PhaseEnded && row.Phase != work.PhaseDelayed {
		waiting := row.Phase == work.PhaseAdmission
		set(t, t.d.keyed, keyedOrder{row.Tenant, row.ConcurrencyKey, waiting, row.Created, row.ID}, member)
	}
	if row.Due != 0 {
		set(t, t.d.dueRuns, dueOrder{row.Due, kernel.StepRef{Tenant: row.Tenant, Run: row.ID}}, member)
	}
	if _, sealed := t.d.leaves[runKey{row.Tenant, row.ID}]; row.Ended != 0 && !sealed {
		set(t, t.d.unsealed, runOrder{row.Tenant, row.Ended, row.ID}, member)
	}
}

// PutSession implements kernel.RowWriter.
func (t *tx) PutSession(s store.Session) error {
	put(t, t.d.sessions, s.ID, s)
	return nil
}

// DeleteSession implements kernel.RowWriter.
func (t *tx) DeleteSession(id string) error {
	drop(t, t.d.sessions, id)
	return nil
}
