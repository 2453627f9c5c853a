package sqlite

import (
	"encoding/json"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/chunk"
	"orrery.example/orrery/internal/work"
)

// Plan implements kernel.DocumentReader.
func (r reader) Plan(tenant work.Tenant, hash work.Digest) ([]byte, error) {
	return r.body(`SELECT body FROM plans WHERE tenant = ?1 AND hash = ?2`, string(tenant), digestOrEmpty(hash))
}

// Document implements kernel.DocumentReader.
func (r reader) Document(tenant work.Tenant, run work.RunID, kind string) ([]byte, error) {
	return r.body(`SELECT body FROM documents WHERE tenant = ?1 AND run = ?2 AND kind = ?3`, string(tenant), string(run), kind)
}

// Documents implements kernel.DocumentReader.
func (r reader) Documents(tenant work.Tenant, runs []work.RunID, kind string) ([][]byte, error) {
	out := make([][]byte, len(runs))
	for i, run := range runs {
		var err error
		if out[i], err = r.Document(tenant, run, kind); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r reader) body(query string, args ...any) ([]byte, error) {
	var body []byte
	_, err := r.c.one(query, func(v values) { body = v.bytes(0) }, args...)
	return body, err
}

// resultDoc is what a cached result is beside its outputs, which stay byte for byte as they were.
type resultDoc struct {
	Origin    work.CacheOrigin `json:"origin"`
	Artifacts []work.Artifact  `json:"artifacts,omitempty"`
}

// Cached implements kernel.DocumentReader.
func (r reader) Cached(tenant work.Tenant, key work.Digest) (*store.CachedResult, error) {
	var out *store.CachedResult
	var doc resultDoc
	var broken error
	_, err := r.c.one(`SELECT outputs, doc FROM results WHERE tenant = ?1 AND key = ?2`, func(v values) {
		broken = unmarshal(v.text(1), &doc)
		out = &store.CachedResult{Origin: doc.Origin, Outputs: v.json(0), Artifacts: doc.Artifacts}
	}, string(tenant), digestOrEmpty(key))
	if err == nil {
		err = broken
	}
	return out, err
}

// Results implements kernel.ListReader.
func (r reader) Results(tenant work.Tenant, after work.Digest, limit int) ([]store.KeyedResult, error) {
	var out []store.KeyedResult
	err := r.c.each(`SELECT key, outputs, doc FROM results WHERE tenant = ?1 AND key > ?2 ORDER BY key LIMIT ?3`, func(v values) error {
		var doc resultDoc
		err := unmarshal(v.text(2), &doc)
		out = append(out, store.KeyedResult{
			Key: digest(v[0]), CachedResult: store.CachedResult{Origin: doc.Origin, Outputs: v.json(1), Artifacts: doc.Artifacts},
		})
		return err
	}, string(tenant), digestOrEmpty(after), all(limit))
	return out, err
}

// DeadLetters implements kernel.DocumentReader.
func (r reader) DeadLetters(tenant work.Tenant, limit int) ([]store.DeadLetter, error) {
	var out []store.DeadLetter
	err := r.c.each(`SELECT doc FROM dead_letters WHERE tenant = ?1 AND resolved IS NULL ORDER BY at, run, step LIMIT ?2`, func(v values) error {
		var l store.DeadLetter
		err := unmarshal(v.text(0), &l)
		out = append(out, l)
		return err
	}, string(tenant), all(limit))
	return out, err
}

// PutPlan implements kernel.DocumentWriter. A plan may be long and is mostly there already, so that a look comes first, and the
// writer remembers the last one: runs of the same plan come in batches.
func (t *tx) PutPlan(tenant work.Tenant, hash work.Digest, canonical []byte) error {
	if t.plan == (planKey{tenant, hash}) {
		return nil
	}
	key := digestOrEmpty(hash)
	found, err := t.c.one(`SELECT 1 FROM plans WHERE tenant = ? AND hash = ?`, func(values) {}, string(tenant), key)
	if err == nil && !found {
		_, err = t.c.do(`INSERT INTO plans (tenant, hash, body) VALUES (?, ?, ?)`, string(tenant), key, blob(canonical))
	}
	if err == nil {
		t.plan = planKey{tenant, hash}
	}
	return err
}

type planKey struct {
	tenant work.Tenant
	hash   work.Digest
}

// blob keeps an empty document apart from one that is missing.
func blob(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// PutDocument implements kernel.DocumentWriter.
func (t *tx) PutDocument(tenant work.Tenant, run work.RunID, kind string, data []byte) error {
	_, err := t.c.do(`INSERT INTO documents (tenant, run, kind, body) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (tenant, run, kind) DO UPDATE SET body = ?4`, string(tenant), string(run), kind, blob(data))
	return err
}

// PutCached implements kernel.DocumentWriter.
func (t *tx) PutCached(tenant work.Tenant, key work.Digest, c store.CachedResult) error {
	doc, err := marshal(&resultDoc{c.Origin, c.Artifacts})
	if err != nil {
		return err
	}
	_, err = t.c.do(`INSERT INTO results (tenant, key, outputs, doc) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING`,
		string(tenant), digestOrEmpty(key), textOrNull(c.Outputs), doc)
	return err
}

// PutDeadLetter implements kernel.DocumentWriter. The first one of a step stays, and with it that it is resolved.
func (t *tx) PutDeadLetter(l store.DeadLetter) error {
	doc, err := marshal(&l)
	if err != nil {
		return err
	}
	_, err = t.c.do(`INSERT INTO dead_letters (tenant, run, step, at, doc) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING`,
		string(l.Tenant), string(l.Run), string(l.Step), int64(l.At), doc)
	return err
}

// ResolveDeadLetters implements kernel.DocumentWriter.
func (t *tx) ResolveDeadLetters(tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error {
	resolved, err := marshal(&by)
	if err != nil {
		return err
	}
	_, err = t.c.do(`UPDATE dead_letters SET resolved = ?4 WHERE tenant = ?1 AND run = ?2 AND (?3 = '' OR step = ?3) AND resolved IS NULL`,
		string(tenant), string(run), string(step), resolved)
	return err
}

// Record implements kernel.RecordReader.
func (r reader) Record(tenant work.Tenant, kind, id string) (*store.Record, error) {
	var out *store.Record
	_, err := r.c.one(`SELECT version, expires, doc FROM records WHERE tenant = ?1 AND kind = ?2 AND id = ?3`, func(v values) {
		out = &store.Record{
			Tenant: tenant, Kind: kind, ID: id, Version: v.number(0), Expires: work.Time(v.number(1)), Doc: json.RawMessage(v.text(2)),
		}
	}, string(tenant), kind, id)
	return out, err
}

// Look implements kernel.RecordReader.
func (r reader) Look(refs []store.RecordRef) ([]*store.Record, error) {
	out := make([]*store.Record, len(refs))
	for i, ref := range refs {
		var err error
		if out[i], err = r.Record(ref.Tenant, ref.Kind, ref.ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Records implements kernel.RecordReader.
func (r reader) Records(tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error) {
	var out []store.Record
	err := r.c.each(`SELECT id, version, expires, doc FROM records WHERE tenant = ?1 AND kind = ?2 AND id > ?3 AND id >= ?4
		AND substr(id, 1, length(?4)) = ?4 ORDER BY id LIMIT ?5`, func(v values) error {
		out = append(out, store.Record{
			Tenant: tenant, Kind: kind, ID: v.text(0), Version: v.number(1), Expires: work.Time(v.number(2)), Doc: json.RawMessage(v.text(3)),
		})
		return nil
	}, string(tenant), kind, after, prefix, all(limit))
	return out, err
}

// PutRecord implements kernel.RecordWriter.
func (t *tx) PutRecord(r store.Record) error {
	_, err := t.c.do(`INSERT INTO records (tenant, kind, id, version, expires, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
		ON CONFLICT (tenant, kind, id) DO UPDATE SET version = ?4, expires = ?5, doc = ?6`,
		string(r.Tenant), r.Kind, r.ID, r.Version, orNull(int64(r.Expires)), string(r.Doc))
	return err
}

// DeleteRecord implements kernel.RecordWriter.
func (t *tx) DeleteRecord(tenant work.Tenant, kind, id string) error {
	_, err := t.c.do(`DELETE FROM records WHERE tenant = ?1 AND kind = ?2 AND id = ?3`, string(tenant), kind, id)
	return err
}

// PruneRecords implements kernel.RecordWriter.
func (t *tx) PruneRecords(now work.Time, limit int) (int, error) {
	n, err := t.c.do(`DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires <= ?1
		ORDER BY expires, tenant, kind, id LIMIT ?2)`, int64(now), all(limit))
	return int(n), err
}

// DeleteRun implements kernel.RowWriter.
func (t *tx) DeleteRun(tenant work.Tenant, id work.RunID) error {
	for _, statement := range []string{
		`DELETE FROM run_labels WHERE (tenant, run, created) IN (SELECT tenant, id, created FROM runs WHERE tenant = ?1 AND id = ?2)`,
		`DELETE FROM runs WHERE tenant = ?1 AND id = ?2`,
	} {
		if _, err := t.c.do(statement, string(tenant), string(id)); err != nil {
			return err
		}
	}
	return nil
}

// EraseRows implements kernel.RowWriter.
func (t *tx) EraseRows(tenant work.Tenant, run work.RunID, limit int) (n int, last int64, err error) {
	clear(t.written)
	for _, statement := range []string{
		`DELETE FROM step_values WHERE rowid IN (SELECT rowid FROM step_values WHERE tenant = ?1 AND run = ?2 LIMIT ?3)`,
		`DELETE FROM steps WHERE tenant = ?1 AND run = ?2 AND id IN (SELECT id FROM steps WHERE tenant = ?1 AND run = ?2 LIMIT ?3)`,
		`DELETE FROM lines WHERE rowid IN (SELECT rowid FROM lines WHERE tenant = ?1 AND run = ?2 LIMIT ?3)`,
		`DELETE FROM documents WHERE rowid IN (SELECT rowid FROM documents WHERE tenant = ?1 AND run = ?2 LIMIT ?3)`,
		`DELETE FROM dead_letters WHERE tenant = ?1 AND run = ?2 AND step IN (SELECT step FROM dead_letters WHERE tenant = ?1 AND run = ?2 LIMIT ?3)`,
	} {
		if n >= limit {
			break
		}
		changed, err := t.c.do(statement, string(tenant), string(run), int64(limit-n))
		if err != nil {
			return n, last, err
		}
		n += int(changed)
	}
	if n >= limit {
		return n, last, nil
	}
	err = t.c.each(`DELETE FROM events WHERE pos IN (SELECT pos FROM events WHERE tenant = ?1 AND run = ?2 LIMIT ?3) RETURNING pos, first, body`,
		func(v values) error {
			n++
			entries, err := chunk.Events(tenant, run, v.number(1), v.bytes(2))
			last = max(last, v.number(0)*store.ChunkEvents+int64(len(entries))-1)
			return err
		}, string(tenant), string(run), int64(limit-n))
	return n, last, err
}
