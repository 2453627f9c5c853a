package postgres

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func unmarshal(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fault.New(fault.Internal, "a row is damaged: %w", err).WithHint("orrery doctor")
	}
	return nil
}

func marshal(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "a row cannot be encoded: %w", err)
	}
	return raw, nil
}

func (r *reader) body(query string, args ...any) ([]byte, error) {
	var body []byte
	_, err := r.one(query, []any{&body}, args...)
	return body, err
}

// Plan implements kernel.DocumentReader.
func (r *reader) Plan(tenant work.Tenant, hash work.Digest) ([]byte, error) {
	return r.body(`SELECT body FROM plans WHERE tenant = $1 AND hash = $2`, tenant, digestBytes(hash))
}

// Document implements kernel.DocumentReader.
func (r *reader) Document(tenant work.Tenant, run work.RunID, kind string) ([]byte, error) {
	return r.body(`SELECT body FROM documents WHERE tenant = $1 AND run = $2 AND kind = $3`, tenant, run, kind)
}

// Documents implements kernel.DocumentReader.
func (r *reader) Documents(tenant work.Tenant, runs []work.RunID, kind string) ([][]byte, error) {
	ids := make([]string, len(runs))
	for i, run := range runs {
		ids[i] = string(run)
	}
	found := map[work.RunID][]byte{}
	err := r.ask(`SELECT d.run, d.body FROM unnest($2::text[]) AS k (run)
		CROSS JOIN LATERAL (SELECT x.run, x.body FROM documents x WHERE x.tenant = $1 AND x.run = k.run AND x.kind = $3 LIMIT 1) d`, func(rows pgx.Rows) error {
		var run work.RunID
		var body []byte
		err := rows.Scan(&run, &body)
		found[run] = body
		return err
	}, tenant, ids, kind)
	out := make([][]byte, len(runs))
	for i, run := range runs {
		out[i] = found[run]
	}
	return out, err
}

// result is how a cached result is kept: its outputs stay byte for byte as they were.
type result struct {
	Origin    work.CacheOrigin `json:"origin"`
	Outputs   []byte           `json:"outputs,omitempty"`
	Artifacts []work.Artifact  `json:"artifacts,omitempty"`
}

// Cached implements kernel.DocumentReader.
func (r *reader) Cached(tenant work.Tenant, key work.Digest) (*store.CachedResult, error) {
	body, err := r.body(`SELECT body FROM results WHERE tenant = $1 AND key = $2`, tenant, digestBytes(key))
	if err != nil || body == nil {
		return nil, err
	}
	var c result
	if err := unmarshal(body, &c); err != nil {
		return nil, err
	}
	return &store.CachedResult{Origin: c.Origin, Outputs: c.Outputs, Artifacts: c.Artifacts}, nil
}

// Results implements kernel.ListReader.
func (r *reader) Results(tenant work.Tenant, after work.Digest, limit int) ([]store.KeyedResult, error) {
	var out []store.KeyedResult
	err := r.ask(`SELECT key, body FROM results WHERE tenant = $1 AND key > $2 ORDER BY key LIMIT $3`, func(rows pgx.Rows) error {
		var key, body []byte
		if err := rows.Scan(&key, &body); err != nil {
			return err
		}
		var c result
		err := unmarshal(body, &c)
		out = append(out, store.KeyedResult{
			Key: digestOf(key), CachedResult: store.CachedResult{Origin: c.Origin, Outputs: c.Outputs, Artifacts: c.Artifacts},
		})
		return err
	}, tenant, digestBytes(after), all(limit))
	return out, err
}

// DeadLetters implements kernel.DocumentReader.
func (r *reader) DeadLetters(tenant work.Tenant, limit int) ([]store.DeadLetter, error) {
	var out []store.DeadLetter
	err := r.ask(`SELECT body FROM dead_letters WHERE tenant = $1 AND resolved IS NULL ORDER BY at, run, step LIMIT $2`, func(rows pgx.Rows) error {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return err
		}
		var l store.DeadLetter
		err := unmarshal(body, &l)
		out = append(out, l)
		return err
	}, tenant, all(limit))
	return out, err
}

// notNull keeps an empty document apart from one that is missing.
func notNull(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// PutPlan implements kernel.DocumentWriter. Runs of the same plan come in batches.
func (t *tx) PutPlan(tenant work.Tenant, hash work.Digest, canonical []byte) error {
	key := textKey{tenant, 'p', string(hash)}
	if t.plans[key] {
		return nil
	}
	t.plans[key] = true
	t.l.tell(`INSERT INTO plans (tenant, hash, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, tenant, digestBytes(hash), notNull(canonical))
	return nil
}

// PutDocument implements kernel.DocumentWriter.
func (t *tx) PutDocument(tenant work.Tenant, run work.RunID, kind string, data []byte) error {
	t.documents[documentKey{runKey{tenant, run}, kind}] = notNull(data)
	return nil
}

// documentKey names a document of a run.
type documentKey struct {
	runKey
	kind string
}

// stageDocuments sends the documents that were put.
func (t *tx) stageDocuments() {
	if len(t.documents) == 0 {
		return
	}
	var tenants, runs, kinds []string
	var bodies [][]byte
	for key, body := range t.documents {
		tenants, runs, kinds = append(tenants, string(key.tenant)), append(runs, string(key.run)), append(kinds, key.kind)
		bodies = append(bodies, body)
	}
	clear(t.documents)
	t.l.tell(`INSERT INTO documents (tenant, run, kind, body) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
		ON CONFLICT (tenant, run, kind) DO UPDATE SET body = excluded.body`, tenants, runs, kinds, bodies)
}

// PutCached implements kernel.DocumentWriter.
func (t *tx) PutCached(tenant work.Tenant, key work.Digest, c store.CachedResult) error {
	body, err := marshal(&result{c.Origin, c.Outputs, c.Artifacts})
	if err != nil {
		return err
	}
	t.l.tell(`INSERT INTO results (tenant, key, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, tenant, digestBytes(key), body)
	return nil
}

// PutDeadLetter implements kernel.DocumentWriter. The first one of a step stays, and with it that it is resolved.
func (t *tx) PutDeadLetter(l store.DeadLetter) error {
	body, err := marshal(&l)
	if err != nil {
		return err
	}
	t.l.tell(`INSERT INTO dead_letters (tenant, run, step, at, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		l.Tenant, l.Run, l.Step, l.At, body)
	return nil
}

// ResolveDeadLetters implements kernel.DocumentWriter.
func (t *tx) ResolveDeadLetters(tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error {
	resolved, err := marshal(&by)
	if err != nil {
		return err
	}
	t.l.tell(`UPDATE dead_letters SET resolved = $4 WHERE tenant = $1 AND run = $2 AND ($3 = '' OR step = $3) AND resolved IS NULL`,
		tenant, run, step, resolved)
	return nil
}
