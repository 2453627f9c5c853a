package verify

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/internal/expression"
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
