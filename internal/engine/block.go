package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// start opens a container and the first of its children.
func (m *machine) start(row *work.Step, spec *work.PlanStep) {
	row.State, row.Started, row.Reason = work.Running, m.now, work.Reason{}
	n := m.g.nodes[spec.ID]
	row.Total = len(n.inside.all)
	m.v.Emit(work.StepStarted, row.ID, 0, nil)
	var err error
	switch {
	case spec.Map != nil:
		err = m.expand(row, spec.Map)
	case spec.Pack != nil && len(spec.Pack.With) > 0:
		row.Inputs, err = m.render(row.ID, spec.Pack.With)
	}
	m.v.Save(row)
	if err != nil {
		m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
		return
	}
	m.fill(row, n)
	m.finish(row, n)
}

// expand fixes what a map runs over.
func (m *machine) expand(row *work.Step, spec *work.MapSpec) error {
	switch {
	case spec.Range != nil:
		row.Total = rangeLen(*spec.Range)
	case spec.Expression != "":
		p, err := m.g.program(spec.Expression)
		if err != nil {
			return err
		}
		v, err := m.evaluate(row.ID, p)
		if err != nil {
			return err
		}
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("items of map %q: %q gives %T, not a list", row.ID, spec.Expression, v)
		}
		row.Total = len(list)
		if row.Total <= spec.MaxItems {
			if row.Items, err = encode(list); err != nil {
				return fmt.Errorf("items of map %q: %w", row.ID, err)
			}
		}
	default:
		row.Total = len(spec.Static)
	}
	if row.Total > spec.MaxItems {
		return fmt.Errorf("map %q has %d items, more than its maxItems of %d", row.ID, row.Total, spec.MaxItems)
	}
	m.v.Emit(work.StepExpanded, row.ID, 0, work.ExpandedData{Total: row.Total, Items: row.Items})
	return nil
}

func rangeLen(r work.Range) int {
	if r.Step > 0 && r.End > r.Start {
		return int((r.End - r.Start + r.Step - 1) / r.Step)
	}
	if r.Step < 0 && r.End < r.Start {
		return int((r.Start - r.End - r.Step - 1) / -r.Step)
	}
	return 0
}

func (m *machine) render(id work.StepID, with map[string]string) (json.RawMessage, error) {
	out := make(map[string]any, len(with))
	for _, name := range slices.Sorted(maps.Keys(with)) { // in order: the first failure goes into the history
		source := with[name]
		t, err := m.g.template(source)
		if err != nil {
			return nil, err
		}
		scope, err := m.scope(id, t.Refs())
		if err != nil {
			return nil, err
		}
		if out[name], err = t.Eval(scope); err != nil {
			return nil, err
		}
	}
	return encode(out)
}

// maxEncoded bounds what an expression may put into one event. An event is hashed and stored as a whole.
const maxEncoded = 3 << 20

// encode writes the value of an expression for the history. It fails for what no event can hold: an error here ends a
// step, while an event that cannot be written would fail everything that is committed with it, again and again.
func encode(v any) (json.RawMessage, error) {
	left := maxEncoded
	if !fits(v, &left) {
		return nil, fmt.Errorf("the value takes more than %d bytes", maxEncoded)
	}
	return canonical.MarshalUpTo(v, maxEncoded)
}

// fits takes the size of a value from what is left. It is asked before the value is written, because a value may hold
// the same large text in a million places.
func fits(v any, left *int) bool {
	switch x := v.(type) {
	case string:
		*left -= len(x) + 3
	case []any:
		for i := 0; i < len(x) && *left > 0; i++ {
			fits(x[i], left)
		}
	case map[string]any:
		for k, e := range x {
			if *left -= len(k) + 4; *left <= 0 {
				break
			}
			fits(e, left)
		}
	default:
		*left -= 2
	}
	return *left > 0
}

// fill opens children of a block that need no sibling, as many as may run.
func (m *machine) fill(row *work.Step, n *node) {
	count, limit := len(n.inside.roots), 0
	switch {
	case n.spec.Map != nil:
		count, limit = row.Total, n.spec.Map.MaxParallel
	case n.spec.Parallel != nil:
		limit = n.spec.Parallel.MaxParallel
	}
	if limit <= 0 || limit > window {
		limit = window
	}
	// Blocks inside of blocks share a bound; below it or not, each keeps one child open, so that every one moves on.
	run := m.v.Run()
	for row.Next < count && row.Open < limit && (row.Open == 0 || run.Active < 2*window) && !row.Stopping && !m.stopping(row.ID) {
		i := row.Next
		row.Next++
		m.v.Save(row)
		m.open(m.child(row.ID, n, i))
	}
}

// finish ends a block when all its children have, or when it stopped early and the last open one has.
func (m *machine) finish(row *work.Step, n *node) {
	if row.State != work.Running || row.Open > 0 {
		return
	}
	cut := row.Stopping || m.stopping(row.ID)
	if row.Done < row.Total && !cut {
		return
	}
	run := m.v.Run()
	cancelled := run.Cancel != nil && run.Stopping
	switch {
	case cancelled && (row.Bad > 0 || row.Done < row.Total):
		m.end(row, work.Cancelled, work.Reason{Code: work.EndedByCancel, Subject: run.Cancel.Name}, nil, nil)
	case row.Bad > 0:
		m.end(row, work.Failed, work.Reason{
			Code: work.EndedByStepFailure, Message: fmt.Sprintf("%d of %d steps failed", row.Bad, row.Total),
		}, nil, nil)
	case row.Done < row.Total:
		m.end(row, work.Skipped, work.Reason{
			Code: work.SkippedByRunEnd, Message: fmt.Sprintf("%d of %d steps did not start", row.Total-row.Done, row.Total),
		}, nil, nil)
	default:
		m.conclude(row, n)
	}
}

