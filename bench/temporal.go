//go:build temporal

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func init() {
	workloads := []string{"W7", "W1", "W2", "W3", "W4", "W5"}
	systems = append(systems,
		system{
			name: "temporal-dev", what: "Temporal's dev server, `--db-filename`, one worker of 100 slots (Go SDK)", durable: "every commit on disk (SQLite, rollback journal); " + powerLoss,
			workloads: workloads, needs: "temporal", run: temporalOn(true),
		},
		system{
			name: "temporal-dev-mem", what: "Temporal's dev server, in memory, one worker of 100 slots (Go SDK)", durable: "nothing survives the end of the server",
			workloads: workloads, needs: "temporal", run: temporalOn(false),
		},
	)
}

const queue = "bench"

// noop is the activity.
func noop(context.Context) error { return nil }

// chain is a workflow of activities one after another, or side by side.
func steps(ctx workflow.Context, n int, fan bool) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	var waiting []workflow.Future
	for range n {
		f := workflow.ExecuteActivity(ctx, noop)
		if fan {
			waiting = append(waiting, f)
		} else if err := f.Get(ctx, nil); err != nil {
			return err
		}
	}
	for _, f := range waiting {
		if err := f.Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// temporalRig is a dev server; client and worker are this process.
type temporalRig struct {
	c      *cell
	server *process
	client client.Client
	ready  time.Duration
}

func temporalOn(file bool) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		args := []string{"server", "start-dev", "--headless", "--log-level", "never", "--ip", "127.0.0.1", "--port", strconv.Itoa(port)}
		if file {
			args = append(args, "--db-filename", c.path("temporal.db"))
		}
		r := &temporalRig{c: c}
		if r.server, _, err = start("", c.Temporal, args...); err != nil {
			return err
		}
		defer r.server.stop()
		address := "127.0.0.1:" + strconv.Itoa(port)
		err = until(ctx, 10*time.Millisecond, func() (bool, error) {
			r.client, err = client.Dial(client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
			return err == nil, nil
		})
		if err != nil {
			return err
		}
		defer r.client.Close()
		r.ready = time.Since(r.server.begun)
		for _, workload := range c.Workloads {
			if err := r.measure(ctx, workload); err != nil {
				return fmt.Errorf("%s: %w", workload, err)
			}
		}
		return nil
	}
}

func (r *temporalRig) measure(ctx context.Context, workload string) (err error) {
	s := r.c.Sizes
	var figures map[string]float64
	switch workload { // a tenth and less: it takes a hundred times as long
	case "W1":
		figures, err = r.jobs(ctx, max(1, s.Jobs/100))
	case "W2":
		figures, err = r.working(func() (map[string]float64, error) {
			return samples(max(1, s.Samples/3), s.Limit, func() error { return r.start(ctx, 1, false) })
		})
	case "W3":
		figures, err = r.steps(ctx, 1, max(1, s.Fan/10), true)
	case "W4":
		figures, err = r.steps(ctx, 1, max(1, s.Chain/10), false)
	case "W5":
		figures, err = r.steps(ctx, max(1, s.Runs/10), 10, false)
	case "W7":
		figures, err = r.idle(ctx)
	}
	if err != nil {
		return err
	}
	return r.c.report(workload, figures)
}

// working runs fn while a worker works.
func (r *temporalRig) working(fn func() (map[string]float64, error)) (map[string]float64, error) {
	w := worker.New(r.client, queue, worker.Options{MaxConcurrentActivityExecutionSize: 100, MaxConcurrentWorkflowTaskExecutionSize: 100})
	w.RegisterWorkflowWithOptions(steps, workflow.RegisterOptions{Name: "steps"})
	w.RegisterActivityWithOptions(noop, activity.RegisterOptions{Name: "noop"})
	if err := w.Start(); err != nil {
		return nil, err
	}
	defer w.Stop()
	return fn()
}

func (r *temporalRig) begin(ctx context.Context, n int, fan bool) (client.WorkflowRun, error) {
	return r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: queue}, "steps", n, fan)
}

func (r *temporalRig) start(ctx context.Context, n int, fan bool) error {
	run, err := r.begin(ctx, n, fan)
	if err != nil {
		return err
	}
	return run.Get(ctx, nil)
}

func (r *temporalRig) who() map[string][]int {
	return map[string][]int{"worker": {0}, "server": {r.server.pid()}}
}

func (r *temporalRig) jobs(ctx context.Context, n int) (map[string]float64, error) {
	runs := make([]client.WorkflowRun, n)
	from := time.Now()
	if err := each(n, 16, func(i int) (err error) {
		runs[i], err = r.begin(ctx, 1, false)
		return err
	}); err != nil {
		return nil, err
	}
	figures := map[string]float64{"single/s": rate(n, time.Since(from))}
	m := measure(r.who())
	return r.working(func() (map[string]float64, error) {
		for _, run := range runs {
			if err := run.Get(ctx, nil); err != nil {
				return nil, err
			}
		}
		figures["drain/s"] = rate(n, m.elapsed())
		return m.used().with(figures, n), nil
	})
}

func (r *temporalRig) steps(ctx context.Context, runs, n int, fan bool) (map[string]float64, error) {
	return r.working(func() (map[string]float64, error) {
		m := measure(r.who())
		if err := each(runs, runs, func(int) error { return r.start(ctx, n, fan) }); err != nil {
			return nil, err
		}
		took := m.elapsed()
		return m.used().with(map[string]float64{"ms/step": ms(took) / float64(runs*n), "n": float64(runs * n)}, runs*n), nil
	})
}

func (r *temporalRig) idle(ctx context.Context) (map[string]float64, error) {
	info, err := os.Stat(r.c.Temporal)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
	case <-time.After(2 * time.Second): // until it idles
	}
	return map[string]float64{"rss MiB": resident(r.server.pid()), "ready ms": ms(r.ready), "binary MB": float64(info.Size()) / 1e6}, nil
}
