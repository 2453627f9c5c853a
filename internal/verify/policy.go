package verify

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// judgeAgain evaluates the rules of a policy gate over the input that was recorded and compares every answer.
func judgeAgain(spec *work.PolicySpec, was *work.PolicyData) error {
	var input struct {
		Inputs map[string]any `json:"inputs"`
		Steps  map[string]any `json:"steps"`
		Vars   map[string]any `json:"vars"`
		Run    map[string]any `json:"run"`
	}
	d := json.NewDecoder(bytes.NewReader(was.Input))
	d.UseNumber()
	if err := d.Decode(&input); err != nil {
		return wrong("the recorded input is not of its type: %s", err)
	}
	for _, m := range []map[string]any{input.Inputs, input.Steps, input.Vars, input.Run} {
		if err := whole(m); err != nil {
			return err
		}
	}
	if spec.Engine != nil {
		return nil // an engine elsewhere is not asked again; that its answer is what let pass was followed in the history
	}
	scope := expression.Scope{Inputs: input.Inputs, Steps: input.Steps, Vars: input.Vars, Run: input.Run}
	for i, rule := range spec.Rules {
		p, err := expression.Compile(rule.Require)
		if err != nil {
			return wrong("rule %s does not compile: %s", rule.ID, err)
		}
		// A rule that cannot be answered does not hold: that is how a gate decides.
		holds, err := p.Bool(scope)
		if got := holds && err == nil; got != was.Results[i].Allowed {
			return wrong("rule %s gives %v, the history says %v", rule.ID, got, was.Results[i].Allowed)
		}
	}
	return nil
}

// whole turns the numbers inside a value, which are whole in every canonical document, into int64.
func whole(v any) error {
	turn := func(x any, set func(any)) error {
		n, ok := x.(json.Number)
		if !ok {
			return whole(x)
		}
		i, err := n.Int64()
		if err != nil {
			return wrong("the recorded input has a number that is not whole")
		}
		set(i)
		return nil
	}
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if err := turn(e, func(v any) { x[k] = v }); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range x {
			if err := turn(e, func(v any) { x[i] = v }); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeAsked notes that a gate began to wait for a policy engine.
func (h *history) takeAsked(s *step, e *work.Event) error {
	d := &work.AskedData{}
	if err := decode(e, d); err != nil {
		return err
	}
	if s.spec.Policy == nil || s.spec.Policy.Engine == nil || s.asked != nil {
		return fault.New(fault.Unverified, "it asks no policy engine, or asks twice")
	}
	if spec := s.spec.Policy.Engine; d.Engine != spec.Name || d.Path != spec.Path || d.Expires != e.Time+work.Time(spec.TTLMs*1000) {
		return fault.New(fault.Unverified, "it asks on other terms than the plan's")
	}
	s.asked = d
	return h.begin(s, work.KindPolicy)
}

// answered holds the decision at a gate to what its policy engine said: only a clear yes lets pass.
func (s *step) answered(d *work.PolicyData, at work.Time) error {
	a := d.Engine
	switch {
	case s.asked == nil || len(s.policies) > 0 || at >= s.asked.Expires:
		return fault.New(fault.Unverified, "no policy engine was asked, or no more")
	case a.Name != s.asked.Engine || a.Path != s.asked.Path || a.Input != s.asked.Input || canonical.Digest(d.Input) != a.Input:
		return fault.New(fault.Unverified, "the answer is to another question")
	case d.Results[0].ID != a.Name || d.Results[0].Allowed != d.Allowed:
		return fault.New(fault.Unverified, "its answer is not that of the engine")
	}
	yes := string(a.Result) == "true"
	var object map[string]json.RawMessage
	if !yes && json.Unmarshal(a.Result, &object) == nil {
		yes = string(object["allow"]) == "true"
	}
	if d.Allowed != yes {
		return fault.New(fault.Unverified, "the policy engine said something else")
	}
	return nil
}

// by names what an engine decided, and by which policies.
func by(a *work.EngineAnswer) string {
	text := a.Name + " on " + a.Path
	if a.DecisionID != "" {
		text += ", decision " + a.DecisionID
	}
	for _, b := range a.Bundles {
		text += ", " + b.Name + " at " + b.Revision
	}
	return text
}
