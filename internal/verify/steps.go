package verify

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

func (h *history) takeStep(s *step, e *work.Event) error {
	switch e.Type {
	case work.StepQueued:
		var d work.QueuedData
		if err := decode(e, &d); err != nil {
			return err
		}
		if s.leased() != nil {
			return fault.New(fault.Unverified, "it is queued while an attempt runs")
		}
		s.queued = !d.Held
		return h.begin(s, work.KindRun)
	case work.StepStarted:
		if err := h.begin(s, s.spec.Kind); err != nil {
			return err
		}
		if !s.spec.Kind.Container() || s.begun {
			return fault.New(fault.Unverified, "only a block starts so, and once")
		}
		s.begun = true
		return decode[struct{}](e, nil)
	case work.StepExpanded:
		var d work.ExpandedData
		if s.spec.Map == nil || s.total >= 0 || !s.begun {
			return fault.New(fault.Unverified, "only a map that has started has items, once")
		}
		err := decode(e, &d)
		s.total = d.Total
		if err == nil && (d.Total < 0 || d.Total > s.spec.Map.MaxItems) {
			return fault.New(fault.Unverified, "%d items where the plan allows %d", d.Total, s.spec.Map.MaxItems)
		}
		return err
	case work.StepWaiting, work.GateDecided:
		return h.takeGate(s, e)
	case work.PolicyAsked:
		return h.takeAsked(s, e)
	case work.PolicyDecided:
		return h.takePolicy(s, e)
	case work.PolicyUnavailable:
		if s.asked == nil {
			return fault.New(fault.Unverified, "no policy engine was asked")
		}
		return decode(e, new(work.ReasonData))
	case work.StepCarried:
		return h.takeCarried(s, e)
	case work.StepClaimed, work.StepAcked, work.StepReported, work.StepRevoked:
		return h.takeAttempt(s, e)
	case work.StepRetrying:
		s.queued = false
		if s.leased() != nil {
			return fault.New(fault.Unverified, "it waits for another attempt while one runs")
		}
		return decode(e, new(work.RetryingData))
	case work.StepDue, work.StepCancelAsked:
		return decode[struct{}](e, nil)
	case work.StepEnded:
		return h.takeEnd(s, e)
	default:
		return fault.New(fault.Unverified, "a step has no such event")
	}
}

// begin opens a step: everything it needs must have ended well, and what contains it must be under way.
func (h *history) begin(s *step, kind work.StepKind) error {
	if s.spec.Kind != kind {
		return fault.New(fault.Unverified, "a step of kind %s has no such event", s.spec.Kind)
	}
	if s.open {
		return nil
	}
	if err := h.ready(s); err != nil {
		return err
	}
	s.open = true
	h.live++
	if p := h.parent(s); p != nil {
		p.inside++
	}
	return nil
}

func (h *history) ready(s *step) error {
	for _, need := range s.spec.Needs {
		n := h.byID[need.Instantiate(s.id.Indices())]
		if n == nil || !n.satisfies() {
			return fault.New(fault.Unverified, "it begins before %q has ended well", need)
		}
	}
	if s.spec.Parent != "" {
		return h.within(s)
	}
	if s.spec.Finally && !h.cleanup && h.live > 0 {
		return fault.New(fault.Unverified, "a finally step begins while others run")
	}
	if !s.spec.Finally && h.cleanup {
		return fault.New(fault.Unverified, "it begins after the finally steps did")
	}
	h.cleanup = h.cleanup || s.spec.Finally
	return nil
}

// within holds a step to the block around it.
func (h *history) within(s *step) error {
	p := h.parent(s)
	if p == nil || !p.begun || p.end != nil {
		return fault.New(fault.Unverified, "it begins while the block %q around it does not run", s.spec.Parent)
	}
	if p.spec.Kind != work.KindMap {
		return nil
	}
	indices := s.id.Indices()
	i, err := strconv.Atoi(indices[len(indices)-1])
	if err != nil || strconv.Itoa(i) != indices[len(indices)-1] || i < 0 || i >= p.total {
		return fault.New(fault.Unverified, "the map has %d items", p.total)
	}
	return nil
}

// leased returns the attempt that runs, nil for none.
func (s *step) leased() *attempt {
	if n := len(s.attempts); n > 0 && !s.attempts[n-1].closed() {
		return s.attempts[n-1]
	}
	return nil
}

