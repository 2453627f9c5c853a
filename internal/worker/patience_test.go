package worker_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// leaves is a sandbox whose steps leave a file.
func leaves(runs *atomic.Int32) driver {
	return func(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
		runs.Add(1)
		if err := os.WriteFile(filepath.Join(spec.Dir, "out.txt"), []byte("what it made"), 0o644); err != nil {
			return sandbox.Result{}, err
		}
		return well()
	}
}

// What a step has made is stored when there is room: the step runs once, and nothing of it counts as a failure.
func TestJ7_FullDiskIsNoFailureOfTheStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int32
	r.config.Sandbox = leaves(&runs)
	r.blobs.full = 3
	r.start(true)
	_, report := r.only(shell("make", "x", work.StepOutput{Name: "out", Path: "out.txt"}))
	if report.State != work.Succeeded || len(report.Artifacts) != 1 || runs.Load() != 1 {
		t.Errorf("after %d runs of the step the report is %+v", runs.Load(), report)
	}
	r.empty()
}

// told is a log that says when something was logged.
type told struct {
	slog.Handler
	text  string
	heard chan struct{}
}

func (h told) Enabled(context.Context, slog.Level) bool { return true }

func (h told) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.text {
		select {
		case h.heard <- struct{}{}:
		default:
		}
	}
	return nil
}

// Somebody who cancels a run whose step waits for room is obeyed.
func TestB7_CancelWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int32
	r.config.Sandbox = leaves(&runs)
	r.blobs.full = -1
	h := told{slog.DiscardHandler, "a step waits", make(chan struct{}, 1)}
	r.config.Log = slog.New(h)
	r.start(true)
	id := r.submit(nil, shell("make", "x", work.StepOutput{Name: "out", Path: "out.txt"}))
	<-h.heard
	r.cancel(id)
	if run := r.end(id); run.State != work.Cancelled {
		t.Errorf("the run is %s", run.State)
	}
	if reports := r.reports(id, "make"); len(reports) != 1 || reports[0].State != work.Cancelled {
		t.Errorf("the reports are %+v", reports)
	}
	r.empty()
}

// A plan that cannot be had and a signature that cannot be checked for now decide nothing; the worker asks again.
func TestJ7_WhatCannotBeFoundOutIsNoRefusal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs, plans, admits atomic.Int32
	r.config.Sandbox = leaves(&runs)
	r.source = source{r.store, func(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error) {
		if plans.Add(1) <= 2 {
			return nil, fault.New(fault.Unavailable, "too many open files")
		}
		return r.store.Plan(ctx, tenant, hash)
	}}
	r.config.Admit = func(context.Context, *store.Grant, *engine.Graph) error {
		if admits.Add(1) <= 2 {
			return fault.New(fault.Exhausted, "too many open files")
		}
		return nil
	}
	r.start(true)
	for _, s := range []work.PlanStep{shell("one", "x"), step("two", work.RunSpec{Runner: "noop"})} {
		plans.Store(0)
		admits.Store(0)
		if _, report := r.only(s); report.State != work.Succeeded || admits.Load() != 3 {
			t.Errorf("after %d looks the report of %s is %+v", admits.Load(), s.ID, report)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("the step ran %d times", runs.Load())
	}
}

// A worker whose context never ends works.
func TestRunWithoutAnEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int32
	r.config.Sandbox = leaves(&runs)
	r.config.Wake = r.store.Watch(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- workerOf(r).Run(context.Background()) }() // it ends with the test's process
	id := r.submit(nil, shell("make", "x"))
	if run := r.end(id); run.State != work.Succeeded {
		t.Errorf("the run is %s", run.State)
	}
	select {
	case err := <-ended:
		t.Errorf("it ended with %v", err)
	default:
	}
}

// A worker that is to go at once stops what runs and reports nothing of it: the lease goes to whoever comes next.
func TestB7_Abandoned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	began := make(chan struct{}, 1)
	r.config.Sandbox = driver(func(ctx context.Context, _ sandbox.Spec) (sandbox.Result, error) {
		began <- struct{}{}
		<-ctx.Done()
		return sandbox.Result{Cause: sandbox.Cancelled}, nil
	})
	r.config.Wake = r.store.Watch(t.Context())
	ctx, stop := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- workerOf(r).Run(ctx) }()
	id := r.submit(nil, shell("long", "x"))
	<-began
	stop(worker.ErrAbandoned)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if reports := r.reports(id, "long"); len(reports) != 0 {
		t.Errorf("it reported %+v", reports)
	}
	if err := r.store.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	var again atomic.Int32
	r.config.Sandbox = leaves(&again)
	r.start(true)
	if run := r.end(id); run.State != work.Succeeded || again.Load() != 1 {
		t.Errorf("the run is %s after %d more attempts", run.State, again.Load())
	}
	r.empty()
}
