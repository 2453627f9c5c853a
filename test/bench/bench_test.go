// Package bench measures the main job on the embedded store: real SQLite with synchronous commits, the real worker, hash-chained
// history and sealing; steps that do nothing, so that what is left is the cost of Orrery itself.
//
// Every benchmark reports milliseconds of processor time per job (cpu-ms/job, user and system of the whole process) beside the rate:
// on small shared machines the former is the steadier figure.
package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/metric"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// rig is a store with one worker of 100 slots.
type rig struct {
	b     *testing.B
	store *kernel.Store
	seal  *attest.Service
	stop  func()
}

func newRig(b *testing.B) *rig {
	b.Helper()
	dir := b.TempDir()
	driver, err := sqlite.Open(b.Context(), dir, sqlite.Options{Ballast: -1})
	if err != nil {
		b.Fatal(err)
	}
	// Counted as in a server.
	s := kernel.New(driver, kernel.Options{Now: app.Now, Observe: metric.New("bench", 0).Commit})
	blobs, err := folder.Open(dir + "/blobs")
	if err != nil {
		b.Fatal(err)
	}
	logKey, err := keyring.Generate("ledger", keyring.Ed25519, []keyring.Usage{keyring.Log}, app.Now())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := worker.New(worker.Config{
		Name: "bench", Tenant: work.LocalTenant, Slots: 100, Dir: dir, Local: true, Tier: 3, Wake: s.Watch(ctx), Now: app.Now,
		Log: slog.New(slog.DiscardHandler),
	}, s, blobs)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	r := &rig{b: b, store: s, seal: &attest.Service{Store: s, LogKey: logKey, Now: app.Now}}
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return r
}

// shape makes a plan of steps that do nothing.
func shape(name string, steps []work.PlanStep) (*work.Plan, []byte, work.Digest) {
	for i := range steps {
		if steps[i].Kind == work.KindRun && steps[i].Run == nil {
			steps[i].Run = &work.RunSpec{Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: 60_000, Retry: work.RetrySpec{MaxAttempts: 1}}
		}
	}
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: name, Version: "1.0.0", Digest: canonical.Digest([]byte(name))}, Steps: steps}
	raw, err := canonical.MarshalUpTo(p, 1<<30)
	if err != nil {
		panic(err)
	}
	return p, raw, canonical.Digest(raw)
}

func chain(n int) []work.PlanStep {
	out := make([]work.PlanStep, n)
	for i := range out {
		out[i] = work.PlanStep{ID: work.StepID(fmt.Sprintf("s%06d", i)), Kind: work.KindRun}
		if i > 0 {
			out[i].Needs = []work.StepID{out[i-1].ID}
		}
	}
	return out
}

func fan(n int) []work.PlanStep {
	return []work.PlanStep{
		{ID: "fan", Kind: work.KindMap, Map: &work.MapSpec{Range: &work.Range{End: int64(n), Step: 1}, Item: "item", Index: "index", MaxItems: n}},
		{ID: "fan[*]::one", Kind: work.KindRun, Parent: "fan"},
	}
}

func (r *rig) submit(p *work.Plan, raw []byte, hash work.Digest, n int) []work.RunID {
	const batch = 100
	ids := make([]work.RunID, 0, n)
	for len(ids) < n {
		var subs []store.Submission
		for range min(batch, n-len(ids)) {
			id := work.RunID(fmt.Sprintf("run_%012d%s", app.Now()%1e12, rand.Text()[:14])) // sorts by time, as real ones do
			subs = append(subs, store.Submission{
				Run:       work.Run{Tenant: work.LocalTenant, ID: id, Name: string(id[4:]), PlanHash: hash, Pack: p.Pack, Submitter: "bench"},
				Canonical: raw, Data: work.SubmittedData{Name: string(id[4:]), PlanHash: hash, Pack: p.Pack, Submitter: "bench", InputsHash: hash, ReplayToken: string(hash)},
			})
			ids = append(ids, id)
		}
		for _, s := range r.store.Submit(context.Background(), subs) {
			if s.Err != nil {
				r.b.Fatal(s.Err)
			}
		}
	}
	return ids
}

// drain waits until every run has ended and is sealed.
func (r *rig) drain(sealed int) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	wake := r.store.Watch(ctx)
	for left := sealed; left > 0; {
		n, err := r.seal.Seal(ctx, work.LocalTenant)
		if err != nil {
			r.b.Fatal(err)
		}
		if left -= n; left > 0 {
			select {
			case <-wake:
			case <-time.After(time.Second):
			}
			<-time.After(5 * time.Millisecond) // seal in batches, as a service does
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs the same work b.N times and reports per job.
func measure(b *testing.B, jobs int, do func(*rig)) {
	r := newRig(b)
	defer r.stop()
	b.ResetTimer()
	begin := cpu()
	for range b.N {
		do(r)
	}
	b.StopTimer()
	all := float64(jobs) * float64(b.N)
	b.ReportMetric(float64((cpu()-begin).Microseconds())/1000/all, "cpu-ms/job")
	b.ReportMetric(all/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/all, "ms/job")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkOneStepRuns(b *testing.B) {
	const n = 10_000
	p, raw, hash := shape("one", chain(1))
	measure(b, n, func(r *rig) {
		r.submit(p, raw, hash, n)
		r.drain(n)
	})
}

func BenchmarkChain(b *testing.B) {
	for _, n := range []int{100, 500, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, raw, hash := shape("chain", chain(n))
			measure(b, n, func(r *rig) {
				r.submit(p, raw, hash, 1)
				r.drain(1)
			})
		})
	}
}

func BenchmarkFan(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, raw, hash := shape("fan", fan(n))
			measure(b, n, func(r *rig) {
				r.submit(p, raw, hash, 1)
				r.drain(1)
			})
		})
	}
}

func BenchmarkHundredRunsOfTen(b *testing.B) {
	p, raw, hash := shape("ten", chain(10))
	measure(b, 1000, func(r *rig) {
		r.submit(p, raw, hash, 100)
		r.drain(100)
	})
}