func (h *history) takeAttempt(s *step, e *work.Event) error {
	a := s.leased()
	if e.Type == work.StepClaimed {
		return h.takeClaim(s, a, e)
	}
	if a == nil || a.n != e.Attempt {
		return fault.New(fault.Unverified, "attempt %d holds no lease", e.Attempt)
	}
	var token work.Token
	switch e.Type {
	case work.StepAcked:
		var d work.AckedData
		if err := decode(e, &d); err != nil {
			return err
		}
		token = d.Token
	case work.StepRevoked:
		a.revoked, a.closedAt = &work.RevokedData{}, e.Time
		if err := decode(e, a.revoked); err != nil {
			return err
		}
		token = a.revoked.Token
		if token.Incarnation > a.claim.Token.Incarnation { // the store was restored since, and takes the lease back
			token.Incarnation = a.claim.Token.Incarnation
		}
	case work.StepReported:
		a.report, a.closedAt = &work.ReportedData{}, e.Time
		if err := decode(e, a.report); err != nil {
			return err
		}
		token = a.report.Token
		if a.report.Worker != a.claim.Worker {
			return fault.New(fault.Unverified, "%s reports the attempt of %s", a.report.Worker, a.claim.Worker)
		}
		switch a.report.State {
		case work.Succeeded, work.Failed, work.TimedOut, work.Cancelled:
		default:
			return fault.New(fault.Unverified, "an attempt does not end %s", a.report.State)
		}
	}
	if token != a.claim.Token {
		return fault.New(fault.Unverified, "it comes under another token than the lease's")
	}
	return nil
}

func (h *history) takeClaim(s *step, running *attempt, e *work.Event) error {
	next := &attempt{n: e.Attempt, claimedAt: e.Time}
	if err := decode(e, &next.claim); err != nil {
		return err
	}
	switch {
	case s.spec.Kind != work.KindRun || !s.queued || h.paused:
		return fault.New(fault.Unverified, "it is claimed without being offered to workers")
	case running != nil:
		return fault.New(fault.Unverified, "it is claimed while attempt %d runs", running.n)
	}
	if n := len(s.attempts); n > 0 {
		was, is := s.attempts[n-1].claim.Token, next.claim.Token
		if e.Attempt != s.attempts[n-1].n+1 {
			return fault.New(fault.Unverified, "attempt %d follows attempt %d", e.Attempt, s.attempts[n-1].n)
		}
		if is.Incarnation < was.Incarnation || is.Incarnation == was.Incarnation && is.Epoch <= was.Epoch {
			return fault.New(fault.Unverified, "its token does not rise above that of the attempt before")
		}
	} else if e.Attempt != 1 {
		return fault.New(fault.Unverified, "the first attempt has number %d", e.Attempt)
	}
	s.attempts = append(s.attempts, next)
	s.queued = false
	return nil
}

func (h *history) takeCarried(s *step, e *work.Event) error {
	d := &work.CarriedData{}
	if err := decode(e, d); err != nil {
		return err
	}
	c, ok := h.carried[s.id]
	if !ok || c.Run != d.Run || c.Attempt != d.Attempt || !bytes.Equal(c.Outputs, d.Outputs) || !slices.Equal(c.Artifacts, d.Artifacts) {
		return fault.New(fault.Unverified, "the submission does not say that this result is carried over")
	}
	s.carried = d
	return h.begin(s, s.spec.Kind)
}

func (h *history) takeGate(s *step, e *work.Event) error {
	spec := s.spec.Approval
	if spec == nil {
		return fault.New(fault.Unverified, "it is no approval gate")
	}
	if e.Type == work.GateDecided {
		d := answer{at: e.Time}
		if err := decode(e, &d.Decision); err != nil {
			return err
		}
		if s.waiting == nil || e.Time >= s.waiting.Expires {
			return fault.New(fault.Unverified, "the gate is not open at that time")
		}
		s.answers = append(s.answers, d)
		return nil
	}
	d := &work.WaitingData{}
	if err := decode(e, d); err != nil {
		return err
	}
	if s.waiting != nil || d.Required != spec.Required || !slices.Equal(d.Approvers, spec.Approvers) || d.PlanHash != h.hash ||
		d.Expires != e.Time+work.Time(spec.TTLMs*1000) {
		return fault.New(fault.Unverified, "the gate opens on other terms than the plan's")
	}
	s.waiting = d
	return h.begin(s, work.KindApproval)
}

