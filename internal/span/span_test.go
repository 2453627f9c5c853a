package span_test

import (
	"encoding/json"
	"strings"
	"testing"

	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/work"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestO8_TraceContext(t *testing.T) {
	for header, want := range map[string]string{
		parent:                                              parent,
		strings.Replace(parent, "-01", "-00", 1):            strings.Replace(parent, "-01", "-00", 1),
		strings.Replace(parent, "-01", "-03", 1):            parent, // bits that nobody knows are not handed on
		"cc" + parent[2:] + "-what-will-be":                 parent,
		parent + "-more":                                    "",
		"ff" + parent[2:]:                                   "",
		strings.ToUpper(parent):                             "",
		parent[:54]:                                         "",
		"00-" + strings.Repeat("0", 32) + parent[35:]:       "",
		parent[:36] + strings.Repeat("0", 16) + parent[52:]: "",
		"": "",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "",
	} {
		c, ok := span.Parse(header)
		if ok != (want != "") || ok && c.String() != want {
			t.Errorf("%q is read as %q, %t", header, c, ok)
		}
	}
	for header, want := range map[string]string{
		"team=blue,k=v;p=1": "team=blue,k=v;p=1", " a=b ": "a=b", "": "", "nothing": "", "a=b\nHost: x": "", "a=é": "",
		"a=" + strings.Repeat("x", span.MaxBaggage): "",
	} {
		if got := span.Baggage(header); got != want {
			t.Errorf("baggage %.40q becomes %.40q", header, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(parent)
	f.Add("cc" + parent[2:] + "-x")
	f.Fuzz(func(t *testing.T, header string) {
		c, ok := span.Parse(header)
		if !ok {
			return
		}
		if again, ok := span.Parse(c.String()); !ok || again != c {
			t.Fatalf("%q is read as %q and then as %q", header, c, again)
		}
	})
}

// story makes a history. Hashes are left out: spans do not look at them.
func story(entries ...any) []work.Event {
	var out []work.Event
	for i := 0; i+2 < len(entries); i += 3 {
		e := work.Event{Tenant: "acme", Run: "run_1", Seq: int64(len(out) + 1), Time: work.Time(1e6 * (len(out) + 1)), Type: entries[i].(work.EventType), Step: work.StepID(entries[i+1].(string))}
		if entries[i+2] != nil {
			e.Data, _ = json.Marshal(entries[i+2])
		}
		e.Attempt = 1
		out = append(out, e)
	}
	return out
}

// O6, O8: a step that is tried twice has two spans in one trace, each under an id that its worker could know.
func TestO6_SpansOfHistory(t *testing.T) {
	run := &work.Run{Tenant: "acme", ID: "run_1", TraceParent: parent, Pack: work.PackRef{Name: "nightly", Version: "2"}, Created: 1e6, Started: 2e6}
	events := story(
		work.StepQueued, "build", work.QueuedData{Attempt: 1},
		work.StepClaimed, "build", work.ClaimedData{Worker: "w1"},
		work.StepReported, "build", work.ReportedData{State: work.Failed, Class: "exit", ExitCode: 3, StartedAt: 1, EndedAt: 500001, Reason: work.Reason{Code: work.EndedByExit, Message: "swordfish"}},
		work.StepRetrying, "build", work.RetryingData{},
		work.StepQueued, "build", work.QueuedData{Attempt: 2},
		work.StepClaimed, "build", work.ClaimedData{Worker: "w2"},
		work.StepRevoked, "build", work.RevokedData{Reason: work.Reason{Code: work.EndedByWorkerLoss}},
		work.StepWaiting, "gate", work.WaitingData{},
		work.StepEnded, "gate", work.EndedData{State: work.Succeeded},
		work.RunEnded, "", work.EndedData{State: work.Failed},
	)
	events[5].Attempt, events[6].Attempt = 2, 2
	h := span.NewHistory(run)
	var spans []span.Span
	figures := map[string]float64{}
	h.Span, h.Metric = func(s span.Span) { spans = append(spans, s) }, func(m span.Metric) { figures[m.Name] += m.Value }
	for i := range events {
		if err := h.Add(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	root := span.RunID("acme", "run_1")
	for i, want := range []struct {
		name, id, parent string
		start, end       work.Time
		failed           bool
	}{
		{span.NameStep, span.AttemptID("acme", "run_1", "build", 1), root, 2e6, 3e6, true},
		{span.NameStep, span.AttemptID("acme", "run_1", "build", 2), root, 6e6, 7e6, true},
		{span.NameGate, "", root, 8e6, 9e6, false},
		{span.NameRun, root, "00f067aa0ba902b7", 1e6, 10e6, true},
	} {
		if len(spans) <= i {
			t.Fatalf("there are %d spans", len(spans))
		}
		s := spans[i]
		if s.Name != want.name || want.id != "" && s.Span != want.id || s.Parent != want.parent || s.Start != want.start || s.End != want.end || s.Failed != want.failed {
			t.Errorf("span %d is %+v, want %+v", i, s, want)
		}
		if s.Trace != "4bf92f3577b34da6a3ce929d0e0e4736" || !s.Sampled {
			t.Errorf("span %d is in trace %s", i, s.Trace)
		}
		if raw, _ := json.Marshal(s); strings.Contains(string(raw), "swordfish") {
			t.Errorf("span %d says what the step said: %s", i, raw)
		}
	}
	if below, _ := span.Parse(span.Below(run, "build", 2)); below.Span != spans[1].Span || below.Trace != spans[1].Trace {
		t.Errorf("a worker would work below %v", below)
	}
	for name, want := range map[string]float64{
		"orchestrator_step_retries_total": 1, "orchestrator_step_duration_seconds": 0.5, "orchestrator_run_duration_seconds": 8,
		"orchestrator_queue_wait_seconds": 2, "orchestrator_failures_total": 1,
	} {
		if figures[name] != want {
			t.Errorf("%s is %v, want %v", name, figures[name], want)
		}
	}
}
