package main

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type riverArgs struct {
	N int `json:"n"`
}

// Kind implements River's JobArgs.
func (riverArgs) Kind() string { return "noop" }

type riverWorker struct {
	riverqueue.WorkerDefaults[riverArgs]
	done atomic.Int64
}

// Work implements River's Worker.
func (w *riverWorker) Work(context.Context, *riverqueue.Job[riverArgs]) error {
	w.done.Add(1)
	return nil
}

// riverRig is River on a database of its own; client and worker are this process.
type riverRig struct {
	c      *cell
	pool   *pgxpool.Pool
	worker *riverWorker
	client *riverqueue.Client[pgx.Tx]
}

func newRiver(ctx context.Context, c *cell, tuned bool) (*riverRig, error) {
	url, err := c.database(ctx)
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(max(20, 4*runtime.NumCPU()))
	r := &riverRig{c: c, worker: &riverWorker{}}
	if r.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	driver := riverpgxv5.New(r.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := riverqueue.NewWorkers()
	riverqueue.AddWorker(workers, r.worker)
	o := &riverqueue.Config{
		Queues: map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 100}}, Workers: workers, Logger: slog.New(slog.DiscardHandler),
	}
	if tuned {
		o.FetchCooldown = time.Millisecond
	}
	r.client, err = riverqueue.NewClient(driver, o)
	return r, err
}

func river(tuned bool) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		r, err := newRiver(ctx, c, tuned)
		if err != nil {
			return err
		}
		defer r.pool.Close()
		if c.wants("W1") {
			figures, err := r.jobs(ctx)
			if err != nil {
				return err
			}
			if err := c.report("W1", figures); err != nil {
				return err
			}
		}
		if c.wants("W2") {
			if err := r.latency(ctx); err != nil {
				return err
			}
		}
		if !c.wants("W8") {
			return nil
		}
		// What has ended is put there as River leaves it behind.
		if _, err := r.pool.Exec(ctx, `INSERT INTO river_job (args, attempt, attempted_at, attempted_by, created_at, finalized_at, kind, max_attempts, queue, scheduled_at, state)
			SELECT '{"n": 1}', 1, now(), '{bench}', now(), now(), 'noop', 25, 'default', now(), 'completed' FROM generate_series(1, `+strconv.Itoa(c.Sizes.Filled)+`)`); err != nil {
			return err
		}
		for _, statement := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
			if _, err := r.pool.Exec(ctx, statement); err != nil {
				return err
			}
		}
		figures, err := r.jobs(ctx)
		if err != nil {
			return err
		}
		return c.report("W8", figures)
	}
}

func (r *riverRig) jobs(ctx context.Context) (map[string]float64, error) {
	figures := map[string]float64{}
	from := time.Now()
	err := each(r.c.Sizes.Singles, 16, func(i int) error {
		_, err := r.client.Insert(ctx, riverArgs{i}, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	figures["single/s"] = rate(r.c.Sizes.Singles, time.Since(from))
	rest := r.c.Sizes.Jobs - r.c.Sizes.Singles
	meter := measure(r.who())
	for left := rest; left > 0; {
		n := min(left, 1000)
		params := make([]riverqueue.InsertManyParams, n)
		for i := range params {
			params[i].Args = riverArgs{i}
		}
		if _, err := r.client.InsertManyFast(ctx, params); err != nil {
			return nil, err
		}
		left -= n
	}
	figures["batch/s"] = rate(rest, meter.elapsed())
	submitting := meter.used()
	r.worker.done.Store(0)
	meter = measure(r.who())
	if err := r.client.Start(ctx); err != nil {
		return nil, err
	}
	err = until(ctx, 20*time.Millisecond, func() (bool, error) {
		if r.worker.done.Load() < int64(r.c.Sizes.Jobs) {
			return false, nil
		}
		var left int
		err := r.pool.QueryRow(ctx, `SELECT count(*) FROM river_job WHERE state <> 'completed'`).Scan(&left)
		return left == 0, err
	})
	if err != nil {
		return nil, err
	}
	figures["drain/s"] = rate(r.c.Sizes.Jobs, meter.elapsed())
	used := meter.used()
	figures["cpu/submit"] = (ms(submitting["worker"]) + ms(submitting["database"])) / float64(max(rest, 1))
	return used.with(figures, r.c.Sizes.Jobs), r.client.Stop(ctx)
}

func (r *riverRig) who() map[string][]int {
	return map[string][]int{"worker": {0}, "database": {r.c.Postgres.PID}}
}

// latency measures from the insert to the row that says completed.
func (r *riverRig) latency(ctx context.Context) error {
	if err := r.client.Start(ctx); err != nil {
		return err
	}
	ended, cancel := r.client.Subscribe(riverqueue.EventKindJobCompleted)
	defer cancel()
	figures, err := samples(r.c.Sizes.Samples, r.c.Sizes.Limit, func() error {
		if _, err := r.client.Insert(ctx, riverArgs{}, nil); err != nil {
			return err
		}
		<-ended
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.client.Stop(ctx); err != nil {
		return err
	}
	return r.c.report("W2", figures)
}
