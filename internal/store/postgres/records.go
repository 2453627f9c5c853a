package postgres

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

type recordKey struct {
	tenant   work.Tenant
	kind, id string
}

const recordColumns = `SELECT tenant, kind, id, version, expires, doc FROM records `

const recordByKey = recordColumns + `WHERE tenant = $1 AND kind = $2 AND id = $3`

// recordRow is what a transaction knows of a record that it has locked.
type recordRow struct {
	now   *store.Record // nil for none
	there bool          // in the database
	dirty bool
}

func scanRecord(rows pgx.Rows, into *[]store.Record) error {
	var row store.Record
	var doc []byte
	err := rows.Scan(&row.Tenant, &row.Kind, &row.ID, &row.Version, &row.Expires, &doc)
	if row.Doc = doc; len(doc) == 0 {
		row.Doc = nil
	}
	*into = append(*into, row)
	return err
}

func (r *reader) findRecords(query string, args ...any) ([]store.Record, error) {
	var out []store.Record
	err := r.ask(query, func(rows pgx.Rows) error { return scanRecord(rows, &out) }, args...)
	return out, err
}

func (t *tx) knowRecords(asked []recordKey, found []store.Record) {
	for _, key := range asked {
		t.records[key] = &recordRow{}
	}
	for i := range found {
		t.records[recordKey{found[i].Tenant, found[i].Kind, found[i].ID}] = &recordRow{now: &found[i], there: true}
	}
}

// Record implements kernel.RecordReader. A transaction that writes locks the row; where there is none, the primary key refuses the
// second of two that make one, which is then run again.
func (r *reader) Record(tenant work.Tenant, kind, id string) (*store.Record, error) {
	key := recordKey{tenant, kind, id}
	if r.t == nil || r.t.records[key] == nil {
		found, err := r.findRecords(recordByKey+r.forUpdate(), tenant, kind, id)
		if err != nil {
			return nil, err
		}
		if r.t == nil && len(found) > 0 {
			return &found[0], nil
		}
		if r.t == nil {
			return nil, nil
		}
		r.t.knowRecords([]recordKey{key}, found)
	}
	now := copyOf(r.t.records[key].now)
	if now != nil {
		now.Doc = slices.Clone(now.Doc)
	}
	return now, nil
}

const recordsByRef = `SELECT r.* FROM unnest($1::text[], $2::text[], $3::text[]) AS k (tenant, kind, id) CROSS JOIN LATERAL (` +
	recordColumns + `x WHERE x.tenant = k.tenant AND x.kind = k.kind AND x.id = k.id LIMIT 1`

// Look implements kernel.RecordReader.
func (r *reader) Look(refs []store.RecordRef) ([]*store.Record, error) {
	keys := make([]recordKey, len(refs))
	for i, ref := range refs {
		keys[i] = recordKey{ref.Tenant, ref.Kind, ref.ID}
	}
	query, args := lookQuery(keys)
	found, err := r.findRecords(query, args...)
	at := make(map[recordKey]*store.Record, len(found))
	for i := range found {
		at[recordKey{found[i].Tenant, found[i].Kind, found[i].ID}] = &found[i]
	}
	out := make([]*store.Record, len(refs))
	for i, key := range keys {
		out[i] = copyOf(at[key])
	}
	return out, err
}

// lookQuery asks for a few records as a list of values: of those the planner knows how many they are, and keeps its plan. What asks for an array it
// plans again each time, unless it is told not to.
func lookQuery(keys []recordKey) (string, []any) {
	const few = 4
	if len(keys) > few || len(keys) == 0 {
		tenants, kinds, ids := recordTexts(keys)
		return recordsByRef + `) r`, []any{tenants, kinds, ids}
	}
	var values strings.Builder
	var args []any
	for i, key := range keys {
		if i > 0 {
			values.WriteString(", ")
		}
		fmt.Fprintf(&values, "($%d::text, $%d::text, $%d::text)", 3*i+1, 3*i+2, 3*i+3)
		args = append(args, key.tenant, key.kind, key.id)
	}
	return `SELECT r.* FROM (VALUES ` + values.String() + `) AS k (tenant, kind, id) CROSS JOIN LATERAL (` + recordColumns +
		`x WHERE x.tenant = k.tenant AND x.kind = k.kind AND x.id = k.id LIMIT 1) r`, args
}

