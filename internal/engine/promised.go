package engine

import (
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// CheckBindings holds the values of a lease to what the plan itself decides: the inputs of the pack, which secret goes where, and where
// files are put. What earlier steps produced, and inputs of sub-packs that are computed from it, the plan does not decide.
// Error: fault.PlanMismatch.
func CheckBindings(g *Graph, id work.StepID, b *Bindings) error {
	step := g.Spec(id)
	if step == nil || step.Run == nil || b == nil {
		return fault.New(fault.PlanMismatch, "the plan has no run step %q", id)
	}
	if !g.insidePack(id) {
		if err := g.checkInputs(b.Inputs); err != nil {
			return err
		}
	}
	if len(b.Secrets) != len(step.Run.Secrets) {
		return fault.New(fault.PlanMismatch, "step %q gets %d secrets, the plan has %d", id, len(b.Secrets), len(step.Run.Secrets))
	}
	for env, name := range step.Run.Secrets {
		want, err := g.secret(id, name)
		if err != nil {
			return err
		}
		if got, ok := b.Secrets[env]; !ok || got != want {
			return fault.New(fault.PlanMismatch, "step %q gets another secret as %s than the plan has", id, env)
		}
	}
	for i := range b.Artifacts {
		a := &b.Artifacts[i]
		fits := func(use work.ArtifactUse) bool { return use.To == a.To && use.Output == a.Artifact.Name }
		if !slices.ContainsFunc(step.Run.Artifacts, fits) {
			return fault.New(fault.PlanMismatch, "step %q gets a file at %q that the plan does not have", id, a.To)
		}
	}
	return nil
}

// insidePack reports whether a step sees the inputs of a sub-pack instead of those of the pack.
func (g *Graph) insidePack(id work.StepID) bool {
	for scope := id.Scope(); scope != ""; {
		owner := scopeOwner(scope)
		if n := g.nodes[owner.Template()]; n != nil && n.spec.Pack != nil && n.spec.Pack.Ref != nil {
			return true
		}
		scope = owner.Scope()
	}
	return false
}

func (g *Graph) checkInputs(got map[string]any) error {
	if len(got) == 0 {
		return nil
	}
	want, err := InputValues(g.Plan)
	if err != nil {
		return err
	}
	for name, v := range got {
		is, _, err := canonical.DigestOf(v)
		if err != nil {
			return err
		}
		should, _, err := canonical.DigestOf(want[name])
		if err != nil {
			return err
		}
		if is != should {
			return fault.New(fault.PlanMismatch, "the input %q has another value than in the plan", name)
		}
	}
	return nil
}
