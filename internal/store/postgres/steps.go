package postgres

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// stepRow is what a transaction knows of a step.
type stepRow struct {
	ref    kernel.StepRef
	known  bool       // stored is what the database has
	stored *work.Step // nil for none. Nobody else has this copy
	put    *work.Step
	dirty  bool
}

func (r *stepRow) now() *work.Step {
	if r.put != nil {
		return r.put
	}
	return r.stored
}

func copyStep(s *work.Step) *work.Step {
	c := *s
	c.Lease, c.Queue = copyOf(s.Lease), copyOf(s.Queue)
	c.Artifacts, c.Decisions = slices.Clone(s.Artifacts), slices.Clone(s.Decisions)
	return &c
}

// Kinds of long values.
const (
	kindItems  = "items"
	kindInputs = "inputs"
)

// longValue is one that has to be fetched for a row.
type longValue struct {
	row  *work.Step
	kind string
}

func scanStep(rows pgx.Rows, long *[]longValue) (*work.Step, error) {
	s := &work.Step{}
	var body []byte
	if err := rows.Scan(&s.Tenant, &s.Run, &s.ID, &s.State, &body); err != nil {
		return nil, err
	}
	c := cursor{rest: body}
	items, inputs := c.step(s)
	if items {
		*long = append(*long, longValue{s, kindItems})
	}
	if inputs {
		*long = append(*long, longValue{s, kindInputs})
	}
	return s, c.end("step "+string(s.ID)+" of run", string(s.Run))
}

// fetch fills in the long values of rows.
func (r *reader) fetch(long []longValue) error {
	if len(long) == 0 {
		return nil
	}
	for i := range long {
		v := long[i]
		r.l.hear(`SELECT value FROM step_values WHERE tenant = $1 AND run = $2 AND step = $3 AND kind = $4`, func(rows pgx.Rows) error {
			var value []byte
			err := rows.Scan(&value)
			if v.kind == kindItems {
				v.row.Items = value
			} else {
				v.row.Inputs = value
			}
			return err
		}, v.row.Tenant, v.row.Run, v.row.ID, v.kind)
	}
	return r.l.send()
}

func (r *reader) findSteps(query string, args ...any) ([]*work.Step, error) {
	var out []*work.Step
	var long []longValue
	err := r.ask(query, func(rows pgx.Rows) error {
		row, err := scanStep(rows, &long)
		out = append(out, row)
		return err
	}, args...)
	if err != nil {
		return nil, err
	}
	return out, r.fetch(long)
}

const stepColumns = `tenant, run, id, state, body`

