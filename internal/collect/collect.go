// Package collect removes blobs that nothing names any more, and counts what a tenant keeps.
//
// A blob goes when two looks at everything that may name it have found nothing, with the grace between them, and nobody has put it or
// asked for it since the first of them. That is enough because of one law that everybody keeps who makes a name: it is made within the
// grace after the blob was put or asked for (blob.Store's Put and Has), or by an attempt that had its lease already then, or in one
// transaction with a look at a name that stays. A blob is never in danger from a clock, a lost reply or another server: two
// collectors that work at the same time remove the same things.
//
// Whoever is killed has written down what its first look found, and the next one goes on.
package collect

import (
	"context"
	"encoding/json"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// DefaultGrace is how long a blob stays that nothing names, unless said otherwise.
const DefaultGrace = 24 * time.Hour

// skew is how far the clocks of the servers and of where the blobs are may be apart.
const skew = 10 * time.Minute

// Store is what names blobs.
type Store interface {
	store.Reader
	store.History
	store.Records
	store.Lists
}

// Service collects the blobs of a store. It is safe for concurrent use, also on several servers.
type Service struct {
	Store Store
	Blobs blob.Store
	Now   func() work.Time
	Grace time.Duration // between the two looks, and after the last use
	Meter *Meter        // is told how much there is; nil for nobody

	// Held says why nothing may be removed at the moment: a backup reads. It is asked before every blob; "" for nothing, and a nil
	// function says nothing.
	Held func() (why string, err error)
}

// Amount is a number of blobs and their bytes.
type Amount struct {
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

func (a *Amount) add(bytes int64) {
	a.Blobs++
	a.Bytes += bytes
}

// Result is what a collection found and did.
type Result struct {
	Kept    Amount    `json:"kept"`    // something names them
	Waiting Amount    `json:"waiting"` // nothing does, but not for long enough
	Freed   Amount    `json:"freed"`   // they are gone; with a preview, what a collection would remove now
	Held    string    `json:"held,omitempty"`
	At      work.Time `json:"at"`
}

// Preview returns what Collect would do now, without doing it.
func (s *Service) Preview(ctx context.Context, tenant work.Tenant) (Result, error) {
	l, err := s.look(ctx, tenant)
	if err != nil {
		return Result{}, err
	}
	l.result.Held, err = s.held()
	return l.result, err
}

func (s *Service) held() (string, error) {
	if s.Held == nil {
		return "", nil
	}
	return s.Held()
}

// Collect looks at the blobs of a tenant, removes those whose time is over and notes those whose time begins. The audit entry of ctx is
// written before anything is removed. It may be stopped at any moment, and called again at any time. Error: fault.Conflict while another
// process is at it.
func (s *Service) Collect(ctx context.Context, tenant work.Tenant) (r Result, err error) {
	quiet := store.WithAudit(ctx, nil) // the entry is for the removal, not for notes
	t, err := s.take(quiet, tenant)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if ended := t.end(context.WithoutCancel(quiet)); err == nil {
			err = ended
		}
	}()
	from := int64(0)
	if s.Meter != nil {
		if from, err = s.Meter.mark(quiet, tenant); err != nil {
			return Result{}, err
		}
	}
	l, err := s.look(ctx, tenant)
	if err != nil {
		return Result{}, err
	}
	if err := l.write(quiet, s, tenant); err != nil {
		return Result{}, err
	}
	due := l.result.Freed
	l.result.Freed = Amount{}
	if l.result.Held, err = s.held(); err != nil {
		return l.result, err
	}
	if due.Blobs > 0 && l.result.Held == "" {
		if err := s.announce(ctx, tenant, due); err != nil {
			return l.result, err
		}
		if err := s.remove(quiet, tenant, l, t); err != nil {
			return l.result, err
		}
	}
	left := Amount{due.Blobs - l.result.Freed.Blobs, due.Bytes - l.result.Freed.Bytes}
	l.result.Waiting = Amount{l.result.Waiting.Blobs + left.Blobs, l.result.Waiting.Bytes + left.Bytes}
	if s.Meter != nil {
		if err := s.Meter.recount(quiet, tenant, from, l.result.Kept.Bytes+l.result.Waiting.Bytes); err != nil {
			return l.result, err
		}
	}
	return l.result, s.count(quiet, tenant, l.result)
}

// announce writes the audit entry of ctx, which says how much will go.
func (s *Service) announce(ctx context.Context, tenant work.Tenant, due Amount) error {
	entry := store.AuditOf(ctx)
	if entry == nil {
		return nil
	}
	detail, err := json.Marshal(due)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "an audit entry")
	}
	entry.Detail = detail
	store.About(ctx, "blobs of "+string(tenant))
	return s.Store.Change(ctx)
}

