package verify

import (
	"bytes"
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// checkChain reads the timeline and verifies that every event follows from the one before.
func (b *bundle) checkChain() (string, error) {
	raw, err := b.file("timeline.ndjson")
	if err != nil {
		return "", err
	}
	var (
		chain  ledger.Chain
		again  []byte
		events []work.Event
	)
	for len(raw) > 0 {
		line, rest, ended := bytes.Cut(raw, []byte{'\n'})
		raw = rest
		var e work.Event
		if err := json.Unmarshal(line, &e); err != nil || !ended {
			return "", wrong("line %d of the timeline is not an event", len(events)+1)
		}
		if again, err = ledger.Encode(again[:0], &e); err != nil || !bytes.Equal(again, line) {
			return "", wrong("line %d of the timeline is not spelled as events are", len(events)+1)
		}
		if err := chain.Check(&e); err != nil {
			return "", err
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return "", wrong("the history is empty")
	}
	b.timeline = events
	b.report.Events, b.report.Head = chain.Len(), chain.Head()
	return "unbroken up to " + chain.Head().Short(), nil
}

// checkHistory follows the events by the rules of the plan.
func (b *bundle) checkHistory() (string, error) {
	if b.plan == nil || len(b.timeline) == 0 {
		return "", absent("it takes the plan and the history to follow the run")
	}
	h, err := newHistory(b.plan, b.manifest.PlanHash)
	if err != nil {
		return "", err
	}
	for i := range b.timeline {
		e := &b.timeline[i]
		if err := h.take(e); err != nil {
			return "", wrong("event %d (%s %s): %s", e.Seq, e.Type, e.Step, err)
		}
	}
	if !h.over {
		return "", wrong("the history stops before the run ends")
	}
	if h.ended.State != b.manifest.Status {
		return "", wrong("the run ended %s, the manifest says %s", h.ended.State, b.manifest.Status)
	}
	b.hist = h
	b.report.Name, b.report.Status = h.submitted.Name, h.ended.State
	return "every step started after what it needs, under one lease at a time", nil
}

// history is what the events say, held to the plan while it is read.
type history struct {
	hash  work.Digest
	specs map[work.StepID]*work.PlanStep
	kids  map[work.StepID]int // children in the plan

	submitted                      work.SubmittedData
	ended                          work.EndedData
	carried                        map[work.StepID]work.Carried
	submittedAt, startedAt, overAt work.Time
	last                           work.Time
	count                          int
	started, over, paused          bool
	cancelled, due, cleanup        bool // somebody asked to stop, the time limit passed, finally steps run
	live                           int  // steps that opened and have not ended

	steps []*step
	byID  map[work.StepID]*step
}

// step is one step of the run.
type step struct {
	id       work.StepID
	spec     *work.PlanStep
	open     bool
	begun    bool // a container started
	queued   bool
	total    int // children, -1 before a map is expanded
	done     int
	bad      int
	inside   int // open children
	attempts []*attempt
	waiting  *work.WaitingData
	asked    *work.AskedData
	answers  []answer
	policies []ruling
	carried  *work.CarriedData
	end      *work.EndedData
	endedAt  work.Time
}

// attempt is one lease of a step.
type attempt struct {
	n         int
	claim     work.ClaimedData
	claimedAt work.Time
	closedAt  work.Time
	report    *work.ReportedData
	revoked   *work.RevokedData
}

func (a *attempt) closed() bool { return a.report != nil || a.revoked != nil }

type answer struct {
	work.Decision
	at work.Time
}

type ruling struct {
	work.PolicyData
	raw []byte
}

func newHistory(p *work.Plan, hash work.Digest) (*history, error) {
	h := &history{
		hash: hash, specs: map[work.StepID]*work.PlanStep{}, kids: map[work.StepID]int{}, byID: map[work.StepID]*step{},
		carried: map[work.StepID]work.Carried{},
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		if h.specs[s.ID] != nil {
			return nil, wrong("the plan has two steps %q", s.ID)
		}
		h.specs[s.ID] = s
		h.kids[s.Parent]++
	}
	for _, s := range h.specs {
		if parent := h.specs[s.Parent]; s.Parent != "" && (parent == nil || !parent.Kind.Container()) {
			return nil, wrong("step %q is inside %q, which contains nothing", s.ID, s.Parent)
		}
		for _, n := range s.Needs {
			if h.specs[n] == nil || h.specs[n].Parent != s.Parent {
				return nil, wrong("step %q needs %q, which is not beside it", s.ID, n)
			}
		}
	}
	return h, nil
}

func (h *history) take(e *work.Event) error {
	h.count++
	switch {
	case h.count == 1 != (e.Type == work.RunSubmitted):
		return fault.New(fault.Unverified, "a history begins with its submission, once")
	case h.over:
		return fault.New(fault.Unverified, "the run has ended before")
	case e.Time < h.last:
		return fault.New(fault.Unverified, "time goes back from %s to %s", h.last, e.Time)
	}
	h.last = e.Time
	if e.Step == "" {
		return h.takeRun(e)
	}
	if !h.started {
		return fault.New(fault.Unverified, "the run has not started")
	}
	s, err := h.step(e.Step)
	if err != nil {
		return err
	}
	if s.end != nil {
		return fault.New(fault.Unverified, "the step has ended before")
	}
	return h.takeStep(s, e)
}

func (h *history) takeRun(e *work.Event) error {
	switch e.Type {
	case work.RunSubmitted:
		h.submittedAt = e.Time
		if err := decode(e, &h.submitted); err != nil {
			return err
		}
		for _, c := range h.submitted.Carried {
			h.carried[c.Step] = c
		}
		if h.submitted.PlanHash != h.hash {
			return fault.New(fault.Unverified, "it was submitted with plan %s", h.submitted.PlanHash.Short())
		}
		return nil
	case work.RunStarted:
		if h.started {
			return fault.New(fault.Unverified, "the run starts twice")
		}
		h.started, h.startedAt = true, e.Time
		return decode[struct{}](e, nil)
	case work.RunPaused, work.RunResumed, work.RunCancelAsked:
		h.paused = e.Type == work.RunPaused
		h.cancelled = h.cancelled || e.Type == work.RunCancelAsked
		return decode(e, new(work.Actor))
	case work.RunDue:
		h.paused, h.due = false, true
		return decode[struct{}](e, nil)
	case work.RunAdmitted:
		return decode[struct{}](e, nil)
	case work.RunQueued, work.RunStopping:
		return decode(e, new(work.ReasonData))
	case work.RunEnded:
		if err := decode(e, &h.ended); err != nil {
			return err
		}
		h.over, h.overAt = true, e.Time
		return h.checkEnd()
	default:
		return fault.New(fault.Unverified, "a run has no such event")
	}
}

// checkEnd holds the end of the run to those of its steps.
func (h *history) checkEnd() error {
	if !h.ended.State.Terminal() {
		return fault.New(fault.Unverified, "%q is no end", h.ended.State)
	}
	if h.live > 0 {
		return fault.New(fault.Unverified, "%d steps have begun and not ended", h.live)
	}
	if h.ended.State != work.Succeeded {
		return nil
	}
	if h.cancelled || h.due {
		return fault.New(fault.Unverified, "a run that was cancelled or out of time did not succeed")
	}
	for _, spec := range h.specs {
		if spec.Parent != "" {
			continue
		}
		switch s := h.byID[spec.ID]; {
		case s == nil || s.end == nil:
			return fault.New(fault.Unverified, "the run did not succeed: step %q has not ended", spec.ID)
		case s.failed():
			return fault.New(fault.Unverified, "the run did not succeed: step %q ended %s", spec.ID, s.end.State)
		}
	}
	return nil
}

// failed reports whether the end of the step counts against what contains it.
func (s *step) failed() bool { return s.end.State.Failure() && !s.spec.ContinueOnError }

// satisfies reports whether a step that needs this one may start.
func (s *step) satisfies() bool {
	if s.end == nil || s.failed() {
		return false
	}
	return s.end.State != work.Skipped || s.end.Reason.Code == work.SkippedByCondition
}

// step returns the step of the run, which must be one of the plan, inside of steps that the run has.
func (h *history) step(id work.StepID) (*step, error) {
	if s := h.byID[id]; s != nil {
		return s, nil
	}
	spec := h.specs[id.Template()]
	if spec == nil || spec.ID.Instantiate(id.Indices()) != id {
		return nil, fault.New(fault.Unverified, "the plan has no such step")
	}
	s := &step{id: id, spec: spec, total: h.kids[spec.ID]}
	if spec.Kind == work.KindMap {
		s.total = -1
	}
	h.byID[id] = s
	h.steps = append(h.steps, s)
	return s, nil
}

func (h *history) parent(s *step) *step {
	if s.spec.Parent == "" {
		return nil
	}
	return h.byID[s.spec.Parent.Instantiate(s.id.Indices())]
}

// decode reads the data of an event: exactly one document of its type, or none for a nil pointer.
func decode[T any](e *work.Event, into *T) error {
	if into == nil {
		if len(e.Data) > 0 {
			return fault.New(fault.Unverified, "the event carries data that nobody defined")
		}
		return nil
	}
	if err := json.Unmarshal(e.Data, into); err != nil {
		return fault.New(fault.Unverified, "its data is not of its type: %s", err)
	}
	again, err := canonical.MarshalUpTo(*into, ledger.MaxEvent)
	if err != nil || !slices.Equal(again, []byte(e.Data)) {
		return fault.New(fault.Unverified, "its data has fields that nobody defined")
	}
	return nil
}
