package local_test

import (
	"testing"

	"orrery.example/orrery/internal/wake"
	"orrery.example/orrery/internal/wake/local"
	"orrery.example/orrery/internal/wake/waketest"
)

func TestHints(t *testing.T) {
	waketest.Run(t, func(t *testing.T, servers int) []wake.Hints {
		bus, out := &local.Bus{}, make([]wake.Hints, servers)
		for i := range out {
			out[i] = bus.Join()
		}
		return out
	})
}

// A server does not hear of itself.
func TestNotItself(t *testing.T) {
	bus := &local.Bus{}
	one, two := bus.Join(), bus.Join()
	mine, theirs := one.Listen(t.Context()), two.Listen(t.Context())
	one.Announce()
	select {
	case <-mine:
		t.Error("a server was woken by itself")
	case <-theirs: // both were told before Announce returned
	}
	select {
	case <-mine:
		t.Error("a server was woken by itself")
	default:
	}
}
