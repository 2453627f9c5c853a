package manifest

import (
	"math/bits"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/work"
)

// parallel reads a block of steps that do not wait for each other.
func (r *reader) parallel(s *Step, n *yaml.Node) {
	spec := &work.ParallelSpec{}
	s.Spec.Parallel = spec
	prefix := string(s.Spec.ID) + "-"
	if n.Kind == yaml.SequenceNode { // the block's steps without any setting
		s.Steps = r.steps(n, "parallel", prefix)
		return
	}
	for _, f := range r.fields(n, "parallel") {
		switch f.name {
		case "steps":
			s.Steps = r.steps(f.value, "the steps of "+quoted(s), prefix)
		case "maxParallel":
			spec.MaxParallel = int(r.integer(f.value, "maxParallel", 1, 1_000_000))
		case "continueOnError":
			spec.ContinueOnError = r.boolean(f.value, "continueOnError")
		default:
			r.unknown(f, "parallel", []string{"steps", "maxParallel", "continueOnError"})
		}
	}
	if len(s.Steps) == 0 && n.Kind == yaml.MappingNode {
		r.problem(n, "add steps:", "the block %s has no steps", quoted(s))
	}
}

func quoted(s *Step) string { return `"` + string(s.Spec.ID) + `"` }

func mapFields() []string {
	return []string{"items", "range", "as", "index", "maxItems", "maxParallel", "continueOnError", "step"}
}

// mapping reads a step that runs another one for each item.
func (r *reader) mapping(s *Step, n *yaml.Node) {
	spec := &work.MapSpec{Item: "item", Index: "index", MaxItems: 10_000}
	s.Spec.Map = spec
	var step, items *yaml.Node
	fields := r.fields(n, "map")
	for _, f := range fields {
		switch f.name {
		case "items", "range":
			if items != nil {
				r.problem(f.key, "keep one of them", "a map has either items or range")
				continue
			}
			items = f.value
		case "as":
			spec.Item = r.variable(f.value, "as")
		case "index":
			spec.Index = r.variable(f.value, "index")
		case "maxItems":
			spec.MaxItems = int(r.integer(f.value, "maxItems", 1, MaxItems))
		case "maxParallel":
			spec.MaxParallel = int(r.integer(f.value, "maxParallel", 1, 1_000_000))
		case "continueOnError":
			spec.ContinueOnError = r.boolean(f.value, "continueOnError")
		case "step":
			step = f.value
		default:
			r.unknown(f, "map", mapFields())
		}
	}
	if spec.Item == spec.Index {
		r.problem(n, "", "the element and its position cannot both be called %q", spec.Item)
	}
	for _, f := range fields {
		switch f.name {
		case "items":
			r.items(s, f.value)
		case "range":
			spec.Range = r.span(f.value)
		}
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	if items == nil {
		r.problem(n, `add items: with a list or an expression such as steps.find.outputs.files, or range: {start: 0, end: 10}`, "the map %s has no items", quoted(s))
	}
	if step == nil {
		r.problem(n, "add step: with the step that runs for each item", "the map %s has no step", quoted(s))
		return
	}
	if spec.Range != nil {
		if count := rangeLength(*spec.Range); count > int64(spec.MaxItems) {
			r.problem(n, "raise maxItems", "the range has %d items, more than the %d that maxItems allows", count, spec.MaxItems)
		}
	}
	s.Steps = []*Step{r.step(step, "step-1")}
}

func (r *reader) variable(n *yaml.Node, what string) string {
	name := r.name(n, what, variableName, "use letters, digits and underscore, beginning with a letter or underscore")
	switch name {
	case "inputs", "steps", "run", "true", "false", "null", "in":
		r.problem(n, "choose another name", "%s cannot be %q, which has a meaning of its own", what, name)
	}
	return name
}

// items reads a list, {range: …}, {static: …}, {expression: …} or an expression.
func (r *reader) items(s *Step, n *yaml.Node) {
	spec := s.Spec.Map
	switch n.Kind {
	case yaml.SequenceNode:
		if len(n.Content) > spec.MaxItems {
			r.problem(n, "raise maxItems", "the list has %d items, more than the %d that maxItems allows", len(n.Content), spec.MaxItems)
		}
		for _, e := range n.Content {
			r.plainItem(e)
			spec.Static = append(spec.Static, r.json(e, "an item"))
		}
		if len(n.Content) == 0 {
			r.problem(n, "", "the map %s has no items", quoted(s))
		}
	case yaml.MappingNode:
		fields := r.fields(n, "items")
		if len(fields) != 1 {
			r.problem(n, "", "items has exactly one of range, static and expression")
			return
		}
		switch f := fields[0]; f.name {
		case "range":
			spec.Range = r.span(f.value)
		case "static":
			if r.list(f.value, "static") != nil || len(f.value.Content) == 0 {
				r.items(s, f.value)
			}
		case "expression":
			spec.Expression = r.bare(f.value, "items")
		default:
			r.unknown(f, "items", []string{"range", "static", "expression"})
		}
	default:
		spec.Expression = r.bare(n, "items")
	}
}

func (r *reader) plainItem(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		r.noTemplate(n, n.Value, "an item", "write the whole list as an expression: items: '[inputs.a, inputs.b]'")
	}
	for _, child := range n.Content {
		r.plainItem(child)
	}
}

