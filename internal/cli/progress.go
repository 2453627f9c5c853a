package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"orrery.example/orrery/internal/work"
)

// progress is what the history says of a run so far. It is fed events in order and never reads rows, so following a large run
// costs what happens, not what there is.
type progress struct {
	steps map[work.StepID]*stepProgress
	order []work.StepID // in the order of their first event
	state work.State
	busy  int // steps that move by themselves: queued, running, retrying, those that ask a policy engine
	runs  int // of those, how many a worker has
	gates int // gates that wait for people
	pause bool
	seq   int64
}

type stepProgress struct {
	id      work.StepID
	state   work.State
	block   bool   // a container: it moves when its children do
	engine  string // the policy engine that it asks, not people
	attempt int
	started work.Time
	ended   work.Time
	worker  string
	reason  work.Reason
	total   int
	of      int // attempts allowed, when one has failed
	cached  bool
}

func newProgress() *progress {
	return &progress{steps: map[work.StepID]*stepProgress{}, state: work.Queued}
}

func (p *progress) step(id work.StepID) *stepProgress {
	s := p.steps[id]
	if s == nil {
		s = &stepProgress{id: id, state: work.Pending}
		p.steps[id] = s
		p.order = append(p.order, id)
	}
	return s
}

func (p *progress) move(s *stepProgress, to work.State) {
	count := func(state work.State, by int) {
		switch {
		case s.block:
		case state == work.Waiting && s.engine == "":
			p.gates += by
		case state == work.Waiting || state == work.Queued || state == work.Running || state == work.Retrying:
			p.busy += by
			if state == work.Running {
				p.runs += by
			}
		}
	}
	count(s.state, -1)
	s.state = to
	count(to, 1)
}

// take applies one event and returns a line about it for a log, "" for events that tell people nothing.
func (p *progress) take(e *work.Event) string {
	p.seq = e.Seq
	if e.Step == "" {
		return p.takeRun(e)
	}
	s := p.step(e.Step)
	switch e.Type {
	case work.StepQueued:
		p.move(s, work.Queued)
	case work.StepStarted:
		s.block = true
		s.started = e.Time
		p.move(s, work.Running)
	case work.StepExpanded:
		var d work.ExpandedData
		decode(e, &d)
		s.total = d.Total
		return fmt.Sprintf("%s runs over %s", e.Step, work.Count(d.Total, "item"))
	case work.StepClaimed:
		var d work.ClaimedData
		decode(e, &d)
		s.attempt, s.worker = e.Attempt, d.Worker
		if s.started == 0 {
			s.started = e.Time
		}
		p.move(s, work.Running)
	case work.StepReported:
		var d work.ReportedData
		decode(e, &d)
		s.cached = d.CachedFrom != nil
	case work.StepRevoked:
		var d work.RevokedData
		decode(e, &d)
		return fmt.Sprintf("%s lost its worker: %s", e.Step, d.Reason.Message)
	case work.StepWaiting:
		var d work.WaitingData
		decode(e, &d)
		s.started, s.reason = e.Time, work.Reason{Code: work.WaitsForApproval, Until: d.Expires}
		p.move(s, work.Waiting)
		return fmt.Sprintf("%s waits for %s, until %s", e.Step, work.Count(d.Required, "approval"), d.Expires)
	case work.PolicyAsked:
		var d work.AskedData
		decode(e, &d)
		s.started, s.engine, s.reason = e.Time, d.Engine, work.Reason{Code: work.WaitsForPolicy, Subject: d.Engine, Until: d.Expires}
		p.move(s, work.Waiting)
		return fmt.Sprintf("%s asks the policy engine %s for %s", e.Step, d.Engine, d.Path)
	case work.PolicyUnavailable:
		var d work.ReasonData
		decode(e, &d)
		s.reason.Message = d.Reason.Message
		return fmt.Sprintf("%s has no answer of the policy engine %s: %s", e.Step, d.Reason.Subject, d.Reason.Message)
	case work.StepRetrying:
		var d work.RetryingData
		decode(e, &d)
		s.reason, s.of = d.Reason, d.Of
		p.move(s, work.Retrying)
		return fmt.Sprintf("%s failed (%s), attempt %d of %d at %s", e.Step, d.Reason.Message, d.Attempt, d.Of, d.At)
	case work.GateDecided:
		var d work.Decision
		decode(e, &d)
		return fmt.Sprintf("%s: %s by %s: %s", e.Step, d.Decision, d.Approver, d.Reason)
	case work.StepEnded:
		return p.end(s, e)
	}
	return ""
}

func (p *progress) end(s *stepProgress, e *work.Event) string {
	var d work.EndedData
	decode(e, &d)
	if s.started == 0 {
		s.started = e.Time
	}
	s.ended, s.reason = e.Time, d.Reason
	p.move(s, d.State)
	text := fmt.Sprintf("%s %s", e.Step, strings.ToLower(d.State.Word().Word))
	if d.State == work.Succeeded || d.State.Failure() {
		text += " " + duration(s.ended.Sub(s.started))
	}
	if s.attempt > 1 {
		text += fmt.Sprintf(", attempt %d", s.attempt)
	}
	if s.cached {
		text += ", from cache"
	}
	if m := d.Reason.Message; m != "" {
		text += ": " + m
	} else if d.State == work.Skipped && d.Reason.Subject != "" {
		text += ": " + strings.ToLower(string(d.Reason.Code)) + " " + d.Reason.Subject
	}
	return text
}

func (p *progress) takeRun(e *work.Event) string {
	switch e.Type {
	case work.RunStarted:
		p.state = work.Running
	case work.RunQueued:
		var d work.ReasonData
		decode(e, &d)
		if d.Reason.Code == work.WaitsForTime {
			return "waits until " + d.Reason.Until.String()
		}
		return "waits: " + d.Reason.Subject + " is in use by another run"
	case work.RunPaused, work.RunResumed, work.RunCancelAsked:
		var d work.Actor
		decode(e, &d)
		if e.Type != work.RunCancelAsked {
			p.pause = e.Type == work.RunPaused
		}
		return fmt.Sprintf("%s by %s %s", strings.TrimPrefix(string(e.Type), "run."), d.Name, d.Reason)
	case work.RunDue:
		return "the time limit of the run passed"
	case work.RunEnded:
		var d work.EndedData
		decode(e, &d)
		p.state = d.State
	}
	return ""
}

// idle reports whether nothing goes on without a person.
func (p *progress) idle() bool {
	return p.state.Terminal() || p.gates > 0 && p.busy == 0 || p.pause && p.runs == 0
}

// decode reads the data of an event of the program's own store; what does not fit stays empty and is shown as such.
func decode(e *work.Event, into any) { _ = json.Unmarshal(e.Data, into) }

// duration is a time span for people.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