func (h *history) takePolicy(s *step, e *work.Event) error {
	if s.spec.Policy == nil {
		return fault.New(fault.Unverified, "it is no policy gate")
	}
	r := ruling{raw: e.Data}
	if err := decode(e, &r.PolicyData); err != nil {
		return err
	}
	rules, _, err := canonical.DigestOf(s.spec.Policy)
	want := len(s.spec.Policy.Rules)
	if s.spec.Policy.Engine != nil {
		want = 1
	}
	if err != nil || rules != r.RulesDigest || len(r.Results) != want || (r.Engine != nil) != (s.spec.Policy.Engine != nil) {
		return fault.New(fault.Unverified, "it was judged by other rules than the plan's")
	}
	if s.spec.Policy.Engine != nil {
		if err := s.answered(&r.PolicyData, e.Time); err != nil {
			return err
		}
		s.policies = append(s.policies, r)
		return nil
	}
	all := true
	for i, result := range r.Results {
		if result.ID != s.spec.Policy.Rules[i].ID {
			return fault.New(fault.Unverified, "it was judged by other rules than the plan's")
		}
		all = all && result.Allowed
	}
	if all != r.Allowed {
		return fault.New(fault.Unverified, "its answer is not that of its rules")
	}
	s.policies = append(s.policies, r)
	return h.begin(s, work.KindPolicy)
}

func (h *history) takeEnd(s *step, e *work.Event) error {
	d := &work.EndedData{}
	if err := decode(e, d); err != nil {
		return err
	}
	switch {
	case !d.State.Terminal():
		return fault.New(fault.Unverified, "%q is no end", d.State)
	case s.leased() != nil:
		return fault.New(fault.Unverified, "it ends while an attempt runs")
	case s.inside > 0:
		return fault.New(fault.Unverified, "it ends while steps inside of it run")
	}
	if d.State == work.Skipped && d.Reason.Code == work.SkippedByCondition || d.Reason.Code == work.EndedByExpression && !s.open {
		if err := h.ready(s); err != nil {
			return err
		}
	}
	s.end, s.endedAt = d, e.Time
	if err := s.checkEnd(); err != nil {
		return err
	}
	if s.open {
		h.live--
	}
	if p := h.parent(s); p != nil {
		p.done++
		if s.open {
			p.inside--
		}
		if s.failed() {
			p.bad++
		}
	}
	return nil
}

// checkEnd holds the end of a step to how it got there.
func (s *step) checkEnd() error {
	outputs, artifacts := json.RawMessage(nil), []work.Artifact(nil)
	good := false
	switch {
	case s.carried != nil:
		good, outputs, artifacts = true, s.carried.Outputs, s.carried.Artifacts
	case s.spec.Kind == work.KindRun:
		if n := len(s.attempts); n > 0 && s.attempts[n-1].report != nil {
			r := s.attempts[n-1].report
			good, outputs, artifacts = r.State == work.Succeeded, r.Outputs, r.Artifacts
		}
	case s.spec.Kind == work.KindApproval:
		good = s.approved()
	case s.spec.Kind == work.KindPolicy:
		good = len(s.policies) == 1 && (s.policies[0].Allowed || s.spec.Policy.FailAction == "continue")
		outputs = s.end.Outputs // whether it was allowed
	default:
		good = s.begun && s.bad == 0 && s.done == s.total
		outputs = s.end.Outputs // what a sub-pack declares
	}
	if s.end.State == work.Succeeded && !good {
		return fault.New(fault.Unverified, "it ends well without having done so")
	}
	if len(s.end.Outputs) > 0 && !bytes.Equal(s.end.Outputs, outputs) || len(s.end.Artifacts) > 0 && !slices.Equal(s.end.Artifacts, artifacts) {
		return fault.New(fault.Unverified, "its outputs are not those of its last attempt")
	}
	if s.end.State == work.Succeeded && (!bytes.Equal(s.end.Outputs, outputs) || !slices.Equal(s.end.Artifacts, artifacts)) {
		return fault.New(fault.Unverified, "its outputs are not those of its last attempt")
	}
	return nil
}

// approved reports whether as many people as the plan asks for said yes, and nobody said no.
func (s *step) approved() bool {
	people := map[string]bool{}
	for _, a := range s.answers {
		if a.Decision.Decision != "approved" {
			return false
		}
		people[a.Approver] = true
	}
	return len(people) >= s.spec.Approval.Required
}
