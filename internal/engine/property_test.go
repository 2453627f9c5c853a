package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/simulator/randomplan"
	"orrery.example/orrery/internal/work"
)

func picker(t *rapid.T) func(n int) int {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
}

// played draws a plan and a schedule, drives the run to its end and checks it on the way and after.
func played(t *rapid.T, shape randomplan.Shape, gentle bool) *player {
	pick := picker(t)
	p, err := newPlayer(randomplan.New(pick, shape), rapid.Uint64().Draw(t, "luck"), true)
	if err != nil {
		t.Fatal(err)
	}
	p.gentle = gentle
	p.submit(!gentle && pick(10) == 9)
	for range rapid.IntRange(0, 60).Draw(t, "moves") {
		if p.view.Run().State.Terminal() || len(p.findings) > 0 {
			break
		}
		p.move(pick)
	}
	ended := p.finish(20_000)
	for _, f := range p.findings {
		t.Error(f)
	}
	if !ended && len(p.findings) == 0 {
		t.Errorf("the run does not end: %+v", p.view.Run())
	}
	if !t.Failed() {
		for _, f := range judge(p.graph.Plan, p.view.Events()) {
			t.Error(f)
		}
		replays(t, p)
	}
	if t.Failed() {
		for i := range p.view.Events() {
			t.Log(describe(&p.view.Events()[i]))
		}
		t.Logf("%s", p.canonical)
	}
	return p
}

func replays(t rapid.TB, p *player) {
	r, err := replay.Scheduler(p.canonical, p.view.Events())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Identical() || r.Events != len(p.view.Events()) {
		t.Errorf("%d of %d events replay: %s", r.Events, len(p.view.Events()), r.Divergence)
	}
}

// TestAnySchedule: whatever the plan and whatever happens in whatever order, the rows agree with each other after every
// transition, nothing starts before its time or ends twice, the run ends, and its history replays byte for byte.
func TestAnySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		played(t, randomplan.Shape{
			Steps: 12, Depth: 3, Gates: true, Policies: true, Finally: true, Conditions: true, Retries: true, Limits: true, TimeLimit: true,
		}, false)
	})
}

// TestOracle: where the order cannot matter, every step ends as an evaluator says that knows neither rows nor events.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := played(t, randomplan.Shape{
			Steps: 12, Depth: 3, Gates: true, Policies: true, Finally: true, Conditions: true, Retries: true, Limits: true, GoOn: true,
		}, true)
		if t.Failed() {
			return
		}
		o := newOracle(p.plan, p.luck)
		rows := p.view.Steps()
		for i := range rows {
			if want, got := o.ends[rows[i].ID], rows[i].State; want != got {
				t.Errorf("%s is %s, the plan says %s", rows[i].ID, got, want)
			}
		}
		if len(rows) != len(o.ends) {
			t.Errorf("%d steps ended, the plan says %d", len(rows), len(o.ends))
		}
		want := work.Succeeded
		if o.bad {
			want = work.Failed
		}
		if got := p.view.Run().State; got != want {
			t.Errorf("the run is %s, the plan says %s", got, want)
		}
	})
}

// TestCost: a transition looks at the neighbourhood of one step. What it reads does not grow with the plan.
func TestCost(t *testing.T) {
	shapes := map[string]func(n int) string{
		"independent steps": func(n int) string {
			s := "plan"
			for i := range n {
				s += fmt.Sprintf("\n  run s%d", i)
			}
			return s
		},
		"chain": func(n int) string {
			s := "plan\n  run s0"
			for i := range n - 1 {
				s += fmt.Sprintf("\n  run s%d needs=s%d", i+1, i)
			}
			return s
		},
		"map": func(n int) string {
			return fmt.Sprintf("plan\n  map m range=0..%d\n    run work\n  run join needs=m", n)
		},
		"map of packs": func(n int) string {
			return fmt.Sprintf("plan\n  map m range=0..%d\n    pack p\n      run a\n      run b needs=a", n/2)
		},
		"limited run":    func(n int) string { return fmt.Sprintf("plan maxParallel=8\n  map m range=0..%d\n    run work", n) },
		"limited blocks": func(n int) string { return fmt.Sprintf("plan\n  map m range=0..%d maxParallel=8\n    run work", n) },
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			small, large := readsPerTransition(t, shape(2_500)), readsPerTransition(t, shape(10_000))
			if large > small+2 || large > 30 {
				t.Errorf("a transition reads up to %d rows in a plan of 2,500 steps and up to %d in one of 10,000", small, large)
			}
		})
	}
}

// readsPerTransition runs a plan and returns the most rows that one claim or one report in its middle reads.
func readsPerTransition(t *testing.T, text string) int {
	t.Helper()
	plan, err := parsePlan(strings.Split(text, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlayer(plan, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	run := p.view.Run()
	engine.Submit(p.graph, p.view, p.now, work.SubmittedData{Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack}, false)
	most := 0
	for range 60 {
		ready := p.by(work.Queued, free)
		if len(ready) == 0 {
			break
		}
		id := ready[0]
		for _, act := range []func() error{
			func() error { _, err := engine.Claim(p.graph, p.view, p.now, id, "s", "w", 1); return err },
			func() error {
				return engine.Report(p.graph, p.view, p.now, id, work.ReportedData{Token: p.token(id), State: work.Succeeded}, 1)
			},
		} {
			p.view.reads = 0
			if err := act(); err != nil {
				t.Fatal(err)
			}
			most = max(most, p.view.reads)
		}
	}
	return most
}
