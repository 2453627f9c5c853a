package kernel

import (
	"context"
	"encoding/json"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Run implements store.Reader.
func (s *Store) Run(ctx context.Context, tenant work.Tenant, idOrName string) (work.Run, error) {
	run, err := glance(ctx, s, func(r Reader) (*work.Run, error) {
		if strings.HasPrefix(idOrName, "run_") {
			return r.Run(tenant, work.RunID(idOrName))
		}
		return r.RunByName(tenant, idOrName)
	})
	if err != nil {
		return work.Run{}, err
	}
	if run == nil {
		return work.Run{}, fault.New(fault.NotFound, "there is no run %s", idOrName).WithHint("orrery runs list")
	}
	return *run, nil
}

// read runs a question on a snapshot.
func read[T any](ctx context.Context, s *Store, ask func(Reader) (T, error)) (T, error) {
	var out T
	err := s.view(ctx, func(r Reader) error {
		var err error
		out, err = ask(r)
		return err
	})
	return out, err
}

// glance runs one question that takes one statement.
func glance[T any](ctx context.Context, s *Store, ask func(Reader) (T, error)) (T, error) {
	g, ok := s.driver.(Glancer)
	if !ok {
		return read(ctx, s, ask)
	}
	var out T
	err := g.Glance(ctx, func(r Reader) error {
		var err error
		out, err = ask(r)
		return err
	})
	return out, err
}

// Find implements store.Reader.
func (s *Store) Find(ctx context.Context, tenant work.Tenant, q store.RunQuery) ([]work.Run, error) {
	return glance(ctx, s, func(r Reader) ([]work.Run, error) { return r.FindRuns(tenant, q) })
}

// Steps implements store.Reader.
func (s *Store) Steps(ctx context.Context, tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) {
	out, err := read(ctx, s, func(r Reader) ([]work.Step, error) { return r.Steps(tenant, run, after, limit) })
	for i := range out {
		if q := out[i].Queue; q != nil {
			q.Queue = q.Name() // where it is set aside is nobody else's business
		}
	}
	return out, err
}

// DeadLetters implements store.Reader.
func (s *Store) DeadLetters(ctx context.Context, tenant work.Tenant, limit int) ([]store.DeadLetter, error) {
	return glance(ctx, s, func(r Reader) ([]store.DeadLetter, error) { return r.DeadLetters(tenant, limit) })
}

// Plan implements store.Reader.
func (s *Store) Plan(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error) {
	raw, err := glance(ctx, s, func(r Reader) ([]byte, error) { return r.Plan(tenant, hash) })
	if err == nil && raw == nil {
		return nil, fault.New(fault.NotFound, "there is no plan %s", hash)
	}
	return raw, err
}

// Document implements store.Reader.
func (s *Store) Document(ctx context.Context, tenant work.Tenant, run work.RunID, kind string) ([]byte, error) {
	return glance(ctx, s, func(r Reader) ([]byte, error) { return r.Document(tenant, run, kind) })
}

// Cached implements store.Reader.
func (s *Store) Cached(ctx context.Context, tenant work.Tenant, key work.Digest) (*store.CachedResult, error) {
	return glance(ctx, s, func(r Reader) (*store.CachedResult, error) { return r.Cached(tenant, key) })
}

// RunsAfter implements store.Lists.
func (s *Store) RunsAfter(ctx context.Context, tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error) {
	return read(ctx, s, func(r Reader) ([]work.Run, error) { return r.RunsAfter(tenant, after, limit) })
}

// Results implements store.Lists.
func (s *Store) Results(ctx context.Context, tenant work.Tenant, after work.Digest, limit int) ([]store.KeyedResult, error) {
	return read(ctx, s, func(r Reader) ([]store.KeyedResult, error) { return r.Results(tenant, after, limit) })
}

// Events implements store.History.
func (s *Store) Events(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	return glance(ctx, s, func(r Reader) ([]work.Event, error) { return r.Events(tenant, run, from, limit) })
}

// Lines implements store.History.
func (s *Store) Lines(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	return glance(ctx, s, func(r Reader) ([]work.LogLine, error) { return r.Lines(tenant, run, from, limit) })
}

// Of the record that knows up to where the feed of a tenant has been deleted.
const (
	feedKind  = "feed"
	feedFloor = "floor"
)

// Feed implements store.Feed.
func (s *Store) Feed(ctx context.Context, tenant work.Tenant, after int64, limit int) (store.FeedPage, error) {
	end, err := s.driver.Settled(ctx) // before the snapshot is taken, which then has all of it
	if err != nil {
		return store.FeedPage{}, err
	}
	return read(ctx, s, func(r Reader) (store.FeedPage, error) {
		floor, err := floorOf(r, tenant)
		page := store.FeedPage{Lost: after >= 0 && after < floor}
		if err != nil {
			return page, err
		}
		page.Events, err = r.Feed(tenant, after, end, limit)
		return page, err
	})
}

// floorOf is the position of the last event of a tenant that has been deleted, 0 for none.
func floorOf(r Reader, tenant work.Tenant) (floor int64, err error) {
	row, err := r.Record(tenant, feedKind, feedFloor)
	if err != nil || row == nil {
		return 0, err
	}
	return floor, fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &floor), "the floor of the feed of %s", tenant)
}

