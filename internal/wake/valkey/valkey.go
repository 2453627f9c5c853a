// Package valkey carries hints between servers over a Valkey or Redis server, with PUBLISH and SUBSCRIBE.
package valkey

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/wake"
)

// Options say which server.
type Options struct {
	URL     string       // valkey://… or redis://…
	Channel string       // "" for orrery:wake; servers of different stores must not share it
	Log     *slog.Logger // nil means silence
}

// Hints are those of one server.
type Hints struct {
	o         Options
	config    valkey.ClientOption
	origin    string // tells the own hints from those of others
	wanted    chan struct{}
	listeners wake.Listeners
	stop      context.CancelFunc
	ended     sync.WaitGroup
}

var _ wake.Hints = (*Hints)(nil)

const (
	pause         = 50 * time.Millisecond // between two announcements: what is a hint may be that late
	longestPause  = 5 * time.Second       // between two connections
	answerTimeout = 10 * time.Second
)

// Open starts to listen and to announce. It does not wait for the server: without it there are no hints, until it is back. Error: fault.Invalid
// for a URL that is none.
func Open(o Options) (*Hints, error) {
	if o.Channel == "" {
		o.Channel = "orrery:wake"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config, err := valkey.ParseURL(o.URL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the Valkey server: %w", err)
	}
	config.DisableCache, config.DisableRetry, config.ForceSingleClient = true, true, true
	ctx, stop := context.WithCancel(context.Background())
	h := &Hints{o: o, config: config, origin: rand.Text(), wanted: make(chan struct{}, 1), stop: stop}
	h.ended.Go(func() { h.keep(ctx, h.hear) })
	h.ended.Go(func() { h.keep(ctx, h.announce) })
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
func (h *Hints) keep(ctx context.Context, do func(context.Context, valkey.Client) error) {
	for wait := pause; ctx.Err() == nil; wait = min(2*wait, longestPause) {
		started := time.Now()
		client, err := valkey.NewClient(h.config)
		if err == nil {
			err = do(ctx, client)
			client.Close()
		}
		if ctx.Err() != nil {
			return
		}
		h.o.Log.Warn("hints between servers are interrupted", "error", err)
		if time.Since(started) > longestPause {
			wait = pause
		}
		select {
		case <-ctx.Done():
		case <-time.After(mathrand.N(wait) + pause): // servers must not come back all at once
		}
	}
}

func (h *Hints) hear(ctx context.Context, client valkey.Client) error {
	h.listeners.Tell() // what was said while nobody listened
	return client.Receive(ctx, client.B().Subscribe().Channel(h.o.Channel).Build(), func(m valkey.PubSubMessage) {
		if m.Message != h.origin {
			h.listeners.Tell()
		}
	})
}

func (h *Hints) announce(ctx context.Context, client valkey.Client) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.wanted:
		}
		asking, cancel := context.WithTimeout(ctx, answerTimeout)
		err := client.Do(asking, client.B().Publish().Channel(h.o.Channel).Message(h.origin).Build()).Error()
		cancel()
		if err != nil {
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
