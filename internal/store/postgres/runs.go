package postgres

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// textKey is a name or a token of a tenant.
type textKey struct {
	tenant work.Tenant
	kind   byte // 'n' or 't'
	text   string
}

// runRow is what a transaction knows of a run that it has locked.
type runRow struct {
	key    runKey
	stored *work.Run // as the database has it, nil for none. Nobody else has this copy
	put    *work.Run // what it is to become: the caller's row as it was then
	dirty  bool
}

const runColumns = `tenant, id, name, token, plan_hash, pack, created, identity, state, body`

func scanRun(rows pgx.Rows) (*work.Run, error) {
	r := &work.Run{}
	var planHash, identity, body []byte
	if err := rows.Scan(&r.Tenant, &r.ID, &r.Name, &r.RunToken, &planHash, &r.Pack.Name, &r.Created, &identity, &r.State, &body); err != nil {
		return nil, err
	}
	r.PlanHash = digestOf(planHash)
	for _, part := range []struct {
		b    []byte
		into func(*cursor, *work.Run)
	}{{identity, (*cursor).identity}, {body, (*cursor).run}} {
		c := cursor{rest: part.b}
		part.into(&c, r)
		if err := c.end("run", string(r.ID)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// copyRun returns a row that shares nothing that anybody changes. JSON texts are never changed in place.
func copyRun(r *work.Run) *work.Run {
	c := *r
	if r.Labels != nil {
		c.Labels = make(map[string]string, len(r.Labels))
		for k, v := range r.Labels {
			c.Labels[k] = v
		}
	}
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

// now returns the row as it is within the transaction, nil for none.
func (r *runRow) now() *work.Run {
	if r.put != nil {
		return r.put
	}
	return r.stored
}

func (r *reader) findRuns(query string, args ...any) ([]work.Run, error) {
	var out []work.Run
	err := r.ask(query, func(rows pgx.Rows) error {
		row, err := scanRun(rows)
		if err == nil {
			out = append(out, *row)
		}
		return err
	}, args...)
	return out, err
}

// run returns the one row that a query finds, locked in a transaction that writes.
func (r *reader) run(where string, tenant work.Tenant, args ...any) (*work.Run, error) {
	found, err := r.findRuns(`SELECT `+runColumns+` FROM runs WHERE tenant = $1 AND `+where+r.forUpdate(), append([]any{tenant}, args...)...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// Run implements kernel.RunReader.
func (r *reader) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	if r.t == nil {
		return r.run(`id = $2`, tenant, id)
	}
	row, err := r.t.knowRun(runKey{tenant, id})
	if err != nil || row.now() == nil {
		return nil, err
	}
	return copyRun(row.now()), nil
}

// knowRun locks a run unless that is done.
func (t *tx) knowRun(key runKey) (*runRow, error) {
	if row := t.runs[key]; row != nil {
		return row, nil
	}
	stored, err := t.run(`id = $2`, key.tenant, key.run)
	if err != nil {
		return nil, err
	}
	return t.know(key, stored), nil
}

func (t *tx) know(key runKey, stored *work.Run) *runRow {
	row := &runRow{key: key, stored: stored}
	t.runs[key] = row
	return row
}

// byText finds a run by its name or token. What was looked for beforehand and is not there needs no question.
func (r *reader) byText(kind byte, where string, tenant work.Tenant, text string) (*work.Run, error) {
	if text == "" {
		return nil, nil
	}
	if r.t == nil {
		return r.run(where, tenant, text)
	}
	if taken, known := r.t.names[textKey{tenant, kind, text}]; known && !taken {
		return nil, nil
	}
	found, err := r.run(where, tenant, text)
	if err != nil || found == nil {
		return nil, err
	}
	key := runKey{tenant, found.ID}
	if r.t.runs[key] == nil {
		r.t.know(key, found)
	}
	return copyRun(r.t.runs[key].now()), nil
}

// NameTaken implements kernel.NameReader.
func (r *reader) NameTaken(tenant work.Tenant, name string) (bool, error) {
	if r.t != nil {
		if taken, known := r.t.names[textKey{tenant, 'n', name}]; known {
			return taken, nil
		}
	}
	return r.one(`SELECT 1 FROM runs WHERE tenant = $1 AND name = $2`, []any{new(int)}, tenant, name)
}

// RunByName implements kernel.NameReader.
func (r *reader) RunByName(tenant work.Tenant, name string) (*work.Run, error) {
	return r.byText('n', `name = $2`, tenant, name)
}

// RunByToken implements kernel.NameReader.
func (r *reader) RunByToken(tenant work.Tenant, token string) (*work.Run, error) {
	return r.byText('t', `token = $2 AND token <> ''`, tenant, token)
}

// RunsAfter implements kernel.ListReader.
func (r *reader) RunsAfter(tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error) {
	return r.findRuns(`SELECT `+runColumns+` FROM runs WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3`, tenant, after, all(limit))
}

// FindRuns implements kernel.RunReader. The order comes from an index; runs that are under way have one of their own.
func (r *reader) FindRuns(tenant work.Tenant, q store.RunQuery) ([]work.Run, error) {
	args := []any{tenant}
	var where strings.Builder
	and := func(condition string, value any) {
		args = append(args, value)
		fmt.Fprintf(&where, " AND "+condition, len(args))
	}
	if len(q.States) > 0 {
		and("state = ANY($%d)", q.States)
	}
	if q.Open || len(q.States) > 0 && !slices.ContainsFunc(q.States, work.State.Terminal) {
		where.WriteString(" AND open")
	}
	if q.Pack != "" {
		and("pack = $%d", q.Pack)
	}
	if q.PlanHash != "" {
		and("plan_hash = $%d", digestBytes(q.PlanHash))
	}
	if q.Since != 0 {
		and("created >= $%d", q.Since)
	}
	if q.Before != 0 {
		and("created < $%d", q.Before)
	}
	// The first label finds the runs, in their order; whether they have the others is looked up.
	from, order := `runs`, `created DESC, id DESC`
	for _, l := range labelsOf(q.Project, q.Labels) {
		args = append(args, l[0], l[1])
		if from == `runs` {
			from = fmt.Sprintf(`(SELECT created AS label_created, run AS label_run FROM run_labels WHERE tenant = $1 AND key = $%d AND value = $%d
				ORDER BY created DESC, run DESC) l CROSS JOIN LATERAL (SELECT * FROM runs x WHERE x.tenant = $1 AND x.id = l.label_run LIMIT 1) r`, len(args)-1, len(args))
			order = `label_created DESC, label_run DESC`
			continue
		}
		fmt.Fprintf(&where, ` AND EXISTS (SELECT 1 FROM run_labels o WHERE o.tenant = $1 AND o.key = $%d AND o.value = $%d AND o.created = r.created AND o.run = r.id)`,
			len(args)-1, len(args))
	}
	args = append(args, all(q.Limit))
	return r.findRuns(fmt.Sprintf(`SELECT %s FROM %s WHERE tenant = $1%s ORDER BY %s LIMIT $%d`, runColumns, from, where.String(), order, len(args)), args...)
}

// labelsOf returns the project, if there is one, and the labels of a run or a query, as run_labels has them, by key.
func labelsOf(project string, labels map[string]string) [][2]string {
	var out [][2]string
	if project != "" {
		out = append(out, [2]string{"", project})
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key != "" {
			out = append(out, [2]string{key, labels[key]})
		}
	}
	return out
}

// Unsealed implements kernel.RunReader.
func (r *reader) Unsealed(tenant work.Tenant, limit int) ([]work.Run, error) {
	return r.findRuns(`SELECT r.tenant, r.id, r.name, r.token, r.plan_hash, r.pack, r.created, r.identity, r.state, r.body
		FROM (SELECT ended, run FROM unsealed WHERE tenant = $1 ORDER BY ended, run LIMIT $2) u
		CROSS JOIN LATERAL (SELECT * FROM runs x WHERE x.tenant = $1 AND x.id = u.run LIMIT 1) r ORDER BY u.ended, u.run`, tenant, all(limit))
}

// PutRun implements kernel.RowWriter.
func (t *tx) PutRun(row *work.Run) error {
	key := runKey{row.Tenant, row.ID}
	r, err := t.knowRun(key)
	if err != nil {
		return err
	}
	if now := r.now(); now != nil && (now.Name != row.Name || now.Created != row.Created) {
		return fault.New(fault.Conflict, "run %s cannot change its name or time of creation", row.ID)
	}
	r.put = copyRun(row)
	if !r.dirty {
		r.dirty = true
		t.dirty = append(t.dirty, r)
	}
	t.names[textKey{row.Tenant, 'n', row.Name}], t.names[textKey{row.Tenant, 't', row.RunToken}] = true, true
	return nil
}

const (
	insertRuns = `INSERT INTO runs (tenant, id, name, token, plan_hash, pack, created, identity, state, open, body)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::bytea[], $9::text[],
		$10::boolean[], $11::bytea[])`
	// The row is there and locked: the columns that are not given are never inserted.
	moveRuns = `INSERT INTO runs (tenant, id, state, open, body, name, token, plan_hash, pack, created, identity)
		SELECT *, '', '', ''::bytea, '', 0, ''::bytea FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::bytea[])
		ON CONFLICT (tenant, id) DO UPDATE SET state = excluded.state, open = excluded.open, body = excluded.body`
)

// stageRuns sends the rows that were put, and what stands beside them.
func (t *tx) stageRuns() {
	if len(t.dirty) == 0 {
		return
	}
	var in, up struct {
		tenants, ids, names, tokens, packs, states []string
		plans, identities, bodies                  [][]byte
		created                                    []int64
		open                                       []bool
	}
	var labels struct {
		tenants, runs, keys, values []string
		created                     []int64
	}
	var beside sides
	for _, r := range t.dirty {
		row := r.put
		to := &up
		if r.stored == nil {
			to = &in
			in.names, in.tokens, in.packs = append(in.names, row.Name), append(in.tokens, row.RunToken), append(in.packs, row.Pack.Name)
			in.plans, in.created = append(in.plans, digestBytes(row.PlanHash)), append(in.created, int64(row.Created))
			in.identities = append(in.identities, identityOf(row))
			for _, l := range labelsOf(row.Project, row.Labels) {
				labels.tenants, labels.runs, labels.created = append(labels.tenants, string(row.Tenant)), append(labels.runs, string(row.ID)), append(labels.created, int64(row.Created))
				labels.keys, labels.values = append(labels.keys, l[0]), append(labels.values, l[1])
			}
		}
		to.tenants, to.ids = append(to.tenants, string(row.Tenant)), append(to.ids, string(row.ID))
		to.states, to.open = append(to.states, string(row.State)), append(to.open, !row.State.Terminal() || !row.Acknowledged)
		to.bodies = append(to.bodies, runBody(row))
		beside.run(r.stored, row)
		r.stored, r.put, r.dirty = row, nil, false
	}
	t.dirty = t.dirty[:0]
	t.made += len(in.ids)
	if len(in.ids) > 0 {
		t.l.tell(insertRuns, in.tenants, in.ids, in.names, in.tokens, in.plans, in.packs, in.created, in.identities, in.states, in.open, in.bodies)
	}
	if len(labels.runs) > 0 {
		t.l.tell(`INSERT INTO run_labels (tenant, key, value, created, run) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])`,
			labels.tenants, labels.keys, labels.values, labels.created, labels.runs)
	}
	if len(up.ids) > 0 {
		t.l.tell(moveRuns, up.tenants, up.ids, up.states, up.open, up.bodies)
	}
	beside.stage(t.l)
}

// ActiveRuns implements kernel.RunReader. A transaction that writes keeps others from counting until it ends.
func (r *reader) ActiveRuns(tenant work.Tenant, key string) (int, error) {
	r.lockKey(admission, tenant, key)
	n := 0
	_, err := r.one(`SELECT count(*) FROM keyed_runs WHERE tenant = $1 AND key = $2 AND NOT waiting`, []any{&n}, tenant, []byte(key))
	return n, err
}

// FirstWaiting implements kernel.RunReader.
func (r *reader) FirstWaiting(tenant work.Tenant, key string) (*work.Run, error) {
	r.lockKey(admission, tenant, key)
	var id work.RunID
	found, err := r.one(`SELECT run FROM keyed_runs WHERE tenant = $1 AND key = $2 AND waiting ORDER BY created, run LIMIT 1`,
		[]any{&id}, tenant, []byte(key))
	if err != nil || !found {
		return nil, err
	}
	return r.Run(tenant, id)
}
