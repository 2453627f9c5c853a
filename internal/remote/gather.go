package remote

import (
	"context"
	"sync"
)

// gather collects the entries of concurrent callers into one request: what comes while a request is under way goes with the next one.
// Nobody waits for more to come.
type gather[T any] struct {
	send func(ctx context.Context, batch []T) []error // one error for each entry
	most int

	mu      sync.Mutex
	pending []*parcel[T]
	busy    bool
}

// parcel is what one caller brings.
type parcel[T any] struct {
	entries []T
	errs    []error
	done    chan struct{}
}

// do sends entries and returns their outcomes. ctx bounds nothing once they are handed over: a caller who leaves would not know.
func (g *gather[T]) do(ctx context.Context, entries []T) []error {
	p := &parcel[T]{entries: entries, done: make(chan struct{})}
	g.mu.Lock()
	g.pending = append(g.pending, p)
	lead := !g.busy
	g.busy = true
	g.mu.Unlock()
	if lead {
		g.lead(context.WithoutCancel(ctx))
	}
	<-p.done
	return p.errs
}

// lead sends until nothing is left. The caller who finds nobody sending does it for all, and for those who come meanwhile hands over to
// a goroutine of its own, so that it is not kept.
func (g *gather[T]) lead(ctx context.Context) {
	if g.round(ctx) {
		go func() {
			for g.round(ctx) {
			}
		}()
	}
}

// round sends one request and reports whether there is more.
func (g *gather[T]) round(ctx context.Context) bool {
	g.mu.Lock()
	var batch []T
	n := 0
	for n < len(g.pending) && (n == 0 || len(batch)+len(g.pending[n].entries) <= g.most) {
		batch = append(batch, g.pending[n].entries...)
		n++
	}
	parcels := g.pending[:n:n]
	g.pending = g.pending[n:]
	g.mu.Unlock()
	errs := g.send(ctx, batch)
	for _, p := range parcels {
		p.errs, errs = errs[:len(p.entries):len(p.entries)], errs[len(p.entries):]
		close(p.done)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = len(g.pending) > 0
	return g.busy
}
