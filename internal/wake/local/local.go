// Package local carries hints between the servers of one process.
package local

import (
	"context"
	"sync"

	"orrery.example/orrery/internal/wake"
)

// Bus is what the servers of a process share. The zero value is ready.
type Bus struct {
	mu      sync.Mutex
	members map[*member]bool
}

// Join returns the hints of one more server.
func (b *Bus) Join() wake.Hints {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.members == nil {
		b.members = map[*member]bool{}
	}
	m := &member{bus: b}
	b.members[m] = true
	return m
}

type member struct {
	bus       *Bus
	listeners wake.Listeners
}

// Announce implements wake.Hints.
func (m *member) Announce() {
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	if !m.bus.members[m] {
		return
	}
	for other := range m.bus.members {
		if other != m {
			other.listeners.Tell()
		}
	}
}

// Listen implements wake.Hints.
func (m *member) Listen(ctx context.Context) <-chan struct{} { return m.listeners.Listen(ctx) }

// Close implements wake.Hints.
func (m *member) Close() error {
	m.bus.mu.Lock()
	delete(m.bus.members, m)
	m.bus.mu.Unlock()
	m.listeners.Close()
	return nil
}
