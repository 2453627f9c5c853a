// Package replay runs the history of a run again: it gives the engine what came from outside, at the recorded times, and
// compares everything the engine decides with what was recorded, byte for byte.
//
// A history that replays is one that the rules of the engine and the plan lead to; nobody has added, left out or changed
// a decision. What came from outside is taken as recorded: whether a worker's report was true is not decided here.
package replay

import (
	"bytes"
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// Result is what came of a replay.
type Result struct {
	Events     int         // that were the same
	Stimuli    int         // of those, what came from outside
	Divergence *Divergence // the first difference, nil when the whole history is identical
	History    *History    // the run as the engine has it after the last stimulus
}

// Identical reports whether every event was what the engine decides.
func (r *Result) Identical() bool { return r.Divergence == nil }

// Divergence is the first place where a history is not what the engine makes of its stimuli.
type Divergence struct {
	Seq      int64
	Message  string // what is wrong, for people
	Expected string // canonical JSON of what the engine decides, "" for nothing
	Got      string // canonical JSON of what is recorded, "" for nothing
}

// String returns the difference in words, on several lines where there is something to compare.
func (d *Divergence) String() string {
	s := fmt.Sprintf("event %d: %s", d.Seq, d.Message)
	if d.Expected != "" {
		s += "\n  expected " + d.Expected
	}
	if d.Got != "" {
		s += "\n  recorded " + d.Got
	}
	return s
}

// Scheduler replays a history over the canonical bytes of the plan it names. A history that differs is no error but a
// Divergence. Errors: fault.Incomplete for a history that does not start with its submission, fault.PlanMismatch for bytes
// that are not the plan that was submitted, fault.Invalid for a plan or a submission that cannot be read.
func Scheduler(plan []byte, events []work.Event) (Result, error) {
	if len(events) == 0 || events[0].Type != work.RunSubmitted {
		return Result{}, fault.New(fault.Incomplete, "the history does not start with %s", work.RunSubmitted)
	}
	var submitted work.SubmittedData
	if err := json.Unmarshal(events[0].Data, &submitted); err != nil {
		return Result{}, fault.New(fault.Invalid, "the submission cannot be read: %v", err)
	}
	if got := canonical.Digest(plan); got != submitted.PlanHash {
		return Result{}, fault.New(fault.PlanMismatch, "the run executes plan %s, these bytes are %s", submitted.PlanHash, got)
	}
	var p work.Plan
	if err := json.Unmarshal(plan, &p); err != nil {
		return Result{}, fault.New(fault.Invalid, "plan %s cannot be read: %v", submitted.PlanHash.Short(), err)
	}
	graph, err := engine.NewGraph(&p, submitted.PlanHash)
	if err != nil {
		return Result{}, err
	}
	r := replayer{graph: graph, recorded: events, tokens: map[work.StepID]work.Token{}}
	r.history = NewHistory(identity(&events[0], &submitted))
	r.replay(&submitted)
	return r.result, nil
}

// identity is the row of a run before anything happened, as its submission tells it.
func identity(e *work.Event, d *work.SubmittedData) work.Run {
	return work.Run{
		Tenant: e.Tenant, ID: e.Run, Name: d.Name, PlanHash: d.PlanHash, Pack: d.Pack, Submitter: d.Submitter,
		SubmitterKey: d.SubmitterKey, Note: d.Note, RunToken: d.RunToken, RetryOf: d.RetryOf, TraceParent: d.TraceParent,
		TraceState: d.TraceState, Baggage: d.Baggage, Labels: d.Labels, ConcurrencyKey: d.Concurrency,
		Project: d.Project, NotBefore: d.NotBefore,
	}
}

// replayer walks through a recorded history.
type replayer struct {
	graph    *engine.Graph
	history  *History
	recorded []work.Event
	at       int // the next recorded event
	tokens   map[work.StepID]work.Token
	result   Result
	buffers  [2][]byte
}

func (r *replayer) replay(submitted *work.SubmittedData) {
	defer func() { r.result.History = r.history }()
	busy := len(r.recorded) > 1 && r.recorded[1].Type == work.RunQueued
	engine.Submit(r.graph, r.history, r.recorded[0].Time, *submitted, busy)
	for r.compare() && r.at < len(r.recorded) {
		e := &r.recorded[r.at]
		if err := r.feed(e); err != nil {
			r.diverge(e.Seq, err.Error(), nil, e)
			return
		}
	}
}

// compare holds what the engine has decided since the last stimulus against what was recorded.
func (r *replayer) compare() bool {
	for decided := r.history.Events(); r.at < len(decided); r.at++ {
		want := &decided[r.at]
		if r.at >= len(r.recorded) {
			r.diverge(want.Seq, "the history stops in the middle of a transition", want, nil)
			return false
		}
		got := &r.recorded[r.at]
		if !r.equal(want, got) {
			r.diverge(want.Seq, "the engine decides something else than what is recorded", want, got)
			return false
		}
		r.result.Events++
	}
	if err := r.history.Err(); err != nil {
		r.diverge(int64(r.at+1), err.Error(), nil, nil)
		return false
	}
	r.result.Stimuli++
	return true
}

// equal compares two events in their canonical form, hashes included.
func (r *replayer) equal(a, b *work.Event) bool {
	var errA, errB error
	r.buffers[0], errA = ledger.Encode(r.buffers[0][:0], a)
	r.buffers[1], errB = ledger.Encode(r.buffers[1][:0], b)
	return errA == nil && errB == nil && bytes.Equal(r.buffers[0], r.buffers[1])
}

func (r *replayer) diverge(seq int64, message string, want, got *work.Event) {
	r.result.Divergence = &Divergence{Seq: seq, Message: message, Expected: spell(want), Got: spell(got)}
}

func spell(e *work.Event) string {
	if e == nil {
		return ""
	}
	raw, err := ledger.Encode(nil, e)
	if err != nil {
		return fmt.Sprintf("%s, which has no canonical form: %v", e.Type, err)
	}
	return string(raw)
}