// Step implements kernel.StepReader.
func (r *reader) Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error) {
	ref := kernel.StepRef{Tenant: tenant, Run: run, Step: id}
	if r.t != nil {
		if row := r.t.steps[ref]; row != nil && (row.known || row.put != nil) {
			if now := row.now(); now != nil {
				return copyStep(now), nil
			}
			return nil, nil
		}
		if r.t.fresh[runKey{tenant, run}] {
			return nil, nil
		}
	}
	found, err := r.findSteps(`SELECT `+stepColumns+` FROM steps WHERE tenant = $1 AND run = $2 AND id = $3`, tenant, run, id)
	if err != nil {
		return nil, err
	}
	if r.t != nil {
		r.t.knowSteps([]kernel.StepRef{ref}, found)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return copyStep(found[0]), nil
}

// Steps implements kernel.StepReader.
func (r *reader) Steps(tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) {
	found, err := r.findSteps(`SELECT `+stepColumns+` FROM steps WHERE tenant = $1 AND run = $2 AND id > $3 ORDER BY id LIMIT $4`,
		tenant, run, after, all(limit))
	out := make([]work.Step, len(found))
	for i, row := range found {
		out[i] = *row
	}
	return out, err
}

// LiveSteps implements kernel.StepReader.
func (r *reader) LiveSteps(tenant work.Tenant, run work.RunID) ([]work.StepID, error) {
	var out []work.StepID
	err := r.ask(`SELECT id FROM steps WHERE tenant = $1 AND run = $2 AND live ORDER BY id`, func(rows pgx.Rows) error {
		var id work.StepID
		err := rows.Scan(&id)
		out = append(out, id)
		return err
	}, tenant, run)
	return out, err
}

// FirstHeld implements kernel.StepReader.
func (r *reader) FirstHeld(tenant work.Tenant, run work.RunID, after work.StepID) (work.StepID, error) {
	var id work.StepID
	_, err := r.one(`SELECT id FROM steps WHERE tenant = $1 AND run = $2 AND held AND id > $3 ORDER BY id LIMIT 1`, []any{&id}, tenant, run, after)
	return id, err
}

// PutStep implements kernel.RowWriter.
func (t *tx) PutStep(row *work.Step) error {
	if t.failed != nil {
		return t.failed
	}
	ref := kernel.StepRef{Tenant: row.Tenant, Run: row.Run, Step: row.ID}
	r := t.steps[ref]
	if r == nil {
		r = &stepRow{ref: ref, known: t.fresh[runKey{row.Tenant, row.Run}]}
		t.steps[ref] = r
	}
	r.put = copyStep(row)
	if !r.dirty {
		r.dirty = true
		t.changed = append(t.changed, r)
	}
	return nil
}

// knowSteps notes rows that were looked for.
func (t *tx) knowSteps(asked []kernel.StepRef, found []*work.Step) {
	for _, ref := range asked {
		r := t.steps[ref]
		if r == nil {
			r = &stepRow{ref: ref}
			t.steps[ref] = r
		}
		r.known = true
	}
	for _, row := range found {
		t.steps[kernel.StepRef{Tenant: row.Tenant, Run: row.Run, Step: row.ID}].stored = row
	}
}

// stepsByRef finds the rows of many references through the primary key, whatever the planner thinks of the size of the table.
const stepsByRef = `SELECT s.tenant, s.run, s.id, s.state, s.body FROM unnest($1::text[], $2::text[], $3::text[]) AS k (tenant, run, id)
	CROSS JOIN LATERAL (SELECT * FROM steps x WHERE x.tenant = k.tenant AND x.run = k.run AND x.id = k.id LIMIT 1) s`

// learnSteps looks for rows that were put without having been read.
func (t *tx) learnSteps() error {
	var asked []kernel.StepRef
	for _, r := range t.changed {
		if !r.known {
			asked = append(asked, r.ref)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	return t.loadSteps(asked)
}

func (t *tx) loadSteps(asked []kernel.StepRef) error {
	var found []*work.Step
	var long []longValue
	tenants, runs, ids := columns(asked)
	if err := t.l.ask(stepsByRef, func(rows pgx.Rows) error {
		row, err := scanStep(rows, &long)
		found = append(found, row)
		return err
	}, tenants, runs, ids); err != nil {
		return err
	}
	if err := t.fetch(long); err != nil {
		return err
	}
	t.knowSteps(asked, found)
	return nil
}

func columns(refs []kernel.StepRef) (tenants, runs, ids []string) {
	tenants, runs, ids = make([]string, len(refs)), make([]string, len(refs)), make([]string, len(refs))
	for i, ref := range refs {
		tenants[i], runs[i], ids[i] = string(ref.Tenant), string(ref.Run), string(ref.Step)
	}
	return tenants, runs, ids
}

const (
	putSteps = `INSERT INTO steps (tenant, run, id, state, live, held, body)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::boolean[], $7::bytea[])
		ON CONFLICT (tenant, run, id) DO UPDATE SET state = excluded.state, live = excluded.live, held = excluded.held, body = excluded.body`
	putValue = `INSERT INTO step_values (tenant, run, step, kind, value) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, run, step, kind) DO UPDATE SET value = excluded.value`
)

// stageSteps sends the rows that were put, and what stands beside them.
func (t *tx) stageSteps() error {
	if len(t.changed) == 0 {
		return nil
	}
	var tenants, runs, ids, states []string
	var alive, held []bool
	var bodies [][]byte
	var beside sides
	for _, r := range t.changed {
		row := r.put
		body, err := stepBody(row)
		if err != nil {
			return err
		}
		tenants, runs, ids = append(tenants, string(row.Tenant)), append(runs, string(row.Run)), append(ids, string(row.ID))
		states, bodies = append(states, string(row.State)), append(bodies, body)
		alive, held = append(alive, live(row.State)), append(held, row.State == work.Queued && row.Held)
		t.tellValues(r.stored, row)
		beside.step(r.stored, row)
		r.stored, r.put, r.known, r.dirty = row, nil, true, false
	}
	t.changed = t.changed[:0]
	t.l.tell(putSteps, tenants, runs, ids, states, alive, held, bodies)
	beside.stage(t.l)
	return nil
}

// tellValues sends the long values that the database does not have.
func (t *tx) tellValues(old, row *work.Step) {
	var items, inputs json.RawMessage
	if old != nil {
		items, inputs = old.Items, old.Inputs
	}
	for _, v := range []struct {
		kind     string
		old, now json.RawMessage
	}{{kindItems, items, row.Items}, {kindInputs, inputs, row.Inputs}} {
		if len(v.now) > shortValue && !sameValue(v.old, v.now) {
			t.l.tell(putValue, row.Tenant, row.Run, row.ID, v.kind, []byte(v.now))
		}
	}
}

// sameValue looks at the bytes only where it must: a row that was changed shares them with the one it was read from.
func sameValue(a, b json.RawMessage) bool {
	return len(a) == len(b) && (&a[0] == &b[0] || bytes.Equal(a, b))
}
