package postgres

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Kinds of concurrency keys.
const (
	admission   = "admission"   // of runs
	concurrency = "concurrency" // of steps
)

// lockKey makes the transaction, if it writes, the only one that counts under a key until it ends. The lock is taken by a statement of
// its own before the one that counts, whose snapshot is then newer than the commit of whoever had it.
func (r *reader) lockKey(kind string, tenant work.Tenant, key string) {
	if r.t == nil || r.t.keys[keyHash(kind, tenant, key)] {
		return
	}
	h := keyHash(kind, tenant, key)
	r.t.keys[h] = true
	r.l.hear(`SELECT pg_advisory_xact_lock($1)`, func(pgx.Rows) error { return nil }, h)
}

// TryKey implements kernel.Locker.
func (t *tx) TryKey(tenant work.Tenant, key string) (bool, error) {
	h := keyHash(concurrency, tenant, key)
	mine := t.keys[h]
	if !mine {
		if _, err := t.one(`SELECT pg_try_advisory_xact_lock($1)`, []any{&mine}, h); err != nil {
			return false, err
		}
		t.keys[h] = mine
	}
	return mine, nil
}

// keyHash names a key to the server. Two keys that meet in 64 bits wait for each other without need, no more.
func keyHash(kind string, tenant work.Tenant, key string) int64 {
	h := sha256.New()
	for _, part := range []string{kind, string(tenant), key} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

const (
	runsByKey = `SELECT r.* FROM unnest($1::text[], $2::text[]) AS k (tenant, id)
		CROSS JOIN LATERAL (SELECT ` + runColumns + ` FROM runs x WHERE x.tenant = k.tenant AND x.id = k.id LIMIT 1 `
	lookAtRuns = runsByKey + `) r`
	lockRuns   = runsByKey + `FOR UPDATE) r`
	tryRuns    = runsByKey + `FOR UPDATE SKIP LOCKED) r`
)

// Lock implements kernel.Locker. The order is that of the fields, and within each that of the keys: runs, sessions, flows, records, ends of
// audit streams. Everything goes to the server at once, with the BEGIN.
func (t *tx) Lock(n kernel.Needs) error {
	steps := slices.Clone(n.Steps)
	slices.SortFunc(steps, compareRefs)
	steps = slices.Compact(steps)
	var keys []runKey
	for _, ref := range steps {
		if key := (runKey{ref.Tenant, ref.Run}); len(keys) == 0 || keys[len(keys)-1] != key {
			keys = append(keys, key)
		}
	}
	steps = slices.DeleteFunc(steps, func(ref kernel.StepRef) bool { return ref.Step == "" })
	var locked []*work.Run
	t.hearRuns(lockRuns, keys, &locked)
	learn := t.hearSteps(steps)
	sessions := slices.Compact(slices.Sorted(slices.Values(n.Sessions)))
	var open []store.Session
	if len(sessions) > 0 {
		t.l.hear(sessionColumns+`WHERE id = ANY ($1) ORDER BY id FOR KEY SHARE`, func(rows pgx.Rows) error { return scanSession(rows, &open) }, sessions)
	}
	for _, tenant := range slices.Compact(slices.Sorted(slices.Values(n.Flows))) {
		t.shareFlow(recordKey{tenant, store.FlowKind, store.FlowKind})
	}
	var records []recordKey
	for _, ref := range n.Records {
		records = append(records, recordKey{ref.Tenant, ref.Kind, ref.ID})
	}
	var ends []recordKey
	for _, tenant := range n.Audits {
		ends = append(ends, recordKey{tenant, kernel.AuditKind, kernel.AuditHead})
	}
	var found []store.Record
	records, ends = t.hearRecords(records, &found), t.hearRecords(ends, &found)
	// Those who had the end of the audit stream have committed by now: their names and tokens are seen.
	taken := t.hearNew(n.New)
	if err := t.l.send(); err != nil {
		return t.fail(err)
	}
	t.knowRuns(keys, locked)
	taken()
	t.knowSessions(sessions, open)
	t.knowRecords(append(records, ends...), found)
	return t.fail(learn())
}

// hearRecords locks records in the order of their keys, which it returns.
func (t *tx) hearRecords(keys []recordKey, into *[]store.Record) []recordKey {
	if len(keys) == 0 {
		return nil
	}
	slices.SortFunc(keys, compareRecords)
	keys = slices.Compact(keys)
	tenants, kinds, ids := recordTexts(keys)
	t.l.hear(recordsByRef+` FOR UPDATE) r`, func(rows pgx.Rows) error { return scanRecord(rows, into) }, tenants, kinds, ids)
	return keys
}

func (t *tx) hearRuns(query string, keys []runKey, into *[]*work.Run) {
	if len(keys) == 0 {
		return
	}
	tenants, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		tenants[i], ids[i] = string(key.tenant), string(key.run)
	}
	t.l.hear(query, func(rows pgx.Rows) error {
		row, err := scanRun(rows)
		*into = append(*into, row)
		return err
	}, tenants, ids)
}

