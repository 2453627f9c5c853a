package simulator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// backlog is a store in which every tenant has far more to do than its workers can, and a clock.
type backlog struct {
	*testing.T
	*kernel.Store
	now     work.Time
	weights map[work.Tenant]int
	running map[work.Tenant]int
	ends    map[work.Time][]store.Grant
}

func newBacklog(t *testing.T, weights []int, steps int) *backlog {
	b := &backlog{T: t, now: 1_750_000_000_000_000, weights: map[work.Tenant]int{}, running: map[work.Tenant]int{}, ends: map[work.Time][]store.Grant{}}
	b.Store = kernel.New(memory.New(), kernel.Options{Now: func() work.Time { return b.now }})
	t.Cleanup(func() { b.Close() })
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: "p", Version: "1.0.0", Digest: canonical.Digest(nil)}}
	for i := range steps {
		p.Steps = append(p.Steps, work.PlanStep{ID: work.StepID(fmt.Sprintf("s%05d", i)), Kind: work.KindRun, Run: &work.RunSpec{
			Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: 3_600_000, Retry: work.RetrySpec{MaxAttempts: 1},
		}})
	}
	hash, raw, err := canonical.DigestOf(p)
	b.must(err)
	for i, w := range weights {
		tenant := work.Tenant(fmt.Sprintf("tenant%d", i))
		b.weights[tenant] = w
		_, err := b.ChangeFlow(t.Context(), store.FlowChange{Tenant: tenant, Kind: store.FlowTenant, Verb: "weight", N: w})
		b.must(err)
		run := work.Run{Tenant: tenant, ID: "run_" + work.RunID(tenant), Name: string(tenant), PlanHash: hash, Pack: p.Pack}
		b.must(b.Submit(t.Context(), []store.Submission{{Run: run, Canonical: raw, Data: work.SubmittedData{Name: run.Name, PlanHash: hash}}})[0].Err)
	}
	b.must(b.OpenSession(t.Context(), store.Session{ID: "s", Worker: "w", Tenant: store.Installation, Expires: b.now.Add(1e18)}))
	return b
}

func (b *backlog) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// work asks for as many steps as have ended, and keeps each for as long as length says.
func (b *backlog) work(most int, length func(work.Tenant) work.Time) []store.Grant {
	req := store.ExchangeRequest{Session: "s", Tenant: store.Installation, Runners: []string{"noop"}, Max: most}
	for _, g := range b.ends[b.now] {
		req.Max++
		b.running[g.Tenant]--
		req.Reports = append(req.Reports, store.ReportCommand{Tenant: g.Tenant, Run: g.Run, Step: g.Step, Report: work.ReportedData{
			Token: g.Token, Worker: "s", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, Outputs: json.RawMessage(`{}`),
		}})
	}
	delete(b.ends, b.now)
	reply, err := b.Exchange(context.Background(), req)
	b.must(err)
	if len(reply.Grants) != req.Max {
		b.Fatalf("%d steps for %d slots: the backlog is too short", len(reply.Grants), req.Max)
	}
	for _, g := range reply.Grants {
		b.running[g.Tenant]++
		at := b.now + length(g.Tenant)
		b.ends[at] = append(b.ends[at], g)
	}
	return reply.Grants
}

// TestSharesOfALongBacklog: while every tenant has work for all slots, none has more than its part of them and one, at any moment, whatever
// its steps take. What is left of that for the others is their part, less one slot of each other at most.
func TestSharesOfALongBacklog(t *testing.T) {
	const slots, rounds = 12, 400
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {1, 2, 3}, {5, 1}, {1, 7, 1, 3}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, uint64(len(weights))))
			b := newBacklog(t, weights, slots*rounds)
			whole := 0
			for _, w := range weights {
				whole += w
			}
			length := func(tenant work.Tenant) work.Time { // the first tenant's are short, the last one's ten times as long
				return 1_000_000 * work.Time(1+rng.IntN(3)) * work.Time(1+9*int(tenant[6]-'0')/len(weights))
			}
			b.work(slots, length)
			for range rounds {
				for b.now++; len(b.ends[b.now]) == 0; b.now++ {
					b.now = next(b.ends) - 1
				}
				b.work(0, length)
				for tenant, w := range b.weights {
					if n := b.running[tenant]; (n-1)*whole > slots*w {
						t.Fatalf("%s has %d of %d slots with a weight of %d of %d", tenant, n, slots, w, whole)
					}
					if n := b.running[tenant]; (n+len(weights)-1)*whole < slots*w {
						t.Fatalf("%s has only %d of %d slots with a weight of %d of %d", tenant, n, slots, w, whole)
					}
				}
			}
		})
	}
}

func next(ends map[work.Time][]store.Grant) work.Time {
	first := work.Time(1 << 62)
	for at := range ends {
		first = min(first, at)
	}
	return first
}

// TestTurnsAtOneSlot: where there is one slot, tenants have as many turns as they have parts, and nobody waits for more steps of another than
// that has parts to one of its own, also after a time in which the other had less running and was served alone.
func TestTurnsAtOneSlot(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {3, 1}, {1, 2, 3}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			b := newBacklog(t, weights, 3000)
			// Long steps of the last tenant: the others are served all the while.
			last := work.Tenant(fmt.Sprintf("tenant%d", len(weights)-1))
			length := func(tenant work.Tenant) work.Time {
				if tenant == last {
					return 300
				}
				return 1
			}
			b.work(2*len(weights), length)
			for range 299 {
				b.now++
				b.work(0, length)
			}
			b.now++
			var all []store.Grant // all that runs ends at once, and all slots but one go
			for _, left := range b.ends {
				all = append(all, left...)
			}
			clear(b.ends)
			b.ends[b.now] = all
			turns := b.turns(1-len(all), 600, false)
			for tenant, w := range b.weights {
				for other, v := range b.weights {
					if d := turns[tenant]*v - turns[other]*w; d > v+w || d < -v-w {
						t.Errorf("turns %v with weights %v", turns, b.weights)
					}
				}
			}
			b.turns(0, 200, true)
		})
	}
}

// turns serves one step after the other and checks that nobody who could have had it waits for more of them than another has parts to one of
// its own. With pauses the first tenant is held back now and then: it has saved nothing by that, and has lost nothing.
func (b *backlog) turns(slots, n int, pauses bool) map[work.Tenant]int {
	turns, since := map[work.Tenant]int{}, map[[2]work.Tenant]int{}
	const first = work.Tenant("tenant0")
	held := false
	for i := range n {
		if verb := map[int]string{0: "pause", 3: "resume"}[i%10]; pauses && verb != "" {
			_, err := b.ChangeFlow(b.Context(), store.FlowChange{Tenant: first, Kind: store.FlowTenant, Verb: verb})
			b.must(err)
			held = verb == "pause"
		}
		g := b.work(slots, func(work.Tenant) work.Time { return 1 })[0]
		slots = 0
		b.now++
		turns[g.Tenant]++
		for other, w := range b.weights {
			delete(since, [2]work.Tenant{g.Tenant, other})
			pair := [2]work.Tenant{other, g.Tenant}
			if other == g.Tenant || held && other == first {
				delete(since, pair)
				continue
			}
			since[pair]++
			if most := (b.weights[g.Tenant] + w - 1) / w; since[pair] > most {
				b.Fatalf("step %d: %s waits for %d steps of %s", i, other, since[pair], g.Tenant)
			}
		}
	}
	return turns
}
