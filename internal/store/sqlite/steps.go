package sqlite

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// stepDoc is what no column holds.
type stepDoc struct {
	Reason     work.Reason     `json:"reason,omitzero"`
	Unmet      int             `json:"unmet,omitempty"`
	Held       bool            `json:"held,omitempty"`
	Failures   int             `json:"failures,omitempty"`
	Crashes    int             `json:"crashes,omitempty"`
	Lease      *leaseDoc       `json:"lease,omitempty"`
	QueueKey   string          `json:"queueKey,omitempty"`
	QueueMax   int             `json:"queueMax,omitempty"`
	Total      int             `json:"total,omitempty"`
	Next       int             `json:"next,omitempty"`
	Open       int             `json:"open,omitempty"`
	Done       int             `json:"done,omitempty"`
	Bad        int             `json:"bad,omitempty"`
	Stopping   bool            `json:"stopping,omitempty"`
	Artifacts  []work.Artifact `json:"artifacts,omitempty"`
	Decisions  []decisionDoc   `json:"decisions,omitempty"`
	CarriedRun work.RunID      `json:"carriedRun,omitempty"`
}

type leaseDoc struct {
	Worker      string `json:"worker"`
	Granted     int64  `json:"granted"`
	Acked       int64  `json:"acked,omitempty"`
	Deadline    int64  `json:"deadline"`
	Cancel      bool   `json:"cancel,omitempty"`
	Incarnation int64  `json:"incarnation"`
	Lines       int64  `json:"lines,omitempty"`
	Queue       string `json:"queue,omitempty"`
}

// decisionDoc keeps the signed statement as a text: as JSON inside of JSON it would not come back byte for byte.
type decisionDoc struct {
	work.Decision
	Statement string `json:"statement,omitempty"`
}

const stepColumns = `id, state, runner, priority, queued, session, lease_key, timer, epoch, attempt, created, started, ended,
	outputs, items, inputs, doc, queue`

func scanStep(tenant work.Tenant, run work.RunID, v values) (*work.Step, error) {
	var doc stepDoc
	if text := v.text(16); text != "" {
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			return nil, damagedRow("step "+v.text(0)+" of run", string(run), err)
		}
	}
	row := &work.Step{
		Tenant: tenant, Run: run, ID: work.StepID(v.text(0)), State: work.State(v.text(1)), Reason: doc.Reason,
		Unmet: doc.Unmet, Held: doc.Held, Attempt: int(v.number(9)), Failures: doc.Failures, Crashes: doc.Crashes, Epoch: v.number(8),
		Timer: work.Time(v.number(7)), Total: doc.Total, Next: doc.Next, Open: doc.Open, Done: doc.Done, Bad: doc.Bad,
		Stopping: doc.Stopping, Outputs: v.json(13), Items: v.json(14), Inputs: v.json(15), Artifacts: doc.Artifacts,
		CarriedRun: doc.CarriedRun,
		Created:    work.Time(v.number(10)), Started: work.Time(v.number(11)), Ended: work.Time(v.number(12)),
	}
	if v[2] != nil {
		row.Queue = &work.QueueEntry{
			Runner: v.text(2), Priority: int(v.number(3)), At: work.Time(v.number(4)), Concurrency: doc.QueueKey, Max: doc.QueueMax,
			Queue: v.text(17),
		}
	}
	if l := doc.Lease; l != nil {
		row.Lease = &work.Lease{
			Session: v.text(5), Worker: l.Worker, Granted: work.Time(l.Granted), Acked: work.Time(l.Acked),
			Deadline: work.Time(l.Deadline), Concurrency: v.text(6), Cancel: l.Cancel,
			Incarnation: l.Incarnation, Lines: l.Lines, Queue: l.Queue,
		}
	}
	for _, d := range doc.Decisions {
		if d.Decision.Statement = nil; d.Statement != "" {
			d.Decision.Statement = json.RawMessage(d.Statement)
		}
		row.Decisions = append(row.Decisions, d.Decision)
	}
	return row, nil
}

// elsewhere reports which long values of a row are in step_values.
func elsewhere(v values) (items, inputs bool) {
	return v[14] == "", v[15] == ""
}