func (t *tx) knowRuns(asked []runKey, found []*work.Run) {
	for _, key := range asked {
		t.know(key, nil)
	}
	for _, row := range found {
		t.know(runKey{row.Tenant, row.ID}, row)
	}
}

// hearSteps asks for rows and returns what is to be done when they have arrived.
func (t *tx) hearSteps(asked []kernel.StepRef) (learn func() error) {
	if len(asked) == 0 {
		return func() error { return nil }
	}
	var found []*work.Step
	var long []longValue
	tenants, runs, ids := columns(asked)
	t.l.hear(stepsByRef, func(rows pgx.Rows) error {
		row, err := scanStep(rows, &long)
		found = append(found, row)
		return err
	}, tenants, runs, ids)
	return func() error {
		if err := t.fetch(long); err != nil {
			return err
		}
		t.knowSteps(asked, found)
		return nil
	}
}

// hearNew asks which ids, names and tokens of runs that are about to be created are taken, and returns what is to be done then. What is
// free now may be taken before the commit: then a unique index refuses the transaction and it is run again.
func (t *tx) hearNew(subs []*store.Submission) (learn func()) {
	if len(subs) == 0 {
		return func() {}
	}
	asked := map[textKey]bool{} // and whether it is taken
	texts := map[byte]*[2][]string{'i': {}, 'n': {}, 't': {}}
	ask := func(tenant work.Tenant, kind byte, s string) {
		if s != "" {
			asked[textKey{tenant, kind, s}] = false
			texts[kind][0], texts[kind][1] = append(texts[kind][0], string(tenant)), append(texts[kind][1], s)
		}
	}
	for _, sub := range subs {
		r := &sub.Run
		ask(r.Tenant, 'i', string(r.ID))
		ask(r.Tenant, 't', r.RunToken)
		ask(r.Tenant, 'n', r.Name)
		for _, name := range sub.Names {
			ask(r.Tenant, 'n', name)
		}
	}
	for kind, query := range map[byte]string{'i': takenIDs, 'n': takenNames, 't': takenTokens} {
		if len(texts[kind][0]) == 0 {
			continue
		}
		t.l.hear(query, func(rows pgx.Rows) error {
			found := textKey{kind: kind}
			err := rows.Scan(&found.tenant, &found.text)
			asked[found] = true
			return err
		}, texts[kind][0], texts[kind][1])
	}
	return func() {
		for key, taken := range asked {
			if key.kind != 'i' {
				t.names[key] = taken
			} else if id := (runKey{key.tenant, work.RunID(key.text)}); !taken && t.runs[id] == nil {
				t.know(id, nil)
			}
		}
	}
}

const (
	takenTexts = `SELECT k.tenant, k.text FROM unnest($1::text[], $2::text[]) AS k (tenant, text)
		CROSS JOIN LATERAL (SELECT 1 FROM runs x WHERE x.tenant = k.tenant AND `
	takenIDs    = takenTexts + `x.id = k.text LIMIT 1) r`
	takenNames  = takenTexts + `x.name = k.text LIMIT 1) r`
	takenTokens = takenTexts + `x.token = k.text AND x.token <> '' LIMIT 1) r`
)

// TryLock implements kernel.Locker.
func (t *tx) TryLock(refs []kernel.StepRef) ([]bool, error) {
	if err := t.stage(); err != nil {
		return nil, err
	}
	var keys []runKey
	var steps []kernel.StepRef
	asked := map[runKey]bool{}
	for _, ref := range refs {
		key := runKey{ref.Tenant, ref.Run}
		if t.runs[key] == nil && !asked[key] {
			asked[key] = true
			keys = append(keys, key)
		}
		if row := t.steps[ref]; ref.Step != "" && (row == nil || !row.known) {
			steps = append(steps, ref)
		}
	}
	var locked []*work.Run
	t.hearRuns(tryRuns, keys, &locked)
	learn := t.hearSteps(steps)
	if err := t.l.send(); err != nil {
		return nil, t.fail(err)
	}
	for _, row := range locked {
		t.know(runKey{row.Tenant, row.ID}, row)
	}
	if err := learn(); err != nil {
		return nil, t.fail(err)
	}
	out := make([]bool, len(refs))
	for i, ref := range refs {
		out[i] = t.runs[runKey{ref.Tenant, ref.Run}] != nil
		if !out[i] && ref.Step != "" {
			delete(t.steps, ref) // read without the lock of its run: another time it may be another
		}
	}
	return out, nil
}

// Peek implements kernel.Locker.
func (t *tx) Peek(refs []kernel.StepRef) ([]*work.Step, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	tenants, runs, ids := columns(refs)
	found, err := t.findSteps(stepsByRef, tenants, runs, ids)
	return found, err
}

// Fresh implements kernel.Locker.
func (t *tx) Fresh(tenant work.Tenant, run work.RunID) { t.fresh[runKey{tenant, run}] = true }
