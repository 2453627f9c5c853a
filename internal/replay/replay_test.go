package replay_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/work"
)

// executed runs a map of n noop steps and a join to their end and returns the plan and the history.
func executed(t testing.TB, n int) ([]byte, []work.Event) {
	t.Helper()
	noop := func(id work.StepID, parent work.StepID, needs ...work.StepID) work.PlanStep {
		return work.PlanStep{ID: id, Kind: work.KindRun, Parent: parent, Needs: needs, Run: &work.RunSpec{
			Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: 60_000, GraceMs: 1_000,
			Retry: work.RetrySpec{MaxAttempts: 2, BackoffMs: 1_000},
		}}
	}
	plan := &work.Plan{Version: work.PlanVersion, Steps: []work.PlanStep{
		{ID: "shard", Kind: work.KindMap, Map: &work.MapSpec{
			Range: &work.Range{End: int64(n), Step: 1}, Item: "i", Index: "j", MaxItems: n, MaxParallel: 50,
		}},
		noop("shard[*]::work", "shard"), noop("join", "", "shard"),
	}}
	hash, raw, err := canonical.DigestOf(plan)
	if err != nil {
		t.Fatal(err)
	}
	g, err := engine.NewGraph(plan, hash)
	if err != nil {
		t.Fatal(err)
	}
	h := replay.NewHistory(work.Run{Tenant: "t", ID: "run_1", Name: "bold-owl", PlanHash: hash, Submitter: "ann"})
	now := work.Time(1_750_000_000_000_000)
	engine.Submit(g, h, now, work.SubmittedData{Name: "bold-owl", PlanHash: hash, Submitter: "ann", Incarnation: 1}, false)
	for first := true; !h.Run().State.Terminal(); first = false {
		now += 1_000
		id := h.Live()[0]
		if h.Step(id).Timer != 0 {
			now = h.Step(id).Timer
			engine.DueStep(g, h, now, id, 1)
		}
		if id == "shard" {
			id = h.Live()[1]
		}
		if _, err := engine.Claim(g, h, now, id, "s", "w", 1); err != nil {
			t.Fatal(err)
		}
		d := work.ReportedData{
			Token: work.Token{Incarnation: 1, Epoch: h.Step(id).Epoch}, Worker: "w", State: work.Succeeded,
			Reason: work.Reason{Code: work.EndedWell}, Outputs: json.RawMessage(`{"n":"1"}`), StartedAt: now, EndedAt: now,
		}
		if first {
			d.State, d.Reason = work.Failed, work.Reason{Code: work.EndedByExit}
		}
		if err := engine.Report(g, h, now, id, d, 1); err != nil {
			t.Fatal(err)
		}
		if first {
			now = h.Step(id).Timer
			engine.DueStep(g, h, now, id, 1)
		}
	}
	if h.Err() != nil {
		t.Fatal(h.Err())
	}
	return raw, h.Events()
}

func TestIdentical(t *testing.T) {
	plan, events := executed(t, 20)
	r, err := replay.Scheduler(plan, events)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Identical() || r.Events != len(events) || r.Stimuli == 0 {
		t.Fatalf("%d of %d events, %d stimuli: %s", r.Events, len(events), r.Stimuli, r.Divergence)
	}
	if got := r.History.Run(); got.State != work.Succeeded || got.Head != events[len(events)-1].Hash {
		t.Errorf("the replayed run is %s with head %s", got.State, got.Head)
	}
}

// TestCutShort: every beginning of a history that ends between two transitions replays; one that ends inside of one does not.
func TestCutShort(t *testing.T) {
	plan, events := executed(t, 3)
	stimuli := []work.EventType{work.StepClaimed, work.StepReported, work.StepDue}
	whole := 0
	for n := 1; n <= len(events); n++ {
		r, err := replay.Scheduler(plan, events[:n])
		if err != nil {
			t.Fatal(err)
		}
		between := n == len(events) || slices.Contains(stimuli, events[n].Type)
		if r.Identical() != between {
			t.Errorf("the first %d events, before %s: identical %t", n, events[min(n, len(events)-1)].Type, r.Identical())
		}
		if between {
			whole++
		}
	}
	if whole < 8 {
		t.Errorf("only %d places to cut were tried", whole)
	}
}

// relink makes the hashes right again after a change, as somebody who holds the store could.
func relink(t *testing.T, events []work.Event) {
	t.Helper()
	var head work.Digest
	for i := range events {
		events[i].Seq = int64(i + 1)
		if err := ledger.Link(head, &events[i]); err != nil {
			t.Fatal(err)
		}
		head = events[i].Hash
	}
}

