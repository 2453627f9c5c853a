package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// serveNATS is a server in a process of its own: this program, started again.
func serveNATS(dir string, always bool) error {
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, SyncAlways: always, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return errors.New("the NATS server does not get ready")
	}
	fmt.Println("ready at " + s.ClientURL())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	s.Shutdown()
	return nil
}

func jetstreamOn(always bool) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		server, url, err := start("ready at ", self, "-nats", c.Dir, "-sync-always="+strconv.FormatBool(always))
		if err != nil {
			return err
		}
		defer server.stop()
		conn, err := nats.Connect(url)
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(1000))
		if err != nil {
			return err
		}
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "jobs", Subjects: []string{"jobs"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
			return err
		}
		consumer, err := js.CreateConsumer(ctx, "jobs", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1000})
		if err != nil {
			return err
		}
		if c.wants("W1") {
			if err := jetstreamJobs(ctx, c, js, consumer, server.pid()); err != nil {
				return err
			}
		}
		if !c.wants("W2") {
			return nil
		}
		return jetstreamLatency(ctx, c, js, consumer)
	}
}

func jetstreamJobs(ctx context.Context, c *cell, js jetstream.JetStream, consumer jetstream.Consumer, server int) error {
	figures := map[string]float64{}
	from := time.Now()
	err := each(c.Sizes.Singles, 16, func(int) error {
		_, err := js.Publish(ctx, "jobs", []byte("{}"))
		return err
	})
	if err != nil {
		return err
	}
	figures["single/s"] = rate(c.Sizes.Singles, time.Since(from))
	rest := c.Sizes.Jobs - c.Sizes.Singles
	who := map[string][]int{"worker": {0}, "database": {server}}
	meter := measure(who)
	for range rest {
		if _, err := js.PublishAsync("jobs", []byte("{}"), jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	<-js.PublishAsyncComplete()
	figures["batch/s"] = rate(rest, meter.elapsed())
	submitting := meter.used()
	figures["cpu/submit"] = (ms(submitting["worker"]) + ms(submitting["database"])) / float64(max(rest, 1))
	var done atomic.Int64
	meter = measure(who)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		_ = m.Ack() // what is not acknowledged is counted below
		done.Add(1)
	})
	if err != nil {
		return err
	}
	defer consuming.Stop()
	err = until(ctx, 20*time.Millisecond, func() (bool, error) {
		if done.Load() < int64(c.Sizes.Jobs) {
			return false, nil
		}
		info, err := consumer.Info(ctx)
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0, err
	})
	if err != nil {
		return err
	}
	figures["drain/s"] = rate(c.Sizes.Jobs, meter.elapsed())
	return c.report("W1", meter.used().with(figures, c.Sizes.Jobs))
}

// latency measures from the publication to the confirmed acknowledgement.
func jetstreamLatency(ctx context.Context, c *cell, js jetstream.JetStream, consumer jetstream.Consumer) error {
	ended := make(chan error, 1)
	consuming, err := consumer.Consume(func(m jetstream.Msg) { ended <- m.DoubleAck(ctx) })
	if err != nil {
		return err
	}
	defer consuming.Stop()
	figures, err := samples(c.Sizes.Samples, c.Sizes.Limit, func() error {
		if _, err := js.Publish(ctx, "jobs", []byte("{}")); err != nil {
			return err
		}
		return <-ended
	})
	if err != nil {
		return err
	}
	return c.report("W2", figures)
}
