package manifest

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/work"
)

func kindFields() []string {
	return []string{"run", "parallel", "map", "pack", "gate", "gate.approval", "gate.policy"}
}

func commonFields() []string { return []string{"id", "name", "needs", "when", "continueOnError"} }

// runFields are the fields beside run that only a run step has.
func runFields() []string {
	return []string{"env", "artifacts", "outputs", "timeout", "grace", "retry", "cache", "concurrency", "priority", "queue", "labels", "sandbox", "egress", "resources"}
}

func stepFields() []string {
	return append(append(commonFields(), kindFields()...), runFields()...)
}

// steps reads a list of steps. A step without an id is called by its position.
func (r *reader) steps(n *yaml.Node, what, prefix string) []*Step {
	elements := r.list(n, what)
	if n.Kind == yaml.SequenceNode && len(elements) == 0 && what != "finally" {
		r.problem(n, "add a step, for example - run: echo hello", "%s has no steps", what)
	}
	out := make([]*Step, 0, len(elements))
	for i, e := range elements {
		out = append(out, r.step(e, fmt.Sprintf("%s%d", prefix, i+1)))
	}
	return out
}

func (r *reader) step(n *yaml.Node, defaultID string) *Step {
	s := &Step{Pos: Pos{n.Line, n.Column}}
	s.Spec.ID = work.StepID(defaultID)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		r.problem(n, "write - run: "+short(n.Value), "a step must be a mapping, not only a text")
		return s
	}
	outer := r.uses
	r.uses = &s.Uses
	defer func() { r.uses = outer }()

	fields := r.fields(n, "a step")
	var kind *field
	for i, f := range fields {
		switch {
		case f.name == "id":
			s.Spec.ID = work.StepID(r.name(f.value, "the id of a step", stepName, "use letters, digits, underscore and dash, at most 64"))
			s.Pos = Pos{f.value.Line, f.value.Column}
		case slices.Contains(kindFields(), f.name):
			if kind != nil {
				r.problem(f.key, "make two steps of it", "a step is one thing, either %s or %s", kind.name, f.name)
				continue
			}
			kind = &fields[i]
		}
	}
	r.common(s, fields)
	if kind == nil {
		if n.Kind == yaml.MappingNode {
			for _, f := range fields {
				if Suggest(f.name, kindFields()) != "" && !slices.Contains(stepFields(), f.name) {
					return s // the unknown field was reported, with the one that was meant
				}
			}
			r.problem(n, "add run: with a command, or one of parallel, map, pack, gate", "the step %q does nothing", s.Spec.ID)
		}
		return s
	}
	r.kind(s, *kind, fields)
	return s
}

// common reads the fields that every step has and refuses those that none has.
func (r *reader) common(s *Step, fields []field) {
	for _, f := range fields {
		switch f.name {
		case "id":
		case "name":
			s.Name = r.text(f.value, "name")
		case "needs":
			s.NeedsGiven = true
			r.needs(s, f.value)
		case "when":
			s.Spec.When = r.bare(f.value, "when")
		case "continueOnError":
			s.Spec.ContinueOnError = r.boolean(f.value, "continueOnError")
		default:
			if !slices.Contains(kindFields(), f.name) && !slices.Contains(runFields(), f.name) {
				r.unknown(f, "a step", stepFields())
			}
		}
	}
}

func (r *reader) needs(s *Step, n *yaml.Node) {
	elements := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		elements = n.Content
	} else if n.Kind != yaml.ScalarNode {
		r.list(n, "needs")
		return
	}
	for _, e := range elements {
		s.Needs = append(s.Needs, Word{r.name(e, "the id of a step", stepName, "name a step of the same list by its id"), Pos{e.Line, e.Column}})
	}
}

// kind reads what the step does.
func (r *reader) kind(s *Step, kind field, fields []field) {
	if kind.name != "run" {
		for _, f := range fields {
			if slices.Contains(runFields(), f.name) {
				r.problem(f.key, "put it on the run steps inside of it, or on the pack", "only a run step has %s", f.name)
			}
		}
	}
	switch kind.name {
	case "run":
		s.Spec.Kind = work.KindRun
		r.run(s, kind.value, fields)
	case "parallel":
		s.Spec.Kind = work.KindParallel
		r.parallel(s, kind.value)
	case "map":
		s.Spec.Kind = work.KindMap
		r.mapping(s, kind.value)
	case "pack":
		s.Spec.Kind = work.KindPack
		r.group(s, kind.value)
	case "gate.approval":
		s.Spec.Kind = work.KindApproval
		r.approval(s, kind.value)
	case "gate.policy":
		s.Spec.Kind = work.KindPolicy
		r.policy(s, kind.value)
	case "gate":
		r.gateOf(s, kind.value)
	}
}
