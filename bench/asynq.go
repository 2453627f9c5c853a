package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

// freePort is one that nobody listens at now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// listening waits until a server answers.
func listening(ctx context.Context, address string, p *process) error {
	return until(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case err := <-p.ended:
			return false, errors.Join(err, io.ErrUnexpectedEOF)
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}

// quiet takes what a library logs.
type quiet struct{}

func (quiet) Debug(...any)   {}
func (quiet) Info(...any)    {}
func (quiet) Warn(...any)    {}
func (quiet) Error(...any)   {}
func (quiet) Fatal(v ...any) { log.Fatal(v...) }

func asynqOn(fsync string) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		redis, _, err := start("", "redis-server", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", c.Dir, "--save", "",
			"--appendonly", "yes", "--appendfsync", fsync, "--loglevel", "warning")
		if err != nil {
			return err
		}
		defer redis.stop()
		address := "127.0.0.1:" + strconv.Itoa(port)
		if err := listening(ctx, address, redis); err != nil {
			return err
		}
		to := asynq.RedisClientOpt{Addr: address, PoolSize: 120}
		client := asynq.NewClient(to)
		defer client.Close()
		if c.wants("W1") {
			if err := asynqJobs(ctx, c, client, to, redis.pid()); err != nil {
				return err
			}
		}
		if !c.wants("W2") {
			return nil
		}
		ended := make(chan struct{}, 1)
		server, err := asynqServer(to, func() { ended <- struct{}{} })
		if err != nil {
			return err
		}
		defer server.Shutdown()
		figures, err := samples(c.Sizes.Samples, c.Sizes.Limit, func() error {
			_, err := client.EnqueueContext(ctx, asynq.NewTask("noop", nil))
			if err == nil {
				<-ended
			}
			return err
		})
		if err != nil {
			return err
		}
		return c.report("W2", figures)
	}
}

func asynqServer(to asynq.RedisClientOpt, done func()) (*asynq.Server, error) {
	server := asynq.NewServer(to, asynq.Config{Concurrency: 100, Logger: quiet{}})
	mux := asynq.NewServeMux()
	mux.HandleFunc("noop", func(context.Context, *asynq.Task) error {
		done()
		return nil
	})
	return server, server.Start(mux)
}

func asynqJobs(ctx context.Context, c *cell, client *asynq.Client, to asynq.RedisClientOpt, redis int) error {
	figures := map[string]float64{}
	who := map[string][]int{"worker": {0}, "database": {redis}}
	meter := measure(who)
	if err := each(c.Sizes.Jobs, 16, func(int) error {
		_, err := client.EnqueueContext(ctx, asynq.NewTask("noop", []byte("{}")))
		return err
	}); err != nil {
		return err
	}
	figures["single/s"] = rate(c.Sizes.Jobs, meter.elapsed())
	submitting := meter.used()
	figures["cpu/submit"] = (ms(submitting["worker"]) + ms(submitting["database"])) / float64(c.Sizes.Jobs)
	var done atomic.Int64
	meter = measure(who)
	server, err := asynqServer(to, func() { done.Add(1) })
	if err != nil {
		return err
	}
	look := asynq.NewInspector(to)
	defer look.Close()
	err = until(ctx, 20*time.Millisecond, func() (bool, error) {
		if done.Load() < int64(c.Sizes.Jobs) {
			return false, nil
		}
		q, err := look.GetQueueInfo("default")
		return err == nil && q.Size == 0, err
	})
	if err != nil {
		return err
	}
	figures["drain/s"] = rate(c.Sizes.Jobs, meter.elapsed())
	used := meter.used()
	server.Shutdown()
	return c.report("W1", used.with(figures, c.Sizes.Jobs))
}