func recordTexts(keys []recordKey) (tenants, kinds, ids []string) {
	tenants, kinds, ids = make([]string, len(keys)), make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		tenants[i], kinds[i], ids[i] = string(key.tenant), key.kind, key.id
	}
	return tenants, kinds, ids
}

// Records implements kernel.RecordReader.
func (r *reader) Records(tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error) {
	end := prefixEnd(prefix)
	return r.findRecords(recordColumns+`WHERE tenant = $1 AND kind = $2 AND id >= $3 AND ($4 = '' OR id < $4) AND ($5 = '' OR id > $5)
		ORDER BY id LIMIT $6`, tenant, kind, prefix, end, after, all(limit))
}

// prefixEnd returns what comes after everything that begins with a prefix, "" for the end of all. It is cut to whole characters: a
// text of the database has no half ones.
func prefixEnd(prefix string) string {
	runes := []rune(prefix)
	for i := len(runes) - 1; i >= 0; i-- {
		next := runes[i] + 1
		if next == 0xd800 {
			next = 0xe000
		}
		if next <= 0x10ffff {
			return string(append(runes[:i:i], next))
		}
	}
	return ""
}

// PutRecord implements kernel.RecordWriter.
func (t *tx) PutRecord(row store.Record) error {
	key := recordKey{row.Tenant, row.Kind, row.ID}
	if t.records[key] == nil {
		if _, err := t.Record(row.Tenant, row.Kind, row.ID); err != nil {
			return err
		}
	}
	if row.Kind == store.FlowKind {
		t.lockKey(shared+row.Kind, row.Tenant, row.ID) // waits for those who go by it
	}
	row.Doc = slices.Clone(row.Doc)
	t.records[key].now, t.records[key].dirty = &row, true
	return nil
}

// The row of one that changes is there and locked.
const (
	insertRecords = `INSERT INTO records (tenant, kind, id, version, expires, doc)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])`
	moveRecords = insertRecords + ` ON CONFLICT (tenant, kind, id) DO UPDATE SET version = excluded.version, expires = excluded.expires, doc = excluded.doc`
)

// stageRecords sends each record as it is by now.
func (t *tx) stageRecords() {
	type columns struct {
		keys              []recordKey
		versions, expires []int64
		docs              [][]byte
	}
	var in, up columns
	for _, key := range slices.SortedFunc(maps.Keys(t.records), compareRecords) {
		r := t.records[key]
		if !r.dirty {
			continue
		}
		to := &in
		if r.there {
			to = &up
		}
		to.keys, to.versions, to.expires = append(to.keys, key), append(to.versions, r.now.Version), append(to.expires, int64(r.now.Expires))
		to.docs = append(to.docs, notNull(r.now.Doc))
		r.there, r.dirty = true, false
	}
	for _, c := range []struct {
		query string
		*columns
	}{{insertRecords, &in}, {moveRecords, &up}} {
		if len(c.keys) > 0 {
			tenants, kinds, ids := recordTexts(c.keys)
			t.l.tell(c.query, tenants, kinds, ids, c.versions, c.expires, c.docs)
		}
	}
}

func compareRecords(a, b recordKey) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id))
}

// DeleteRecord implements kernel.RecordWriter.
func (t *tx) DeleteRecord(tenant work.Tenant, kind, id string) error {
	t.l.tell(`DELETE FROM records WHERE tenant = $1 AND kind = $2 AND id = $3`, tenant, kind, id)
	t.records[recordKey{tenant, kind, id}] = &recordRow{}
	return nil
}

// PruneRecords implements kernel.RecordWriter. What another transaction uses at the moment is passed over.
func (t *tx) PruneRecords(now work.Time, limit int) (int, error) {
	n := 0
	t.l.changes = true
	err := t.ask(`WITH due AS MATERIALIZED (SELECT ctid FROM records WHERE expires <> 0 AND expires <= $1
		ORDER BY expires, tenant, kind, id LIMIT $2 FOR UPDATE SKIP LOCKED)
		DELETE FROM records WHERE ctid = ANY (ARRAY(SELECT ctid FROM due)) RETURNING 1`, func(pgx.Rows) error { n++; return nil }, now, all(limit))
	clear(t.records)
	return n, err
}
