package simulator

import (
	"context"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// server is one process with a kernel over the shared disk.
type server struct {
	w      *world
	index  int
	skew   work.Time // of its own clock, which must not matter
	down   bool
	life   int // rises with every start
	kernel *kernel.Store
	store  store.Store // the kernel as callers see it
}

func newServer(w *world, index int) *server {
	s := &server{w: w, index: index, skew: work.Time(w.rng.Int64N(20_000_000) - 10_000_000)}
	s.start()
	return s
}

// clock is what the server takes for the time: that of the store.
func (s *server) clock() work.Time {
	if s.w.o.Bug != nil && s.w.o.Bug.ServerClock {
		return s.w.storeClock() + s.skew
	}
	return s.w.storeClock()
}

func (s *server) start() {
	s.close()
	s.down = false
	s.life++
	s.kernel = kernel.New(port{s.w.disk, s}, kernel.Options{Now: s.clock})
	s.store = s.kernel
	if s.w.o.Bug != nil && s.w.o.Bug.Store != nil {
		s.store = s.w.o.Bug.Store(s.kernel)
	}
	s.w.tell("server %d starts", s.index)
	s.tick(s.life)
}

func (s *server) close() {
	if s.kernel != nil {
		_ = s.kernel.Close() // the port has nothing that could fail
		s.kernel = nil
	}
}

// tick does what time asks for, about once a second.
func (s *server) tick(life int) {
	s.w.after(s.w.between(800*time.Millisecond, 1200*time.Millisecond), func() {
		if s.down || s.life != life {
			return
		}
		if _, err := s.store.Tick(context.Background(), 1+s.w.rng.IntN(50)); err != nil && !s.down {
			s.w.violate("server %d: tick: %v", s.index, err)
		}
		s.tick(life)
	})
}

// crash ends the process. What it was doing is committed or not; nobody gets a reply.
func (s *server) crash(why string) {
	if s.down {
		return
	}
	s.down = true
	s.w.cover["server crashes"]++
	s.w.tell("server %d dies %s", s.index, why)
	life := s.life
	s.w.after(s.w.between(500*time.Millisecond, 10*time.Second), func() {
		if s.down && s.life == life {
			s.start()
		}
	})
}

// call sends a request to some server and hands its reply to done, once, or nil when none came in time. alive says
// whether who asks is still there to hear it.
func (w *world) call(alive func() bool, do func(store.Store) any, done func(reply any)) {
	s := w.servers[w.rng.IntN(len(w.servers))]
	answered := false
	answer := func(reply any) {
		if !answered && alive() {
			answered = true
			done(reply)
		}
	}
	deliver := func() {
		if s.down {
			return
		}
		w.serving = s
		reply := do(s.store)
		if s.down { // it died while it worked on the request
			w.cover["unknown outcomes"]++
			return
		}
		if w.per(1000, w.o.Lose) {
			w.cover["lost replies"]++
			return
		}
		w.after(w.delay(), func() { answer(reply) })
	}
	if w.per(1000, w.o.Lose) {
		w.cover["lost requests"]++
	} else {
		w.after(w.delay(), deliver)
	}
	if w.per(1000, w.o.Duplicate) {
		w.cover["duplicate requests"]++
		w.after(w.delay()+w.delay(), deliver)
	}
	w.after(5*time.Second, func() { answer(nil) })
}

func (w *world) delay() time.Duration {
	if w.per(1000, w.o.Late) {
		return w.between(time.Second, 8*time.Second)
	}
	return w.between(time.Millisecond, 30*time.Millisecond)
}
