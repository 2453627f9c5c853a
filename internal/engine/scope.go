package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Bindings are the values that the templates of one attempt are rendered with. The worker renders them itself from the
// plan, so that a server cannot slip it another command. Their canonical digest is in the history.
type Bindings struct {
	Inputs    map[string]any    `json:"inputs,omitempty"`
	Steps     map[string]any    `json:"steps,omitempty"`
	Vars      map[string]any    `json:"vars,omitempty"`
	Run       map[string]any    `json:"run"`
	Artifacts []BoundArtifact   `json:"artifacts,omitempty"` // in the order of RunSpec.Artifacts
	Secrets   map[string]string `json:"secrets,omitempty"`   // environment name -> reference
}

// BoundArtifact is a file that is put into the workspace before the step starts.
type BoundArtifact struct {
	To       string        `json:"to"`
	Index    int           `json:"index"` // of the map item it comes from, -1 for none
	Artifact work.Artifact `json:"artifact"`
}

// Scope returns the bindings in the form that expressions are evaluated in.
func (b *Bindings) Scope() expression.Scope {
	return expression.Scope{Inputs: b.Inputs, Steps: b.Steps, Vars: b.Vars, Run: b.Run}
}

// resolve finds the step that a local name means where step id stands: beside it, or further out, but never across the
// border of a sub-pack that has a manifest of its own.
func (g *Graph) resolve(id work.StepID, local string) (work.StepID, bool) {
	scope := id.Scope()
	for {
		candidate := work.StepID(scope + local)
		if g.nodes[candidate.Template()] != nil {
			return candidate, true
		}
		if scope == "" {
			return "", false
		}
		owner := scopeOwner(scope)
		n := g.nodes[owner.Template()]
		if n == nil || n.spec.Pack != nil && n.spec.Pack.Ref != nil {
			return "", false
		}
		scope = owner.Scope()
	}
}

// scopeOwner returns the map or sub-pack step whose children have the prefix.
func scopeOwner(scope string) work.StepID {
	if owner, ok := strings.CutSuffix(scope, "/"); ok {
		return work.StepID(owner)
	}
	owner := strings.TrimSuffix(scope, "]::")
	return work.StepID(owner[:strings.LastIndexByte(owner, '[')])
}

