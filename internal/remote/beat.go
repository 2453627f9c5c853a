package remote

import (
	"context"
	"maps"
	"slices"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/wire"
	"orrery.example/orrery/internal/work"
)

// beat renews the session until ctx ends. Each heartbeat waits at the server for orders, so that they are heard at once.
func (s *Source) beat(ctx context.Context) {
	for ctx.Err() == nil {
		in, gone := s.pulse()
		if gone {
			s.rest(ctx) // until the worker has opened another session
			continue
		}
		started := time.Now()
		beat, stop := context.WithCancel(ctx)
		if len(in.Runs) == 0 {
			s.setCalm(stop)
		}
		var out api.WorkerOrders
		err := s.c.call(beat, "heartbeat", in, &out, time.Duration(in.WaitMs)*time.Millisecond+callTimeout)
		hurried := beat.Err() != nil
		s.setCalm(nil)
		stop()
		if hurried {
			continue
		}
		s.heard(&out, err, started)
		if err != nil {
			s.c.gate.wait(ctx)
			s.rest(ctx)
		} else if len(out.Cancel) > 0 || out.Drain {
			s.rest(ctx) // the same orders come until they are carried out
		}
	}
}

func (s *Source) setCalm(stop context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calm = stop
}

// hurry ends a heartbeat that began when nothing ran, so that the next one watches what runs now.
func (s *Source) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calm != nil && len(s.held) > 0 {
		s.calm()
	}
}

// pulse is the next heartbeat. While steps run it waits shorter, so that it soon knows of those that have begun since.
func (s *Source) pulse() (in api.WorkerBeat, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := map[string]bool{}
	for l := range s.held {
		if len(runs) < maxRuns {
			runs[string(l.Run)] = true
		}
	}
	in = api.WorkerBeat{Session: s.session, WaitMs: s.welcome.HeartbeatMs, Runs: slices.Sorted(maps.Keys(runs))}
	if len(runs) > 0 {
		in.WaitMs = min(in.WaitMs, busyWait.Milliseconds())
	}
	return in, s.gone
}

const (
	maxRuns  = 500
	busyWait = 2 * time.Second

	// busyAfter is how long something must run before it is worth a heartbeat of its own.
	busyAfter = 500 * time.Millisecond
)

// rest is a short break.
func (s *Source) rest(ctx context.Context) {
	t := time.NewTimer(breakTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const breakTime = 500 * time.Millisecond

func (s *Source) heard(out *api.WorkerOrders, err error, started time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch fault.CodeOf(err) {
	case "":
		s.renewed = started // the server counts from some time after it
		s.cancels = wire.FromLeases(s.tenant, out.Cancel)
		if out.Drain {
			s.told.Do(func() { close(s.drained) })
		}
		if len(s.cancels) == 0 {
			return
		}
	case fault.NotFound:
		s.gone = true
	default:
		if fault.Passing(err) {
			s.c.Log.Debug("no answer to a heartbeat", "error", err)
		} else {
			s.c.Log.Warn("the server refuses this worker", "error", err)
		}
		if time.Since(s.renewed) < time.Duration(s.welcome.SessionMs)*time.Millisecond {
			return
		}
		s.gone = true // by now the server has given the leases to others
	}
	s.hint()
}

// Heartbeat implements worker.Source: it hands over what the heartbeats in the background have heard. Errors: fault.NotFound when the
// server has ended the session, or must have because it was not reached for so long.
func (s *Source) Heartbeat(_ context.Context, _ string, _ work.Time) (store.Orders, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return store.Orders{}, fault.New(fault.NotFound, "the session has ended")
	}
	orders := store.Orders{Cancel: s.cancels}
	s.cancels = nil
	return orders, nil
}
