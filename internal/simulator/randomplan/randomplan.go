// Package randomplan draws valid plans: nested blocks, maps, gates, conditions, retries and limits, small enough that every
// schedule of them ends soon and strange enough that a person would not have written them.
package randomplan

import (
	"encoding/json"
	"fmt"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// Shape bounds what is drawn. The zero value of a field switches its feature off.
type Shape struct {
	Steps       int  // about how many steps the plan has at most
	Depth       int  // how deep blocks stand in blocks
	Gates       bool // approval gates
	Policies    bool // policy gates
	Finally     bool // finally steps
	Conditions  bool // steps with a when
	Retries     bool
	Limits      bool     // maxParallel of the run and of blocks
	GoOn        bool     // every block and the plan go on after a failure, so that the end does not depend on the schedule
	TimeLimit   bool     // some runs have one
	Concurrency []string // keys that run steps may have, with Max of 1 or 2
	RunKeys     []string // keys that runs may have
	Queues      []string // queues that run steps may name
	Labels      bool     // some run steps ask for the label disk=ssd
}

// Pick returns a number from 0 to n-1. It is where all chance comes from.
type Pick func(n int) int

// New draws a plan. Every run step named in an expression declares the output "items", a list.
func New(pick Pick, s Shape) *work.Plan {
	g := generator{pick: pick, shape: s, left: max(1, s.Steps)}
	p := &work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: "random", Version: "1.0.0", Digest: canonical.Digest(nil)},
		ContinueOnError: s.GoOn || g.chance(3),
	}
	if s.Limits && g.chance(3) {
		p.MaxParallel = 1 + pick(4)
	}
	if s.TimeLimit && g.chance(6) {
		p.TimeoutMs = int64(60_000 * (1 + pick(30)))
	}
	if len(s.RunKeys) > 0 && g.chance(4) {
		p.Concurrency = &work.Concurrency{Key: s.RunKeys[pick(len(s.RunKeys))], Max: 1}
	}
	g.plan = p
	g.siblings("", "", 1+pick(5), s.Depth, false)
	if s.Finally && g.chance(3) {
		g.finally = true
		g.siblings("", "", 1+pick(2), 0, false)
	}
	return p
}

type generator struct {
	pick    Pick
	shape   Shape
	plan    *work.Plan
	left    int
	names   int
	finally bool
}

// chance is true once in n times.
func (g *generator) chance(n int) bool { return g.pick(n) == n-1 }

// siblings draws steps that stand beside each other. Independent ones need none of the others.
func (g *generator) siblings(parent work.StepID, prefix string, n, depth int, independent bool) {
	var before []*work.PlanStep
	for range n {
		g.left--
		g.names++
		s := &work.PlanStep{ID: work.StepID(fmt.Sprintf("%ss%d", prefix, g.names)), Parent: parent, Finally: g.finally}
		if !independent {
			for _, b := range before {
				if g.chance(3) {
					s.Needs = append(s.Needs, b.ID)
				}
			}
			slices.Sort(s.Needs)
		}
		g.condition(s)
		s.ContinueOnError = g.chance(5)
		at := len(g.plan.Steps)
		g.plan.Steps = append(g.plan.Steps, work.PlanStep{})
		g.fill(s, prefix, depth)
		g.plan.Steps[at] = *s
		before = append(before, s)
	}
}

func (g *generator) condition(s *work.PlanStep) {
	if !g.shape.Conditions || !g.chance(5) {
		return
	}
	switch {
	case len(s.Needs) > 0 && g.chance(2):
		s.When = fmt.Sprintf("steps.%s.status == \"succeeded\"", s.Needs[g.pick(len(s.Needs))].Local())
	case g.chance(2):
		s.When = "false"
	default:
		s.When = "true"
	}
}

