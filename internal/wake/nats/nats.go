// Package nats carries hints between servers over a NATS server.
package nats

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/wake"
)

// Options say which server.
type Options struct {
	URL     string
	Subject string       // "" for orrery.wake; servers of different stores must not share it
	Log     *slog.Logger // nil means silence
}

// Hints are those of one server.
type Hints struct {
	o         Options
	conn      *nats.Conn
	wanted    chan struct{}
	listeners wake.Listeners
	stop      context.CancelFunc
	ended     sync.WaitGroup
}

var _ wake.Hints = (*Hints)(nil)

// pause is between two announcements: what is a hint may be that late.
const pause = 50 * time.Millisecond

// Open starts to listen and to announce. It does not wait for the server: without it there are no hints, until it is back. Error: fault.Invalid
// for a URL that is none.
func Open(o Options) (*Hints, error) {
	if o.Subject == "" {
		o.Subject = "orrery.wake"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &Hints{o: o, wanted: make(chan struct{}, 1)}
	conn, err := nats.Connect(o.URL, nats.Name("orrery"), nats.NoEcho(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second), nats.ReconnectJitter(time.Second, time.Second), nats.ReconnectBufSize(-1), // hints are not kept
		nats.ReconnectHandler(func(*nats.Conn) { h.listeners.Tell() }), // what was said meanwhile
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Log.Warn("hints between servers are interrupted", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Log.Warn("hints between servers", "error", err)
		}))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the NATS server: %w", err)
	}
	if _, err := conn.Subscribe(o.Subject, func(*nats.Msg) { h.listeners.Tell() }); err != nil {
		conn.Close()
		return nil, fault.New(fault.Invalid, "the NATS server: %w", err)
	}
	h.conn = conn
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	h.ended.Go(func() { h.announce(ctx) })
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
	h.conn.Close()
	h.listeners.Close()
	return nil
}

func (h *Hints) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wanted:
		}
		_ = h.conn.Publish(h.o.Subject, nil) // while the server is away hints are lost
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
