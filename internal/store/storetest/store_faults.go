package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// shaky is a driver whose commits can be counted, held up and broken.
type shaky struct {
	kernel.Driver
	updates       atomic.Int64
	hold          chan struct{} // when it is not nil, the first Update waits until it is closed
	before, after atomic.Bool   // break the next commit before or after it is made
}

func (s *shaky) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	if s.updates.Add(1) == 1 && s.hold != nil {
		<-s.hold
	}
	err := s.Driver.Update(ctx, func(tx kernel.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if s.before.CompareAndSwap(true, false) {
			return errTest
		}
		return nil
	})
	if err == nil && s.after.CompareAndSwap(true, false) {
		return errTest
	}
	return err
}

// testBatch: callers that wait while a commit is under way share the next one, and each gets its own outcome.
func testBatch(t *testing.T, h Harness) {
	synctest.Test(t, func(t *testing.T) {
		d := &shaky{Driver: h.Open(t), hold: make(chan struct{})}
		r := newRig(t, d)
		const callers = 40
		var results [callers + 1]store.Submitted
		var group sync.WaitGroup
		submit := func(i int, s store.Submission) {
			group.Go(func() { results[i] = r.Submit(r.ctx(), []store.Submission{s})[0] })
			synctest.Wait() // until everybody waits: the first for the disk, the others for the first
		}
		taken := r.submission(acme, plan(nil, runStep("a")))
		submit(callers, taken)
		for i := range callers {
			s := r.submission(acme, plan(nil, runStep("a")))
			if i%4 == 0 {
				s.Run.Name = taken.Run.Name // refused
			}
			submit(i, s)
		}
		close(d.hold)
		group.Wait()
		for i, got := range results[:callers] {
			want := fault.Code("")
			if i%4 == 0 {
				want = fault.Conflict
			}
			r.wants(fmt.Sprint("caller ", i), got.Err, want)
		}
		if n := d.updates.Load(); n != 2 {
			t.Errorf("%d callers who waited for one commit took %d more", callers, n-1)
		}
		if runs := must(r.Find(r.ctx(), acme, store.RunQuery{})); len(runs) != 1+callers*3/4 {
			t.Errorf("%d runs were made", len(runs))
		}
		Audit(t, d, acme)
		mustClose(t, r.Store)
	})
}

// testBrokenCommit: a commit that fails tells everyone in it, leaves nothing, and the store goes on; one whose answer is lost may be
// asked for again.
func testBrokenCommit(t *testing.T, h Harness) {
	d := &shaky{Driver: h.Open(t)}
	r := newRig(t, d)
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b", "a")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 1, 1)[0]
	before := mustDump(t, d, small())
	d.before.Store(true)
	if _, err := r.Exchange(r.ctx(), request(acme, "s", 1, reportOf(g, work.Succeeded))); err == nil {
		t.Error("a commit that failed was acknowledged")
	}
	if diff := sameDump(before, mustDump(t, d, small())); diff != "" {
		t.Errorf("it left something behind:\n%s", diff)
	}
	d.after.Store(true)
	if _, err := r.Exchange(r.ctx(), request(acme, "s", 0, reportOf(g, work.Succeeded))); err == nil {
		t.Error("a lost answer was no error")
	}
	if s := r.step(run, "a"); s.State != work.Succeeded {
		t.Errorf("the commit whose answer was lost did not happen: %+v", s)
	}
	r.wants("the report again", r.report("s", g, work.Succeeded), fault.Stale)
	s := r.submission(acme, plan(nil, runStep("a")))
	s.Run.RunToken = "token"
	d.after.Store(true)
	if out := r.Submit(r.ctx(), []store.Submission{s})[0]; out.Err == nil {
		t.Error("a lost answer was no error")
	}
	if out := r.Submit(r.ctx(), []store.Submission{s})[0]; out.Err != nil || !out.Existed {
		t.Errorf("the submission again: %+v", out)
	}
	r.drain(acme, "s")
	Audit(t, d, acme)
}

