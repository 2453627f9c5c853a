package storetest

import (
	"fmt"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// BenchmarkBlocked measures what one exchange costs, a report and a claim, beside very many steps that are ready and held back, and what a
// submission costs under a quota beside runs that have ended and nobody has looked at.
func BenchmarkBlocked(b *testing.B, open func(testing.TB) kernel.Driver) {
	pause := store.FlowChange{Kind: store.FlowQueue, Name: "blocked", Verb: "pause", Actor: work.Actor{Name: "ann"}}
	limit := store.FlowChange{Kind: store.FlowQueue, Name: "blocked", Verb: "limit", N: 1}
	pack := store.FlowChange{Kind: store.FlowPack, Name: "held", Verb: "pause", Actor: work.Actor{Name: "ann"}}
	for _, c := range []struct {
		name  string
		steps int
		by    store.FlowChange
	}{{"nothing", 0, pause}, {"paused-queue", 100_000, pause}, {"full-queue", 100_000, limit}, {"paused-pack", 100_000, pack}} {
		b.Run(c.name, func(b *testing.B) {
			r := benchRig(b, open)
			r.many("held", "blocked", c.steps)
			if c.by.Verb == "limit" && len(r.claim(1, nil)) != 1 {
				b.Fatal("nothing runs in the queue that is to be full")
			}
			c.by.Tenant = acme
			if _, err := r.ChangeFlow(b.Context(), c.by); err != nil {
				b.Fatal(err)
			}
			r.many("free", "", 100)
			began := time.Now()
			grants := r.claim(1, nil)
			for len(grants) == 0 { // what is paused is set aside first
				grants = r.claim(1, nil)
			}
			once := float64(time.Since(began).Microseconds()) / float64(max(1, c.steps))
			if c.by.Kind == store.FlowPack {
				defer b.ReportMetric(once, "µs-once/step")
			}
			for b.Loop() {
				if grants = r.claim(1, grants); len(grants) == 0 {
					b.StopTimer()
					r.many("free", "", 100)
					grants = r.claim(1, nil)
					b.StartTimer()
				}
			}
		})
	}
	b.Run("quota", func(b *testing.B) {
		r := benchRig(b, open)
		if _, err := r.ChangeFlow(b.Context(), store.FlowChange{Tenant: acme, Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Runs: 1000}}); err != nil {
			b.Fatal(err)
		}
		for range 10_000 {
			r.many("free", "", 1)
			r.claim(0, r.claim(1, nil))
		}
		for b.Loop() {
			r.many("free", "", 1)
			b.StopTimer()
			r.claim(0, r.claim(1, nil))
			b.StartTimer()
		}
	})
}

type bench struct {
	*testing.B
	*kernel.Store
	now  work.Time
	runs int
}

func benchRig(b *testing.B, open func(testing.TB) kernel.Driver) *bench {
	r := &bench{B: b, now: 1 << 50}
	r.Store = kernel.New(open(b), kernel.Options{Now: func() work.Time { r.now++; return r.now }})
	b.Cleanup(func() { r.Close() })
	if err := r.OpenSession(b.Context(), store.Session{ID: "s", Worker: "w", Tenant: acme, Expires: 1 << 60}); err != nil {
		b.Fatal(err)
	}
	return r
}

// many makes steps ready: of runs of a pack, in a queue.
func (r *bench) many(pack, queue string, steps int) {
	r.Helper()
	const most = 1_000 // of one run
	for ; steps > 0; steps -= most {
		p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: pack, Version: "1.0.0", Digest: canonical.Digest([]byte(pack))}}
		for i := range min(steps, most) {
			p.Steps = append(p.Steps, inQueue(runStep(work.StepID(fmt.Sprintf("s%04d", i))), queue))
		}
		hash, raw, err := canonical.DigestOf(p)
		if err != nil {
			r.Fatal(err)
		}
		r.runs++
		name := fmt.Sprintf("r%d", r.runs)
		run := work.Run{Tenant: acme, ID: work.RunID("run_" + name), Name: name, PlanHash: hash, Pack: p.Pack}
		out := r.Submit(r.Context(), []store.Submission{{Run: run, Canonical: raw, Data: work.SubmittedData{Name: name, PlanHash: hash}}})
		if out[0].Err != nil {
			r.Fatal(out[0].Err)
		}
	}
}

// claim reports the end of what it is given and asks for as many more.
func (r *bench) claim(most int, ended []store.Grant) []store.Grant {
	r.Helper()
	req := request(acme, "s", most)
	for i := range ended {
		req.Reports = append(req.Reports, reportOf(ended[i], work.Succeeded))
	}
	reply, err := r.Exchange(r.Context(), req)
	if err != nil {
		r.Fatal(err)
	}
	return reply.Grants
}
