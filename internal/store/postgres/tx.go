package postgres

import (
	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// reader answers from one transaction.
type reader struct {
	l *link
	t *tx // the transaction that writes, nil for a snapshot
}

// ask sends what was written before and then the question, so that reads see writes.
func (r *reader) ask(sql string, row func(pgx.Rows) error, args ...any) error {
	if r.t == nil {
		return r.l.ask(sql, row, args...)
	}
	if err := r.t.stage(); err != nil {
		return err
	}
	return r.t.fail(r.l.ask(sql, row, args...))
}

// one asks for one row and reports whether it is there.
func (r *reader) one(sql string, into []any, args ...any) (bool, error) {
	found := false
	err := r.ask(sql, func(rows pgx.Rows) error {
		found = true
		return rows.Scan(into...)
	}, args...)
	return found, err
}

// forUpdate is the end of a query that locks what it finds when it is part of a transaction that writes.
func (r *reader) forUpdate() string {
	if r.t == nil {
		return ""
	}
	return " FOR UPDATE"
}

type runKey struct {
	tenant work.Tenant
	run    work.RunID
}

// tx is a transaction that writes. It knows the rows it has locked, gathers what is put, and sends it as a few statements with an
// array per column before the next question and with the COMMIT.
type tx struct {
	reader
	d      *Driver
	failed error // the first error of the database
	made   int   // runs

	runs    map[runKey]*runRow
	names   map[textKey]bool // whether a run has them: names and tokens that were looked for
	steps   map[kernel.StepRef]*stepRow
	fresh   map[runKey]bool // runs of which there was nothing before
	dirty   []*runRow       // put, not yet sent, in the order of the first time
	changed []*stepRow
	keys    map[int64]bool   // concurrency keys that are locked
	plans   map[textKey]bool // that were put

	sessions  map[string]*sessionRow
	events    chunks
	lines     chunks
	documents map[documentKey][]byte // put, not yet sent
	records   map[recordKey]*recordRow
	flows     map[recordKey]*store.Record // that stay as they are until the commit, nil for none
}

var (
	_ kernel.Tx     = (*tx)(nil)
	_ kernel.Locker = (*tx)(nil)
)

func newTx(l *link, d *Driver) *tx {
	t := &tx{
		d: d, runs: map[runKey]*runRow{}, names: map[textKey]bool{}, steps: map[kernel.StepRef]*stepRow{}, fresh: map[runKey]bool{},
		sessions: map[string]*sessionRow{}, records: map[recordKey]*recordRow{}, keys: map[int64]bool{}, plans: map[textKey]bool{},
		flows: map[recordKey]*store.Record{}, documents: map[documentKey][]byte{},
	}
	t.reader = reader{l: l, t: t}
	return t
}

func (t *tx) fail(err error) error {
	if t.failed == nil {
		t.failed = err
	}
	return err
}

// stage turns what has been put into statements that travel with the next question.
func (t *tx) stage() error {
	if t.failed != nil {
		return t.failed
	}
	if err := t.learnSteps(); err != nil {
		return t.fail(err)
	}
	t.stageRuns()
	if err := t.stageSteps(); err != nil {
		return t.fail(err)
	}
	t.stageRecords()
	t.stageDocuments()
	t.events.stage(t.l, insertEvents)
	t.lines.stage(t.l, insertLines)
	return nil
}