// conclude ends a block well, with the outputs it declares.
func (m *machine) conclude(row *work.Step, n *node) {
	var outputs json.RawMessage
	if n.spec.Pack != nil && len(n.spec.Pack.Outputs) > 0 {
		with := make(map[string]string, len(n.spec.Pack.Outputs))
		for _, o := range n.spec.Pack.Outputs {
			with[o.Name] = o.Value
		}
		inside := work.StepID(string(row.ID) + "/") // where the names of the sub-pack mean its own steps
		var err error
		if outputs, err = m.render(inside, with); err != nil {
			m.end(row, work.Failed, work.Reason{Code: work.EndedByExpression, Message: err.Error()}, nil, nil)
			return
		}
	}
	m.end(row, work.Succeeded, work.Reason{Code: work.EndedWell}, outputs, nil)
}

// passOn tells the neighbours of an ended step: those that need it, the block around it, the run.
func (m *machine) passOn(id work.StepID) {
	row := m.v.Step(id)
	n := m.g.nodes[id.Template()]
	failed := row.State.Failure() && !n.spec.ContinueOnError
	if p := m.g.Parent(id); p != "" {
		m.passToBlock(p, failed)
	} else {
		m.passToRun(id, row, failed)
	}
	blocked := failed || row.State == work.Skipped && row.Reason.Code != work.SkippedByCondition
	if !m.stopping(id) {
		for _, d := range n.dependents {
			m.passToDependent(d.spec.ID.Instantiate(id.Indices()), d, id, blocked)
		}
	}
	if p := m.g.Parent(id); p != "" {
		parent, pn := m.v.Step(p), m.g.nodes[p.Template()]
		if parent.State == work.Running {
			m.fill(parent, pn)
			m.finish(parent, pn)
		}
	} else {
		m.fillRun()
	}
	m.release()
}

func (m *machine) passToBlock(id work.StepID, failed bool) {
	block := m.v.Step(id)
	block.Done++
	if failed {
		block.Bad++
		if !goesOn(m.g.Spec(id)) && !block.Stopping {
			block.Stopping = true
			m.v.Save(block)
			m.sweep(id, work.Reason{Code: work.SkippedByUpstream, Subject: string(id), Message: "the block stops at its first failure"})
		}
	}
	m.v.Save(block)
}

func goesOn(spec *work.PlanStep) bool {
	switch {
	case spec.Parallel != nil:
		return spec.Parallel.ContinueOnError
	case spec.Map != nil:
		return spec.Map.ContinueOnError
	default:
		return spec.Pack.ContinueOnError
	}
}

func (m *machine) passToRun(id work.StepID, row *work.Step, failed bool) {
	run := m.v.Run()
	run.Left--
	if !failed {
		return
	}
	if run.Outcome == "" {
		run.Outcome = work.Failed
		if row.State == work.TimedOut {
			run.Outcome = work.TimedOut
		}
		run.Reason = work.Reason{Code: work.EndedByStepFailure, Subject: string(id), Message: row.Reason.Message}
	}
	if !m.g.Plan.ContinueOnError {
		m.stop(work.Reason{Code: work.EndedByStepFailure, Subject: string(id)})
	}
}

// passToDependent counts one need of a step as met, or skips the step when the need was not met.
func (m *machine) passToDependent(id work.StepID, n *node, from work.StepID, blocked bool) {
	row := m.v.Step(id)
	if row == nil {
		row = m.row(id)
	}
	if row.Unmet == 0 && row.State == work.Pending {
		row.Unmet = len(n.spec.Needs)
	}
	if row.State != work.Pending {
		return
	}
	if blocked {
		m.end(row, work.Skipped, work.Reason{Code: work.SkippedByUpstream, Subject: string(from)}, nil, nil)
		return
	}
	row.Unmet--
	row.Reason = work.Reason{Code: work.WaitsForSteps, Message: fmt.Sprintf("%d more", row.Unmet)}
	m.v.Save(row)
	if row.Unmet == 0 {
		m.open(id)
	}
}

// sweep ends what has not been claimed inside a block, or in the whole run for "": nothing new starts any more.
func (m *machine) sweep(inside work.StepID, reason work.Reason) {
	cancelled := reason.Code == work.EndedByCancel
	for _, id := range m.v.Live() {
		if inside != "" && !m.within(id, inside) {
			continue
		}
		row := m.v.Step(id)
		switch {
		case row.State == work.Running && row.Lease == nil:
			// a container ends with the last of its children
		case row.State == work.Running:
			if m.mustStop(reason) && !row.Lease.Cancel {
				row.Lease.Cancel = true
				m.v.Save(row)
				m.v.Emit(work.StepCancelAsked, id, row.Attempt, nil)
			}
		case cancelled:
			m.end(row, work.Cancelled, reason, nil, nil)
		case row.State == work.Retrying:
			m.end(row, work.Failed, row.Reason, nil, nil)
		default:
			m.end(row, work.Skipped, reason, nil, nil)
		}
	}
}

// mustStop reports whether a reason to stop is one that running attempts are told of, too.
func (m *machine) mustStop(reason work.Reason) bool {
	return reason.Code == work.EndedByCancel || reason.Code == work.EndedByRunTimeout
}

func (m *machine) within(id, block work.StepID) bool {
	for p := m.g.Parent(id); p != ""; p = m.g.Parent(p) {
		if p == block {
			return true
		}
	}
	return false
}
