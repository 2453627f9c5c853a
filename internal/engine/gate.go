package engine

import (
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Decide records one person's decision at a gate whose signature the caller has verified. A rejection closes the gate at
// once; approvals open it when as many people as it requires have given theirs. Errors: fault.Conflict when the gate is
// not open or the person has decided, fault.PlanMismatch, fault.Denied for somebody who may not decide here.
func Decide(g *Graph, v View, now work.Time, d work.Decision) error {
	run := v.Run()
	row := v.Step(d.Gate)
	spec := g.Spec(d.Gate)
	if spec == nil || spec.Approval == nil {
		return fault.New(fault.NotFound, "run %s has no approval gate %q", run.Name, d.Gate)
	}
	if row == nil || row.State != work.Waiting {
		return fault.New(fault.Conflict, "gate %q is not open", d.Gate)
	}
	if err := mayDecide(g, run, row, spec.Approval, d); err != nil {
		return err
	}
	m := begin(g, v, now)
	if m.now >= row.Timer {
		return fault.New(fault.Conflict, "gate %q has expired", d.Gate)
	}
	v.Emit(work.GateDecided, d.Gate, 0, d)
	row.Decisions = append(row.Decisions, d)
	v.Save(row)
	if d.Decision == "rejected" {
		m.end(row, work.Failed, work.Reason{Code: work.EndedByRejection, Subject: d.Approver, Message: d.Reason}, nil, nil)
	} else if len(row.Decisions) >= spec.Approval.Required {
		m.end(row, work.Succeeded, work.Reason{Code: work.EndedWell, Subject: d.Approver}, nil, nil)
	}
	m.settle()
	return nil
}

func mayDecide(g *Graph, run *work.Run, row *work.Step, spec *work.ApprovalSpec, d work.Decision) error {
	if d.PlanHash != g.Hash {
		return fault.New(fault.PlanMismatch, "the decision is about plan %s, but the run executes %s", d.PlanHash, g.Hash).
			WithHint("look at the plan again and decide on this hash")
	}
	if d.Decision != "approved" && d.Decision != "rejected" {
		return fault.New(fault.Invalid, "a decision is approved or rejected, not %q", d.Decision)
	}
	if len(spec.Approvers) > 0 && !slices.Contains(spec.Approvers, d.Approver) {
		return fault.New(fault.Denied, "%s may not decide at gate %q", d.Approver, d.Gate).
			WithHint("these people may: %v", spec.Approvers)
	}
	own := d.Approver == run.Submitter || d.Key != "" && d.Key == run.SubmitterKey
	if own && !spec.AllowSubmitter && d.Decision == "approved" {
		return fault.New(fault.Denied, "%s submitted the run and may not approve it", d.Approver).
			WithHint("somebody else must approve, or the pack must say allowSubmitter: true")
	}
	for _, earlier := range row.Decisions {
		if earlier.Approver == d.Approver || d.Key != "" && earlier.Key == d.Key {
			return fault.New(fault.Conflict, "%s has already decided at gate %q", earlier.Approver, d.Gate)
		}
	}
	return nil
}

// judge evaluates the rules of a policy gate. Rules, input and answers go into the history.
func (m *machine) judge(row *work.Step, spec *work.PlanStep) {
	row.Started = m.now
	if spec.Policy.Engine != nil {
		m.ask(row, spec.Policy)
		return
	}
	data, err := m.policy(row.ID, spec.Policy)
	if err != nil {
		m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
		return
	}
	m.v.Emit(work.PolicyDecided, row.ID, 0, data)
	m.pass(row, spec, data)
}

// pass ends a policy gate as its decision says.
func (m *machine) pass(row *work.Step, spec *work.PlanStep, data work.PolicyData) {
	outputs, _ := json.Marshal(map[string]any{"allowed": data.Allowed}) // cannot fail: a map of a boolean
	if data.Allowed || spec.Policy.FailAction == "continue" {
		reason := work.Reason{Code: work.EndedWell}
		if !data.Allowed {
			reason = work.Reason{Code: work.EndedByPolicy, Message: firstRefusal(data)}
		}
		m.end(row, work.Succeeded, reason, outputs, nil)
		return
	}
	m.end(row, work.Failed, work.Reason{Code: work.EndedByPolicy, Message: firstRefusal(data)}, outputs, nil)
}

func firstRefusal(data work.PolicyData) string {
	for _, r := range data.Results {
		if !r.Allowed {
			if data.Engine != nil {
				return joinMessage("policy engine "+r.ID, r.Message)
			}
			return joinMessage("rule "+r.ID, r.Message)
		}
	}
	return ""
}

func (m *machine) policy(id work.StepID, spec *work.PolicySpec) (work.PolicyData, error) {
	digest, _, err := canonical.DigestOf(spec)
	if err != nil {
		return work.PolicyData{}, err
	}
	data := work.PolicyData{RulesDigest: digest, Allowed: true}
	var refs expression.Refs
	for _, rule := range spec.Rules {
		p, err := m.g.program(rule.Require)
		if err != nil {
			return data, err
		}
		refs = refs.Union(p.Refs())
	}
	scope, err := m.scope(id, refs)
	if err != nil {
		return data, err
	}
	if data.Input, err = policyInput(scope); err != nil {
		return data, err
	}
	for _, rule := range spec.Rules {
		p, err := m.g.program(rule.Require)
		if err != nil {
			return data, err
		}
		result := work.RuleResult{ID: rule.ID}
		if result.Allowed, err = p.Bool(scope); err != nil {
			// A rule that cannot be answered does not hold: a gate never passes because it is broken.
			result.Message = err.Error()
		} else if !result.Allowed {
			result.Message = rule.Message
		}
		data.Allowed = data.Allowed && result.Allowed
		data.Results = append(data.Results, result)
	}
	return data, nil
}

func policyInput(s expression.Scope) (json.RawMessage, error) {
	return canonical.Marshal(map[string]any{"inputs": s.Inputs, "steps": s.Steps, "vars": s.Vars, "run": s.Run})
}
