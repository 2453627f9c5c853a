package engine

import (
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Submit opens the history of a run whose row has been created with its identity, and starts it unless its time has not come or
// another run holds its concurrency key (busy).
func Submit(g *Graph, v View, now work.Time, data work.SubmittedData, busy bool) {
	run := v.Run()
	m := begin(g, v, now)
	run.State, run.Phase = work.Queued, work.PhaseAdmission
	run.Created = m.now
	v.Emit(work.RunSubmitted, "", 0, data)
	for _, c := range data.Carried {
		row := m.row(c.Step)
		row.CarriedRun, row.Attempt = c.Run, c.Attempt
		row.Outputs, row.Artifacts = c.Outputs, c.Artifacts
		v.Save(row)
	}
	if run.NotBefore > m.now {
		run.Phase, run.Due = work.PhaseDelayed, run.NotBefore
		run.Reason = work.Reason{Code: work.WaitsForTime, Until: run.NotBefore}
		v.Emit(work.RunQueued, "", 0, work.ReasonData{Reason: run.Reason})
		return
	}
	m.limit()
	if busy {
		m.waitForKey()
		return
	}
	m.startRun()
	m.settle()
}

// limit sets when the run is out of time: its limit counts from when it could have started.
func (m *machine) limit() {
	run := m.v.Run()
	if run.Due = 0; m.g.Plan.TimeoutMs > 0 {
		run.Due = m.now + work.Time(m.g.Plan.TimeoutMs*1000)
	}
}

func (m *machine) waitForKey() {
	run := m.v.Run()
	run.Phase = work.PhaseAdmission
	run.Reason = work.Reason{Code: work.WaitsForConcurrency, Subject: run.ConcurrencyKey}
	m.v.Emit(work.RunQueued, "", 0, work.ReasonData{Reason: run.Reason})
}

// Begin starts a run whose time has come, unless another run holds its concurrency key (busy). It does nothing to a run that is not
// delayed, or before its time.
func Begin(g *Graph, v View, now work.Time, busy bool) {
	run := v.Run()
	if run.Phase != work.PhaseDelayed || now < run.NotBefore {
		return
	}
	if !busy {
		Admit(g, v, now)
		return
	}
	m := begin(g, v, now)
	v.Emit(work.RunDue, "", 0, nil)
	m.limit()
	m.waitForKey()
}

// Admit starts a run that waited for its concurrency key or its time. It does nothing to a run that waits no more, or before its time.
func Admit(g *Graph, v View, now work.Time) {
	run := v.Run()
	if run.Phase != work.PhaseAdmission && (run.Phase != work.PhaseDelayed || now < run.NotBefore) {
		return
	}
	m := begin(g, v, now)
	v.Emit(work.RunAdmitted, "", 0, nil)
	if run.Phase == work.PhaseDelayed {
		m.limit()
	}
	m.startRun()
	m.settle()
}

func (m *machine) startRun() {
	run := m.v.Run()
	run.Phase, run.State, run.Started, run.Reason = work.PhaseMain, work.Running, m.now, work.Reason{}
	run.Left = len(m.g.main.all)
	m.v.Emit(work.RunStarted, "", 0, nil)
	m.fillRun()
}

func (m *machine) current() *block {
	if m.v.Run().Phase == work.PhaseFinally {
		return &m.g.finally
	}
	return &m.g.main
}

// fillRun opens steps at the top of the plan that need no other.
func (m *machine) fillRun() {
	run := m.v.Run()
	if run.Phase != work.PhaseMain && run.Phase != work.PhaseFinally {
		return
	}
	roots := m.current().roots
	for run.Next < len(roots) && run.Active < window && !run.Stopping {
		n := roots[run.Next]
		run.Next++
		m.open(n.spec.ID)
	}
}

// advancePhase moves the run on when its phase is through, and reports whether anything moved.
func (m *machine) advancePhase() bool {
	run := m.v.Run()
	switch run.Phase {
	case work.PhaseMain, work.PhaseFinally:
	case work.PhaseAdmission, work.PhaseDelayed:
		if run.Stopping {
			m.endRun()
		}
		return false
	default:
		return false
	}
	if run.Active > 0 || run.Left > 0 && !run.Stopping {
		return false
	}
	if run.Phase == work.PhaseMain && len(m.g.finally.all) > 0 {
		run.Phase, run.Stopping, run.Next = work.PhaseFinally, false, 0
		run.Left = len(m.g.finally.all)
		m.fillRun()
		return true
	}
	m.endRun()
	return false
}

func (m *machine) endRun() {
	run := m.v.Run()
	state, reason := run.Outcome, run.Reason
	if state == "" {
		state, reason = work.Succeeded, work.Reason{Code: work.EndedWell}
		if len(m.g.Plan.Outputs) > 0 {
			with := make(map[string]string, len(m.g.Plan.Outputs))
			for _, o := range m.g.Plan.Outputs {
				with[o.Name] = o.Value
			}
			outputs, err := m.render("", with)
			if err != nil {
				state, reason = work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}
			}
			run.Outputs = outputs
		}
	}
	run.State, run.Outcome, run.Reason, run.Phase = state, state, reason, work.PhaseEnded
	run.Ended, run.Due, run.Paused = m.now, 0, nil
	m.v.Emit(work.RunEnded, "", 0, work.EndedData{State: state, Reason: reason, Outputs: run.Outputs})
}

