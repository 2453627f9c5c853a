package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// cancel asks for the end of a run.
func (r *rig) cancel(id work.RunID) {
	r.t.Helper()
	err := r.store.Control(r.t.Context(), []store.ControlCommand{{Tenant: work.LocalTenant, Run: id, Verb: "cancel", Actor: work.Actor{Name: "somebody"}}})[0]
	if err != nil {
		r.t.Fatal(err)
	}
}

// expire lets every session be over and looks after that.
func (r *rig) expire() {
	r.t.Helper()
	r.skew.Add(int64(time.Hour))
	if _, err := r.store.Tick(r.t.Context(), 100); err != nil {
		r.t.Fatal(err)
	}
}

// acked waits until the worker has said that it began: after that nothing but its heartbeat and its exchanges tell it anything.
func (r *rig) acked(id work.RunID) {
	r.t.Helper()
	r.until("the attempt is acknowledged", func() bool {
		return slices.ContainsFunc(r.events(id), func(e work.Event) bool { return e.Type == work.StepAcked })
	})
}

// A step whose run is cancelled is told soon, also when the order comes right behind another commit, whose hint it shares.
func TestCancelBehindAHint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, cancelBehindAHint)
}

func cancelBehindAHint(t *testing.T) {
	r := newRig(t)
	began := make(chan struct{}, 1)
	r.config.Sandbox = driver(func(ctx context.Context, _ sandbox.Spec) (sandbox.Result, error) {
		began <- struct{}{}
		<-ctx.Done()
		return sandbox.Result{Cause: sandbox.Cancelled}, nil
	})
	r.start(true)
	id := r.submit(nil, shell("long", "wait"))
	<-began
	r.acked(id)
	for range 3 { // hints, so that the worker has just asked
		if err := r.store.Attach(t.Context(), work.LocalTenant, id, "note", []byte("n")); err != nil {
			t.Fatal(err)
		}
		r.submit(nil, step("other", work.RunSpec{Runner: "noop"}))
	}
	asked := time.Now()
	r.cancel(id)
	if run := r.end(id); run.State != work.Cancelled {
		t.Fatalf("the run is %s", run.State)
	}
	if took := time.Since(asked); took > 2*time.Second { // of the bubble's clock, which stands still while anything works
		t.Errorf("the worker heard of it after %s", took)
	}
}

// A worker whose session has ended while it worked stops what runs under the lost leases, although nothing of it says a word, and
// takes the step again under a new token.
func TestSessionLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, sessionLost)
}

func sessionLost(t *testing.T) {
	r := newRig(t)
	began := make(chan int, 4)
	stopped := make(chan error, 4)
	var attempts atomic.Int32
	r.config.Sandbox = driver(func(ctx context.Context, _ sandbox.Spec) (sandbox.Result, error) {
		n := int(attempts.Add(1))
		began <- n
		if n > 1 {
			return well()
		}
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return sandbox.Result{Cause: sandbox.Cancelled}, nil
	})
	r.start(false)
	id := r.submit(nil, shell("long", "wait"))
	<-began
	r.acked(id)
	r.expire()
	select {
	case err := <-stopped:
		if err == nil || !strings.Contains(err.Error(), "lost") {
			t.Errorf("it was stopped because of %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a step whose lease is lost goes on")
	}
	if run := r.end(id); run.State != work.Succeeded {
		t.Fatalf("the run is %s: %v", run.State, run.Reason)
	}
	if reports := r.reports(id, "long"); len(reports) != 1 || reports[0].Token.Epoch < 2 {
		t.Errorf("the reports are %+v", reports)
	}
	r.empty()
}

// A step that cannot be stopped in time reports late: its result does not count, and it does not take the new attempt with it, which
// can still be cancelled.
func TestStaleReport(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	began := make(chan int, 4)
	release := make(chan struct{})
	var attempts atomic.Int32
	r.config.Sandbox = driver(func(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
		n := int(attempts.Add(1))
		fmt.Fprintf(spec.Stdout, "attempt %d\n", n)
		began <- n
		if n == 1 {
			<-release // whatever it is told
			return well()
		}
		<-ctx.Done()
		return sandbox.Result{Cause: sandbox.Cancelled}, nil
	})
	r.start(true)
	id := r.submit(nil, shell("long", "wait"))
	<-began
	r.expire()
	if n := <-began; n != 2 {
		t.Fatalf("attempt %d began", n)
	}
	close(release)
	// The late report is on its way once another step has been through the same exchange.
	other := r.submit(nil, step("other", work.RunSpec{Runner: "noop"}))
	r.end(other)
	r.cancel(id)
	if run := r.end(id); run.State != work.Cancelled {
		t.Fatalf("the run is %s", run.State)
	}
	reports := r.reports(id, "long")
	if len(reports) != 1 || reports[0].State != work.Cancelled || reports[0].Token.Epoch < 2 {
		t.Errorf("the reports are %+v", reports)
	}
}

// A runner that panics is a failed attempt whose output so far is kept; the worker goes on.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.config.Sandbox = driver(func(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
		io.WriteString(spec.Stdout, "one line\nand the start of another")
		panic("the driver is broken: " + canary)
	})
	r.start(true)
	spec := shell("boom", "wait")
	spec.Run.Secrets = map[string]string{"KEY": "key"}
	id, report := r.only(spec)
	if report.State != work.Failed || report.Class != "internal" || !strings.Contains(report.Reason.Message, "the driver is broken") {
		t.Errorf("the report is %+v", report)
	}
	if strings.Contains(report.Reason.Message, canary) {
		t.Error("the secret is in the reason")
	}
	if lines := r.bound(id, "boom", 1, report.Transcript); len(lines) != 2 {
		t.Errorf("the lines are %+v", lines)
	}
	if id, _ := r.only(step("next", work.RunSpec{Runner: "noop"})); r.end(id).State != work.Succeeded {
		t.Error("the worker does not go on")
	}
	r.empty()
}

