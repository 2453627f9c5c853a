package plan

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// builder lays the steps of a pack and its sub-packs out flat, then checks what they say about one another.
type builder struct {
	source   Source
	plan     *work.Plan
	display  map[work.StepID]Text
	problems problems

	files map[string]work.File
	nodes []*node // in the order they were met
	byID  map[work.StepID]*node
	mark  int               // of the last search
	known map[[2]*node]bool // that the first ended before the second begins
}

// node is a step on its way into the plan.
type node struct {
	spec     work.PlanStep
	step     *manifest.Step
	pack     *place // the manifest it comes from
	parent   *node
	scope    string // prefix of its id
	inner    string // prefix of the ids of what it contains
	children []*node

	needs      []*node
	dependents []*node
	waits      int // of ordering: what has to be placed before
	inside     int // of ordering: what it contains and is not done
	rank       int // position in the plan
	seen       int // mark of a search
}

// place is a manifest and where it was put.
type place struct {
	manifest *manifest.Manifest
	folder   string   // of the manifest, relative to the root of the pack, "" for the root
	chain    []string // the manifests it is inside of, outermost first, itself last
}

func newBuilder(src Source) *builder {
	m := src.Manifest
	files := sortedFiles(src.Files)
	b := &builder{source: src, display: map[work.StepID]Text{}, known: map[[2]*node]bool{}, files: make(map[string]work.File, len(files))}
	b.plan = &work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: m.Name, Version: m.Version, Digest: src.Digest},
		MaxParallel: m.MaxParallel, ContinueOnError: m.ContinueOnError, TimeoutMs: m.TimeoutMs, Concurrency: m.Concurrency, Sealed: m.Sealed,
	}
	if len(files) > 0 {
		b.plan.Files = files
	}
	for _, f := range files {
		b.files[f.Path] = f
	}
	return b
}

// pack lays out and checks everything but the inputs.
func (b *builder) pack() {
	b.checkFiles()
	p := &place{manifest: b.source.Manifest, chain: []string{path.Clean(b.source.Path)}}
	if folder := path.Dir(path.Clean(b.source.Path)); folder != "." {
		p.folder = folder
	}
	b.byID = make(map[work.StepID]*node, len(p.manifest.Steps))
	b.list(p, nil, "", p.manifest.Steps, false)
	b.list(p, nil, "", p.manifest.Finally, true)
	if b.problems.err() != nil {
		return // what follows would complain about the same things again
	}
	if !b.order() {
		return
	}
	b.references()
	for _, o := range p.manifest.Outputs {
		b.plan.Outputs = append(b.plan.Outputs, o.RunOutput)
	}
	b.plan.Steps = make([]work.PlanStep, len(b.nodes))
	for i, n := range b.nodes {
		b.plan.Steps[i] = n.spec
		if n.step.Name != "" || n.step.Message != "" {
			b.display[n.spec.ID] = Text{n.step.Name, n.step.Message}
		}
	}
}

// checkFiles holds the list of files to the form that a worker can unpack without surprise.
func (b *builder) checkFiles() {
	m := b.source.Manifest
	for i, f := range b.plan.Files {
		clean := path.Clean(f.Path)
		if f.Path == "" || f.Path != clean || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(f.Path, "\x00\\") {
			b.problems.add(m.Fault(manifest.Pos{}, "the file %q has no clean relative path", f.Path))
		}
		if i > 0 && b.plan.Files[i-1].Path == f.Path {
			b.problems.add(m.Fault(manifest.Pos{}, "the file %q is listed twice", f.Path))
		}
		if _, err := work.ParseDigest(string(f.Digest)); err != nil {
			b.problems.add(m.Fault(manifest.Pos{}, "the file %q has no digest", f.Path))
		}
	}
}

// list adds the steps of one list. In a list a step follows the one before it unless it says what it needs.
func (b *builder) list(p *place, parent *node, scope string, steps []*manifest.Step, finally bool) {
	parallel := parent != nil && parent.spec.Kind == work.KindParallel
	added := make([]*node, 0, len(steps))
	local := make(map[string]*node, len(steps))
	for _, s := range steps {
		n := b.add(p, parent, scope, s, finally)
		added = append(added, n)
		local[string(s.Spec.ID)] = n
	}
	for i, n := range added {
		switch {
		case parallel && len(n.step.Needs) > 0:
			b.problems.add(p.manifest.Fault(n.step.Needs[0].Pos, "steps of a parallel block do not wait for each other").
				WithHint("put steps that follow each other into a pack: {steps: […]} inside of the block, or outside of it"))
		case parallel:
		case n.step.NeedsGiven:
			b.explicit(p, n, local)
		case i > 0:
			n.needs = []*node{added[i-1]}
		}
		n.spec.Needs = make([]work.StepID, len(n.needs))
		for j, need := range n.needs {
			n.spec.Needs[j] = need.spec.ID
			need.dependents = append(need.dependents, n)
		}
		slices.Sort(n.spec.Needs)
		if len(n.needs) == 0 {
			n.spec.Needs = nil
		}
	}
}

