package sqlite

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// identity is what a run is created with and no column holds.
type identity struct {
	PackVersion  string            `json:"packVersion,omitempty"`
	PackDigest   work.Digest       `json:"packDigest,omitempty"`
	Submitter    string            `json:"submitter,omitempty"`
	SubmitterKey string            `json:"submitterKey,omitempty"`
	Note         string            `json:"note,omitempty"`
	RetryOf      work.RunID        `json:"retryOf,omitempty"`
	TraceParent  string            `json:"traceParent,omitempty"`
	TraceState   string            `json:"traceState,omitempty"`
	Baggage      string            `json:"baggage,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Project      string            `json:"project,omitempty"`
	NotBefore    int64             `json:"notBefore,omitempty"`
}

// runDoc is what changes and no column holds. Most runs have none of it until they end.
type runDoc struct {
	Reason       work.Reason `json:"reason,omitzero"`
	Paused       *work.Actor `json:"paused,omitempty"`
	Cancel       *work.Actor `json:"cancel,omitempty"`
	Stopping     bool        `json:"stopping,omitempty"`
	Outcome      work.State  `json:"outcome,omitempty"`
	Acknowledged bool        `json:"acknowledged,omitempty"`
}

func (d *runDoc) empty() bool {
	return d.Reason == (work.Reason{}) && d.Paused == nil && d.Cancel == nil && !d.Stopping && d.Outcome == "" && !d.Acknowledged
}

const runColumns = `id, name, run_token, plan_hash, pack, concurrency, created, identity, state, phase, started, updated, due,
	seq, head, log_seq, next_root, left_over, active, slots, held, doc, ended, outputs`

func scanRun(tenant work.Tenant, v values) (*work.Run, error) {
	var fixed identity
	var doc runDoc
	if err := json.Unmarshal([]byte(v.text(7)), &fixed); err != nil {
		return nil, damagedRow("run", v.text(0), err)
	}
	if text := v.text(21); text != "" {
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			return nil, damagedRow("run", v.text(0), err)
		}
	}
	return &work.Run{
		Tenant: tenant, ID: work.RunID(v.text(0)), Name: v.text(1), RunToken: v.text(2), PlanHash: digest(v[3]),
		Pack:      work.PackRef{Name: v.text(4), Version: fixed.PackVersion, Digest: fixed.PackDigest},
		Submitter: fixed.Submitter, SubmitterKey: fixed.SubmitterKey, Note: fixed.Note, RetryOf: fixed.RetryOf,
		TraceParent: fixed.TraceParent, TraceState: fixed.TraceState, Baggage: fixed.Baggage, Labels: fixed.Labels, ConcurrencyKey: v.text(5),
		Project: fixed.Project, NotBefore: work.Time(fixed.NotBefore),
		State: work.State(v.text(8)), Phase: work.Phase(v.text(9)),
		Reason: doc.Reason, Paused: doc.Paused, Cancel: doc.Cancel, Stopping: doc.Stopping, Outcome: doc.Outcome,
		Next: int(v.number(16)), Left: int(v.number(17)), Active: int(v.number(18)), Slots: int(v.number(19)), Held: int(v.number(20)),
		Seq: v.number(13), Head: digest(v[14]), LogSeq: v.number(15),
		Created: work.Time(v.number(6)), Started: work.Time(v.number(10)), Ended: work.Time(v.number(22)),
		Updated: work.Time(v.number(11)), Due: work.Time(v.number(12)),
		Outputs: v.json(23), Acknowledged: doc.Acknowledged,
	}, nil
}

func damagedRow(kind, id string, err error) error {
	return fault.New(fault.Internal, "the row of %s %s is damaged: %w", kind, id, err).WithHint("orrery doctor")
}

// run returns the row that a query finds, nil for none. The tenant is its first argument.
func (r reader) run(where string, tenant work.Tenant, args ...any) (*work.Run, error) {
	var row *work.Run
	var broken error
	_, err := r.c.one(`SELECT `+runColumns+` FROM runs WHERE tenant = ? AND `+where,
		func(v values) { row, broken = scanRun(tenant, v) }, append([]any{string(tenant)}, args...)...)
	if err == nil {
		err = broken
	}
	return row, err
}

// Run implements kernel.RunReader.
func (r reader) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	return r.run(`id = ?`, tenant, string(id))
}

// NameTaken implements kernel.NameReader.
func (r reader) NameTaken(tenant work.Tenant, name string) (bool, error) {
	run, err := r.RunByName(tenant, name)
	return run != nil, err
}

// RunByName implements kernel.NameReader.
func (r reader) RunByName(tenant work.Tenant, name string) (*work.Run, error) {
	return r.run(`name = ?`, tenant, name)
}

// RunByToken implements kernel.NameReader.
func (r reader) RunByToken(tenant work.Tenant, token string) (*work.Run, error) {
	return r.run(`run_token = ? AND run_token IS NOT NULL`, tenant, token)
}

// FirstWaiting implements kernel.RunReader.
func (r reader) FirstWaiting(tenant work.Tenant, key string) (*work.Run, error) {
	return r.run(`concurrency = ? AND phase = 'admission' AND phase <> 'ended' ORDER BY created, id LIMIT 1`, tenant, key)
}

// ActiveRuns implements kernel.RunReader.
func (r reader) ActiveRuns(tenant work.Tenant, key string) (int, error) {
	n := 0
	_, err := r.c.one(`SELECT count(*) FROM runs WHERE tenant = ?1 AND concurrency = ?2 AND phase IN ('main', 'finally') AND phase <> 'ended'`,
		func(v values) { n = int(v.number(0)) }, string(tenant), key)
	return n, err
}

func (r reader) runs(query string, tenant work.Tenant, args ...any) ([]work.Run, error) {
	var out []work.Run
	err := r.c.each(query, func(v values) error {
		row, err := scanRun(tenant, v)
		if err == nil {
			out = append(out, *row)
		}
		return err
	}, append([]any{string(tenant)}, args...)...)
	return out, err
}

// Unsealed implements kernel.RunReader.
func (r reader) Unsealed(tenant work.Tenant, limit int) ([]work.Run, error) {
	return r.runs(`SELECT `+runColumns+` FROM runs
		WHERE tenant = ?1 AND ended IS NOT NULL AND sealed IS NULL ORDER BY ended, id LIMIT ?2`, tenant, all(limit))
}

// RunsAfter implements kernel.ListReader.
func (r reader) RunsAfter(tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error) {
	return r.runs(`SELECT `+runColumns+` FROM runs WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3`, tenant, string(after), all(limit))
}

// FindRuns implements kernel.RunReader. The order comes from an index, so that a page costs what it passes over; runs that are
// under way have an index of their own.
func (r reader) FindRuns(tenant work.Tenant, q store.RunQuery) ([]work.Run, error) {
	var where strings.Builder
	args := []any{}
	and := func(condition string, values ...any) {
		where.WriteString(" AND ")
		where.WriteString(condition)
		args = append(args, values...)
	}
	ended := false
	if len(q.States) > 0 {
		marks := make([]any, len(q.States))
		for i, s := range q.States {
			marks[i] = string(s)
			ended = ended || s.Terminal()
		}
		and("state IN (?"+strings.Repeat(", ?", len(marks)-1)+")", marks...)
	}
	if q.Open || len(q.States) > 0 && !ended {
		and("open = 1")
	}
	if q.Pack != "" {
		and("pack = ?", q.Pack)
	}
	if q.PlanHash != "" {
		and("plan_hash = ?", digestValue(q.PlanHash))
	}
	if q.Since != 0 {
		and("created >= ?", int64(q.Since))
	}
	if q.Before != 0 {
		and("created < ?", int64(q.Before))
	}
	// The first label finds the runs, in their order; whether they have the others is looked up.
	const found = `(SELECT created AS label_created, run AS label_run FROM run_labels WHERE tenant = ? AND key = ? AND value = ?) CROSS JOIN runs`
	from, order := `runs`, `created DESC, id DESC`
	if err := eachLabel(q.Project, q.Labels, func(key, value string) error {
		if from == `runs` {
			from, order = found, `label_created DESC, label_run DESC`
			and(`runs.id = label_run`)
			args = append([]any{key, value, string(tenant)}, args...)
			return nil
		}
		and(`EXISTS (SELECT 1 FROM run_labels l WHERE l.tenant = runs.tenant AND l.key = ? AND l.value = ? AND l.created = runs.created AND l.run = runs.id)`, key, value)
		return nil
	}); err != nil {
		return nil, err
	}
	query := `SELECT ` + runColumns + ` FROM ` + from + ` WHERE runs.tenant = ?` + where.String() + ` ORDER BY ` + order + ` LIMIT ?`
	return r.runs(query, tenant, append(args, all(q.Limit))...)
}

// PutRun implements kernel.RowWriter. What a run is created with is written once. The end, and that somebody has seen it, are written
// by statements of their own, so that a transition on the way there touches no index.
func (t *tx) PutRun(row *work.Run) error {
	doc := runDoc{row.Reason, row.Paused, row.Cancel, row.Stopping, row.Outcome, row.Acknowledged}
	text := ""
	if !doc.empty() {
		var err error
		if text, err = marshal(&doc); err != nil {
			return err
		}
	}
	seen := row.State.Terminal() && row.Acknowledged
	open := any(int64(1))
	if seen {
		open = nil
	}
	t.args = append(t.args[:0],
		open, orNull(int64(row.Ended)), textOrNull(row.Outputs),
		string(row.State), string(row.Phase), orNull(int64(row.Started)), int64(row.Updated), orNull(int64(row.Due)),
		row.Seq, digestValue(row.Head), row.LogSeq,
		int64(row.Next), int64(row.Left), int64(row.Active), int64(row.Slots), int64(row.Held), text,
		string(row.Tenant), string(row.ID), row.Name, int64(row.Created),
	)
	// A row whose first transition is its last so far is most likely new. A wrong guess costs a statement.
	for _, insert := range [2]bool{row.Updated == row.Created, row.Updated != row.Created} {
		var changed int64
		var err error
		switch {
		case insert:
			changed, err = t.insertRun(row)
		case seen:
			changed, err = t.c.do(seeRun, t.args[:21]...)
		case row.State.Terminal() || row.Ended != 0 || row.Outputs != nil:
			changed, err = t.c.do(endRun, t.args[1:21]...)
		default:
			changed, err = t.c.do(moveRun, t.args[3:21]...)
		}
		if err != nil || changed > 0 {
			return err
		}
	}
	return fault.New(fault.Conflict, "run %s cannot change its name or time of creation, nor that it has ended", row.ID)
}

const (
	moved = `state = ?, phase = ?, started = ?, updated = ?, due = ?, seq = ?, head = ?, log_seq = ?,
		next_root = ?, left_over = ?, active = ?, slots = ?, held = ?, doc = ? WHERE tenant = ? AND id = ? AND name = ? AND created = ?`
	seeRun  = `UPDATE runs SET open = ?, ended = ?, outputs = ?, ` + moved
	endRun  = `UPDATE runs SET ended = ?, outputs = ?, ` + moved + ` AND open = 1`
	moveRun = `UPDATE runs SET ` + moved + ` AND ended IS NULL AND outputs IS NULL AND open = 1`
)

// insertRun creates the row unless it is there, with what PutRun has put into t.args.
func (t *tx) insertRun(row *work.Run) (int64, error) {
	fixed, err := marshal(&identity{
		row.Pack.Version, row.Pack.Digest, row.Submitter, row.SubmitterKey, row.Note, row.RetryOf,
		row.TraceParent, row.TraceState, row.Baggage, row.Labels, row.Project, int64(row.NotBefore),
	})
	if err != nil {
		return 0, err
	}
	t.args = append(t.args,
		textOrNull(row.RunToken), digestOrEmpty(row.PlanHash), row.Pack.Name, textOrNull(row.ConcurrencyKey), fixed)
	changed, err := t.c.do(`INSERT INTO runs (open, ended, outputs, state, phase, started, updated, due, seq, head, log_seq,
		next_root, left_over, active, slots, held, doc, tenant, id, name, created, run_token, plan_hash, pack, concurrency, identity)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, id) DO NOTHING`, t.args...)
	if err != nil || changed == 0 {
		return changed, err
	}
	return changed, eachLabel(row.Project, row.Labels, func(key, value string) error {
		_, err := t.c.do(`INSERT INTO run_labels (tenant, key, value, created, run) VALUES (?1, ?2, ?3, ?4, ?5)`,
			string(row.Tenant), key, value, int64(row.Created), string(row.ID))
		return err
	})
}

// eachLabel calls fn for the project, if there is one, and the labels of a run or a query, as run_labels has them, by key.
func eachLabel(project string, labels map[string]string, fn func(key, value string) error) error {
	if project != "" {
		if err := fn("", project); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == "" {
			continue // no label
		}
		if err := fn(key, labels[key]); err != nil {
			return err
		}
	}
	return nil
}