func find(events []work.Event, kind work.EventType) int {
	return slices.IndexFunc(events, func(e work.Event) bool { return e.Type == kind })
}

func TestTampering(t *testing.T) {
	for name, change := range map[string]func(events []work.Event) ([]work.Event, string){
		"a decision is changed": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepRetrying)
			e[i].Data = json.RawMessage(strings.Replace(string(e[i].Data), `"of":2`, `"of":3`, 1))
			return e, "decides something else"
		},
		"a decision is left out": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepExpanded)
			return slices.Delete(e, i, i+1), "decides something else"
		},
		"a decision is added": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepClaimed)
			return slices.Insert(e, i, work.Event{Tenant: "t", Run: "run_1", Time: e[i].Time, Type: work.StepStarted, Step: "join"}),
				"does not decide"
		},
		"a claim is left out": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepClaimed)
			return slices.Delete(e, i, i+1), "was never claimed"
		},
		"a report under another token": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepReported)
			e[i].Data = json.RawMessage(strings.Replace(string(e[i].Data), `"incarnation":1`, `"incarnation":2`, 1))
			return e, "held under token 1.1, not 2.1"
		},
		"a timer fires early": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepDue)
			e[i].Time = e[i-1].Time + 1
			return e, "was not due"
		},
		"time runs backwards": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepClaimed)
			e[i].Time = e[0].Time
			return e, "decides something else"
		},
		"other bindings": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepClaimed)
			var d work.ClaimedData
			if err := json.Unmarshal(e[i].Data, &d); err != nil {
				return e, err.Error()
			}
			e[i].Data = json.RawMessage(strings.Replace(string(e[i].Data), string(d.Bindings), string(canonical.Digest(nil)), 1))
			return e, "decides something else"
		},
		"a field nobody knows": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepReported)
			e[i].Data = json.RawMessage(strings.Replace(string(e[i].Data), `{`, `{"extra":1,`, 1))
			return e, "decides something else"
		},
		"an end is made up": func(e []work.Event) ([]work.Event, string) {
			i := find(e, work.StepReported)
			e[i+1] = e[len(e)-1]
			return e[:i+2], "decides something else"
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan, events := executed(t, 3)
			changed, want := change(slices.Clone(events))
			relink(t, changed)
			r, err := replay.Scheduler(plan, changed)
			if err != nil {
				t.Fatal(err)
			}
			if r.Identical() {
				t.Fatal("nothing was noticed")
			}
			if !strings.Contains(r.Divergence.String(), want) {
				t.Errorf("the words are %q, not about %q", r.Divergence, want)
			}
		})
	}
}

func TestBrokenChain(t *testing.T) {
	plan, events := executed(t, 3)
	events[4].Hash = canonical.Digest(nil)
	r, err := replay.Scheduler(plan, events)
	if err != nil || r.Identical() || r.Divergence.Seq != 5 {
		t.Errorf("a wrong hash: %v, %v", err, r.Divergence)
	}
}

func TestRefused(t *testing.T) {
	plan, events := executed(t, 1)
	if _, err := replay.Scheduler(plan, nil); fault.CodeOf(err) != fault.Incomplete {
		t.Errorf("no history: %v", err)
	}
	if _, err := replay.Scheduler(plan, events[1:]); fault.CodeOf(err) != fault.Incomplete {
		t.Errorf("a history without its beginning: %v", err)
	}
	if _, err := replay.Scheduler([]byte("{}"), events); fault.CodeOf(err) != fault.PlanMismatch {
		t.Errorf("another plan: %v", err)
	}
}

func BenchmarkScheduler(b *testing.B) {
	plan, events := executed(b, 2_000)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := replay.Scheduler(plan, events); err != nil || !r.Identical() {
			b.Fatal(err, r.Divergence)
		}
	}
	b.ReportMetric(float64(len(events)*b.N)/b.Elapsed().Seconds(), "events/s")
}

// A history of anybody's is replayed, or refused, or diverges: it takes nothing down and does not go on for ever.
func FuzzScheduler(f *testing.F) {
	plan, events := executed(f, 2)
	for _, kept := range []int{len(events), 3, 1} {
		raw, err := json.Marshal(events[:kept])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plan, raw)
	}
	f.Add([]byte(`{}`), []byte(`[{"type":"run.submitted"}]`))
	f.Fuzz(func(t *testing.T, plan, raw []byte) {
		var events []work.Event
		if json.Unmarshal(raw, &events) != nil {
			return
		}
		r, err := replay.Scheduler(plan, events)
		if err == nil && r.Identical() && r.Events != len(events) {
			t.Fatalf("%d of %d events are called identical", r.Events, len(events))
		}
	})
}
