package control

import (
	"context"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Carry is what a retry takes over from an earlier run, and what it does again.
type Carry struct {
	Carried []work.Carried
	Again   []work.StepID // steps of the new plan that run again, in order of the plan
	Why     map[work.StepID]string
}

// Stored returns the plan that a run executes, ready to be submitted again.
func (s *Service) Stored(ctx context.Context, run work.Run) (*plan.Built, error) {
	raw, err := s.Store.Plan(ctx, run.Tenant, run.PlanHash)
	if err != nil {
		return nil, err
	}
	p, err := plan.Decode(raw)
	if err != nil {
		return nil, err
	}
	return &plan.Built{Plan: p, Canonical: raw, Hash: run.PlanHash}, nil
}

// Carry works out which results of an earlier run hold for a plan, which may be another one: a step keeps its result when
// it ended well, says the same as before, and everything it builds on keeps its result, too. What selectors name is done
// again in any case, with all that builds on it. A selector is a step id, perhaps with wildcards: "build", "shard[3]::*".
func (s *Service) Carry(ctx context.Context, run work.Run, next *plan.Built, selectors []string) (Carry, error) {
	before, err := s.Stored(ctx, run)
	if err != nil {
		return Carry{}, err
	}
	g, err := engine.NewGraph(next.Plan, next.Hash)
	if err != nil {
		return Carry{}, err
	}
	c := Carry{Why: map[work.StepID]string{}}
	stale := staleSteps(before.Plan, next.Plan)
	for id, why := range stale {
		c.Why[id] = why
	}
	matched := make([]bool, len(selectors))
	chosen := map[work.StepID]bool{}
	var rows []work.Step
	err = s.EachStep(ctx, run, func(row *work.Step) {
		for i, sel := range selectors {
			if selects(sel, row.ID) {
				matched[i] = true
				chosen[row.ID] = true
			}
		}
		rows = append(rows, *row)
	})
	if err != nil {
		return Carry{}, err
	}
	for i, ok := range matched {
		if !ok {
			return Carry{}, fault.New(fault.NotFound, "no step of run %s matches %q", run.Name, selectors[i]).
				WithHint("orrery runs show %s", run.Name)
		}
	}
	again := affected(g, next.Plan, chosen)
	for i := range rows {
		row := &rows[i]
		if _, old := stale[row.ID.Template()]; old || again(row.ID) || !carryable(g, row) {
			continue
		}
		c.Carried = append(c.Carried, work.Carried{
			Step: row.ID, Run: origin(row), Attempt: row.Attempt, Outputs: row.Outputs, Artifacts: row.Artifacts,
		})
	}
	kept := map[work.StepID]bool{}
	for _, x := range c.Carried {
		kept[x.Step.Template()] = true
	}
	for _, spec := range next.Plan.Steps {
		if spec.Kind == work.KindRun && !kept[spec.ID] {
			c.Again = append(c.Again, spec.ID)
		}
	}
	return c, nil
}

func origin(row *work.Step) work.RunID {
	if row.CarriedRun != "" {
		return row.CarriedRun
	}
	return row.Run
}

func selects(selector string, id work.StepID) bool {
	if selector == string(id) || strings.HasPrefix(string(id), selector+"::") || strings.HasPrefix(string(id), selector+"/") {
		return true
	}
	// The brackets of a map item are no character class here.
	escaped := strings.NewReplacer("[", `\[`, "]", `\]`).Replace(selector)
	ok, err := path.Match(escaped, string(id))
	return err == nil && ok
}

// staleSteps names the steps of the new plan whose earlier result does not hold, and why.
func staleSteps(before, next *work.Plan) map[work.StepID]string {
	out := map[work.StepID]string{}
	old := map[work.StepID]*work.PlanStep{}
	for i := range before.Steps {
		old[before.Steps[i].ID] = &before.Steps[i]
	}
	files := !same(scripts(before), scripts(next))
	inputs := changedInputs(before, next)
	for i := range next.Steps {
		spec := &next.Steps[i]
		switch prev := old[spec.ID]; {
		case prev == nil:
			out[spec.ID] = "new"
		case !same(prev, spec):
			out[spec.ID] = "changed"
		case files && spec.Kind == work.KindRun:
			out[spec.ID] = "files of the pack changed"
		case usesInput(spec, inputs):
			out[spec.ID] = "an input changed"
		case out[spec.Parent] != "":
			out[spec.ID] = "inside " + string(spec.Parent)
		default:
			for _, need := range spec.Needs {
				if out[need] != "" {
					out[spec.ID] = "after " + string(need)
					break
				}
			}
		}
	}
	return out
}

// scripts are the files that steps may read, without the manifest: what it says of a step is compared step by step.
func scripts(p *work.Plan) []work.File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f work.File) bool { return f.Path == "pack.yaml" })
}

