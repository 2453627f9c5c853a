package torture

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

// event is an entry of a timeline as far as the tests look at it.
type event struct {
	Seq     int64  `json:"seq"`
	Type    string `json:"type"`
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
	Data    struct {
		State    string `json:"state"`
		Approver string `json:"approver"`
		Charge   bool   `json:"charge"`
		Token    *token `json:"token"`
	} `json:"data"`
}

type token struct {
	Incarnation int64 `json:"incarnation"`
	Epoch       int64 `json:"epoch"`
}

// members returns the files of an evidence file.
func members(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// evidence exports the evidence of a run.
func (f *folder) evidence(run string) []byte {
	f.t.Helper()
	return f.must(0, "evidence", "export", run, "-f", "-").stdout
}

// timeline returns the history of a run out of its evidence.
func (f *folder) timeline(run string) []event {
	f.t.Helper()
	var events []event
	for line := range bytes.Lines(members(f.t, f.evidence(run))["timeline.ndjson"]) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			f.t.Fatal(err)
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		f.t.Fatal("the evidence has no timeline")
	}
	return events
}

// history is what a timeline says, counted.
type history struct {
	claims, revoked, reported int
	ended                     string
	succeeded                 map[string]int // reports by step
}

// judge checks what must hold for every history: a step that has succeeded is never done again, every attempt is under a token of
// its own with a higher epoch, every lease ends once, and there is one end.
func judge(t *testing.T, events []event) history {
	t.Helper()
	h := history{succeeded: map[string]int{}}
	epochs, open := map[string]token{}, map[string]bool{}
	for i, e := range events {
		if e.Seq != int64(i)+1 {
			t.Fatalf("event %d has number %d", i+1, e.Seq)
		}
		if h.ended != "" {
			t.Errorf("event %d (%s) after the end", e.Seq, e.Type)
		}
		switch e.Type {
		case "step.claimed":
			h.claims++
			if h.succeeded[e.Step] > 0 {
				t.Errorf("event %d: %s is claimed again after it succeeded", e.Seq, e.Step)
			}
			if e.Data.Token == nil || e.Data.Token.Epoch <= epochs[e.Step].Epoch || e.Data.Token.Incarnation < 1 {
				t.Errorf("event %d: %s is claimed with token %+v after %+v", e.Seq, e.Step, e.Data.Token, epochs[e.Step])
				continue
			}
			if open[e.Step] {
				t.Errorf("event %d: %s is claimed while it is leased", e.Seq, e.Step)
			}
			epochs[e.Step], open[e.Step] = *e.Data.Token, true
		case "step.reported", "step.revoked":
			if e.Data.Token == nil || *e.Data.Token != epochs[e.Step] || !open[e.Step] {
				t.Errorf("event %d: %s of %s with token %+v, the lease is %+v (open %v)", e.Seq, e.Type, e.Step, e.Data.Token, epochs[e.Step], open[e.Step])
			}
			open[e.Step] = false
			if e.Type == "step.revoked" {
				h.revoked++
				continue
			}
			h.reported++
			if e.Data.State == "succeeded" {
				h.succeeded[e.Step]++
			}
		case "run.ended":
			h.ended = e.Data.State
		}
	}
	for step, still := range open {
		if still {
			t.Errorf("the lease on %s never ended", step)
		}
	}
	if h.ended == "" {
		t.Error("the history has no end")
	}
	return h
}

// proven checks that the evidence of a run is valid and that the scheduler would decide the same again.
func (f *folder) proven(run string) history {
	f.t.Helper()
	var verdict struct{ Verdict string }
	f.into(f.must(0, "verify", run, "-o", "json"), &verdict)
	if verdict.Verdict != "VALID" {
		f.t.Errorf("the verdict is %q", verdict.Verdict)
	}
	var replay struct{ Identical bool }
	f.into(f.must(0, "replay", run, "-o", "json"), &replay)
	if !replay.Identical {
		f.t.Error("the replay is not identical")
	}
	return judge(f.t, f.timeline(run))
}
