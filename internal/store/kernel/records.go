package kernel

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Record implements store.Records.
func (s *Store) Record(ctx context.Context, tenant work.Tenant, kind, id string) (store.Record, error) {
	row, err := glance(ctx, s, func(r Reader) (*store.Record, error) { return r.Record(tenant, kind, id) })
	if err != nil {
		return store.Record{}, err
	}
	if row == nil || expired(row, s.now()) {
		return store.Record{}, fault.New(fault.NotFound, "there is no %s %s", kind, id)
	}
	return *row, nil
}

// Look implements store.Records.
func (s *Store) Look(ctx context.Context, refs ...store.RecordRef) (store.Found, error) {
	rows, err := glance(ctx, s, func(r Reader) ([]*store.Record, error) { return r.Look(refs) })
	if err != nil {
		return nil, err
	}
	now, out := s.now(), make(store.Found, len(refs))
	for i, ref := range refs {
		if rows[i] != nil && expired(rows[i], now) {
			rows[i] = nil
		}
		out[ref] = rows[i]
	}
	return out, nil
}

func expired(r *store.Record, now work.Time) bool { return r.Expires != 0 && r.Expires <= now }

// Records implements store.Records.
func (s *Store) Records(ctx context.Context, tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error) {
	now := s.now()
	var out []store.Record
	for {
		page, err := glance(ctx, s, func(r Reader) ([]store.Record, error) { return r.Records(tenant, kind, prefix, after, limit) })
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
}

// Change implements store.Records.
func (s *Store) Change(ctx context.Context, changes ...store.RecordChange) error {
	return s.changeWith(ctx, Needs{}, changes, func(*unit) {})
}

// Announce implements store.Records. Who announces in a tenant waits for whoever writes into its audit stream: one lock does for both.
func (s *Store) Announce(ctx context.Context, tenant work.Tenant, event work.EventType, data any, changes ...store.RecordChange) error {
	needs := Needs{Records: []store.RecordRef{{Tenant: tenant, Kind: incidentsKind, ID: AuditHead}}, Audits: []work.Tenant{tenant}}
	return s.changeWith(ctx, needs, changes, func(u *unit) {
		u.link(tenant, store.IncidentStream, incidentsKind, event, data)
	})
}

func (s *Store) changeWith(ctx context.Context, needs Needs, changes []store.RecordChange, more func(*unit)) error {
	var refused error
	for i := range changes {
		needs.Records = append(needs.Records, refOf(&changes[i].Record))
	}
	err := s.do(ctx, needs, func(u *unit) error {
		if refused = u.change(changes); refused == nil {
			more(u)
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

	incidentsKind = "incident-stream" // of the one that knows the end of its incidents, with the same id
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

// stream is a history of a tenant that is of no run, with the entries that a transaction adds to it.
type stream struct {
	row    store.Record
	end    store.AuditEnd
	events []work.Event
}

// audit appends the entry of ctx to the audit stream of its tenant.
func (u *unit) audit(ctx context.Context) {
	if entry := store.AuditOf(ctx); entry != nil {
		u.link(entry.Tenant, store.AuditStream, AuditKind, work.EventType(entry.Action), entry)
	}
}

// link appends an event to a stream of a tenant: the chain of events of a run that does not exist. Its end is a record of a kind.
func (u *unit) link(tenant work.Tenant, of work.RunID, kind string, event work.EventType, v any) {
	if u.err != nil {
		return
	}
	s, err := u.stream(runKey{tenant, of}, kind)
	if err != nil {
		u.fail(err)
		return
	}
	data, err := canonical.Marshal(v)
	u.fail(err)
	e := work.Event{Tenant: tenant, Run: of, Seq: s.end.Seq + 1, Time: u.now, Type: event, Data: data}
	u.fail(ledger.Link(s.end.Head, &e))
	s.end = store.AuditEnd{Seq: e.Seq, Head: e.Hash}
	s.events = append(s.events, e)
	u.wrote = true
}

func (u *unit) stream(key runKey, kind string) (*stream, error) {
	if s := u.streams[key]; s != nil {
		return s, nil
	}
	row, err := u.tx.Record(key.tenant, kind, AuditHead)
	if err != nil {
		return nil, err
	}
	s := &stream{row: store.Record{Tenant: key.tenant, Kind: kind, ID: AuditHead}}
	if row != nil {
		s.row = *row
		if err := json.Unmarshal(row.Doc, &s.end); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "the end of the %s stream of %s", key.run, key.tenant)
		}
	}
	if u.streams == nil {
		u.streams = map[runKey]*stream{}
	}
	u.streams[key] = s
	return s, nil
}

// stageStreams writes what all commands of the transaction have added to streams.
func (u *unit) stageStreams() {
	for _, key := range slices.SortedFunc(maps.Keys(u.streams), func(a, b runKey) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.run, b.run))
	}) {
		s := u.streams[key]
		u.fail(u.tx.AppendEvents(key.tenant, key.run, s.events))
		doc, err := json.Marshal(s.end)
		u.fail(err)
		s.row.Doc, s.row.Version = doc, s.row.Version+1
		u.fail(u.tx.PutRecord(s.row))
	}
}

// wrote notes after the commit that the entry of ctx is in the stream.
func wrote(ctx context.Context) {
	if a := store.AuditOf(ctx); a != nil {
		a.Wrote()
	}
}

func refOf(r *store.Record) store.RecordRef {
	return store.RecordRef{Tenant: r.Tenant, Kind: r.Kind, ID: r.ID}
}

// unanswered returns nil while the answer of a request may be kept.
func (u *unit) unanswered(a *store.Answer) error {
	row, err := u.tx.Record(a.Tenant, a.Kind, a.ID)
	u.fail(err)
	has := int64(0)
	if row != nil && !expired(row, u.now) {
		has = row.Version
	}
	if err == nil && has != a.Version {
		err = fault.New(fault.Conflict, "the request has been answered")
	}
	return err
}

// answer keeps the answer of a request with a run that is there, and reports whether it did.
func (u *unit) answer(a *store.Answer, made []store.Submitted) bool {
	if !slices.ContainsFunc(made, func(m store.Submitted) bool { return m.Err == nil }) {
		return false
	}
	row := a.Record
	if row.Doc = a.Render(made); row.Doc == nil {
		return false
	}
	row.Version++
	u.fail(u.tx.PutRecord(row))
	u.wrote = true
	return true
}
