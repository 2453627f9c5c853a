package collect

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Kinds of records.
const (
	noteKind  = "unnamed"    // a blob that a look found unnamed, by its digest
	turnKind  = "collecting" // who collects the blobs of the tenant at the moment
	countKind = "kept"       // what the last look counted
	single    = "tenant"     // the id of the only record of a kind
)

// note is the first of two looks.
type note struct {
	Since work.Time `json:"since"`
	Bytes int64     `json:"bytes"`

	version int64
}

func (s *Service) notes(ctx context.Context, tenant work.Tenant) (map[work.Digest]note, error) {
	out := map[work.Digest]note{}
	err := s.eachRecord(ctx, tenant, noteKind, func(r *store.Record) error {
		n := note{version: r.Version}
		out[work.Digest(r.ID)] = n
		if err := json.Unmarshal(r.Doc, &n); err != nil {
			return fault.Wrap(fault.Internal, err, "the note on %s", r.ID)
		}
		out[work.Digest(r.ID)] = n
		return nil
	})
	return out, err
}

// changesAtOnce is how many notes are written with one commit.
const changesAtOnce = 200

// writer writes notes in small commits, between those of others.
type writer struct {
	s       *Service
	tenant  work.Tenant
	pending []store.RecordChange
}

func (w *writer) put(ctx context.Context, d work.Digest, n note) error {
	doc, err := json.Marshal(&n)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a note")
	}
	return w.add(ctx, store.RecordChange{Record: store.Record{Tenant: w.tenant, Kind: noteKind, ID: string(d), Version: n.version, Doc: doc}})
}

func (w *writer) drop(ctx context.Context, d work.Digest, n note) error {
	return w.add(ctx, store.RecordChange{Record: store.Record{Tenant: w.tenant, Kind: noteKind, ID: string(d), Version: n.version}, Delete: true})
}

func (w *writer) add(ctx context.Context, c store.RecordChange) error {
	if w.pending = append(w.pending, c); len(w.pending) < changesAtOnce {
		return nil
	}
	return w.flush(ctx)
}

func (w *writer) flush(ctx context.Context) error {
	if len(w.pending) == 0 {
		return nil
	}
	err := w.s.Store.Change(ctx, w.pending...)
	w.pending = w.pending[:0]
	return err
}

const (
	turnLasts = 10 * time.Minute // without a renewal: then whoever had it is gone
	turnRenew = time.Minute
)

// turn is the right to collect the blobs of a tenant, which one process has at a time. It only saves work: two that collect at once are
// as safe as one.
type turn struct {
	s      *Service
	record store.Record
	until  work.Time
}

// take takes the turn. Error: fault.Conflict when another process has it.
func (s *Service) take(ctx context.Context, tenant work.Tenant) (*turn, error) {
	doc, err := json.Marshal(rand.Text())
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "a turn")
	}
	t := &turn{s: s, record: store.Record{Tenant: tenant, Kind: turnKind, ID: single, Doc: doc}}
	err = t.write(ctx)
	if fault.CodeOf(err) == fault.Conflict {
		return nil, fault.New(fault.Conflict, "the files of %s are being collected already", tenant).WithHint("wait until that is done: orrery gc --dry-run shows what is left")
	}
	return t, err
}

func (t *turn) write(ctx context.Context) error {
	now := t.s.Now()
	t.record.Expires = now.Add(turnLasts)
	if err := t.s.Store.Change(ctx, store.RecordChange{Record: t.record}); err != nil {
		return err
	}
	t.record.Version++
	t.until = now.Add(turnRenew)
	return nil
}

// keep renews the turn when it is time to. Error: fault.Conflict when another process has taken it.
func (t *turn) keep(ctx context.Context) error {
	if t.s.Now() < t.until {
		return nil
	}
	has, err := t.s.Store.Record(ctx, t.record.Tenant, t.record.Kind, t.record.ID)
	if err == nil && string(has.Doc) != string(t.record.Doc) || fault.CodeOf(err) == fault.NotFound {
		return fault.New(fault.Conflict, "another process has gone on with it")
	}
	if err != nil {
		return err
	}
	return t.write(ctx)
}

// end gives the turn back. Whoever is killed before is waited for.
func (t *turn) end(ctx context.Context) error {
	err := t.s.Store.Change(ctx, store.RecordChange{Record: t.record, Delete: true})
	if fault.CodeOf(err) == fault.Conflict {
		return nil // it was another's by then
	}
	return err
}
