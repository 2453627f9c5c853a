package evidence

import (
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// stepRecord is what a run attestation says of one step.
type stepRecord struct {
	ID        work.StepID     `json:"id"`
	Kind      work.StepKind   `json:"kind"`
	Status    work.State      `json:"status"` // "" when the run ended before it did
	Reason    work.Reason     `json:"reason"`
	Carried   *carriedRecord  `json:"carried,omitempty"`
	Outputs   work.Digest     `json:"outputs,omitempty"`
	Artifacts []work.Artifact `json:"artifacts,omitempty"`
	EndedAt   work.Time       `json:"endedAt,omitzero"`
	Attempts  []attemptRecord `json:"attempts,omitempty"`
}

type carriedRecord struct {
	Run     work.RunID `json:"run"`
	Attempt int        `json:"attempt"`
}

// attemptRecord is what a run attestation says of one lease: who held it and what came of it.
type attemptRecord struct {
	Attempt     int               `json:"attempt"`
	Worker      string            `json:"worker"`
	Token       work.Token        `json:"token"`
	Bindings    work.Digest       `json:"bindings"`
	ClaimedAt   work.Time         `json:"claimedAt"`
	ClosedAt    work.Time         `json:"closedAt,omitzero"` // when the lease ended
	Result      string            `json:"result"`            // a state, or revoked, or open
	Reason      work.Reason       `json:"reason"`
	ExitCode    int               `json:"exitCode"`
	StartedAt   work.Time         `json:"startedAt,omitzero"`
	EndedAt     work.Time         `json:"endedAt,omitzero"`
	Rendered    work.Digest       `json:"rendered,omitempty"`
	Transcript  *work.Transcript  `json:"transcript,omitempty"`
	Outputs     work.Digest       `json:"outputs,omitempty"`
	Artifacts   []work.Artifact   `json:"artifacts,omitempty"`
	Protections json.RawMessage   `json:"protections,omitempty"`
	Egress      work.Digest       `json:"egress,omitempty"`
	Usage       *work.Usage       `json:"usage,omitempty"`
	CacheKey    work.Digest       `json:"cacheKey,omitempty"`
	CachedFrom  *work.CacheOrigin `json:"cachedFrom,omitempty"`
}

type approvalRecord struct {
	Gate      work.StepID `json:"gate"`
	Decision  string      `json:"decision"`
	Approver  string      `json:"approver"`
	Key       string      `json:"key"`
	DecidedAt work.Time   `json:"decidedAt"`
	Statement work.Digest `json:"statement,omitempty"` // of the signed envelope
	File      string      `json:"file,omitempty"`
}

type policyRecord struct {
	Gate        work.StepID       `json:"gate"`
	Allowed     bool              `json:"allowed"`
	RulesDigest work.Digest       `json:"rulesDigest"`
	Input       work.Digest       `json:"input"`
	Results     []work.RuleResult `json:"results"`
	Engine      *engineRecord     `json:"engine,omitempty"`
	File        string            `json:"file"`
}

// engineRecord is how a policy engine decided.
type engineRecord struct {
	Name       string              `json:"name"`
	Path       string              `json:"path"`
	DecisionID string              `json:"decisionId,omitempty"`
	Result     work.Digest         `json:"result,omitempty"`
	Bundles    []work.PolicyBundle `json:"bundles,omitempty"`
}

// digestOf names a value of the history; nothing has no name.
func digestOf(raw json.RawMessage) work.Digest {
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	return canonical.Digest(raw)
}

func (h *history) step(id work.StepID) *stepRecord {
	s := h.byID[id]
	if s == nil {
		s = &stepRecord{ID: id, Kind: h.kinds[id.Template()]}
		h.byID[id] = s
		h.steps = append(h.steps, s)
	}
	return s
}

// take adds one event to what is known of the run.
func (h *history) take(e *work.Event) error {
	switch e.Type {
	case work.RunSubmitted:
		h.times.submitted = e.Time
		return json.Unmarshal(e.Data, &h.submitted)
	case work.RunStarted:
		h.times.started = e.Time
	case work.RunEnded:
		h.times.ended = e.Time
		return json.Unmarshal(e.Data, &h.ended)
	case work.StepClaimed:
		return h.claimed(e)
	case work.StepReported:
		return h.reported(e)
	case work.StepRevoked:
		var d work.RevokedData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return err
		}
		return h.closed(e, "revoked", d.Reason)
	case work.StepCarried:
		var d work.CarriedData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return err
		}
		h.step(e.Step).Carried = &carriedRecord{Run: d.Run, Attempt: d.Attempt}
	case work.StepEnded:
		var d work.EndedData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return err
		}
		s := h.step(e.Step)
		s.Status, s.Reason, s.EndedAt, s.Outputs, s.Artifacts = d.State, d.Reason, e.Time, digestOf(d.Outputs), d.Artifacts
	case work.GateDecided:
		return h.decided(e)
	case work.PolicyDecided:
		return h.judged(e)
	case work.StepQueued, work.StepStarted, work.StepWaiting, work.PolicyAsked:
		h.step(e.Step)
	}
	return nil
}

