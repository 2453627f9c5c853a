package engine

import (
	"encoding/json"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/work"
)

// machine is one transition: the graph, the rows, the time, and what is still to be passed on.
type machine struct {
	g     *Graph
	v     View
	now   work.Time
	ended []work.StepID // ended, but their neighbours do not know yet
}

// begin sets the clock of the transition: never behind what the run has already seen.
func begin(g *Graph, v View, now work.Time) *machine {
	run := v.Run()
	if now <= run.Updated {
		now = run.Updated + 1
	}
	run.Updated = now
	return &machine{g: g, v: v, now: now}
}

// settle passes every end on to its neighbours until nothing moves, and then sees whether the run is through.
func (m *machine) settle() {
	for {
		for len(m.ended) > 0 {
			id := m.ended[0]
			m.ended = m.ended[1:]
			m.passOn(id)
		}
		if !m.advancePhase() {
			return
		}
	}
}

// active reports whether a row in this state counts as open in what contains it.
func active(s work.State) bool {
	switch s {
	case work.Queued, work.Throttled, work.Running, work.Waiting, work.Retrying:
		return true
	default:
		return false
	}
}

// stopping reports whether nothing new may start where the step stands.
func (m *machine) stopping(id work.StepID) bool {
	if m.v.Run().Stopping {
		return true
	}
	for p := m.g.Parent(id); p != ""; p = m.g.Parent(p) {
		// A block that has ended opens nothing either: the end of a sibling may still be on its way to its neighbours.
		if row := m.v.Step(p); row != nil && (row.Stopping || row.State.Terminal()) {
			return true
		}
	}
	return false
}

// open gives a step a row and starts it: everything it needs has ended well.
func (m *machine) open(id work.StepID) {
	row := m.v.Step(id)
	if row == nil {
		row = m.row(id)
	}
	if row.State != work.Pending {
		return
	}
	run := m.v.Run()
	run.Active++
	if p := m.g.Parent(id); p != "" {
		parent := m.v.Step(p)
		parent.Open++
		m.v.Save(parent)
	}
	row.State = work.Queued
	m.v.Save(row)
	if row.CarriedRun != "" {
		m.carry(row)
		return
	}
	spec := m.g.Spec(id)
	if spec.When != "" {
		yes, err := m.condition(id, spec.When)
		if err != nil {
			m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
			return
		}
		if !yes {
			m.end(row, work.Skipped, work.Reason{Code: work.SkippedByCondition, Subject: spec.When}, nil, nil)
			return
		}
	}
	switch spec.Kind {
	case work.KindRun:
		m.queue(row, spec)
	case work.KindApproval:
		m.wait(row, spec)
	case work.KindPolicy:
		m.judge(row, spec)
	default:
		m.start(row, spec)
	}
}

func (m *machine) row(id work.StepID) *work.Step {
	run := m.v.Run()
	row := &work.Step{Tenant: run.Tenant, Run: run.ID, ID: id, State: work.Pending, Created: m.now}
	m.v.Save(row)
	return row
}

func (m *machine) condition(id work.StepID, source string) (bool, error) {
	p, err := m.g.program(source)
	if err != nil {
		return false, err
	}
	scope, err := m.scope(id, p.Refs())
	if err != nil {
		return false, err
	}
	return p.Bool(scope)
}

func (m *machine) text(id work.StepID, source string) (string, error) {
	t, err := m.g.template(source)
	if err != nil {
		return "", err
	}
	scope, err := m.scope(id, t.Refs())
	if err != nil {
		return "", err
	}
	return t.String(scope)
}

// queue puts a run step before the workers, or holds it until the run has a slot.
func (m *machine) queue(row *work.Step, spec *work.PlanStep) {
	run := m.v.Run()
	entry := &work.QueueEntry{Priority: spec.Run.Priority, At: m.now, Runner: spec.Run.Runner, Queue: work.QueueName(run.Project, spec.Run.Queue)}
	if c := spec.Run.Concurrency; c != nil {
		key, err := m.text(row.ID, c.Key)
		if err != nil {
			m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
			return
		}
		entry.Concurrency, entry.Max = key, c.Max
	}
	row.State, row.Queue, row.Timer = work.Queued, entry, 0
	row.Reason = work.Reason{Code: work.WaitsForWorker}
	switch limit := m.g.Plan.MaxParallel; {
	case run.Paused != nil:
		row.Held = true
		row.Reason = work.Reason{Code: work.WaitsForResume, Subject: run.Paused.Name, Message: run.Paused.Reason}
	case limit > 0 && run.Slots >= limit:
		row.Held = true
		row.Reason = work.Reason{Code: work.WaitsForParallelism, Subject: "run"}
	default:
		row.Held = false
	}
	if row.Held {
		run.Held++
	} else {
		run.Slots++
	}
	m.v.Save(row)
	m.v.Emit(work.StepQueued, row.ID, row.Attempt+1, work.QueuedData{Attempt: row.Attempt + 1, Held: row.Held, Queue: entry})
}