// look is one look at all blobs of a tenant.
type look struct {
	result Result
	before work.Time // what was put or asked for since then stays
	begun  work.Time
	notes  map[work.Digest]note
	fresh  map[work.Digest]note // whose time begins
	stale  map[work.Digest]note // that hold no longer
	due    map[work.Digest]bool // whose time is over
}

func (s *Service) look(ctx context.Context, tenant work.Tenant) (*look, error) {
	l := &look{begun: s.Now(), fresh: map[work.Digest]note{}, stale: map[work.Digest]note{}, due: map[work.Digest]bool{}}
	m, err := s.mark(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if l.notes, err = s.notes(ctx, tenant); err != nil {
		return nil, err
	}
	l.before = l.begun.Add(-s.Grace)
	if m.leased != 0 {
		// What an attempt under way has put, nothing names before its report, however long that takes.
		l.before = min(l.before, m.leased.Add(-skew))
	}
	l.result.At = l.begun
	gone := map[work.Digest]bool{}
	for d := range l.notes {
		gone[d] = true
	}
	for e, err := range s.Blobs.List(ctx, tenant) {
		if err != nil {
			return nil, err
		}
		delete(gone, e.Digest)
		l.judge(&e, m.has(e.Digest), s.Grace)
	}
	for d := range gone {
		l.stale[d] = l.notes[d]
	}
	return l, nil
}

// judge says what becomes of one blob.
func (l *look) judge(e *blob.Entry, named bool, grace time.Duration) {
	n, noted := l.notes[e.Digest]
	used := work.At(e.Used)
	switch {
	case named:
		l.result.Kept.add(e.Size)
		if noted {
			l.stale[e.Digest] = n
		}
		return
	case noted && used > n.Since.Add(skew): // somebody needs it, or did: its time begins again
		l.fresh[e.Digest] = note{Since: l.begun, Bytes: e.Size, version: n.version}
	case !noted && used <= l.begun:
		l.fresh[e.Digest] = note{Since: l.begun, Bytes: e.Size}
	case noted && n.Since.Add(grace) <= l.begun && used <= l.before:
		l.due[e.Digest] = true
		l.result.Freed.add(e.Size)
		return
	}
	l.result.Waiting.add(e.Size)
}

// write keeps what the look has found.
func (l *look) write(ctx context.Context, s *Service, tenant work.Tenant) error {
	w := &writer{s: s, tenant: tenant}
	for d, n := range l.stale {
		if err := w.drop(ctx, d, n); err != nil {
			return err
		}
	}
	for d, n := range l.fresh {
		if err := w.put(ctx, d, n); err != nil {
			return err
		}
	}
	return w.flush(ctx)
}

// remove removes what is due, and the notes on it.
func (s *Service) remove(ctx context.Context, tenant work.Tenant, l *look, t *turn) error {
	var stopped error
	asked := map[work.Digest]bool{}
	count, bytes, err := s.Blobs.Collect(ctx, tenant, l.before.Std(), func(d work.Digest) bool {
		if !l.due[d] || stopped != nil || l.result.Held != "" {
			return true
		}
		if l.result.Held, stopped = s.held(); stopped == nil {
			stopped = t.keep(ctx)
		}
		asked[d] = stopped == nil && l.result.Held == ""
		return !asked[d]
	})
	l.result.Freed = Amount{count, bytes}
	if err == nil {
		err = stopped
	}
	if err != nil {
		return err
	}
	w := &writer{s: s, tenant: tenant}
	for d := range asked {
		if asked[d] { // it is gone, or somebody needed it at the last moment and the next look begins anew
			if err := w.drop(ctx, d, l.notes[d]); err != nil {
				return err
			}
		}
	}
	return w.flush(ctx)
}

// count keeps what a look has counted, for those who ask how much there is.
func (s *Service) count(ctx context.Context, tenant work.Tenant, r Result) error {
	doc, err := json.Marshal(&r)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a count")
	}
	record := store.Record{Tenant: tenant, Kind: countKind, ID: single}
	if had, err := s.Store.Record(ctx, tenant, countKind, single); err == nil {
		record.Version = had.Version
	} else if fault.CodeOf(err) != fault.NotFound {
		return err
	}
	record.Doc = doc
	return s.Store.Change(ctx, store.RecordChange{Record: record})
}

// Last returns what the last collection found, with At 0 when there was none.
func (s *Service) Last(ctx context.Context, tenant work.Tenant) (r Result, err error) {
	row, err := s.Store.Record(ctx, tenant, countKind, single)
	if fault.CodeOf(err) == fault.NotFound {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	return r, fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &r), "what was counted")
}