func (b *builder) explicit(p *place, n *node, local map[string]*node) {
	for _, word := range n.step.Needs {
		before := local[word.Text]
		switch {
		case before == nil:
			e := p.manifest.Fault(word.Pos, "the step %q needs %q, which is not beside it", n.step.Spec.ID, word.Text)
			if at := b.byID[work.StepID(n.scope+word.Text)]; at != nil && at.parent != nil {
				e = e.WithHint("%q is inside of %q; name that block", word.Text, at.parent.step.Spec.ID)
			} else if at != nil && n.parent == nil {
				e = e.WithHint("a step of finally runs after all others anyway")
			} else {
				names := make([]string, 0, len(local))
				for name := range local {
					if name != string(n.step.Spec.ID) {
						names = append(names, name)
					}
				}
				e.Hint = manifest.Choices(word.Text, names)
			}
			b.problems.add(e)
		case before == n:
			b.problems.add(p.manifest.Fault(word.Pos, "the step %q needs itself", word.Text))
		case !slices.Contains(n.needs, before):
			n.needs = append(n.needs, before)
		}
	}
}

// add puts one step and what it contains into the plan.
func (b *builder) add(p *place, parent *node, scope string, s *manifest.Step, finally bool) *node {
	n := &node{spec: s.Spec, step: s, pack: p, parent: parent, scope: scope, inner: scope}
	n.spec.ID = work.StepID(scope) + s.Spec.ID
	n.spec.Finally = finally
	if parent != nil {
		n.spec.Parent = parent.spec.ID
		parent.children = append(parent.children, n)
	}
	if first := b.byID[n.spec.ID]; first != nil {
		hint := "give one of them another id"
		if first.parent != parent {
			hint = "ids are unique in a pack, also inside of parallel blocks; give one of them another id"
		}
		b.problems.add(p.manifest.Fault(s.Pos, "the id %q is taken by the step on line %d", s.Spec.ID, first.step.Pos.Line).WithHint("%s", hint))
		return n
	}
	b.byID[n.spec.ID] = n
	b.nodes = append(b.nodes, n)
	switch s.Spec.Kind {
	case work.KindRun:
		b.run(p, n)
	case work.KindParallel:
		b.list(p, n, scope, s.Steps, finally)
	case work.KindMap:
		n.inner = string(n.spec.ID) + "[*]::"
		b.list(p, n, n.inner, s.Steps, finally)
	case work.KindPack:
		n.inner = string(n.spec.ID) + "/"
		if s.Path != "" {
			b.subPack(p, n)
		} else {
			b.list(p, n, n.inner, s.Steps, finally)
		}
	}
	return n
}

// run fits a run step into the whole: its paths begin at the root of the pack, wherever its manifest is.
func (b *builder) run(p *place, n *node) {
	if (b.plan.Sealed || p.manifest.Sealed) && len(n.spec.Run.Sandbox.Egress) > 0 {
		b.problems.add(p.manifest.Fault(n.step.Pos, "the pack is sealed, but the step %q wants to reach %s", n.step.Spec.ID, n.spec.Run.Sandbox.Egress[0].Host).
			WithHint("take egress away, or take sealed away and let approvers decide"))
	}
	if p.folder != "" {
		n.spec.Run = rebase(n.spec.Run, p.folder)
	}
	for _, word := range n.step.Files {
		file := path.Join(p.folder, word.Text)
		if _, ok := b.files[file]; ok {
			continue
		}
		var known []string
		for _, f := range b.plan.Files {
			if rest, ok := strings.CutPrefix(f.Path, prefixed(p.folder)); ok {
				known = append(known, rest)
			}
		}
		e := p.manifest.Fault(word.Pos, "there is no file %q beside the manifest", word.Text)
		e.Hint = "create it, or check .packignore"
		if s := manifest.Suggest(word.Text, known); s != "" {
			e.Hint = manifest.Choices(word.Text, known)
		}
		b.problems.add(e)
	}
}

func prefixed(folder string) string {
	if folder == "" {
		return ""
	}
	return folder + "/"
}

// rebase moves every path of a step into a folder of the workspace.
func rebase(r *work.RunSpec, folder string) *work.RunSpec {
	out := *r
	out.Dir = path.Join(folder, r.Dir)
	if r.File != "" {
		out.File = path.Join(folder, r.File)
	}
	out.Outputs = slices.Clone(r.Outputs)
	for i, o := range out.Outputs {
		if o.Path != "" {
			out.Outputs[i].Path = keepSlash(path.Join(folder, o.Path), o.Path)
		}
	}
	out.Artifacts = slices.Clone(r.Artifacts)
	for i, a := range out.Artifacts {
		out.Artifacts[i].To, out.Artifacts[i].Base = keepSlash(path.Join(folder, a.To), a.To), folder
	}
	parameter := map[string]string{"bundle.ingest": "path", "http": "file"}[r.Runner]
	var text string
	if raw, ok := r.With[parameter]; ok && json.Unmarshal(raw, &text) == nil {
		with := make(map[string]json.RawMessage, len(r.With))
		for k, v := range r.With {
			with[k] = v
		}
		if moved, err := canonical.Marshal(escaped(folder) + "/" + text); err == nil {
			with[parameter] = moved
		}
		out.With = with
	}
	return &out
}

func keepSlash(joined, original string) string {
	if strings.HasSuffix(original, "/") {
		return joined + "/"
	}
	return joined
}

// escaped makes a plain text part of a template.
func escaped(text string) string {
	if !expression.HasExpression(text) {
		return text
	}
	return strings.ReplaceAll(text, "${{", "$${{")
}
