package control

import (
	"context"
	"fmt"

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

// Why explains a run. Errors: fault.NotFound.
func (s *Service) Why(ctx context.Context, run work.Run) (Why, error) {
	w := Why{Run: run.ID, Name: run.Name, State: run.State, Reason: run.Reason, BlockedBy: []Blocker{}}
	if run.Paused != nil {
		w.Reason = work.Reason{Code: work.WaitsForResume, Subject: run.Paused.Name, Message: run.Paused.Reason}
	}
	err := s.EachStep(ctx, run, func(row *work.Step) {
		b := Blocker{Step: row.ID, State: row.State, Reason: row.Reason, Since: row.Started, Attempt: row.Attempt}
		switch {
		case row.State == work.Waiting && row.Reason.Code == work.WaitsForPolicy:
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Waiting:
			b.Next = fmt.Sprintf("orrery approve %s --gate %q --reason \"…\"", run.Name, row.ID)
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Queued || row.State == work.Retrying || row.State == work.Throttled:
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
	return w, err
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