// Step implements kernel.StepReader.
func (r reader) Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error) {
	rows, err := r.steps(`SELECT `+stepColumns+` FROM steps WHERE tenant = ?1 AND run = ?2 AND id = ?3`, tenant, run, string(id))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// Steps implements kernel.StepReader.
func (r reader) Steps(tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) {
	return r.steps(`SELECT `+stepColumns+` FROM steps WHERE tenant = ?1 AND run = ?2 AND id > ?3 ORDER BY id LIMIT ?4`,
		tenant, run, string(after), all(limit))
}

func (r reader) steps(query string, tenant work.Tenant, run work.RunID, args ...any) ([]work.Step, error) {
	var out []work.Step
	err := r.c.each(query, func(v values) error {
		row, err := scanStep(tenant, run, v)
		if err != nil {
			return err
		}
		items, inputs := elsewhere(v)
		if items {
			if row.Items, err = r.value(tenant, run, row.ID, kindItems); err != nil {
				return err
			}
		}
		if inputs {
			if row.Inputs, err = r.value(tenant, run, row.ID, kindInputs); err != nil {
				return err
			}
		}
		out = append(out, *row)
		return nil
	}, append([]any{string(tenant), string(run)}, args...)...)
	return out, err
}

// Where a step stands, for the indexes of steps that somebody looks for.
const (
	standsHeld  = 1
	standsReady = 2
	standsLive  = 3
)

func standing(row *work.Step) int64 {
	switch row.State {
	case work.Queued:
		if row.Held {
			return standsHeld
		}
		if row.Queue != nil {
			return standsReady
		}
		return standsLive
	case work.Throttled, work.Running, work.Waiting, work.Retrying:
		return standsLive
	default:
		return 0
	}
}

// PutStep implements kernel.RowWriter.
func (t *tx) PutStep(row *work.Step) error {
	doc := stepDoc{
		Reason: row.Reason, Unmet: row.Unmet, Held: row.Held, Failures: row.Failures, Crashes: row.Crashes,
		Total: row.Total, Next: row.Next, Open: row.Open, Done: row.Done, Bad: row.Bad, Stopping: row.Stopping,
		Artifacts: row.Artifacts, CarriedRun: row.CarriedRun,
	}
	var runner, priority, queued, session, key any
	queue := ""
	if l := row.Lease; l != nil {
		session, key, queue = l.Session, textOrNull(l.Concurrency), l.Queue
		doc.Lease = &leaseDoc{l.Worker, int64(l.Granted), int64(l.Acked), int64(l.Deadline), l.Cancel, l.Incarnation, l.Lines, l.Queue}
	}
	if q := row.Queue; q != nil {
		runner, priority, queued, queue = q.Runner, int64(q.Priority), int64(q.At), q.Queue
		doc.QueueKey, doc.QueueMax = q.Concurrency, q.Max
	}
	for _, d := range row.Decisions {
		doc.Decisions = append(doc.Decisions, decisionDoc{d, string(d.Statement)})
	}
	text, err := marshal(&doc)
	if err != nil {
		return err
	}
	if text == "{}" {
		text = ""
	}
	items, err := t.keepValue(row, kindItems, row.Items)
	if err != nil {
		return err
	}
	inputs, err := t.keepValue(row, kindInputs, row.Inputs)
	if err != nil {
		return err
	}
	stands := standing(row)
	t.args = append(t.args[:0],
		string(row.State), row.Epoch, int64(row.Attempt), int64(row.Created), orNull(int64(row.Started)), orNull(int64(row.Ended)),
		textOrNull(row.Outputs), items, inputs, text,
		string(row.Tenant), string(row.Run), string(row.ID),
		orNull(stands), runner, priority, queued, session, key, orNull(int64(row.Timer)), queue,
	)
	if stands == standsReady {
		t.lanes.add(row.Tenant, queue, row.Queue.Runner)
	}
	// An attempt that begins and a container whose child has ended stay where they are in every index.
	if stands == standsLive && (row.Done > 0 || row.Lease != nil && row.Lease.Acked != 0) {
		if changed, err := t.c.do(moveStep, t.args...); err != nil || changed > 0 {
			return err
		}
	}
	_, err = t.c.do(putStep, t.args...)
	return err
}

const (
	moveStep = `UPDATE steps SET state = ?, epoch = ?, attempt = ?, created = ?, started = ?, ended = ?, outputs = ?, items = ?, inputs = ?,
		doc = ? WHERE tenant = ? AND run = ? AND id = ? AND standing IS ? AND runner IS ? AND priority IS ? AND queued IS ?
		AND session IS ? AND lease_key IS ? AND timer IS ? AND queue = ?`
	putStep = `INSERT INTO steps (state, epoch, attempt, created, started, ended, outputs, items, inputs, doc, tenant, run, id,
		standing, runner, priority, queued, session, lease_key, timer, queue)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, run, id) DO UPDATE SET state = excluded.state, epoch = excluded.epoch, attempt = excluded.attempt,
		created = excluded.created, started = excluded.started, ended = excluded.ended, outputs = excluded.outputs,
		items = excluded.items, inputs = excluded.inputs, doc = excluded.doc, standing = excluded.standing, runner = excluded.runner,
		priority = excluded.priority, queued = excluded.queued, session = excluded.session, lease_key = excluded.lease_key,
		timer = excluded.timer, queue = excluded.queue`
)

// LiveSteps implements kernel.StepReader.
func (r reader) LiveSteps(tenant work.Tenant, run work.RunID) ([]work.StepID, error) {
	var out []work.StepID
	err := r.c.each(`SELECT id FROM steps WHERE tenant = ?1 AND run = ?2 AND standing IS NOT NULL ORDER BY id`, func(v values) error {
		out = append(out, work.StepID(v.text(0)))
		return nil
	}, string(tenant), string(run))
	return out, err
}

// FirstHeld implements kernel.StepReader.
func (r reader) FirstHeld(tenant work.Tenant, run work.RunID, after work.StepID) (work.StepID, error) {
	var id work.StepID
	_, err := r.c.one(`SELECT id FROM steps WHERE tenant = ?1 AND run = ?2 AND standing = 1 AND id > ?3 ORDER BY id LIMIT 1`,
		func(v values) { id = work.StepID(v.text(0)) }, string(tenant), string(run), string(after))
	return id, err
}

// Kinds of long values.
const (
	kindItems  = "items"
	kindInputs = "inputs"
)

// shortValue is what a row may carry itself.
const shortValue = 256

type valueKey struct {
	kernel.StepRef
	kind string
}

// written remembers the long values that the writer has in the store, to know without a look at all their bytes that a row has
// still the same one: the list of a map's items may be as long as the run is wide, and its row changes with every item that ends.
type written map[valueKey]json.RawMessage

const rememberedValues = 256

func (w written) same(key valueKey, value json.RawMessage) bool {
	had := w[key]
	return len(had) == len(value) && &had[0] == &value[0]
}

// keepValue returns what the column says of a value, and writes one that is too long for it to step_values.
func (t *tx) keepValue(row *work.Step, kind string, value json.RawMessage) (any, error) {
	if len(value) <= shortValue {
		return textOrNull(value), nil
	}
	key := valueKey{kernel.StepRef{Tenant: row.Tenant, Run: row.Run, Step: row.ID}, kind}
	if t.written.same(key, value) {
		return "", nil
	}
	stored, err := t.value(row.Tenant, row.Run, row.ID, kind)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(stored, value) {
		if _, err := t.c.do(`INSERT INTO step_values (tenant, run, step, kind, value) VALUES (?1, ?2, ?3, ?4, ?5)
			ON CONFLICT (tenant, run, step, kind) DO UPDATE SET value = ?5`,
			string(row.Tenant), string(row.Run), string(row.ID), kind, string(value)); err != nil {
			return nil, err
		}
	}
	if len(t.written) >= rememberedValues {
		clear(t.written)
	}
	t.written[key] = value
	return "", nil
}

func (r reader) value(tenant work.Tenant, run work.RunID, step work.StepID, kind string) (json.RawMessage, error) {
	var out json.RawMessage
	_, err := r.c.one(`SELECT value FROM step_values WHERE tenant = ?1 AND run = ?2 AND step = ?3 AND kind = ?4`,
		func(v values) { out = v.json(0) }, string(tenant), string(run), string(step), kind)
	return out, err
}
