package plan

import (
	"maps"
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// packVersion is part of every digest of a pack.
const packVersion = "orrery.pack/v1"

// PackDigest names a pack: its manifest as it was written, and every file that travels with it. The order of files does
// not count.
func PackDigest(manifest []byte, files []work.File) work.Digest {
	doc := struct {
		Version  string      `json:"packVersion"`
		Manifest work.Digest `json:"manifest"`
		Files    []work.File `json:"files"`
	}{packVersion, canonical.Digest(manifest), sortedFiles(files)}
	raw, err := canonical.MarshalUpTo(doc, MaxBytes)
	if err != nil {
		// A path that is not UTF-8 has no JSON. Build refuses it; until then the pack has no digest that could match another.
		return ""
	}
	return canonical.Digest(raw)
}

// stepVersion is part of every digest of a step.
const stepVersion = "orrery.step/v1"

// stepDocument is what the digest of a step is taken of.
type stepDocument struct {
	Version string                      `json:"stepVersion"`
	Step    work.PlanStep               `json:"step"`
	Parent  work.Digest                 `json:"parent,omitempty"`
	Needs   map[work.StepID]work.Digest `json:"needs,omitempty"`
	Before  work.Digest                 `json:"before,omitempty"` // of a finally step: everything that runs before it
	Inputs  []work.Input                `json:"inputs,omitempty"`
	Files   work.Digest                 `json:"files,omitempty"`
	Inside  []work.Digest               `json:"inside,omitempty"` // of a container: what it contains
}

// StepDigests returns the digest of every step: over the step itself, the values of the inputs it looks at, the files of
// the pack if it runs a program, and the digests of what it needs and of what it is inside of. So a step has the same
// digest in two plans when everything that decides its result is the same in both. Manifests do not count as files: what
// they say is in the steps. What a container contains does not count for the container: it decides what comes after, so it
// counts there.
func StepDigests(p *work.Plan) (map[work.StepID]work.Digest, error) {
	d := digester{plan: p, own: make(map[work.StepID]work.Digest, len(p.Steps)), full: make(map[work.StepID]work.Digest, len(p.Steps))}
	if err := d.index(); err != nil {
		return nil, err
	}
	for i := range p.Steps {
		if _, err := d.step(&p.Steps[i]); err != nil {
			return nil, err
		}
	}
	return d.own, nil
}

// StepDigest returns the digest of one step, as StepDigests does.
func StepDigest(p *work.Plan, id work.StepID) (work.Digest, error) {
	all, err := StepDigests(p)
	if err != nil {
		return "", err
	}
	digest, ok := all[id.Template()]
	if !ok {
		return "", fault.New(fault.NotFound, "the plan has no step %q", id)
	}
	return digest, nil
}

// digester computes digests in the order of the plan, in which everything a digest needs comes before it. The full digest
// of a container adds what it contains; it is known once all of that is.
type digester struct {
	plan     *work.Plan
	steps    map[work.StepID]*work.PlanStep
	children map[work.StepID][]*work.PlanStep
	inputs   map[string]work.Input
	own      map[work.StepID]work.Digest
	full     map[work.StepID]work.Digest
	before   work.Digest
	files    work.Digest
}

func (d *digester) index() error {
	d.steps = make(map[work.StepID]*work.PlanStep, len(d.plan.Steps))
	d.children = map[work.StepID][]*work.PlanStep{}
	d.inputs = make(map[string]work.Input, len(d.plan.Inputs))
	for i := range d.plan.Steps {
		s := &d.plan.Steps[i]
		d.steps[s.ID] = s
		if s.Parent != "" {
			d.children[s.Parent] = append(d.children[s.Parent], s)
		}
	}
	for _, in := range d.plan.Inputs {
		d.inputs[in.Name] = in
	}
	files := make([]work.File, 0, len(d.plan.Files))
	for _, f := range d.plan.Files {
		if path.Base(f.Path) != ManifestFile {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil
	}
	raw, err := canonical.MarshalUpTo(files, MaxBytes)
	d.files = canonical.Digest(raw)
	return err
}

func (d *digester) step(s *work.PlanStep) (work.Digest, error) {
	doc := stepDocument{Version: stepVersion, Step: *s, Parent: d.own[s.Parent]}
	if len(s.Needs) > 0 {
		doc.Needs = make(map[work.StepID]work.Digest, len(s.Needs))
		for _, need := range s.Needs {
			full, err := d.whole(need)
			if err != nil {
				return "", err
			}
			doc.Needs[need] = full
		}
	}
	if s.Finally && s.Parent == "" {
		if err := d.main(); err != nil {
			return "", err
		}
		doc.Before = d.before
	}
	doc.Inputs = d.looked(s)
	if s.Run != nil && (s.Run.Runner == "shell" || s.Run.Runner == "python" || s.Run.Runner == "process" || s.Run.Runner == "bundle.ingest") {
		doc.Files = d.files
	}
	raw, err := canonical.MarshalUpTo(doc, MaxBytes)
	if err != nil {
		return "", err
	}
	d.own[s.ID] = canonical.Digest(raw)
	return d.own[s.ID], nil
}

// main takes the digest of everything that runs before the finally steps, once.
func (d *digester) main() error {
	if d.before != "" {
		return nil
	}
	var all []work.Digest
	for i := range d.plan.Steps {
		if o := &d.plan.Steps[i]; !o.Finally && o.Parent == "" {
			full, err := d.whole(o.ID)
			if err != nil {
				return err
			}
			all = append(all, full)
		}
	}
	raw, err := canonical.MarshalUpTo(all, MaxBytes)
	d.before = canonical.Digest(raw)
	return err
}

// whole returns the digest of a step with everything inside of it.
func (d *digester) whole(id work.StepID) (work.Digest, error) {
	if full, ok := d.full[id]; ok {
		return full, nil
	}
	own, ok := d.own[id]
	if !ok {
		return "", fault.New(fault.Invalid, "the plan is not in order: %q is needed before it stands there", id)
	}
	if children := d.children[id]; len(children) > 0 {
		doc := stepDocument{Version: stepVersion, Step: work.PlanStep{ID: id}, Parent: own}
		for _, c := range children {
			inside, err := d.whole(c.ID)
			if err != nil {
				return "", err
			}
			doc.Inside = append(doc.Inside, inside)
		}
		raw, err := canonical.MarshalUpTo(doc, MaxBytes)
		if err != nil {
			return "", err
		}
		own = canonical.Digest(raw)
	}
	d.full[id] = own
	return own, nil
}

// looked returns the inputs of the pack that the expressions of a step name. In a sub-pack inputs are what the step around
// it hands over, which is in the digest of that one.
func (d *digester) looked(s *work.PlanStep) []work.Input {
	for at := d.steps[s.Parent]; at != nil; at = d.steps[at.Parent] {
		if at.Pack != nil && at.Pack.Ref != nil {
			return nil
		}
	}
	names := map[string]bool{}
	for _, text := range texts(s) {
		var refs expression.Refs
		if text.bare {
			if p, err := expression.Compile(text.source); err == nil {
				refs = p.Refs()
			}
		} else if strings.Contains(text.source, "${{") {
			if t, err := expression.CompileTemplate(text.source); err == nil {
				refs = t.Refs()
			}
		}
		for _, name := range refs.Inputs {
			names[name] = true
		}
	}
	for _, name := range secretsOf(s) {
		names[name] = true
	}
	var out []work.Input
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if in, ok := d.inputs[name]; ok {
			out = append(out, in)
		}
	}
	return out
}

func secretsOf(s *work.PlanStep) []string {
	switch {
	case s.Run != nil:
		return slices.Collect(maps.Values(s.Run.Secrets))
	case s.Pack != nil:
		return slices.Collect(maps.Values(s.Pack.Secrets))
	default:
		return nil
	}
}

// source is a text of a step that is an expression, or a template that may hold some.
type sourceText struct {
	source string
	bare   bool
}

// texts returns everything in a step that is evaluated.
func texts(s *work.PlanStep) []sourceText {
	var out []sourceText
	if s.When != "" {
		out = append(out, sourceText{s.When, true})
	}
	switch {
	case s.Run != nil:
		for _, t := range s.Run.Templates() {
			out = append(out, sourceText{t, false})
		}
		if s.Run.Concurrency != nil {
			out = append(out, sourceText{s.Run.Concurrency.Key, false})
		}
	case s.Map != nil && s.Map.Expression != "":
		out = append(out, sourceText{s.Map.Expression, true})
	case s.Pack != nil:
		for _, name := range slices.Sorted(maps.Keys(s.Pack.With)) {
			out = append(out, sourceText{s.Pack.With[name], false})
		}
		for _, o := range s.Pack.Outputs {
			out = append(out, sourceText{o.Value, false})
		}
	case s.Policy != nil:
		for _, r := range s.Policy.Rules {
			out = append(out, sourceText{r.Require, true})
		}
		if e := s.Policy.Engine; e != nil {
			for _, name := range slices.Sorted(maps.Keys(e.Parameters)) {
				out = append(out, sourceText{e.Parameters[name], false})
			}
		}
	}
	return out
}