// release gives a free slot of the run to the first step that waits for one.
func (m *machine) release() {
	run := m.v.Run()
	limit := m.g.Plan.MaxParallel
	for run.Held > 0 && run.Paused == nil && (limit == 0 || run.Slots < limit) {
		id := m.v.NextHeld()
		if id == "" {
			return
		}
		row := m.v.Step(id)
		run.Held--
		run.Slots++
		row.Held = false
		row.Queue.At, row.Queue.Queue = m.now, row.Queue.Name()
		row.Reason = work.Reason{Code: work.WaitsForWorker}
		m.v.Save(row)
		m.v.Emit(work.StepQueued, id, row.Attempt+1, work.QueuedData{Attempt: row.Attempt + 1, Queue: row.Queue})
	}
}

// unslot takes a step out of the run's count of slots.
func (m *machine) unslot(row *work.Step) {
	if m.g.Spec(row.ID).Kind != work.KindRun || row.State != work.Queued && row.State != work.Running {
		return
	}
	run := m.v.Run()
	if row.Queue == nil && row.Lease == nil {
		return // never got as far as the queue
	}
	if row.Held {
		run.Held--
		row.Held = false
		return
	}
	run.Slots--
}

// end makes a state final. The neighbours hear of it when the machine settles.
func (m *machine) end(row *work.Step, state work.State, reason work.Reason, outputs json.RawMessage, artifacts []work.Artifact) {
	m.unslot(row)
	wasActive := active(row.State)
	if row.Lease != nil || row.Queue != nil {
		row.Epoch++
	}
	row.State, row.Reason, row.Ended = state, reason, m.now
	row.Lease, row.Queue, row.Timer, row.Stopping = nil, nil, 0, false
	row.Outputs, row.Artifacts = outputs, artifacts
	m.v.Save(row)
	if wasActive {
		m.v.Run().Active--
		if p := m.g.Parent(row.ID); p != "" {
			parent := m.v.Step(p)
			parent.Open--
			m.v.Save(parent)
		}
	}
	m.v.Emit(work.StepEnded, row.ID, row.Attempt, work.EndedData{State: state, Reason: reason, Outputs: outputs, Artifacts: artifacts})
	m.ended = append(m.ended, row.ID)
}

func (m *machine) carry(row *work.Step) {
	row.Started = m.now
	outputs, artifacts := row.Outputs, row.Artifacts
	m.v.Emit(work.StepCarried, row.ID, row.Attempt, work.CarriedData{Run: row.CarriedRun, Attempt: row.Attempt, Outputs: outputs, Artifacts: artifacts})
	m.end(row, work.Succeeded, work.Reason{Code: work.EndedWell, Subject: string(row.CarriedRun), Message: "carried over"}, outputs, artifacts)
}

// wait opens an approval gate.
func (m *machine) wait(row *work.Step, spec *work.PlanStep) {
	row.State, row.Started = work.Waiting, m.now
	row.Timer = m.now + work.Time(spec.Approval.TTLMs*1000)
	row.Reason = work.Reason{Code: work.WaitsForApproval, Subject: string(row.ID), Until: row.Timer}
	m.v.Save(row)
	m.v.Emit(work.StepWaiting, row.ID, 0, work.WaitingData{
		Required: spec.Approval.Required, Approvers: spec.Approval.Approvers, PlanHash: m.g.Hash, Expires: row.Timer,
	})
}

// evaluate runs an expression where the step stands.
func (m *machine) evaluate(id work.StepID, p *expression.Program) (any, error) {
	scope, err := m.scope(id, p.Refs())
	if err != nil {
		return nil, err
	}
	return p.Eval(scope)
}
