package replay

import (
	"fmt"

	"orrery.example/orrery/internal/work"
)

// Audit compares the rows of a run with each other and with its plan, and returns what does not fit, in words. It counts
// everything again instead of believing the counters that the engine keeps: what is open, done and failed in every block,
// the slots of the run, and that whatever has not ended has exactly one thing that will move it on.
func Audit(plan *work.Plan, run *work.Run, steps []work.Step) []string {
	a := auditor{
		plan: plan, run: run, specs: make(map[work.StepID]*work.PlanStep, len(plan.Steps)),
		rows: make(map[work.StepID]*work.Step, len(steps)), counts: map[work.StepID]*tally{},
	}
	for i := range plan.Steps {
		a.specs[plan.Steps[i].ID] = &plan.Steps[i]
	}
	for i := range steps {
		a.rows[steps[i].ID] = &steps[i]
	}
	for i := range steps {
		a.step(&steps[i])
	}
	for i := range steps {
		a.block(&steps[i])
	}
	a.wholeRun()
	return a.findings
}

// tally is what was counted of the children of one block, or of the whole run.
type tally struct {
	open, done, bad int
}

type auditor struct {
	plan        *work.Plan
	run         *work.Run
	specs       map[work.StepID]*work.PlanStep
	rows        map[work.StepID]*work.Step
	counts      map[work.StepID]*tally // by block; "" is the top of the phase
	active      int
	slots, held int
	findings    []string
}

func (a *auditor) report(format string, args ...any) {
	a.findings = append(a.findings, fmt.Sprintf(format, args...))
}

func (a *auditor) tally(block work.StepID) *tally {
	t := a.counts[block]
	if t == nil {
		t = &tally{}
		a.counts[block] = t
	}
	return t
}

func (a *auditor) step(row *work.Step) {
	spec := a.specs[row.ID.Template()]
	if spec == nil {
		a.report("step %q is not in the plan", row.ID)
		return
	}
	a.driver(row, spec)
	if spec.Finally && a.run.Phase == work.PhaseMain && row.State != work.Pending {
		a.report("step %q is %s before the main part has ended", row.ID, row.State)
	}
	if !spec.Finally && a.run.Phase == work.PhaseFinally && live(row.State) {
		a.report("step %q is %s while the finally steps run", row.ID, row.State)
	}
	if spec.Kind == work.KindRun && row.Held {
		a.held++
	} else if spec.Kind == work.KindRun && (row.State == work.Queued || row.State == work.Running) {
		a.slots++
	}
	parent := work.StepID("")
	if spec.Parent != "" {
		parent = spec.Parent.Instantiate(row.ID.Indices())
		if p := a.rows[parent]; row.State == work.Pending {
			// carried over, and its turn has not come
		} else if p == nil || p.State == work.Pending {
			a.report("step %q is %s, but the block %q around it has not started", row.ID, row.State, parent)
		} else if live(row.State) && p.State != work.Running {
			a.report("step %q is %s, but the block %q around it is %s", row.ID, row.State, parent, p.State)
		}
	} else if spec.Finally != (a.run.Phase == work.PhaseFinally) {
		parent = "(the other phase)"
	}
	t := a.tally(parent)
	switch {
	case live(row.State):
		a.active++
		t.open++
	case row.State.Terminal():
		t.done++
		if row.State.Failure() && !spec.ContinueOnError {
			t.bad++
		}
	}
}

// driver checks that exactly one thing will move the step on: a worker, a lease, a timer, people, or what it contains.
func (a *auditor) driver(row *work.Step, spec *work.PlanStep) {
	queue, lease, timer := row.Queue != nil, row.Lease != nil, row.Timer != 0
	ok := false
	switch row.State {
	case work.Pending:
		ok = !queue && !lease && !timer && (row.Unmet > 0 || row.CarriedRun != "")
	case work.Queued:
		ok = queue && !lease && !timer && spec.Kind == work.KindRun
	case work.Running:
		if spec.Kind == work.KindRun {
			ok = !queue && lease && timer
		} else {
			ok = !queue && !lease && !timer && spec.Kind.Container() && row.Open > 0
		}
	case work.Waiting:
		ok = !queue && !lease && timer && (spec.Kind == work.KindApproval || spec.Kind == work.KindPolicy && spec.Policy.Engine != nil)
	case work.Retrying:
		ok = !queue && !lease && timer && spec.Kind == work.KindRun
	default:
		ok = row.State.Terminal() && !queue && !lease && !timer && row.Ended != 0
	}
	if !ok {
		a.report("step %q (%s) is %s with queue %t, lease %t, timer %t, unmet %d, open %d: not exactly one thing moves it on",
			row.ID, spec.Kind, row.State, queue, lease, timer, row.Unmet, row.Open)
	}
	if row.Held && row.State != work.Queued {
		a.report("step %q is %s and yet waits for a slot", row.ID, row.State)
	}
}

func (a *auditor) block(row *work.Step) {
	spec := a.specs[row.ID.Template()]
	if spec == nil || !spec.Kind.Container() || row.State != work.Running {
		return
	}
	if t := a.tally(row.ID); t.open != row.Open || t.done != row.Done || t.bad != row.Bad {
		a.report("block %q says open %d, done %d, bad %d; its rows say %d, %d, %d",
			row.ID, row.Open, row.Done, row.Bad, t.open, t.done, t.bad)
	}
	limit := 0
	switch {
	case spec.Map != nil:
		limit = spec.Map.MaxParallel
	case spec.Parallel != nil:
		limit = spec.Parallel.MaxParallel
	}
	if limit > 0 && row.Open > limit {
		a.report("block %q has %d steps open, more than its maxParallel of %d", row.ID, row.Open, limit)
	}
	if row.Done > row.Total || row.Bad > row.Done {
		a.report("block %q counts %d done and %d bad of %d", row.ID, row.Done, row.Bad, row.Total)
	}
}

func (a *auditor) wholeRun() {
	run := a.run
	if run.Active != a.active || run.Slots != a.slots || run.Held != a.held {
		a.report("the run says active %d, slots %d, held %d; its rows say %d, %d, %d",
			run.Active, run.Slots, run.Held, a.active, a.slots, a.held)
	}
	if limit := a.plan.MaxParallel; limit > 0 && a.slots > limit {
		a.report("%d steps have a slot, more than the run's maxParallel of %d", a.slots, limit)
	} else if a.held > 0 && run.Paused == nil && (limit == 0 || a.slots < limit) {
		a.report("%d steps wait for a slot of the run although %d of %d are taken", a.held, a.slots, limit)
	}
	switch run.Phase {
	case work.PhaseMain, work.PhaseFinally:
		left := -a.tally("").done
		for i := range a.plan.Steps {
			if s := &a.plan.Steps[i]; s.Parent == "" && s.Finally == (run.Phase == work.PhaseFinally) {
				left++
			}
		}
		if left != run.Left {
			a.report("the run says that %d steps are left at the top, its rows say %d", run.Left, left)
		}
		if a.active == 0 || run.State != work.Running {
			a.report("the run is %s in phase %s with %d open steps: nothing moves it on", run.State, run.Phase, a.active)
		}
	case work.PhaseAdmission, work.PhaseDelayed:
		if a.active != 0 || run.State != work.Queued {
			a.report("the run is %s and has %d open steps before it was admitted", run.State, a.active)
		}
	case work.PhaseEnded:
		if a.active != 0 || !run.State.Terminal() || run.Ended == 0 || run.Due != 0 {
			a.report("the run is %s in phase %s with %d open steps", run.State, run.Phase, a.active)
		}
	default:
		a.report("the run is in phase %q", run.Phase)
	}
}