// stop lets nothing new start in this phase and ends what waits.
func (m *machine) stop(reason work.Reason) {
	run := m.v.Run()
	if run.Phase == work.PhaseFinally && !m.mustStop(reason) {
		return // one cleanup that fails does not keep the others from running
	}
	if !run.Stopping {
		run.Stopping = true
		m.v.Emit(work.RunStopping, "", 0, work.ReasonData{Reason: reason})
	}
	m.sweep("", reason)
}

// Cancel stops a run for a person. Attempts that run are told; finally steps still run. A second Cancel while they do
// stops those, too. Errors: fault.Conflict when the run has ended.
func Cancel(g *Graph, v View, now work.Time, actor work.Actor) error {
	run := v.Run()
	if run.State.Terminal() {
		return fault.New(fault.Conflict, "run %s has already ended: %s", run.Name, run.State)
	}
	m := begin(g, v, now)
	actor.At = m.now
	v.Emit(work.RunCancelAsked, "", 0, actor)
	reason := work.Reason{Code: work.EndedByCancel, Subject: actor.Name, Message: actor.Reason}
	run.Cancel = &actor
	if run.Phase != work.PhaseFinally || run.Outcome == "" {
		run.Outcome, run.Reason = work.Cancelled, reason
	}
	run.Paused = nil // what was held ends below
	m.stop(reason)
	m.settle()
	return nil
}

// Abort ends a run at once and without its plan: what is stored as that is not what was asked for, so nothing of it may start, its cleanup
// neither. Attempts that run lose their leases. It does nothing to a run that has ended.
func Abort(v View, now work.Time, reason work.Reason) {
	run := v.Run()
	if run.State.Terminal() {
		return
	}
	m := begin(nil, v, now)
	for _, id := range v.Live() {
		row := v.Step(id)
		if row.Lease != nil || row.Queue != nil {
			row.Epoch++
		}
		row.State, row.Reason, row.Ended = work.Failed, reason, m.now
		row.Lease, row.Queue, row.Timer, row.Stopping, row.Held = nil, nil, 0, false, false
		v.Save(row)
		v.Emit(work.StepEnded, id, row.Attempt, work.EndedData{State: work.Failed, Reason: reason})
	}
	run.Active, run.Slots, run.Held = 0, 0, 0
	run.Outcome, run.Reason = work.Failed, reason
	m.endRun()
}

// Due ends a run whose time limit has passed, and lets one whose time has come wait for its concurrency key. It does nothing to a run
// that has neither or has ended.
func Due(g *Graph, v View, now work.Time) {
	run := v.Run()
	if run.State.Terminal() || run.Due == 0 || now < run.Due {
		return
	}
	if run.Phase == work.PhaseDelayed {
		Begin(g, v, now, true)
		return
	}
	m := begin(g, v, now)
	v.Emit(work.RunDue, "", 0, nil)
	run.Due = 0
	reason := work.Reason{Code: work.EndedByRunTimeout, Message: "the run's time limit passed"}
	if run.Outcome == "" {
		run.Outcome, run.Reason = work.TimedOut, reason
	}
	run.Paused = nil // what was held ends below
	m.stop(reason)
	m.settle()
}

// Pause keeps anything new from being claimed. What runs goes on; timers go on. Errors: fault.Conflict when the run has
// ended or is paused.
func Pause(g *Graph, v View, now work.Time, actor work.Actor) error {
	run := v.Run()
	if run.State.Terminal() || run.Paused != nil {
		return fault.New(fault.Conflict, "run %s cannot be paused: it is %s", run.Name, pausedOr(run))
	}
	m := begin(g, v, now)
	actor.At = m.now
	run.Paused = &actor
	v.Emit(work.RunPaused, "", 0, actor)
	for _, id := range v.Live() {
		row := v.Step(id)
		if row.State != work.Queued || row.Held || row.Queue == nil {
			continue
		}
		row.Held = true
		row.Reason = work.Reason{Code: work.WaitsForResume, Subject: actor.Name, Message: actor.Reason}
		run.Slots--
		run.Held++
		v.Save(row)
	}
	return nil
}

func pausedOr(run *work.Run) string {
	if run.Paused != nil {
		return "paused already"
	}
	return string(run.State)
}

// Resume undoes Pause. Errors: fault.Conflict when the run is not paused.
func Resume(g *Graph, v View, now work.Time, actor work.Actor) error {
	run := v.Run()
	if run.State.Terminal() || run.Paused == nil {
		return fault.New(fault.Conflict, "run %s is not paused", run.Name)
	}
	m := begin(g, v, now)
	actor.At = m.now
	v.Emit(work.RunResumed, "", 0, actor)
	run.Paused = nil
	m.release()
	m.settle()
	return nil
}
