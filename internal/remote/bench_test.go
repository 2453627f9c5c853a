package remote_test

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// BenchmarkJobs measures what a job costs on the store directly and over HTTP: processor time of worker and server together.
func BenchmarkJobs(b *testing.B) {
	b.Run("local", func(b *testing.B) { jobs(b, false) })
	b.Run("http", func(b *testing.B) { jobs(b, true) })
}

func jobs(b *testing.B, overHTTP bool) {
	r := newRig(b)
	life, stop := context.WithCancel(context.Background())
	defer stop()
	config := worker.Config{
		Name: "w", Tenant: acme, Slots: 50, Dir: b.TempDir(), Sandbox: direct{}, Tier: 2, Now: func() work.Time { return work.At(time.Now()) },
		Log: slog.New(slog.DiscardHandler), Inside: func(dir string) string { return dir },
	}
	var source worker.Source = r.store
	if overHTTP {
		c, err := remote.New(remote.Config{Server: r.server.URL, Token: func() string { return "one" }})
		if err != nil {
			b.Fatal(err)
		}
		s := c.Source(life, remote.About{Worker: "w", Slots: 50, Offer: api.WorkerOffer{Runners: worker.Runners(), Tier: 2}})
		config.Wake, source = s.Wake(), s
	} else {
		config.Wake = r.store.Watch(life)
	}
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: "test", Version: "1.0.0", Digest: canonical.Digest([]byte("test"))}}
	for i := range b.N {
		p.Steps = append(p.Steps, noop(fmt.Sprintf("s%06d", i)))
	}
	raw, err := canonical.MarshalUpTo(p, 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	hash := canonical.Digest(raw)
	out := r.store.Submit(life, []store.Submission{{
		Run:       work.Run{Tenant: acme, ID: "run_bench", Name: "bench", PlanHash: hash, Pack: p.Pack, Submitter: "somebody"},
		Canonical: raw, Data: work.SubmittedData{Name: "bench", PlanHash: hash, Pack: p.Pack, Submitter: "somebody", InputsHash: hash, ReplayToken: "r"},
	}})[0]
	if out.Err != nil {
		b.Fatal(out.Err)
	}
	w := worker.New(config, source, nil)
	ctx, halt := context.WithCancel(life)
	ended := make(chan error, 1)
	b.ResetTimer()
	before := processor()
	go func() { ended <- w.Run(ctx) }()
	hints := r.store.Watch(life)
	for {
		run, err := r.store.Run(life, acme, "run_bench")
		if err != nil {
			b.Fatal(err)
		}
		if run.State.Terminal() {
			break
		}
		<-hints
	}
	b.StopTimer()
	b.ReportMetric(float64((processor()-before).Microseconds())/float64(b.N), "cpu-µs/job")
	b.ReportMetric(float64(r.requests.Load())/float64(b.N), "requests/job")
	halt()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

// processor is how much processor time this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