// scope gathers the values that expressions with the given references see at a step.
func (m *machine) scope(id work.StepID, refs expression.Refs) (expression.Scope, error) {
	s := expression.Scope{Run: m.runValues()}
	inputs, err := m.inputs(id)
	if err != nil {
		return s, err
	}
	if len(refs.Inputs) > 0 {
		s.Inputs = make(map[string]any, len(refs.Inputs))
		for _, name := range refs.Inputs {
			if v, ok := inputs[name]; ok {
				s.Inputs[name] = v
			}
		}
	}
	if len(refs.Vars) > 0 {
		if s.Vars, err = m.vars(id); err != nil {
			return s, err
		}
	}
	for _, local := range refs.Steps {
		target, ok := m.g.resolve(id, local)
		if !ok {
			return s, fault.New(fault.Invalid, "the expression names step %q, which %q cannot see", local, id)
		}
		if s.Steps == nil {
			s.Steps = map[string]any{}
		}
		if s.Steps[local], err = m.result(target); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (m *machine) runValues() map[string]any {
	r := m.v.Run()
	state := r.Outcome
	if state == "" {
		state = work.Succeeded
		if r.Phase == work.PhaseMain {
			state = work.Running
		}
	}
	return map[string]any{
		"id": string(r.ID), "name": r.Name, "tenant": string(r.Tenant),
		"status": string(state), "failed": state.Failure(), "planHash": string(r.PlanHash),
	}
}

// inputs returns the inputs of the innermost sub-pack around the step, or of the pack.
func (m *machine) inputs(id work.StepID) (map[string]any, error) {
	for scope := id.Scope(); scope != ""; {
		owner := scopeOwner(scope)
		n := m.g.nodes[owner.Template()]
		if n != nil && n.spec.Pack != nil && (n.spec.Pack.Ref != nil || len(n.spec.Pack.With) > 0) {
			row := m.v.Step(owner)
			if row == nil {
				return nil, fault.New(fault.Internal, "sub-pack %q has not started", owner)
			}
			return object(row.Inputs)
		}
		scope = owner.Scope()
	}
	return InputValues(m.g.Plan)
}

// InputValues returns the inputs of a plan as expressions see them. Secrets have no value.
func InputValues(p *work.Plan) (map[string]any, error) {
	out := make(map[string]any, len(p.Inputs))
	for _, in := range p.Inputs {
		if in.Secret != "" {
			continue
		}
		v, err := value(in.Value)
		if err != nil {
			return nil, err
		}
		out[in.Name] = v
	}
	return out, nil
}

// vars returns the elements and positions of the maps around the step; an inner name hides an outer one.
func (m *machine) vars(id work.StepID) (map[string]any, error) {
	out := map[string]any{}
	for scope := id.Scope(); scope != ""; {
		owner := scopeOwner(scope)
		n := m.g.nodes[owner.Template()]
		if n == nil || n.spec.Pack != nil && n.spec.Pack.Ref != nil {
			break
		}
		if n.spec.Map != nil {
			open := strings.LastIndexByte(scope, '[')
			index, err := strconv.Atoi(strings.TrimSuffix(scope[open+1:], "]::"))
			if err != nil {
				return nil, fault.New(fault.Internal, "step %q has no position in map %q", id, owner)
			}
			item, err := m.item(owner, index)
			if err != nil {
				return nil, err
			}
			setIfAbsent(out, n.spec.Map.Item, item)
			setIfAbsent(out, n.spec.Map.Index, int64(index))
		}
		scope = owner.Scope()
	}
	return out, nil
}

func setIfAbsent(m map[string]any, key string, v any) {
	if _, ok := m[key]; !ok {
		m[key] = v
	}
}

func (m *machine) item(id work.StepID, index int) (any, error) {
	spec := m.g.Spec(id).Map
	switch {
	case spec.Range != nil:
		return spec.Range.Start + int64(index)*spec.Range.Step, nil
	case spec.Expression == "":
		if index < len(spec.Static) {
			return value(spec.Static[index])
		}
	default:
		row := m.v.Step(id)
		if row == nil {
			return nil, fault.New(fault.Internal, "map %q has not started", id)
		}
		items, err := m.g.lists.get(m.v.Run().ID, row)
		if err != nil {
			return nil, err
		}
		if index < len(items) {
			return value(items[index])
		}
	}
	return nil, fault.New(fault.Internal, "map %q has no item %d", id, index)
}

// result is what expressions see of an ended step.
func (m *machine) result(id work.StepID) (map[string]any, error) {
	row := m.v.Step(id)
	if row == nil {
		return map[string]any{"status": string(work.Pending), "outputs": map[string]any{}}, nil
	}
	outputs, err := object(row.Outputs)
	if err != nil {
		return nil, err
	}
	for _, a := range row.Artifacts {
		if _, ok := outputs[a.Name]; !ok {
			outputs[a.Name] = map[string]any{"path": a.Path, "digest": string(a.Digest), "size": a.Size}
		}
	}
	out := map[string]any{"status": string(row.State), "outputs": outputs}
	n := m.g.nodes[id.Template()]
	if n.spec.Kind == work.KindMap && len(n.inside.all) == 1 {
		results := make([]any, row.Total)
		for i := range results {
			child := m.child(id, n, i)
			r, err := m.result(child)
			if err != nil {
				return nil, err
			}
			results[i] = r
		}
		out["results"] = results
	}
	return out, nil
}

// child returns the i-th child of a container.
func (m *machine) child(id work.StepID, n *node, i int) work.StepID {
	if n.spec.Kind == work.KindMap {
		return n.inside.all[0].spec.ID.Instantiate(append(id.Indices(), strconv.Itoa(i)))
	}
	return n.inside.roots[i].spec.ID.Instantiate(id.Indices())
}

// bind gathers everything that the templates of a run step refer to.
func (m *machine) bind(id work.StepID) (*Bindings, error) {
	spec := m.g.Spec(id).Run
	var refs expression.Refs
	for _, source := range spec.Templates() {
		if !strings.Contains(source, "${{") {
			continue
		}
		t, err := m.g.template(source)
		if err != nil {
			return nil, err
		}
		refs = refs.Union(t.Refs())
	}
	scope, err := m.scope(id, refs)
	if err != nil {
		return nil, err
	}
	b := &Bindings{Inputs: scope.Inputs, Steps: scope.Steps, Vars: scope.Vars, Run: scope.Run}
	delete(b.Run, "status")
	delete(b.Run, "failed")
	if refs.Run {
		b.Run = m.runValues()
	}
	for _, use := range spec.Artifacts {
		bound, err := m.bindArtifact(id, use)
		if err != nil {
			return nil, err
		}
		b.Artifacts = append(b.Artifacts, bound...)
	}
	for _, env := range slices.Sorted(maps.Keys(spec.Secrets)) { // in order: the first failure goes into the history
		ref, err := m.g.secret(id, spec.Secrets[env])
		if err != nil {
			return nil, err
		}
		if b.Secrets == nil {
			b.Secrets = map[string]string{}
		}
		b.Secrets[env] = ref
	}
	return b, nil
}

func (m *machine) bindArtifact(id work.StepID, use work.ArtifactUse) ([]BoundArtifact, error) {
	source := use.Step.Instantiate(id.Indices())
	n := m.g.nodes[source.Template()]
	if n == nil {
		return nil, fault.New(fault.Invalid, "step %q takes output %q of %q, which is not in the plan", id, use.Output, use.Step)
	}
	row := m.v.Step(source)
	if row == nil {
		return nil, nil
	}
	if n.spec.Kind != work.KindMap {
		return pick(row, use, -1), nil
	}
	var out []BoundArtifact
	for i := range row.Total {
		if child := m.v.Step(m.child(source, n, i)); child != nil {
			out = append(out, pick(child, use, i)...)
		}
	}
	return out, nil
}

func pick(row *work.Step, use work.ArtifactUse, index int) []BoundArtifact {
	var out []BoundArtifact
	for _, a := range row.Artifacts {
		if a.Name == use.Output {
			if use.Base != "" {
				a.Path = strings.TrimPrefix(a.Path, use.Base+"/")
			}
			out = append(out, BoundArtifact{To: use.To, Index: index, Artifact: a})
		}
	}
	return out
}

// secret follows a secret input outwards through the sub-packs to the reference that the pack was given.
func (g *Graph) secret(id work.StepID, name string) (string, error) {
	for scope := id.Scope(); scope != ""; {
		owner := scopeOwner(scope)
		if n := g.nodes[owner.Template()]; n != nil && n.spec.Pack != nil && n.spec.Pack.Ref != nil {
			outer, ok := n.spec.Pack.Secrets[name]
			if !ok {
				return "", fault.New(fault.Invalid, "sub-pack %q gets no secret %q", owner, name)
			}
			name = outer
		}
		scope = owner.Scope()
	}
	for _, in := range g.Plan.Inputs {
		if in.Name == name && in.Secret != "" {
			return in.Secret, nil
		}
	}
	return "", fault.New(fault.Invalid, "the plan has no secret %q", name)
}

// value decodes JSON with whole numbers as int64.
func value(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("a stored value is no JSON: %w", err)
	}
	return whole(v)
}

func whole(v any) (any, error) {
	var err error
	switch x := v.(type) {
	case json.Number:
		return x.Int64()
	case []any:
		for i := range x {
			if x[i], err = whole(x[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range x {
			if x[k], err = whole(x[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func object(raw json.RawMessage) (map[string]any, error) {
	v, err := value(raw)
	if err != nil {
		return nil, err
	}
	if m, ok := v.(map[string]any); ok {
		return m, nil
	}
	return map[string]any{}, nil
}
