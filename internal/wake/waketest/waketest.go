// Package waketest is the suite that every carrier of hints has to pass.
package waketest

import (
	"context"
	"testing"
	"time"

	"orrery.example/orrery/internal/wake"
)

// patience is how long a hint may take here. Nothing waits for it when all is well.
const patience = 2 * time.Minute

// Run tests a carrier. Open returns the hints of so many servers of one store.
func Run(t *testing.T, open func(t *testing.T, servers int) []wake.Hints) {
	t.Run("Others", func(t *testing.T) { others(t, open(t, 3)) })
	t.Run("Burst", func(t *testing.T) { burst(t, open(t, 2)) })
	t.Run("Ends", func(t *testing.T) { ends(t, open(t, 2)) })
}

// Reaches announces until the listener hears of it, as whoever relies on hints that may be lost has to.
func Reaches(t testing.TB, from wake.Hints, heard <-chan struct{}) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(patience); ; {
		from.Announce()
		select {
		case _, open := <-heard:
			if !open {
				t.Fatal("the channel is closed")
			}
			return
		case <-again.C:
		case <-deadline:
			t.Fatal("no hint arrives")
		}
	}
}

// others: everybody hears of what the others announce.
func others(t *testing.T, servers []wake.Hints) {
	var heard []<-chan struct{}
	for _, s := range servers {
		heard = append(heard, s.Listen(t.Context()))
	}
	for from := range servers {
		for to := range servers {
			if from != to {
				Reaches(t, servers[from], heard[to])
			}
		}
	}
	two, three := servers[1].Listen(t.Context()), servers[1].Listen(t.Context())
	Reaches(t, servers[0], two)
	Reaches(t, servers[0], three)
}

// burst: whoever announces is never held up, nor by a listener who does not take what he has.
func burst(t *testing.T, servers []wake.Hints) {
	heard := servers[1].Listen(t.Context())
	Reaches(t, servers[0], heard)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		for range 100_000 {
			servers[0].Announce()
		}
	}()
	select {
	case <-announced:
	case <-time.After(patience):
		t.Fatal("whoever announces is held up")
	}
	Reaches(t, servers[0], heard)
}

// ends: a channel is closed with its context or the hints, and closing is final.
func ends(t *testing.T, servers []wake.Hints) {
	ctx, cancel := context.WithCancel(t.Context())
	one, two := servers[1].Listen(ctx), servers[1].Listen(t.Context())
	cancel()
	closed(t, one)
	Reaches(t, servers[0], two)
	for range 2 {
		if err := servers[1].Close(); err != nil {
			t.Error(err)
		}
	}
	closed(t, two)
	closed(t, servers[1].Listen(t.Context()))
	servers[1].Announce()
	servers[0].Announce()
}

func closed(t *testing.T, heard <-chan struct{}) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-heard:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open")
		}
	}
}