func (r *reader) span(n *yaml.Node) *work.Range {
	const bound = 1 << 52
	out := &work.Range{Step: 1}
	end := false
	for _, f := range r.fields(n, "range") {
		switch f.name {
		case "start":
			out.Start = r.integer(f.value, "start", -bound, bound)
		case "end":
			end = true
			out.End = r.integer(f.value, "end", -bound, bound)
		case "step":
			out.Step = r.integer(f.value, "step", -bound, bound)
		default:
			r.unknown(f, "range", []string{"start", "end", "step"})
		}
	}
	if n.Kind != yaml.MappingNode {
		return out
	}
	switch {
	case !end:
		r.problem(n, "add end:, the first number that is not counted any more", "the range has no end")
	case out.Step == 0:
		r.problem(n, "", "a range cannot count in steps of 0")
	case rangeLength(*out) == 0:
		r.problem(n, "end is not counted itself", "the range from %d to %d in steps of %d is empty", out.Start, out.End, out.Step)
	}
	return out
}

// rangeLength is how many numbers a range has.
func rangeLength(s work.Range) int64 {
	distance, step := s.End-s.Start, s.Step
	if step < 0 {
		distance, step = -distance, -step
	}
	if distance <= 0 || step == 0 {
		return 0
	}
	quotient, rest := bits.Div64(0, uint64(distance), uint64(step))
	if rest > 0 {
		quotient++
	}
	return int64(quotient)
}

// group reads a sub-pack from a path, or steps that are grouped in place.
func (r *reader) group(s *Step, n *yaml.Node) {
	spec := &work.GroupSpec{}
	s.Spec.Pack = spec
	if n.Kind == yaml.ScalarNode {
		s.Path, s.PathPos = r.relative(n, "the path of a pack"), Pos{n.Line, n.Column}
		return
	}
	fields := r.fields(n, "pack")
	inline, outside := (*yaml.Node)(nil), (*yaml.Node)(nil)
	for _, f := range fields {
		switch f.name {
		case "path":
			s.Path, s.PathPos = r.relative(f.value, "the path of a pack"), Pos{f.value.Line, f.value.Column}
		case "steps":
			inline = f.value
		case "continueOnError":
			spec.ContinueOnError = r.boolean(f.value, "continueOnError")
		case "with":
			outside = f.key
			r.with(s, f.value)
		case "secrets":
			outside = f.key
			r.groupSecrets(s, f.value)
		case "outputs":
		default:
			r.unknown(f, "pack", []string{"path", "steps", "with", "secrets", "outputs", "continueOnError"})
		}
	}
	switch {
	case n.Kind != yaml.MappingNode:
	case (s.Path == "") == (inline == nil):
		r.problem(n, "write path: ./folder for a pack of its own, or steps: for a group of steps", "pack needs one of path and steps")
	case inline != nil && outside != nil:
		r.problem(outside, "its steps see the inputs of this pack anyway", "a group of steps has no inputs of its own")
	case inline != nil:
		s.Steps = r.steps(inline, "the steps of "+quoted(s), "step-")
	}
	for _, f := range fields {
		if f.name != "outputs" {
			continue
		}
		if inline == nil {
			r.problem(f.key, "declare them in the pack itself", "the outputs of a pack with a path are its own")
			continue
		}
		before := len(s.Uses)
		for _, o := range r.results(f.value) {
			spec.Outputs = append(spec.Outputs, o.RunOutput)
		}
		for i := before; i < len(s.Uses); i++ {
			s.Uses[i].Inside = true
		}
	}
}

func (r *reader) with(s *Step, n *yaml.Node) {
	s.With = map[string]Value{}
	for _, f := range r.fields(n, "with") {
		r.templatesIn(f.value)
		s.With[f.name] = Value{r.json(f.value, "with."+f.name), Pos{f.value.Line, f.value.Column}}
	}
}

// groupSecrets reads which secret inputs of this pack a sub-pack gets. The name alone, inputs.NAME and ${{ inputs.NAME }} are the same.
func (r *reader) groupSecrets(s *Step, n *yaml.Node) {
	s.Secrets = map[string]Word{}
	for _, f := range r.fields(n, "secrets") {
		text := r.text(f.value, "secrets."+f.name)
		name := r.secretInput(text)
		if name == "" {
			name = strings.TrimPrefix(text, "inputs.")
		}
		if !r.secret[name] {
			r.problem(f.value, "name a secret input of this pack", "%q is no secret input", short(text))
			continue
		}
		s.Secrets[f.name] = Word{name, Pos{f.value.Line, f.value.Column}}
	}
}
