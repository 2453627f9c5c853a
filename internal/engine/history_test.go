package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"orrery.example/orrery/internal/work"
)

// judge reads the history of a run that has ended and returns what no history may show, whatever the schedule: a step
// before what it needs, two ends of one thing, a map with other children than were planned. It looks at events only.
func judge(plan *work.Plan, events []work.Event) []string {
	j := judged{
		specs: map[work.StepID]*work.PlanStep{}, begun: map[work.StepID]bool{}, ended: map[work.StepID]work.EndedData{},
		total: map[work.StepID]int{}, children: map[work.StepID]int{}, queued: map[string]bool{}, waits: map[work.StepID]bool{},
	}
	for i := range plan.Steps {
		j.specs[plan.Steps[i].ID] = &plan.Steps[i]
	}
	for i := range events {
		j.event(&events[i])
	}
	if j.runEnds != 1 {
		j.report("the run ended %d times", j.runEnds)
	}
	for id := range j.begun {
		if _, ok := j.ended[id]; !ok {
			j.report("%s began and never ended", id)
		}
	}
	for _, spec := range j.specs {
		_, over := j.ended[spec.ID]
		if spec.Finally && len(spec.Needs) == 0 && j.started && !j.stopped && !j.begun[spec.ID] && !over {
			j.report("the finally step %s never had its turn", spec.ID)
		}
	}
	for id, end := range j.ended {
		if n := j.children[id]; end.State == work.Succeeded && j.specs[id.Template()].Kind == work.KindMap && n != j.total[id] {
			j.report("map %s has %d items and succeeded with %d children", id, j.total[id], n)
		}
	}
	return j.findings
}

type judged struct {
	specs     map[work.StepID]*work.PlanStep
	begun     map[work.StepID]bool
	ended     map[work.StepID]work.EndedData
	total     map[work.StepID]int
	children  map[work.StepID]int
	queued    map[string]bool // "step attempt" that was put before the workers with a slot
	waits     map[work.StepID]bool
	runEnds   int
	cancelled bool
	started   bool // the run was
	inCleanup bool // a finally step has begun
	stopped   bool // somebody or the time limit stopped the finally steps
	findings  []string
	last      work.Time
}

func (j *judged) report(format string, args ...any) {
	j.findings = append(j.findings, fmt.Sprintf(format, args...))
}

func (j *judged) event(e *work.Event) {
	if e.Time < j.last {
		j.report("event %d is earlier than the one before it", e.Seq)
	}
	j.last = e.Time
	if j.runEnds > 0 {
		j.report("event %d, %s, comes after the end of the run", e.Seq, e.Type)
	}
	if _, over := j.ended[e.Step]; over && e.Step != "" {
		j.report("event %d, %s, comes after the end of %s", e.Seq, e.Type, e.Step)
	}
	switch e.Type {
	case work.StepQueued:
		j.begin(e.Step)
		j.queue(e)
	case work.StepStarted, work.StepWaiting, work.PolicyDecided, work.StepCarried:
		if j.begun[e.Step] {
			j.report("%s starts a second time", e.Step)
		}
		j.begin(e.Step)
	case work.StepExpanded:
		var d work.ExpandedData
		j.read(e, &d)
		j.total[e.Step] = d.Total
	case work.StepClaimed:
		key := fmt.Sprint(e.Step, " ", e.Attempt)
		if !j.queued[key] {
			j.report("%s was claimed, but not queued for attempt %d, or claimed twice", e.Step, e.Attempt)
		}
		delete(j.queued, key)
		if j.cancelled && !j.specs[e.Step.Template()].Finally && !j.inFinally(e.Step) {
			j.report("%s was claimed after the run was cancelled", e.Step)
		}
	case work.StepEnded:
		j.end(e)
	case work.RunStarted:
		j.started = true
	case work.RunCancelAsked, work.RunDue:
		j.cancelled = j.cancelled || e.Type == work.RunCancelAsked
		j.stopped = j.stopped || j.inCleanup
	case work.RunEnded:
		j.runEnds++
	}
}

func (j *judged) inFinally(id work.StepID) bool {
	for p := j.specs[id.Template()]; p != nil; p = j.specs[p.Parent] {
		if p.Finally {
			return true
		}
	}
	return false
}

func (j *judged) read(e *work.Event, data any) {
	if err := json.Unmarshal(e.Data, data); err != nil {
		j.report("event %d: %v", e.Seq, err)
	}
}

func (j *judged) queue(e *work.Event) {
	var d work.QueuedData
	j.read(e, &d)
	key := fmt.Sprint(e.Step, " ", d.Attempt)
	if !d.Held {
		j.queued[key] = true
	}
}

// begin checks that everything a step needs has ended in a way that lets it start, and that it stands in a block that runs.
func (j *judged) begin(id work.StepID) {
	if j.begun[id] {
		return
	}
	j.begun[id] = true
	spec := j.specs[id.Template()]
	for _, need := range spec.Needs {
		n := need.Instantiate(id.Indices())
		end, ok := j.ended[n]
		soft := end.State == work.Skipped && end.Reason.Code == work.SkippedByCondition
		if !ok {
			j.report("%s starts before %s has ended", id, n)
		} else if end.State != work.Succeeded && !soft && !(end.State.Failure() && j.specs[need].ContinueOnError) {
			j.report("%s starts although %s is %s", id, n, end.State)
		}
	}
	if spec.Parent != "" {
		parent := spec.Parent.Instantiate(id.Indices())
		if _, over := j.ended[parent]; over || !j.begun[parent] {
			j.report("%s starts, but the block %s around it does not run", id, parent)
		}
	}
	if spec.Finally {
		j.inCleanup = true
		for other := range j.begun {
			if _, over := j.ended[other]; !over && !j.inFinally(other) {
				j.report("%s starts while %s of the main part is open", id, other)
			}
		}
	}
}

func (j *judged) end(e *work.Event) {
	var d work.EndedData
	j.read(e, &d)
	j.ended[e.Step] = d
	spec := j.specs[e.Step.Template()]
	if spec.Parent != "" {
		j.children[spec.Parent.Instantiate(e.Step.Indices())]++
	}
	if !spec.Kind.Container() {
		return
	}
	inside := 0
	for id := range j.begun {
		s := j.specs[id.Template()]
		if s.Parent == "" || s.Parent.Instantiate(id.Indices()) != e.Step || s.Parent != spec.ID {
			continue
		}
		inside++
		end, over := j.ended[id]
		if !over {
			j.report("block %s ends while %s is open", e.Step, id)
		}
		if end.State.Failure() && !s.ContinueOnError && d.State == work.Succeeded {
			j.report("block %s succeeds although %s is %s", e.Step, id, end.State)
		}
	}
	if spec.Kind == work.KindMap && inside > j.total[e.Step] {
		j.report("map %s has %d children of %d items", e.Step, inside, j.total[e.Step])
	}
	if d.State == work.Failed && strings.Contains(d.Reason.Message, "0 of") {
		j.report("block %s fails without a failure: %s", e.Step, d.Reason.Message)
	}
}
