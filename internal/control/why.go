package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Why is why a run stands where it stands: one sentence about the run, and one about each step that waits or ended badly.
type Why struct {
	Run       work.RunID  `json:"run"`
	Name      string      `json:"name"`
	State     work.State  `json:"state"`
	Reason    work.Reason `json:"reason"`
	BlockedBy []Blocker   `json:"blockedBy"`
	Failed    []Blocker   `json:"failed,omitempty"`
}

// Blocker is a step with the reason it waits for or ended with.
type Blocker struct {
	Step    work.StepID `json:"step"`
	State   work.State  `json:"state"`
	Reason  work.Reason `json:"reason"`
	Since   work.Time   `json:"since,omitzero"`
	Attempt int         `json:"attempt,omitempty"`
	Next    string      `json:"next,omitempty"` // a command that moves it on
}

// Flows says what holds work back.
type Flows interface {
	Flow(ctx context.Context, tenant work.Tenant) (store.Flow, error)
	Depths(ctx context.Context, tenant work.Tenant) ([]store.QueueDepth, error)
	Holders(ctx context.Context, tenant work.Tenant, key string) ([]store.Holder, error)
	Workers(ctx context.Context, tenant work.Tenant) ([]store.Session, error)
}

// Why explains a run. Errors: fault.NotFound.
func (s *Service) Why(ctx context.Context, run work.Run) (Why, error) {
	w := Why{Run: run.ID, Name: run.Name, State: run.State, Reason: run.Reason, BlockedBy: []Blocker{}}
	x := &explainer{s: s, run: &run, holders: map[string][]store.Holder{}, states: map[work.StepID]work.State{}}
	if err := x.look(ctx); err != nil {
		return w, err
	}
	if run.Paused != nil {
		w.Reason = paused("the run", run.Paused)
		w.BlockedBy = append(w.BlockedBy, Blocker{State: run.State, Reason: w.Reason, Since: run.Paused.At, Next: "orrery runs resume " + run.Name})
	}
	if run.Phase == work.PhaseDelayed || run.Phase == work.PhaseAdmission {
		b := Blocker{State: run.State, Reason: run.Reason, Since: run.Created}
		if b.Reason.Code == work.WaitsForConcurrency {
			b.Reason.Message = heldBy(x.held(ctx, b.Reason.Subject), true)
			w.Reason = b.Reason
		}
		w.BlockedBy = append(w.BlockedBy, b)
	}
	var pending []int // of BlockedBy: what they need is looked up when every row is known
	err := s.EachStep(ctx, run, func(row *work.Step) {
		x.states[row.ID] = row.State
		b := Blocker{Step: row.ID, State: row.State, Reason: row.Reason, Since: row.Started, Attempt: row.Attempt}
		switch {
		case row.State == work.Waiting && row.Reason.Code == work.WaitsForPolicy:
			b.Reason.Message = cmp.Or(b.Reason.Message, "the policy engine "+row.Reason.Subject+" has not answered")
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Waiting:
			b.Next = fmt.Sprintf("orrery approve %s --gate %q --reason \"…\"", run.Name, row.ID)
			b.Reason.Message = cmp.Or(b.Reason.Message, x.approvals(ctx, row))
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Queued && row.Queue != nil:
			b.Since = row.Queue.At
			x.queued(ctx, row, &b)
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Pending && row.Unmet > 0 && !run.State.Terminal():
			pending = append(pending, len(w.BlockedBy))
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Queued || row.State == work.Throttled:
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Retrying:
			b.Reason = work.Reason{Code: work.WaitsForRetry, Subject: string(row.Reason.Code), Message: row.Reason.Message, Until: row.Timer}
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Running && row.Lease != nil:
			b.Reason = work.Reason{Code: "RUNNING", Subject: row.Lease.Worker, Until: row.Lease.Deadline}
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State.Failure():
			if row.State == work.Dead {
				b.Next = "orrery deadletter retry " + run.Name
			} else if run.State.Terminal() {
				b.Next = "orrery runs retry " + run.Name
			}
			w.Failed = append(w.Failed, b)
		}
	})
	for _, i := range pending {
		b := &w.BlockedBy[i]
		b.Reason = x.pending(ctx, b.Step, b.Reason.Message)
	}
	w.BlockedBy = slices.DeleteFunc(w.BlockedBy, func(b Blocker) bool { return b.State == work.Pending && x.over(ctx, b.Step) })
	return w, errors.Join(err, x.err)
}

// EachStep calls fn for every step of a run that has a row, in order of ids.
func (s *Service) EachStep(ctx context.Context, run work.Run, fn func(*work.Step)) error {
	const page = 1000
	for after := work.StepID(""); ; {
		rows, err := s.Store.Steps(ctx, run.Tenant, run.ID, after, page)
		if err != nil {
			return err
		}
		for i := range rows {
			fn(&rows[i])
		}
		if len(rows) < page {
			return nil
		}
		after = rows[len(rows)-1].ID
	}
}

// States returns for every step of the plan what became of it: of several items of a map, that which matters most. A step that nothing has
// happened to is not in it.
func (s *Service) States(ctx context.Context, run work.Run) (map[work.StepID]work.State, error) {
	states := map[work.StepID]work.State{}
	err := s.EachStep(ctx, run, func(row *work.Step) {
		id := row.ID.Template()
		if old, ok := states[id]; !ok || weight(row.State) > weight(old) {
			states[id] = row.State
		}
	})
	return states, err
}

// weight orders states by how much somebody who looks wants to know of them.
func weight(s work.State) int {
	switch {
	case s.Failure():
		return 4
	case !s.Terminal():
		return 3
	case s == work.Succeeded:
		return 2
	default:
		return 1
	}
}

// Gates returns the gates of a run that wait for people.
func (s *Service) Gates(ctx context.Context, run work.Run) ([]work.Step, error) {
	var out []work.Step
	err := s.EachStep(ctx, run, func(row *work.Step) {
		if row.State == work.Waiting && row.Reason.Code == work.WaitsForApproval {
			out = append(out, *row)
		}
	})
	return out, err
}

// Unfinished returns the newest run of the plan that is not over, or whose end its submitter has not seen.
func (s *Service) Unfinished(ctx context.Context, tenant work.Tenant, hash work.Digest) (*work.Run, error) {
	runs, err := s.Store.Find(ctx, tenant, store.RunQuery{PlanHash: hash, Open: true, Limit: 1})
	if err != nil || len(runs) == 0 {
		return nil, err
	}
	return &runs[0], nil
}

// carryable reports whether a step may hand its result on to a retry: it did work that ended well. Gates are asked again.
func carryable(g *engine.Graph, row *work.Step) bool {
	spec := g.Spec(row.ID)
	return row.State == work.Succeeded && spec != nil && spec.Kind == work.KindRun
}
