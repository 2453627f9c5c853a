package memory

import (
	"cmp"
	"slices"
	"strings"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

type (
	recordKey struct {
		tenant   work.Tenant
		kind, id string
	}
	expiryOrder struct {
		at  work.Time
		key recordKey
	}
)

func compareRecords(a, b recordKey) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id))
}

func compareExpiry(a, b expiryOrder) int {
	return cmp.Or(cmp.Compare(a.at, b.at), compareRecords(a.key, b.key))
}

// Record implements kernel.RecordReader.
func (r reader) Record(tenant work.Tenant, kind, id string) (*store.Record, error) {
	row, ok := r.d.records[recordKey{tenant, kind, id}]
	if !ok {
		return nil, nil
	}
	row.Doc = slices.Clone(row.Doc)
	return &row, nil
}

// Look implements kernel.RecordReader.
func (r reader) Look(refs []store.RecordRef) ([]*store.Record, error) {
	out := make([]*store.Record, len(refs))
	for i, ref := range refs {
		out[i], _ = r.Record(ref.Tenant, ref.Kind, ref.ID) // a map always answers
	}
	return out, nil
}

// Records implements kernel.RecordReader.
func (r reader) Records(tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error) {
	var out []store.Record
	for _, key := range r.d.recordIDs.from(recordKey{tenant, kind, max(prefix, after)}) {
		if key.tenant != tenant || key.kind != kind || key.id > after && !strings.HasPrefix(key.id, prefix) {
			break
		}
		if key.id <= after && after != "" {
			continue
		}
		row := r.d.records[key]
		row.Doc = slices.Clone(row.Doc)
		if out = append(out, row); len(out) == limit {
			break
		}
	}
	return out, nil
}

// PutRecord implements kernel.RecordWriter.
func (t *tx) PutRecord(row store.Record) error {
	key := recordKey{row.Tenant, row.Kind, row.ID}
	t.forget(key)
	row.Doc = slices.Clone(row.Doc)
	put(t, t.d.records, key, row)
	set(t, t.d.recordIDs, key, true)
	if row.Expires != 0 {
		set(t, t.d.expiring, expiryOrder{row.Expires, key}, true)
	}
	return nil
}

// DeleteRecord implements kernel.RecordWriter.
func (t *tx) DeleteRecord(tenant work.Tenant, kind, id string) error {
	t.forget(recordKey{tenant, kind, id})
	return nil
}

// forget takes a record out of the map and the orders.
func (t *tx) forget(key recordKey) {
	old, had := t.d.records[key]
	if !had {
		return
	}
	drop(t, t.d.records, key)
	set(t, t.d.recordIDs, key, false)
	if old.Expires != 0 {
		set(t, t.d.expiring, expiryOrder{old.Expires, key}, false)
	}
}

// PruneRecords implements kernel.RecordWriter.
func (t *tx) PruneRecords(now work.Time, limit int) (int, error) {
	var due []recordKey
	for _, e := range t.d.expiring.items {
		if e.at > now || len(due) == limit && limit > 0 {
			break
		}
		due = append(due, e.key)
	}
	for _, key := range due {
		t.forget(key)
	}
	return len(due), nil
}
