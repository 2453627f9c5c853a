package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/chunk"
	"orrery.example/orrery/internal/work"
)

// horizon is how far the numbers of events are settled. Transactions take numbers before they commit, and commit in any order: that a
// number can be seen says nothing about smaller ones. But a transaction has its id before it takes a number. So whoever took one up to
// last, or will take one that small, has a smaller id than one that is given out after last was read; once no transaction with a smaller id
// is under way, all numbers up to last are committed or never will be. (The xmax of a snapshot would not do for that id: it is the one
// after the last that has ended, and transactions above it may be under way.)
type horizon struct {
	mu      sync.Mutex
	settled int64  // numbers up to here are
	waiting int64  // numbers up to here will be, when every transaction before id has ended
	id      uint64 // of waiting
}

// Settled implements kernel.Driver. An id is used up only when there is something new.
func (d *Driver) Settled(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	conn, err := d.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	h := &d.horizon
	h.mu.Lock()
	defer h.mu.Unlock()
	var last int64
	var oldest, id uint64
	number := func(into any) func(pgx.Rows) error { return func(rows pgx.Rows) error { return rows.Scan(into) } }
	l := newLink(ctx, conn.Conn())
	l.hear(readLast, number(&last))
	l.hear(readOldest, number(&oldest))
	if err := l.send(); err != nil {
		return 0, err
	}
	if oldest >= h.id {
		h.settled = max(h.settled, h.waiting)
	}
	if h.waiting <= h.settled && last > h.settled {
		l.hear(`SELECT pg_current_xact_id()::text::bigint`, number(&id))
		l.hear(readOldest, number(&oldest))
		if err := l.send(); err != nil {
			return 0, err
		}
		if h.waiting, h.id = last, id; oldest >= id {
			h.settled = last
		}
	}
	return (h.settled+1)*store.ChunkEvents - 1, nil
}

const (
	readLast   = `SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM events_pos`
	readOldest = `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint` // the oldest transaction under way
)

const readFeed = `SELECT pos, run, first, body FROM events WHERE tenant = $1 AND pos >= $2 AND pos <= $3 AND run <> $4 ORDER BY pos LIMIT $5`

// Feed implements kernel.HistoryReader.
func (r *reader) Feed(tenant work.Tenant, after, upTo int64, limit int) ([]store.FeedEvent, error) {
	rowsWanted := 0 // a piece has one event at least, and the first may have none of those that are wanted
	if limit > 0 {
		rowsWanted = limit + 1
	}
	var out []store.FeedEvent
	err := r.ask(readFeed, func(rows pgx.Rows) error {
		var number, first int64
		var run work.RunID
		var body []byte
		if err := rows.Scan(&number, &run, &first, &body); err != nil || limit > 0 && len(out) == limit {
			return err
		}
		entries, err := chunk.Events(tenant, run, first, body)
		if err != nil {
			return err
		}
		for i := range entries {
			position := number*store.ChunkEvents + int64(i)
			if position > after && position <= upTo && (limit <= 0 || len(out) < limit) {
				out = append(out, store.FeedEvent{Position: position, Event: entries[i]})
			}
		}
		return nil
	}, tenant, after/store.ChunkEvents, upTo/store.ChunkEvents, store.AuditStream, all(rowsWanted))
	return out, err
}

// FeedEnd implements kernel.HistoryReader. What is returned is the number of a row: one that nobody has committed might be given again after
// a crash of the database.
func (r *reader) FeedEnd(tenant work.Tenant, upTo int64) (int64, error) {
	var last int64
	found, err := r.one(`SELECT pos FROM events WHERE tenant = $1 AND pos <= $2 ORDER BY pos DESC LIMIT 1`, []any{&last}, tenant, upTo/store.ChunkEvents)
	if err != nil || !found {
		return 0, err
	}
	return last*store.ChunkEvents + store.ChunkEvents - 1, nil
}