// fill draws what the step is, and what is inside of it.
func (g *generator) fill(s *work.PlanStep, prefix string, depth int) {
	kind := work.KindRun
	if depth > 0 && g.left > 0 && g.chance(3) {
		kind = []work.StepKind{work.KindParallel, work.KindMap, work.KindPack}[g.pick(3)]
	} else if g.shape.Gates && g.chance(8) {
		kind = work.KindApproval
	} else if g.shape.Policies && g.chance(8) {
		kind = work.KindPolicy
	}
	s.Kind = kind
	goOn := g.shape.GoOn || g.chance(3)
	switch kind {
	case work.KindParallel:
		s.Parallel = &work.ParallelSpec{ContinueOnError: goOn, MaxParallel: g.limit()}
		g.siblings(s.ID, prefix, 1+g.pick(3), depth-1, true)
	case work.KindMap:
		s.Map = g.mapOver(s)
		s.Map.ContinueOnError = goOn
		g.siblings(s.ID, string(s.ID)+"[*]::", 1, depth-1, true)
	case work.KindPack:
		s.Pack = &work.GroupSpec{ContinueOnError: goOn}
		g.siblings(s.ID, string(s.ID)+"/", 1+g.pick(3), depth-1, false)
	case work.KindApproval:
		s.Approval = &work.ApprovalSpec{Required: 1 + g.pick(2), TTLMs: int64(3_600_000 * (1 + g.pick(3)))}
	case work.KindPolicy:
		rule := work.Rule{ID: "rule", Require: []string{"true", "true", "false"}[g.pick(3)]}
		s.Policy = &work.PolicySpec{Rules: []work.Rule{rule}, FailAction: []string{"halt", "continue"}[g.pick(2)]}
	default:
		s.Run = g.run()
	}
}

func (g *generator) limit() int {
	if g.shape.Limits && g.chance(3) {
		return 1 + g.pick(2)
	}
	return 0
}

func (g *generator) mapOver(s *work.PlanStep) *work.MapSpec {
	m := &work.MapSpec{Item: "item", Index: "index", MaxItems: 100, MaxParallel: g.limit()}
	for _, need := range s.Needs {
		if spec := g.spec(need); spec.Kind == work.KindRun && g.chance(2) {
			m.Expression = fmt.Sprintf("steps.%s.outputs.items", need.Local())
			return m
		}
	}
	if g.chance(2) {
		m.Range = &work.Range{Start: int64(g.pick(3)), End: int64(g.pick(6)), Step: 1}
		return m
	}
	for i := range 1 + g.pick(3) {
		raw, _ := json.Marshal(fmt.Sprintf("item%d", i)) // cannot fail: a string
		m.Static = append(m.Static, raw)
	}
	return m
}

func (g *generator) spec(id work.StepID) *work.PlanStep {
	for i := range g.plan.Steps {
		if g.plan.Steps[i].ID == id {
			return &g.plan.Steps[i]
		}
	}
	return nil
}

func (g *generator) run() *work.RunSpec {
	r := &work.RunSpec{
		Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: int64(10_000 * (1 + g.pick(12))), GraceMs: 5_000,
		Retry: work.RetrySpec{MaxAttempts: 1}, Outputs: []work.StepOutput{{Name: "items", Type: "json", Optional: true}},
		Priority: g.pick(3),
	}
	if g.shape.Retries && g.chance(2) {
		r.Retry = work.RetrySpec{
			MaxAttempts: 2 + g.pick(2), BackoffMs: int64(500 * (1 + g.pick(10))), FactorMilli: 2000, MaxBackoffMs: 20_000, Jitter: g.chance(2),
		}
	}
	if n := len(g.shape.Concurrency); n > 0 && g.chance(3) {
		r.Concurrency = &work.Concurrency{Key: g.shape.Concurrency[g.pick(n)]}
		r.Concurrency.Max = 1 + len(r.Concurrency.Key)%2
	}
	if n := len(g.shape.Queues); n > 0 && g.chance(2) {
		r.Queue = g.shape.Queues[g.pick(n)]
	}
	if g.shape.Labels && g.chance(6) {
		r.Labels = map[string]string{"disk": "ssd"}
	}
	return r
}