// testTogether: many submitters and workers at once; every run ends, every history is whole, and no key is held too often.
func testTogether(t *testing.T, h Harness) {
	d := h.Open(t)
	r := newRig(t, d)
	keyed := func(id work.StepID, needs ...work.StepID) work.PlanStep {
		s := runStep(id, needs...)
		s.Run.Concurrency = &work.Concurrency{Key: "db", Max: 3}
		return s
	}
	p := plan(nil, keyed("a"), runStep("b", "a"), keyed("c", "b"))
	const runs, workers = 24, 4
	var held, ended atomic.Int64
	var group sync.WaitGroup
	for i := range 4 {
		for j := range runs / 4 {
			s := submissionOf(t, acme, p, 1000+i*100+j)
			group.Go(func() {
				if err := r.Submit(r.ctx(), []store.Submission{s})[0].Err; err != nil {
					t.Error(err)
				}
			})
		}
	}
	for i := range workers {
		session := fmt.Sprint("w", i)
		r.session(acme, session)
		group.Go(func() {
			for ended.Load() < runs*3 && !t.Failed() {
				reply, err := r.Exchange(r.ctx(), request(acme, session, 2))
				if err != nil {
					t.Error(err)
					return
				}
				for _, g := range reply.Grants {
					if g.Step != "b" {
						if n := held.Add(1); n > 3 {
							t.Errorf("%d leases under a key for 3", n)
						}
						held.Add(-1)
					}
					if err := errors.Join(r.Ack(r.ctx(), []store.AckCommand{ackOf(g)})...); err != nil {
						t.Error(err)
					}
					reply, err := r.Exchange(r.ctx(), request(acme, session, 0, reportOf(g, work.Succeeded)))
					if err := errors.Join(append(reply.Errs, err)...); err != nil {
						t.Error(err)
						return
					}
					ended.Add(1)
				}
			}
		})
	}
	group.Wait()
	done, err := r.Find(r.ctx(), acme, store.RunQuery{States: []work.State{work.Succeeded}})
	if err != nil || len(done) != runs {
		t.Errorf("%d of %d runs succeeded, %v", len(done), runs, err)
	}
	Audit(t, d, acme)
}

// storeSameAsModel gives the same random commands to the store over the driver and over the model, and compares every answer and
// everything that is stored.
func storeSameAsModel(t *testing.T, h Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		g := gen{rt, small()}
		model := memory.New()
		model.Shared = true // reads every row every time: the cache of the other side must not show
		driver := h.Open(t)
		pair := [2]*rig{newRig(rt, model), newRig(rt, driver)}
		defer func() {
			for _, r := range pair {
				mustClose(rt, r.Store)
			}
		}()
		c := commands{gen: g}
		for range g.number("commands", 5, 30) {
			ask := c.draw()
			want, got := ask(pair[0]), ask(pair[1])
			if want != got {
				rt.Fatalf("answers differ\n model: %s\ndriver: %s", want, got)
			}
		}
		want, err := takeDump(model, g.w)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := takeDump(driver, g.w)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := sameDump(want, got); diff != "" {
			rt.Fatalf("stored (-model +driver):\n%s", diff)
		}
		Audit(rt, driver, acme, zenith)
	})
}

// testCrash cuts the power between any two commands. What was acknowledged is there, what is there is whole, and work goes on to its end.
func testCrash(t *testing.T, h Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		g := gen{rt, small()}
		driver := h.Open(t)
		r := newRig(rt, driver)
		c := commands{gen: g}
		for range g.number("commands", 1, 15) {
			c.draw()(r)
		}
		left := h.Crash(t, driver)
		want, err := takeDump(driver, g.w)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := takeDump(left, g.w)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := sameDump(want, got); diff != "" {
			rt.Fatalf("lost with the power (-acknowledged +found):\n%s", diff)
		}
		after := rigAt(rt, left, r.clock)
		defer func() {
			mustClose(rt, r.Store)
			mustClose(rt, after.Store)
		}()
		after.must("recover", after.Recover(after.ctx()))
		for _, tenant := range g.w.tenants {
			for _, run := range must(after.Find(after.ctx(), tenant, store.RunQuery{})) {
				if run.Paused != nil && !run.State.Terminal() {
					after.must("resume", after.control(run, "resume"))
				}
			}
			after.session(tenant, "again")
			after.drain(tenant, "again")
		}
		Audit(rt, left, g.w.tenants...)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
