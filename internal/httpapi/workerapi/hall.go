package workerapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// hall is where requests wait. While anybody waits it listens to the hints of the store; while nobody does it costs nothing.
//
// A hint is not passed to everybody who waits for work: of those who offer the same, the first tries, and only when it got something
// the next does. So a thousand idle workers ask the store once for each hint, not a thousand times.
type hall struct {
	watch func(context.Context) <-chan struct{}

	mu     sync.Mutex
	users  int
	stop   context.CancelFunc
	next   chan struct{} // closed at the next hint
	queues map[string][]*waiter
}

// waiter is a request for work that waits.
type waiter struct {
	queue string
	turn  chan struct{} // gets a value when it is its turn to try
}

// The shortest time between two hints that are passed on. Under load they come with every commit: then the time grows.
const (
	leastApart = 500 * time.Microsecond
	mostApart  = 5 * time.Millisecond
)

func newHall(watch func(context.Context) <-chan struct{}) *hall {
	return &hall{watch: watch, next: make(chan struct{}), queues: map[string][]*waiter{}}
}

// enter starts to listen to hints, and returns how to stop.
func (h *hall) enter() (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users++
	if h.users == 1 {
		ctx, stop := context.WithCancel(context.Background())
		h.stop = stop
		go h.listen(ctx, h.watch(ctx))
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.users--
		if h.users == 0 {
			h.stop()
		}
	}
}

func (h *hall) listen(ctx context.Context, hints <-chan struct{}) {
	over := time.NewTimer(0)
	defer over.Stop()
	<-over.C
	apart := leastApart
	for range hints {
		h.ring()
		over.Reset(apart)
		select {
		case <-over.C:
		case <-ctx.Done():
			return
		}
		if apart = min(2*apart, mostApart); len(hints) == 0 {
			apart = leastApart
		}
	}
}

// changed returns a channel that is closed at the next hint.
func (h *hall) changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next
}

// ring passes a hint on.
func (h *hall) ring() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.next)
	h.next = make(chan struct{})
	for _, q := range h.queues {
		q[0].call()
	}
}

func (w *waiter) call() {
	select {
	case w.turn <- struct{}{}:
	default: // it has not yet come round to the last one
	}
}

// line puts a request at the end of those that offer the same.
func (h *hall) line(queue string) *waiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &waiter{queue: queue, turn: make(chan struct{}, 1)}
	h.queues[queue] = append(h.queues[queue], w)
	return w
}

// done takes a request out of its line. The turn passes on when it found work, because there may be more, and when it leaves a turn
// that it has not taken.
func (h *hall) done(w *waiter, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[w.queue]
	i := slices.Index(q, w)
	if q = slices.Delete(q, i, i+1); len(q) == 0 {
		delete(h.queues, w.queue)
		return
	}
	h.queues[w.queue] = q
	if found || len(w.turn) > 0 {
		q[0].call()
	}
}
