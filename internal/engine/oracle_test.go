package engine_test

import (
	"fmt"
	"hash/fnv"

	"orrery.example/orrery/internal/work"
)

// oracle says how every step of a plan must end when each block goes on after a failure, so that the order in which
// things happen cannot matter. It walks the plan top down and knows nothing of rows, counters or events.
type oracle struct {
	plan *work.Plan
	luck uint64 // decides how every attempt and gate goes
	ends map[work.StepID]work.State
	soft map[work.StepID]bool // skipped by a condition, which satisfies what needs it
	bad  bool                 // a step at the top failed
}

func newOracle(plan *work.Plan, luck uint64) *oracle {
	o := &oracle{plan: plan, luck: luck, ends: map[work.StepID]work.State{}, soft: map[work.StepID]bool{}}
	for _, finally := range []bool{false, true} {
		for i := range plan.Steps {
			if s := &plan.Steps[i]; s.Parent == "" && s.Finally == finally {
				o.step(s, nil)
				o.bad = o.bad || o.ends[s.ID].Failure() && !s.ContinueOnError
			}
		}
	}
	return o
}

// roll returns a number below n that only the step, what it is for and the luck determine.
func roll(luck uint64, id work.StepID, what string, n uint64) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %s", luck, id, what)
	return (h.Sum64() >> 7) % n
}

// fails reports whether an attempt goes wrong, by how many of the step have failed before.
func fails(luck uint64, id work.StepID, failures int) bool {
	return roll(luck, id, fmt.Sprint("attempt ", failures), 4) == 0
}

func rejects(luck uint64, id work.StepID) bool { return roll(luck, id, "gate", 4) == 0 }

// items is how many elements the step's output of that name has.
func items(luck uint64, id work.StepID) int { return int(roll(luck, id, "items", 4)) }

func (o *oracle) step(s *work.PlanStep, indices []string) {
	id := s.ID.Instantiate(indices)
	for _, need := range s.Needs {
		n := need.Instantiate(indices)
		spec := o.spec(need)
		if o.ends[n].Failure() && !spec.ContinueOnError || o.ends[n] == work.Skipped && !o.soft[n] {
			o.ends[id] = work.Skipped
			return
		}
	}
	if !o.condition(s, indices) {
		o.ends[id], o.soft[id] = work.Skipped, true
		return
	}
	o.ends[id] = o.open(s, id, indices)
}

func (o *oracle) condition(s *work.PlanStep, indices []string) bool {
	switch s.When {
	case "", "true":
		return true
	case "false":
		return false
	}
	for _, need := range s.Needs {
		if s.When == fmt.Sprintf("steps.%s.status == \"succeeded\"", need.Local()) {
			return o.ends[need.Instantiate(indices)] == work.Succeeded
		}
	}
	panic("the oracle does not know the condition " + s.When)
}

func (o *oracle) open(s *work.PlanStep, id work.StepID, indices []string) work.State {
	switch s.Kind {
	case work.KindRun:
		for failures := range s.Run.Retry.MaxAttempts {
			if !fails(o.luck, id, failures) {
				return work.Succeeded
			}
		}
		if s.Run.Retry.MaxAttempts > 1 {
			return work.Dead
		}
		return work.Failed
	case work.KindApproval:
		if rejects(o.luck, id) {
			return work.Failed
		}
		return work.Succeeded
	case work.KindPolicy:
		if s.Policy.Rules[0].Require == "false" && s.Policy.FailAction == "halt" {
			return work.Failed
		}
		return work.Succeeded
	case work.KindMap:
		n, ok := o.length(s, indices)
		if !ok {
			return work.Failed
		}
		good := true
		for i := range n {
			good = o.inside(s, append(append([]string(nil), indices...), fmt.Sprint(i))) && good
		}
		return okOr(good)
	default:
		return okOr(o.inside(s, indices))
	}
}

func okOr(good bool) work.State {
	if good {
		return work.Succeeded
	}
	return work.Failed
}

// inside ends the children of a block and reports whether none counts as failed.
func (o *oracle) inside(block *work.PlanStep, indices []string) bool {
	good := true
	for i := range o.plan.Steps {
		if s := &o.plan.Steps[i]; s.Parent == block.ID {
			o.step(s, indices)
			if o.ends[s.ID.Instantiate(indices)].Failure() && !s.ContinueOnError {
				good = false
			}
		}
	}
	return good
}

// length is how many items a map has; it has none to speak of when the step that should name them did not succeed.
func (o *oracle) length(s *work.PlanStep, indices []string) (int, bool) {
	switch {
	case s.Map.Range != nil:
		return max(0, int(s.Map.Range.End-s.Map.Range.Start)), true
	case s.Map.Expression == "":
		return len(s.Map.Static), true
	}
	for _, need := range s.Needs {
		if s.Map.Expression == fmt.Sprintf("steps.%s.outputs.items", need.Local()) {
			source := need.Instantiate(indices)
			return items(o.luck, source), o.ends[source] == work.Succeeded
		}
	}
	panic("the oracle does not know the items " + s.Map.Expression)
}

func (o *oracle) spec(id work.StepID) *work.PlanStep {
	for i := range o.plan.Steps {
		if o.plan.Steps[i].ID == id {
			return &o.plan.Steps[i]
		}
	}
	return nil
}