// FeedEnd implements store.Feed.
func (s *Store) FeedEnd(ctx context.Context, tenant work.Tenant) (store.Position, error) {
	settled, err := s.driver.Settled(ctx)
	if err != nil {
		return store.Position{}, err
	}
	end, err := read(ctx, s, func(r Reader) (int64, error) {
		floor, err := floorOf(r, tenant)
		if err != nil {
			return 0, err
		}
		end, err := r.FeedEnd(tenant, settled)
		return max(end, floor), err
	})
	return store.Position{Incarnation: s.driver.Incarnation(), Number: end}, err
}

// Unsealed implements store.Log.
func (s *Store) Unsealed(ctx context.Context, tenant work.Tenant, limit int) ([]work.Run, error) {
	return glance(ctx, s, func(r Reader) ([]work.Run, error) { return r.Unsealed(tenant, limit) })
}

// LogSize implements store.Log.
func (s *Store) LogSize(ctx context.Context, tenant work.Tenant) (int64, []byte, error) {
	type answer struct {
		size       int64
		checkpoint []byte
	}
	a, err := glance(ctx, s, func(r Reader) (answer, error) {
		size, checkpoint, err := r.LogSize(tenant)
		return answer{size, checkpoint}, err
	})
	return a.size, a.checkpoint, err
}

// LogHashes implements store.Log.
func (s *Store) LogHashes(ctx context.Context, tenant work.Tenant, indexes []int64) ([][32]byte, error) {
	return glance(ctx, s, func(r Reader) ([][32]byte, error) { return r.LogHashes(tenant, indexes) })
}

// AppendLog implements store.Log.
func (s *Store) AppendLog(ctx context.Context, tenant work.Tenant, a store.LogAppend) error {
	return s.one(ctx, Needs{}, func(u *unit) error {
		size, _, err := u.tx.LogSize(tenant)
		if err != nil {
			u.fail(err)
			return err
		}
		if size != a.Size {
			return fault.New(fault.Conflict, "the log of %s has %d leaves, not %d", tenant, size, a.Size)
		}
		if err := u.tx.AppendLog(tenant, a); err != nil {
			if u.lock == nil || fault.CodeOf(err) != fault.Conflict {
				u.fail(err)
			}
			return err // of a shared store: another server has sealed them, and nothing has changed
		}
		u.wrote = true
		return nil
	})
}

// Leaf implements store.Log.
func (s *Store) Leaf(ctx context.Context, tenant work.Tenant, run work.RunID) ([]byte, int64, error) {
	type answer struct {
		leaf  []byte
		index int64
	}
	a, err := glance(ctx, s, func(r Reader) (answer, error) {
		leaf, index, err := r.Leaf(tenant, run)
		return answer{leaf, index}, err
	})
	if err == nil && a.leaf == nil {
		err = fault.New(fault.Incomplete, "run %s is not sealed in the log", run)
	}
	return a.leaf, a.index, err
}
