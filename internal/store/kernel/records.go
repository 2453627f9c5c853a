package kernel

import (
	"context"
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Record implements store.Records.
func (s *Store) Record(ctx context.Context, tenant work.Tenant, kind, id string) (store.Record, error) {
	row, err := read(ctx, s, func(r Reader) (*store.Record, error) { return r.Record(tenant, kind, id) })
	if err != nil {
		return store.Record{}, err
	}
	if row == nil || expired(row, s.now()) {
		return store.Record{}, fault.New(fault.NotFound, "there is no %s %s", kind, id)
	}
	return *row, nil
}

func expired(r *store.Record, now work.Time) bool { return r.Expires != 0 && r.Expires <= now }

// Records implements store.Records.
func (s *Store) Records(ctx context.Context, tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error) {
	now := s.now()
	return read(ctx, s, func(r Reader) ([]store.Record, error) {
		var out []store.Record
		for {
			page, err := r.Records(tenant, kind, prefix, after, limit)
			if err != nil {
				return nil, err
			}
			for i := range page {
				if !expired(&page[i], now) && (limit <= 0 || len(out) < limit) {
					out = append(out, page[i])
				}
			}
			if limit <= 0 || len(page) < limit || len(out) == limit {
				return out, nil
			}
			after = page[len(page)-1].ID
		}
	})
}

// Change implements store.Records.
func (s *Store) Change(ctx context.Context, changes ...store.RecordChange) error {
	var refused error
	err := s.do(ctx, Needs{}, func(u *unit) error {
		if refused = u.change(changes); refused == nil {
			u.audit(ctx)
		}
		return u.err
	})
	if err == nil && refused == nil {
		wrote(ctx)
	}
	if err == nil {
		err = refused
	}
	return err
}

func (u *unit) change(changes []store.RecordChange) error {
	for i := range changes {
		c := &changes[i].Record
		row, err := u.tx.Record(c.Tenant, c.Kind, c.ID)
		u.fail(err)
		has := int64(0)
		if row != nil && !expired(row, u.now) {
			has = row.Version
		}
		if has != c.Version {
			return fault.New(fault.Conflict, "the %s %s has changed meanwhile", c.Kind, c.ID).WithHint("read it again")
		}
	}
	for i := range changes {
		c := changes[i].Record
		u.wrote = true
		if changes[i].Delete {
			u.fail(u.tx.DeleteRecord(c.Tenant, c.Kind, c.ID))
			continue
		}
		c.Version++
		u.fail(u.tx.PutRecord(c))
	}
	return u.err
}

// Prune implements store.Records.
func (s *Store) Prune(ctx context.Context, limit int) (int, error) {
	n := 0
	err := s.one(ctx, Needs{}, func(u *unit) error {
		var err error
		n, err = u.tx.PruneRecords(u.now, limit)
		u.fail(err)
		return u.err
	})
	return n, err
}

// Of the record that knows the end of a tenant's audit stream.
const (
	AuditKind = "audit"
	AuditHead = "head"
)

// AuditEnd implements store.Records.
func (s *Store) AuditEnd(ctx context.Context, tenant work.Tenant) (store.AuditEnd, error) {
	var end store.AuditEnd
	row, err := s.Record(ctx, tenant, AuditKind, AuditHead)
	if fault.CodeOf(err) == fault.NotFound {
		return end, nil
	}
	if err != nil {
		return end, err
	}
	return end, fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &end), "the end of the audit stream of %s", tenant)
}

// audit appends the entry of ctx to the audit stream of its tenant: the chain of events of a run that does not exist.
func (u *unit) audit(ctx context.Context) {
	entry := store.AuditOf(ctx)
	if entry == nil || u.err != nil {
		return
	}
	row, err := u.tx.Record(entry.Tenant, AuditKind, AuditHead)
	u.fail(err)
	var end store.AuditEnd
	if row == nil {
		row = &store.Record{Tenant: entry.Tenant, Kind: AuditKind, ID: AuditHead}
	} else if err := json.Unmarshal(row.Doc, &end); err != nil {
		u.fail(fault.Wrap(fault.Internal, err, "the end of the audit stream of %s", entry.Tenant))
		return
	}
	data, err := canonical.Marshal(entry)
	u.fail(err)
	e := work.Event{
		Tenant: entry.Tenant, Run: store.AuditStream, Seq: end.Seq + 1, Time: u.now, Type: work.EventType(entry.Action), Data: data,
	}
	u.fail(ledger.Link(end.Head, &e))
	u.fail(u.tx.AppendEvents(entry.Tenant, store.AuditStream, []work.Event{e}))
	row.Doc, err = json.Marshal(store.AuditEnd{Seq: e.Seq, Head: e.Hash})
	u.fail(err)
	row.Version++
	u.fail(u.tx.PutRecord(*row))
	u.wrote = true
}

// wrote notes after the commit that the entry of ctx is in the stream.
func wrote(ctx context.Context) {
	if a := store.AuditOf(ctx); a != nil {
		a.Wrote()
	}
}
