package main

import (
	"context"
	"database/sql"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/mikestefanello/backlite"
	_ "modernc.org/sqlite"
)

type backliteTask struct{ N int }

// Config implements backlite's Task.
func (backliteTask) Config() backlite.QueueConfig {
	return backlite.QueueConfig{
		Name: "noop", MaxAttempts: 3, Timeout: time.Minute, Backoff: time.Second,
		Retention: &backlite.Retention{Duration: time.Hour, Data: &backlite.RetainData{}}, // as we keep ours
	}
}

func backliteOn(ctx context.Context, c *cell) error {
	db, err := sql.Open("sqlite", "file:"+c.path("backlite.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(max(4, runtime.NumCPU()))
	client, err := backlite.NewClient(backlite.ClientConfig{DB: db, NumWorkers: 100, ReleaseAfter: 10 * time.Minute})
	if err != nil {
		return err
	}
	if err := client.Install(); err != nil {
		return err
	}
	var done atomic.Int64
	ended := make(chan struct{}, 1)
	client.Register(backlite.NewQueue(func(context.Context, backliteTask) error {
		done.Add(1)
		select {
		case ended <- struct{}{}:
		default:
		}
		return nil
	}))
	if c.wants("W1") {
		if err := backliteJobs(ctx, c, db, client, &done); err != nil {
			return err
		}
	} else {
		client.Start(ctx)
	}
	defer client.Stop(ctx)
	if !c.wants("W2") {
		return nil
	}
	select {
	case <-ended:
	default:
	}
	figures, err := samples(c.Sizes.Samples, c.Sizes.Limit, func() error {
		if _, err := client.Add(backliteTask{}).Ctx(ctx).Save(); err != nil {
			return err
		}
		<-ended
		return nil
	})
	if err != nil {
		return err
	}
	return c.report("W2", figures)
}

func backliteJobs(ctx context.Context, c *cell, db *sql.DB, client *backlite.Client, done *atomic.Int64) error {
	figures := map[string]float64{}
	n := c.Sizes.Jobs / 2 // the whole would take longer than all others together
	singles := min(n, c.Sizes.Singles/2)
	from := time.Now()
	err := each(singles, 1, func(i int) error { // it has one writer
		_, err := client.Add(backliteTask{i}).Ctx(ctx).Save()
		return err
	})
	if err != nil {
		return err
	}
	figures["single/s"] = rate(singles, time.Since(from))
	who := map[string][]int{"worker": {0}}
	meter := measure(who)
	for at := singles; at < n; at += 1000 {
		var tasks []backlite.Task
		for i := at; i < min(n, at+1000); i++ {
			tasks = append(tasks, backliteTask{i})
		}
		if _, err := client.Add(tasks...).Ctx(ctx).Save(); err != nil {
			return err
		}
	}
	figures["batch/s"] = rate(n-singles, meter.elapsed())
	figures["cpu/submit"] = ms(meter.used()["worker"]) / float64(max(n-singles, 1))
	meter = measure(who)
	client.Start(ctx)
	err = until(ctx, 20*time.Millisecond, func() (bool, error) {
		if done.Load() < int64(n) {
			return false, nil
		}
		var left int
		err := db.QueryRowContext(ctx, `SELECT count(*) FROM backlite_tasks`).Scan(&left)
		return left == 0, err
	})
	if err != nil {
		return err
	}
	figures["drain/s"] = rate(n, meter.elapsed())
	return c.report("W1", meter.used().with(figures, n))
}
