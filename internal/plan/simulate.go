package plan

import (
	"encoding/json"
	"slices"
	"strconv"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/work"
)

// Outlook is what will become of a step, as far as the plan alone can say it.
type Outlook string

// The outlooks.
const (
	WillRun          Outlook = "pending"
	WillSkip         Outlook = "skipped"
	RequiresApproval Outlook = "requires-approval"
	RequiresPolicy   Outlook = "requires-policy"
)

// Preview is one step of a dry run.
type Preview struct {
	Step    work.StepID   `json:"step"`
	Kind    work.StepKind `json:"kind"`
	Outlook Outlook       `json:"outlook"`
	Reason  string        `json:"reason,omitempty"`  // of a skip
	Needs   []work.StepID `json:"needs,omitempty"`   // steps that end before, as in the plan
	Gates   []work.StepID `json:"gates,omitempty"`   // gates that must open before, anywhere up to here
	Outputs []string      `json:"outputs,omitempty"` // that the step declares
	Egress  []string      `json:"egress,omitempty"`  // endpoints that it may reach
	Secrets []string      `json:"secrets,omitempty"` // secret inputs that it gets
}

// Simulate looks at a plan without running anything: what will run, what is skipped for sure, what waits for people or
// rules, and what lies before each step. It depends on the plan alone.
func Simulate(p *work.Plan) []Preview {
	gates := gatesBefore(p)
	skipped := make(map[work.StepID]string)
	scope := inputScope(p)
	inSubPack := make(map[work.StepID]bool)
	out := make([]Preview, 0, len(p.Steps))
	for i := range p.Steps {
		s := &p.Steps[i]
		inSubPack[s.ID] = inSubPack[s.Parent] || s.Pack != nil && s.Pack.Ref != nil
		v := Preview{Step: s.ID, Kind: s.Kind, Outlook: WillRun, Needs: s.Needs, Gates: gates[s.ID]}
		switch s.Kind {
		case work.KindApproval:
			v.Outlook = RequiresApproval
		case work.KindPolicy:
			v.Outlook = RequiresPolicy
		case work.KindRun:
			for _, o := range s.Run.Outputs {
				v.Outputs = append(v.Outputs, o.Name)
			}
			for _, e := range s.Run.Sandbox.Egress {
				v.Egress = append(v.Egress, endpoint(e))
			}
			v.Secrets = slices.Compact(slices.Sorted(slices.Values(secretsOf(s))))
		case work.KindPack:
			for _, o := range s.Pack.Outputs {
				v.Outputs = append(v.Outputs, o.Name)
			}
		}
		if why, ok := skipped[s.Parent]; ok && s.Parent != "" {
			v.Outlook, v.Reason = WillSkip, why
		} else if !inSubPack[s.Parent] && neverTrue(s.When, scope) {
			v.Outlook, v.Reason = WillSkip, "when is false: "+s.When
		}
		if v.Outlook == WillSkip {
			skipped[s.ID] = v.Reason
			if s.Parent == "" || skipped[s.Parent] == "" {
				skipped[s.ID] = "inside of " + string(s.ID) + ", which is skipped"
			}
		}
		out = append(out, v)
	}
	return out
}

func endpoint(e work.Egress) string { return e.Host + ":" + itoa(e.Port) }

func itoa(n int) string { return strconv.Itoa(n) }

// inputScope holds the values of the inputs that the plan fixes.
func inputScope(p *work.Plan) expression.Scope {
	inputs := make(map[string]any, len(p.Inputs))
	for _, in := range p.Inputs {
		var v any
		if in.Secret == "" && json.Unmarshal(in.Value, &v) == nil {
			inputs[in.Name] = v
		}
	}
	return expression.Scope{Inputs: inputs}
}

// neverTrue reports whether a condition depends on nothing that is still open, and is false.
func neverTrue(when string, scope expression.Scope) bool {
	if when == "" {
		return false
	}
	p, err := expression.Compile(when)
	if err != nil {
		return false
	}
	if r := p.Refs(); len(r.Steps) > 0 || len(r.Vars) > 0 || r.Run {
		return false
	}
	v, err := p.Bool(scope)
	return err == nil && !v
}

// gatesBefore returns for every step the gates that must open before it can start, sorted.
func gatesBefore(p *work.Plan) map[work.StepID][]work.StepID {
	before := make(map[work.StepID][]work.StepID, len(p.Steps))  // of the step itself
	through := make(map[work.StepID][]work.StepID, len(p.Steps)) // of what comes after it
	parent := make(map[work.StepID]work.StepID)
	for i := range p.Steps {
		s := &p.Steps[i]
		gates := before[s.Parent]
		for _, need := range s.Needs {
			gates = union(gates, through[need])
		}
		before[s.ID] = gates
		if s.Kind == work.KindApproval || s.Kind == work.KindPolicy {
			gates = union(gates, []work.StepID{s.ID})
		}
		through[s.ID] = gates
		if s.Parent == "" {
			continue
		}
		parent[s.ID] = s.Parent
		for at := s.Parent; at != ""; at = parent[at] {
			through[at] = union(through[at], gates)
		}
	}
	return before
}

// union merges two sorted lists and returns one of them where it holds the other, so that long chains share one list.
func union(a, b []work.StepID) []work.StepID {
	switch {
	case len(b) == 0 || len(a) > 0 && len(a) == len(b) && &a[0] == &b[0]:
		return a
	case len(a) == 0:
		return b
	}
	out := make([]work.StepID, 0, len(a)+len(b))
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case j == len(b) || i < len(a) && a[i] < b[j]:
			out = append(out, a[i])
			i++
		case i == len(a) || b[j] < a[i]:
			out = append(out, b[j])
			j++
		default:
			out = append(out, a[i])
			i, j = i+1, j+1
		}
	}
	switch len(out) {
	case len(a):
		return a
	case len(b):
		return b
	default:
		return out
	}
}
