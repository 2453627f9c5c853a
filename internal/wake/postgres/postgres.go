// Package postgres carries hints between servers through the database they share, with LISTEN and NOTIFY.
//
// A NOTIFY takes a lock that every commit with one in it has to wait for, so that it has no place in a transaction that writes. Here it is
// a statement of its own on a connection of its own, at most one every 50 ms a server, whatever is going on. LISTEN belongs to a
// session: the URL must lead to the server itself or to a pooler in session mode.
package postgres

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/wake"
)

// Options say which database.
type Options struct {
	URL     string
	Channel string       // "" for orrery; servers of different stores in one database must not share it
	Log     *slog.Logger // nil means silence
}

// Hints are those of one server.
type Hints struct {
	o         Options
	config    *pgx.ConnConfig
	origin    string // tells the own hints from those of others
	wanted    chan struct{}
	listeners wake.Listeners
	stop      context.CancelFunc
	ended     sync.WaitGroup
}

var _ wake.Hints = (*Hints)(nil)

const (
	// pause is between two announcements: what is a hint may be that late.
	pause = 50 * time.Millisecond

	// A connection that broke is made again after a time that grows to this.
	longestPause = 5 * time.Second

	// answerTimeout is how long the server may take for one thing.
	answerTimeout = 10 * time.Second
)

// Open starts to listen and to announce. It does not wait for the database: without it there are no hints, until it is back.
// Error: fault.Invalid for a URL that is none.
func Open(o Options) (*Hints, error) {
	if o.Channel == "" {
		o.Channel = "orrery"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the database's URL: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // few statements, and none of them is worth being prepared
	ctx, stop := context.WithCancel(context.Background())
	h := &Hints{o: o, config: config, origin: rand.Text(), wanted: make(chan struct{}, 1), stop: stop}
	h.ended.Go(func() { h.keep(ctx, "listen", h.hear) })
	h.ended.Go(func() { h.keep(ctx, "announce", h.announce) })
	return h, nil
}

// Announce implements wake.Hints.
func (h *Hints) Announce() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

// Listen implements wake.Hints.
func (h *Hints) Listen(ctx context.Context) <-chan struct{} { return h.listeners.Listen(ctx) }

// Close implements wake.Hints.
func (h *Hints) Close() error {
	h.stop()
	h.ended.Wait()
	h.listeners.Close()
	return nil
}

// keep does something with a connection, with a new one when that has broken, until ctx ends.
func (h *Hints) keep(ctx context.Context, what string, do func(context.Context, *pgx.Conn) error) {
	wait := pause
	for ctx.Err() == nil {
		started := time.Now()
		err := h.with(ctx, do)
		if ctx.Err() != nil {
			return
		}
		h.o.Log.Warn("hints between servers are interrupted", "what", what, "error", err)
		if wait *= 2; time.Since(started) > longestPause {
			wait = pause
		}
		select {
		case <-ctx.Done():
		case <-time.After(mathrand.N(min(wait, longestPause)) + pause): // servers must not come back all at once
		}
	}
}

func (h *Hints) with(ctx context.Context, do func(context.Context, *pgx.Conn) error) error {
	connecting, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, h.config)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	return do(ctx, conn)
}

func (h *Hints) hear(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{h.o.Channel}.Sanitize()); err != nil {
		return err
	}
	h.listeners.Tell() // what was said while nobody listened
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if n.Payload != h.origin {
			h.listeners.Tell()
		}
	}
}

func (h *Hints) announce(ctx context.Context, conn *pgx.Conn) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.wanted:
		}
		if err := h.notify(ctx, conn); err != nil {
			h.Announce() // on the next connection
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (h *Hints) notify(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, `SELECT pg_notify($1, $2)`, h.o.Channel, h.origin)
	return err
}
