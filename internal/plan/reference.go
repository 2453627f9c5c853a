package plan

import (
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// searchBudget bounds how many steps are visited to find out what lies before what. Needs that are named cost nothing.
const searchBudget = 10_000_000

// references checks everything that looks at another step: it must be one that can be seen from there, it must certainly
// have ended by then, and it must have what is asked of it.
func (b *builder) references() {
	budget := searchBudget
	for _, n := range b.nodes {
		for i := range n.step.Uses {
			b.use(n, &n.step.Uses[i], &budget)
		}
	}
	m := b.source.Manifest
	for _, u := range m.Uses() {
		b.packUse(m, u)
	}
	if budget < 0 {
		b.problems.add(m.Fault(manifest.Pos{}, "the expressions look back over too many steps").
			WithHint("name the steps that they look at in needs"))
	}
}

// packUse checks an output of the pack, which sees every step at the top, or its concurrency key, which sees none.
func (b *builder) packUse(m *manifest.Manifest, u manifest.Use) {
	for _, path := range u.Refs.Paths {
		pos := u.Pos(path.Offset)
		switch path.Parts[0] {
		case "inputs":
		case "run":
			if u.Early && len(path.Parts) > 1 && (path.Parts[1] == "status" || path.Parts[1] == "failed") {
				b.problems.add(m.Fault(pos, "the run has no %s yet when this is evaluated", path.Parts[1]))
			}
		case "steps":
			target := b.byID[work.StepID(path.Parts[1])]
			if u.Early {
				b.problems.add(m.Fault(pos, "no step has run yet when this is evaluated").WithHint("use inputs only"))
			} else if target == nil {
				b.unknownStep(m, nil, "", path.Parts[1], pos)
			} else {
				b.asked(m, target, path.Parts, pos)
			}
		default:
			b.problems.add(m.Fault(pos, "nothing is called %q here", path.Parts[0]).
				WithHint("an output of the pack sees inputs, steps and run"))
		}
	}
}

func (b *builder) use(n *node, u *manifest.Use, budget *int) {
	m := n.pack.manifest
	if u.Artifact != "" {
		if target := b.visible(n, u, string(u.Artifact), u.Pos(0), budget); target != nil {
			b.artifact(n, u, target)
		}
		return
	}
	for _, path := range u.Refs.Paths {
		pos := u.Pos(path.Offset)
		switch path.Parts[0] {
		case "inputs", "run":
		case "steps":
			if target := b.visible(n, u, path.Parts[1], pos, budget); target != nil {
				b.asked(m, target, path.Parts, pos)
			}
		default:
			b.variable(n, path.Parts[0], pos)
		}
	}
}

// variable checks a free name: it must be the element or position of a map around the step.
func (b *builder) variable(n *node, name string, pos manifest.Pos) {
	known := []string{"inputs", "steps", "run"}
	for at := n.parent; at != nil && at.pack == n.pack; at = at.parent {
		if spec := at.spec.Map; spec != nil {
			if name == spec.Item || name == spec.Index {
				return
			}
			known = append(known, spec.Item, spec.Index)
		}
	}
	e := n.pack.manifest.Fault(pos, "nothing is called %q here", name)
	switch {
	case name == "item" || name == "index":
		e.Hint = name + " exists inside of the step of a map only"
	case name == "secrets" || name == "env":
		e.Hint = "a secret is an input of type secret; it reaches a step as a variable of its environment"
	case name == "needs":
		e.Hint = "write steps.ID.outputs.NAME"
	default:
		e.Hint = manifest.Choices(name, known) + `; a text stands in quotes, and an id with a dash is written steps["a-b"]`
	}
	b.problems.add(e)
}

// visible returns the step that a local id means where n stands, if it certainly ended before.
func (b *builder) visible(n *node, u *manifest.Use, local string, pos manifest.Pos, budget *int) *node {
	m := n.pack.manifest
	target := b.resolve(n, u.Inside, local)
	if target == nil {
		b.unknownStep(m, n, n.scope, local, pos)
		return nil
	}
	// Find the two that stand in one list: n or what it is inside of, and the target or what that is inside of.
	mine, theirs := n, target
	for depth(mine) > depth(theirs) {
		mine = mine.parent
	}
	for depth(theirs) > depth(mine) {
		theirs = theirs.parent
	}
	for mine.parent != theirs.parent {
		mine, theirs = mine.parent, theirs.parent
	}
	switch {
	case mine == theirs && mine == n && u.Inside && target != n:
		return target
	case mine == theirs && target == n:
		b.problems.add(m.Fault(pos, "the step %q cannot look at itself", n.step.Spec.ID))
	case mine == theirs && mine == target:
		b.problems.add(m.Fault(pos, "the step %q is inside of %q, which has not ended by then", n.step.Spec.ID, local))
	case mine == theirs && mine == n:
		b.problems.add(m.Fault(pos, "the step %q is inside of %q and has not begun by then", local, n.step.Spec.ID))
	case mine.spec.Finally && !theirs.spec.Finally, b.endsBefore(mine, theirs, budget):
		return target
	case *budget < 0:
	default:
		e := m.Fault(pos, "the step %q is not sure to have ended before %q", local, n.step.Spec.ID)
		if b.endsBefore(theirs, mine, budget) {
			e = e.WithHint("it runs after %q", mine.step.Spec.ID)
		} else {
			e = e.WithHint("add %q to needs of %q", theirs.step.Spec.ID, mine.step.Spec.ID)
		}
		b.problems.add(e)
	}
	return nil
}

// resolve finds the step that a local id means: beside n or further out, but not beyond the border of its manifest.
func (b *builder) resolve(n *node, inside bool, local string) *node {
	if inside {
		if t := b.byID[work.StepID(n.inner+local)]; t != nil {
			return t
		}
	}
	for at := n; at != nil && at.pack == n.pack; at = owner(at) {
		if t := b.byID[work.StepID(at.scope+local)]; t != nil && t.pack == n.pack {
			return t
		}
	}
	return nil
}

// owner returns the map or pack whose inside is the scope that n stands in, nil at the top.
func owner(n *node) *node {
	at := n.parent
	for at != nil && at.inner != n.scope {
		at = at.parent
	}
	return at
}

func depth(n *node) int {
	d := 0
	for n.parent != nil {
		n, d = n.parent, d+1
	}
	return d
}

func (b *builder) unknownStep(m *manifest.Manifest, n *node, scope, local string, pos manifest.Pos) {
	var known []string
	for _, other := range b.nodes {
		if other.pack.manifest == m && other != n && other.scope == scope && len(known) < 1000 {
			known = append(known, string(other.step.Spec.ID))
		}
	}
	e := m.Fault(pos, "there is no step %q to look at from here", local)
	e.Hint = manifest.Choices(local, known)
	b.problems.add(e)
}

// asked checks that a step has what an expression asks of it.
func (b *builder) asked(m *manifest.Manifest, target *node, parts []string, pos manifest.Pos) {
	if len(parts) > 2 && parts[2] == "results" && target.spec.Kind != work.KindMap {
		b.problems.add(m.Fault(pos, "only a map has results, and %q is %s", parts[1], kindWord(target.spec.Kind)))
		return
	}
	if len(parts) < 4 || parts[2] != "outputs" {
		return
	}
	names, known := outputNames(target)
	if !known {
		return
	}
	for _, name := range names {
		if name == parts[3] {
			return
		}
	}
	e := m.Fault(pos, "the step %q has no output %q", parts[1], parts[3])
	e.Hint = manifest.Choices(parts[3], names)
	if len(names) == 0 {
		e.Hint = "declare it: outputs: {" + parts[3] + ": {type: string}} on that step"
		if target.spec.Kind == work.KindMap {
			e.Hint = "a map has results, one for each item: steps." + parts[1] + ".results[0].outputs." + parts[3]
		}
	}
	b.problems.add(e)
}

// outputNames returns what a step declares to leave, and whether that is all it can leave.
func outputNames(n *node) ([]string, bool) {
	var names []string
	switch n.spec.Kind {
	case work.KindRun:
		for _, o := range n.spec.Run.Outputs {
			names = append(names, o.Name)
		}
		switch n.spec.Run.Runner {
		case "shell", "python", "process":
			return names, true
		}
		return names, false
	case work.KindPack:
		for _, o := range n.spec.Pack.Outputs {
			names = append(names, o.Name)
		}
		return names, true
	case work.KindMap, work.KindParallel:
		return nil, true
	default:
		return nil, false
	}
}

// artifact checks that a step leaves the files that another takes, and writes the full name of the step into the plan.
func (b *builder) artifact(n *node, u *manifest.Use, target *node) {
	m := n.pack.manifest
	source := target
	if target.spec.Kind == work.KindMap && len(target.children) == 1 {
		source = target.children[0]
	}
	wrong := func(hint, format string, args ...any) {
		b.problems.add(m.Fault(u.Pos(0), format, args...).WithHint("%s", hint))
	}
	if source.spec.Kind != work.KindRun {
		wrong("take it from the run step that makes it", "the step %q is %s and leaves no files", u.Artifact, kindWord(source.spec.Kind))
		return
	}
	found := false
	var names []string
	for _, o := range source.spec.Run.Outputs {
		found = found || o.Name == u.Output && o.Path != ""
		if o.Path != "" {
			names = append(names, o.Name)
		}
	}
	_, closed := outputNames(source)
	if !found && closed {
		hint := manifest.Choices(u.Output, names)
		if len(names) == 0 {
			hint = "declare it: outputs: {" + u.Output + ": path/of/the/file} on that step"
		}
		wrong(hint, "the step %q leaves no file called %q", u.Artifact, u.Output)
		return
	}
	run := *n.spec.Run
	run.Artifacts = append([]work.ArtifactUse(nil), run.Artifacts...)
	for i := range run.Artifacts {
		if run.Artifacts[i].Step == u.Artifact && run.Artifacts[i].Output == u.Output {
			run.Artifacts[i].Step = target.spec.ID
		}
	}
	n.spec.Run = &run
}
