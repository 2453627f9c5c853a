package engine

import (
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// maxQuestion bounds what a policy engine is asked about.
const maxQuestion = 256 << 10

// ask opens a gate that a policy engine decides. What it is asked about is fixed here; who asks, and when, is no matter of the engine
// of runs.
func (m *machine) ask(row *work.Step, spec *work.PolicySpec) {
	input, err := m.question(row.ID, spec.Engine)
	if err == nil && len(input) > maxQuestion {
		err = fault.New(fault.Invalid, "the input of the policy has %d bytes, more than %d", len(input), maxQuestion)
	}
	if err != nil {
		m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
		return
	}
	row.State, row.Inputs = work.Waiting, input
	row.Timer = m.now + work.Time(spec.Engine.TTLMs*1000)
	row.Reason = work.Reason{Code: work.WaitsForPolicy, Subject: spec.Engine.Name, Until: row.Timer}
	m.v.Save(row)
	m.v.Emit(work.PolicyAsked, row.ID, 0, work.AskedData{
		Engine: spec.Engine.Name, Path: spec.Engine.Path, Input: canonical.Digest(input), Expires: row.Timer,
	})
}

// question is the input of a decision: who asked for which pack with which inputs, and the parameters of the gate.
func (m *machine) question(id work.StepID, spec *work.EngineSpec) (json.RawMessage, error) {
	inputs, err := m.inputs(id)
	if err != nil {
		return nil, err
	}
	parameters, err := m.render(id, spec.Parameters)
	if err != nil {
		return nil, err
	}
	run := m.v.Run()
	values := m.runValues()
	values["submitter"] = run.Submitter
	values["pack"] = map[string]any{"name": run.Pack.Name, "version": run.Pack.Version, "digest": string(run.Pack.Digest)}
	return canonical.Marshal(map[string]any{"gate": string(id), "inputs": inputs, "parameters": parameters, "run": values})
}

// Rule records the answer of a policy engine at a gate that waits for it. It passes only where the answer says so. Errors: fault.NotFound,
// fault.Conflict when the gate does not wait, or waits for something else.
func Rule(g *Graph, v View, now work.Time, id work.StepID, answer work.EngineAnswer) error {
	row, spec, err := asked(g, v, now, id)
	if err != nil {
		return err
	}
	if e := spec.Policy.Engine; answer.Name != e.Name || answer.Path != e.Path || answer.Input != canonical.Digest(row.Inputs) {
		return fault.New(fault.Conflict, "the answer is to another question than that of gate %q", id)
	}
	rules, _, err := canonical.DigestOf(spec.Policy)
	if err != nil {
		return err
	}
	result := work.RuleResult{ID: answer.Name}
	result.Allowed, result.Message = Allows(answer)
	m := begin(g, v, now)
	data := work.PolicyData{RulesDigest: rules, Input: row.Inputs, Allowed: result.Allowed, Results: []work.RuleResult{result}, Engine: &answer}
	v.Emit(work.PolicyDecided, id, 0, data)
	m.pass(row, spec, data)
	m.settle()
	return nil
}

// Unanswered records that a policy engine gave no answer: the gate waits, or fails, as the plan says. Errors: fault.NotFound, fault.Conflict.
func Unanswered(g *Graph, v View, now work.Time, id work.StepID, why string) error {
	row, spec, err := asked(g, v, now, id)
	if err != nil {
		return err
	}
	m := begin(g, v, now)
	reason := work.Reason{Code: work.WaitsForPolicy, Subject: spec.Policy.Engine.Name, Message: why, Until: row.Timer}
	fails := spec.Policy.Engine.OnUnavailable == "fail"
	if fails {
		reason.Code, reason.Until = work.PolicyUnanswered, 0
	}
	v.Emit(work.PolicyUnavailable, id, 0, work.ReasonData{Reason: reason})
	if fails {
		m.end(row, work.Failed, reason, nil, nil)
	} else {
		row.Reason = reason
		v.Save(row)
	}
	m.settle()
	return nil
}

func asked(g *Graph, v View, now work.Time, id work.StepID) (*work.Step, *work.PlanStep, error) {
	spec, row := g.Spec(id), v.Step(id)
	switch {
	case spec == nil || spec.Policy == nil || spec.Policy.Engine == nil:
		return nil, nil, fault.New(fault.NotFound, "no gate %q waits for a policy engine", id)
	case row == nil || row.State != work.Waiting:
		return nil, nil, fault.New(fault.Conflict, "gate %q is not open", id)
	case now >= row.Timer:
		return nil, nil, fault.New(fault.Conflict, "gate %q has expired", id)
	default:
		return row, spec, nil
	}
}

// Allows reads what a policy engine said: true, or an object whose member allow is true, lets pass; anything else does not, also
// nothing. The words are those of the engine, from the members message or reasons.
func Allows(a work.EngineAnswer) (allowed bool, message string) {
	if a.Result == nil {
		if a.Digest != "" {
			return false, "the result cannot be recorded"
		}
		return false, "the policy " + a.Path + " has no result"
	}
	if json.Unmarshal(a.Result, &allowed) == nil {
		return allowed && string(a.Result) == "true", ""
	}
	var said struct {
		Allow   json.RawMessage `json:"allow"`
		Message json.RawMessage `json:"message"`
		Reasons json.RawMessage `json:"reasons"`
	}
	if json.Unmarshal(a.Result, &said) != nil {
		return false, "the result is neither true nor an object with the member allow"
	}
	if allowed = string(said.Allow) == "true"; allowed {
		return true, ""
	}
	var reasons []string
	if json.Unmarshal(said.Message, &message) != nil && json.Unmarshal(said.Reasons, &reasons) == nil {
		for i, r := range reasons {
			if i > 0 {
				message += "; "
			}
			message += r
		}
	}
	return false, message
}
