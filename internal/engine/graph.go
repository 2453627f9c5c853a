package engine

import (
	"bytes"
	"encoding/json"
	"sync"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Graph is a plan prepared for execution. It is immutable but for a memo of compiled expressions, and safe for
// concurrent use.
type Graph struct {
	Plan *work.Plan
	Hash work.Digest

	nodes    map[work.StepID]*node
	main     block
	finally  block
	programs memo[*expression.Program]
	texts    memo[*expression.Template]
	lists    lists
}

// node is a step of the plan with its neighbours.
type node struct {
	spec       *work.PlanStep
	at         int     // its position in the plan
	dependents []*node // siblings that need it, in order of the plan
	inside     block   // what it contains
}

// block is a set of steps that start and end together: the run's main part, its finally part, or a container.
type block struct {
	all   []*node
	roots []*node // those that need no sibling
}

// lists remembers the decoded items of maps: every child of a map asks for its own, and decoding the whole list for each would make
// a step of a wide map dearer than one of a narrow map.
type lists struct {
	mu sync.Mutex
	m  map[listKey]list
}

type listKey struct {
	run work.RunID
	id  work.StepID
}

type list struct {
	raw   json.RawMessage
	items []json.RawMessage
}

const knownLists = 64

// get returns the items that a row holds.
func (c *lists) get(run work.RunID, row *work.Step) ([]json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := listKey{run, row.ID}
	if l, ok := c.m[key]; ok && bytes.Equal(l.raw, row.Items) {
		return l.items, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(row.Items, &items); err != nil {
		return nil, fault.New(fault.Internal, "the items of map %q cannot be read: %v", row.ID, err)
	}
	if c.m == nil || len(c.m) >= knownLists {
		c.m = map[listKey]list{}
	}
	c.m[key] = list{row.Items, items}
	return items, nil
}

// memo remembers what a source text compiles to. Compiling is pure, so the lock hides nothing that a caller could observe.
type memo[T any] struct {
	mu sync.Mutex
	m  map[string]T
}

func (c *memo[T]) get(source string, compile func(string) (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.m[source]; ok {
		return v, nil
	}
	v, err := compile(source)
	if err != nil {
		return v, err
	}
	if c.m == nil {
		c.m = map[string]T{}
	}
	c.m[source] = v
	return v, nil
}

// NewGraph prepares a plan whose hash is already known to be right.
func NewGraph(plan *work.Plan, hash work.Digest) (*Graph, error) {
	g := &Graph{Plan: plan, Hash: hash, nodes: make(map[work.StepID]*node, len(plan.Steps))}
	for i := range plan.Steps {
		spec := &plan.Steps[i]
		if g.nodes[spec.ID] != nil {
			return nil, fault.New(fault.Invalid, "plan %s has two steps called %q", hash.Short(), spec.ID)
		}
		g.nodes[spec.ID] = &node{spec: spec, at: i}
	}
	for i := range plan.Steps {
		if err := g.link(&plan.Steps[i]); err != nil {
			return nil, err
		}
	}
	for i := range plan.Steps {
		if n := g.nodes[plan.Steps[i].ID]; n.spec.Kind == work.KindMap && (len(n.inside.all) != 1 || len(n.inside.roots) != 1) {
			return nil, fault.New(fault.Invalid, "map %q has %d steps inside, not one", n.spec.ID, len(n.inside.all))
		}
	}
	return g, nil
}

// wellFormed checks what the engine relies on, because a plan may come from anybody: a step has the part that its kind
// names, and comes after what it needs and what it is inside of, so that nothing can wait for itself.
func (g *Graph) wellFormed(n *node) error {
	spec := n.spec
	has := map[work.StepKind]bool{
		work.KindRun: spec.Run != nil, work.KindParallel: spec.Parallel != nil, work.KindMap: spec.Map != nil,
		work.KindPack: spec.Pack != nil, work.KindApproval: spec.Approval != nil, work.KindPolicy: spec.Policy != nil,
	}
	if !has[spec.Kind] {
		return fault.New(fault.Invalid, "step %q does not say how its kind %q is done", spec.ID, spec.Kind)
	}
	if p := spec.Policy; p != nil && (p.Engine == nil) == (len(p.Rules) == 0) {
		return fault.New(fault.Invalid, "the policy gate %q needs either rules or a policy engine", spec.ID)
	}
	for kind, other := range has {
		if other && kind != spec.Kind {
			return fault.New(fault.Invalid, "step %q is of kind %q and has the part of another", spec.ID, spec.Kind)
		}
	}
	for _, before := range append([]work.StepID{spec.Parent}, spec.Needs...) {
		if b := g.nodes[before]; b != nil && b.at >= n.at {
			return fault.New(fault.Invalid, "step %q comes before %q in the plan, but needs it", spec.ID, before)
		}
	}
	return nil
}

func (g *Graph) link(spec *work.PlanStep) error {
	n := g.nodes[spec.ID]
	if err := g.wellFormed(n); err != nil {
		return err
	}
	in := &g.main
	if spec.Parent != "" {
		parent := g.nodes[spec.Parent]
		if parent == nil || !parent.spec.Kind.Container() {
			return fault.New(fault.Invalid, "step %q is inside %q, which is no block of the plan", spec.ID, spec.Parent)
		}
		in = &parent.inside
	} else if spec.Finally {
		in = &g.finally
	}
	in.all = append(in.all, n)
	if len(spec.Needs) == 0 {
		in.roots = append(in.roots, n)
	}
	for _, need := range spec.Needs {
		before := g.nodes[need]
		if before == nil || before.spec.Parent != spec.Parent || before.spec.Finally != spec.Finally {
			return fault.New(fault.Invalid, "step %q needs %q, which is not beside it", spec.ID, need)
		}
		before.dependents = append(before.dependents, n)
	}
	return nil
}

// Spec returns what the plan says about a step, whatever map items it is for; nil for a step that is not in the plan.
func (g *Graph) Spec(id work.StepID) *work.PlanStep {
	if n := g.nodes[id.Template()]; n != nil {
		return n.spec
	}
	return nil
}

// Parent returns the block that a step is inside of, "" at the top.
func (g *Graph) Parent(id work.StepID) work.StepID {
	n := g.nodes[id.Template()]
	if n == nil || n.spec.Parent == "" {
		return ""
	}
	return n.spec.Parent.Instantiate(id.Indices())
}

func (g *Graph) program(source string) (*expression.Program, error) {
	return g.programs.get(source, expression.Compile)
}

func (g *Graph) template(source string) (*expression.Template, error) {
	return g.texts.get(source, expression.CompileTemplate)
}