func changedInputs(before, next *work.Plan) []string {
	old := map[string]work.Input{}
	for _, in := range before.Inputs {
		old[in.Name] = in
	}
	var out []string
	for _, in := range next.Inputs {
		if !same(old[in.Name], in) {
			out = append(out, in.Name)
		}
	}
	return out
}

// usesInput reports whether a step looks at one of the inputs.
func usesInput(spec *work.PlanStep, names []string) bool {
	if len(names) == 0 {
		return false
	}
	looked := map[string]bool{}
	for _, source := range expressions(spec) {
		if p, err := expression.Compile(source); err == nil {
			for _, name := range p.Refs().Inputs {
				looked[name] = true
			}
		}
	}
	for _, source := range templates(spec) {
		if t, err := expression.CompileTemplate(source); err == nil {
			for _, name := range t.Refs().Inputs {
				looked[name] = true
			}
		}
	}
	if spec.Run != nil {
		for _, name := range spec.Run.Secrets {
			looked[name] = true
		}
	}
	return slices.ContainsFunc(names, func(n string) bool { return looked[n] })
}

func expressions(spec *work.PlanStep) []string {
	var out []string
	if spec.When != "" {
		out = append(out, spec.When)
	}
	if spec.Map != nil && spec.Map.Expression != "" {
		out = append(out, spec.Map.Expression)
	}
	if spec.Policy != nil {
		for _, r := range spec.Policy.Rules {
			out = append(out, r.Require)
		}
	}
	return out
}

func templates(spec *work.PlanStep) []string {
	switch {
	case spec.Run != nil:
		return spec.Run.Templates()
	case spec.Pack != nil:
		return slices.Collect(maps.Values(spec.Pack.With))
	case spec.Policy != nil && spec.Policy.Engine != nil:
		return slices.Collect(maps.Values(spec.Policy.Engine.Parameters))
	default:
		return nil
	}
}

func same(a, b any) bool {
	// Both are plan documents: marshalling cannot fail and has one spelling.
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// affected returns whether a step is chosen or builds on a chosen one: it needs it, directly or not, is inside a block that
// does, or comes after the block that a chosen one is inside of.
func affected(g *engine.Graph, p *work.Plan, chosen map[work.StepID]bool) func(work.StepID) bool {
	moved := map[work.StepID]bool{} // steps of the plan of which something is done again
	for id := range chosen {
		for at := id; at != ""; at = g.Parent(at) {
			moved[at.Template()] = true
		}
	}
	whole := map[work.StepID]bool{} // steps of the plan that are done again altogether
	for _, spec := range p.Steps {
		if whole[spec.Parent] {
			whole[spec.ID] = true
		}
		for _, need := range spec.Needs {
			if whole[need] || moved[need] {
				whole[spec.ID] = true
			}
		}
	}
	return func(id work.StepID) bool {
		return chosen[id] || whole[id.Template()]
	}
}

// Rerun submits the plan of a run again, with nothing carried over.
func (s *Service) Rerun(ctx context.Context, run work.Run, sub Submission) (work.Run, error) {
	built, err := s.Stored(ctx, run)
	if err != nil {
		return work.Run{}, err
	}
	sub.Tenant, sub.Built = run.Tenant, built
	return s.Submit(ctx, sub)
}

// Retry submits a plan, the run's own or a changed one, with everything carried over that holds.
func (s *Service) Retry(ctx context.Context, run work.Run, sub Submission, selectors []string) (work.Run, Carry, error) {
	if sub.Built == nil {
		var err error
		if sub.Built, err = s.Stored(ctx, run); err != nil {
			return work.Run{}, Carry{}, err
		}
	}
	c, err := s.CarryEnded(ctx, run, sub.Built, selectors)
	if err != nil {
		return work.Run{}, c, err
	}
	created, err := s.RetryCarrying(ctx, run, sub, c)
	return created, c, err
}

// CarryEnded is Carry for a run that has ended. Error: fault.Conflict for one that has not.
func (s *Service) CarryEnded(ctx context.Context, run work.Run, built *plan.Built, selectors []string) (Carry, error) {
	if !run.State.Terminal() {
		return Carry{}, fault.New(fault.Conflict, "run %s has not ended", run.Name).
			WithHint("orrery runs resume %s carries it on, orrery runs cancel %s ends it", run.Name, run.Name)
	}
	return s.Carry(ctx, run, built, selectors)
}

// RetryCarrying submits a plan with what CarryEnded has found.
func (s *Service) RetryCarrying(ctx context.Context, run work.Run, sub Submission, c Carry) (work.Run, error) {
	sub.Tenant, sub.RetryOf, sub.Carried, sub.Trace = run.Tenant, run.ID, c.Carried, TraceOf(&run, sub.Trace)
	return s.Submit(ctx, sub)
}

// Match returns the runs that a query selects, for commands that act on several.
func (s *Service) Match(ctx context.Context, tenant work.Tenant, q store.RunQuery) ([]work.Run, error) {
	return s.Store.Find(ctx, tenant, q)
}
