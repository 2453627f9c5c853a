package wake

import (
	"context"
	"sync"
)

type listenerSet struct {
	mu     sync.Mutex
	all    map[chan struct{}]bool
	closed bool
}

func (l *listenerSet) listen(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		close(c)
		return c
	}
	if l.all == nil {
		l.all = map[chan struct{}]bool{}
	}
	l.all[c] = true
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.all[c] {
			delete(l.all, c)
			close(c)
		}
	})
	return c
}

func (l *listenerSet) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.all {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (l *listenerSet) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.all {
		delete(l.all, c)
		close(c)
	}
}