// deaf is a store that takes no output while it is told to.
type deaf struct {
	store.Store
	refuse  atomic.Bool
	refused chan struct{}
}

func (d *deaf) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	if d.refuse.Load() {
		select {
		case d.refused <- struct{}{}:
		default:
		}
		return []error{errors.New("no space left on device")}
	}
	return d.Store.AppendLines(ctx, batch)
}

// Output that the store cannot take for a while is stored when it can, before the report that counts it.
func TestOutputWaitsForTheStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := &deaf{Store: r.store, refused: make(chan struct{})}
	r.source = d
	over := make(chan struct{})
	r.config.Sandbox = driver(func(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
		defer close(over)
		for i := range 100 {
			d.refuse.Store(i >= 50)
			fmt.Fprintf(spec.Stdout, "line %d %s\n", i, strings.Repeat("x", 4000))
		}
		return well()
	})
	r.start(true)
	id := r.submit(nil, shell("talks", "wait"))
	<-over
	for range 3 { // it was tried again, more than once
		<-d.refused
	}
	if reports := r.reports(id, "talks"); len(reports) != 0 {
		t.Fatalf("the attempt was reported before its output was stored: %+v", reports)
	}
	d.refuse.Store(false)
	if run := r.end(id); run.State != work.Succeeded {
		t.Fatalf("the run is %s: %v", run.State, run.Reason)
	}
	reports := r.reports(id, "talks")
	if lines := r.bound(id, "talks", 1, reports[0].Transcript); len(lines) != 100 || !strings.HasPrefix(lines[99].Message, "line 99 ") {
		t.Errorf("%d lines are stored", len(lines))
	}
}

// source is a store that is asked through something else for plans.
type source struct {
	store.Store
	plan func(context.Context, work.Tenant, work.Digest) ([]byte, error)
}

func (s source) Plan(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error) {
	return s.plan(ctx, tenant, hash)
}

// A plan that is not what the hash of the lease names is not executed.
func TestAnotherPlan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.source = source{r.store, func(context.Context, work.Tenant, work.Digest) ([]byte, error) {
		return []byte(`{"planVersion":"orrery.plan/v1","steps":[]}`), nil
	}}
	r.config.Sandbox = driver(func(context.Context, sandbox.Spec) (sandbox.Result, error) {
		t.Error("a step of another plan is executed")
		return well()
	})
	r.start(true)
	_, report := r.only(shell("any", "wait"))
	if report.State != work.Failed || report.Reason.Code != work.EndedByPlanMismatch {
		t.Errorf("the report is %+v", report)
	}
}

// A worker whose store is not there begins when it is, and says why when it may not wait any longer.
func TestNoSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, noSession)
}

func noSession(t *testing.T) {
	r := newRig(t)
	var failures atomic.Int32
	r.driver.Faults.BeforeCommit = func() error {
		if failures.Add(1) <= 1 {
			return fault.New(fault.Unavailable, "no store")
		}
		return nil
	}
	r.start(true)
	eventually := time.After(10 * time.Second)
	for look := time.NewTicker(10 * time.Millisecond); failures.Load() < 2; {
		select {
		case <-look.C:
		case <-eventually:
			t.Fatal("the worker does not try again")
		}
	}
	if id, _ := r.only(step("any", work.RunSpec{Runner: "noop"})); r.end(id).State != work.Succeeded {
		t.Error("the worker does not work")
	}

	never := newRig(t)
	never.driver.Faults.BeforeCommit = func() error { return fault.New(fault.Unavailable, "no store") }
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if err := workerOf(never).Run(ctx); err == nil || !strings.Contains(err.Error(), "no store") {
		t.Errorf("a worker without a session ended with %v", err)
	}
}