func (h *history) claimed(e *work.Event) error {
	var d work.ClaimedData
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return err
	}
	s := h.step(e.Step)
	s.Attempts = append(s.Attempts, attemptRecord{
		Attempt: e.Attempt, Worker: d.Worker, Token: d.Token, Bindings: d.Bindings, ClaimedAt: e.Time, Result: "open",
	})
	return nil
}

// open returns the lease of a step that has not ended.
func (h *history) open(e *work.Event) (*attemptRecord, error) {
	s := h.step(e.Step)
	if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Result == "open" && s.Attempts[n-1].Attempt == e.Attempt {
		return &s.Attempts[n-1], nil
	}
	return nil, fmt.Errorf("step %q has no attempt %d under a lease", e.Step, e.Attempt)
}

func (h *history) closed(e *work.Event, result string, reason work.Reason) error {
	a, err := h.open(e)
	if err != nil {
		return err
	}
	a.Result, a.Reason, a.ClosedAt = result, reason, e.Time
	return nil
}

func (h *history) reported(e *work.Event) error {
	var d work.ReportedData
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return err
	}
	a, err := h.open(e)
	if err != nil {
		return err
	}
	a.Result, a.Reason, a.ClosedAt = string(d.State), d.Reason, e.Time
	a.ExitCode, a.StartedAt, a.EndedAt, a.Rendered = d.ExitCode, d.StartedAt, d.EndedAt, d.Rendered
	a.Transcript, a.Outputs, a.Artifacts = &d.Transcript, digestOf(d.Outputs), d.Artifacts
	a.Protections, a.Egress, a.Usage = d.Protections, digestOf(d.Egress), d.Usage
	a.CacheKey, a.CachedFrom = d.CacheKey, d.CachedFrom
	return h.connections(e, d.Egress)
}

// connections adds the connection attempts of one attempt to the egress record.
func (h *history) connections(e *work.Event, raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	for _, one := range list {
		line, err := canonical.Marshal(egressLine{Step: e.Step, Attempt: e.Attempt, Record: one})
		if err != nil {
			return err
		}
		h.egress = append(append(h.egress, line...), '\n')
	}
	return nil
}

type egressLine struct {
	Step    work.StepID     `json:"step"`
	Attempt int             `json:"attempt"`
	Record  json.RawMessage `json:"record"`
}

func (h *history) decided(e *work.Event) error {
	var d work.Decision
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return err
	}
	a := approvalRecord{
		Gate: d.Gate, Decision: d.Decision, Approver: d.Approver, Key: d.Key, DecidedAt: d.DecidedAt, Statement: digestOf(d.Statement),
	}
	if a.Statement != "" {
		a.File = h.name("approvals/", e.Step, ".dsse.json")
		h.files[a.File] = d.Statement
	}
	h.step(e.Step)
	h.approvals = append(h.approvals, a)
	return nil
}

func (h *history) judged(e *work.Event) error {
	var d work.PolicyData
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return err
	}
	p := policyRecord{
		Gate: e.Step, Allowed: d.Allowed, RulesDigest: d.RulesDigest, Input: digestOf(d.Input), Results: d.Results,
		File: h.name("policy/", e.Step, ".json"),
	}
	if a := d.Engine; a != nil {
		p.Engine = &engineRecord{a.Name, a.Path, a.DecisionID, digestOf(a.Result), a.Bundles}
		if a.Result == nil {
			p.Engine.Result = a.Digest
		}
	}
	h.files[p.File] = e.Data
	h.step(e.Step)
	h.policies = append(h.policies, p)
	return nil
}

// name returns the path of the next decision at a gate, counted from 1.
func (h *history) name(folder string, gate work.StepID, suffix string) string {
	for n := 1; ; n++ {
		path := fmt.Sprintf("%s%s.%d%s", folder, StepFile(gate), n, suffix)
		if _, taken := h.files[path]; !taken {
			return path
		}
	}
}
