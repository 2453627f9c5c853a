package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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
}

// Why explains a run. Errors: fault.NotFound.
func (s *Service) Why(ctx context.Context, run work.Run) (Why, error) {
	w := Why{Run: run.ID, Name: run.Name, State: run.State, Reason: run.Reason, BlockedBy: []Blocker{}}
	x := &explainer{s: s, run: &run, holders: map[string]string{}}
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
			b.Reason.Message = x.held(ctx, b.Reason.Subject)
		}
		w.BlockedBy = append(w.BlockedBy, b)
	}
	err := s.EachStep(ctx, run, func(row *work.Step) {
		b := Blocker{Step: row.ID, State: row.State, Reason: row.Reason, Since: row.Started, Attempt: row.Attempt}
		switch {
		case row.State == work.Waiting && row.Reason.Code == work.WaitsForPolicy:
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Waiting:
			b.Next = fmt.Sprintf("orrery approve %s --gate %q --reason \"…\"", run.Name, row.ID)
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Queued && row.Queue != nil:
			b.Since = row.Queue.At
			x.queued(ctx, row, &b)
			w.BlockedBy = append(w.BlockedBy, b)
		case row.State == work.Queued || row.State == work.Throttled || row.State == work.Pending && row.Unmet > 0 && !run.State.Terminal():
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
	return w, errors.Join(err, x.err)
}

// explainer knows what holds back the work of a tenant at the moment.
type explainer struct {
	s       *Service
	run     *work.Run
	flow    store.Flow
	running map[string]int // leases by queue
	total   int
	holders map[string]string // by concurrency key
	err     error
}

func (x *explainer) look(ctx context.Context) error {
	if x.s.Flows == nil || x.run.State.Terminal() {
		return nil
	}
	var err error
	if x.flow, err = x.s.Flows.Flow(ctx, x.run.Tenant); err != nil || !x.flow.Limited() {
		return err
	}
	depths, err := x.s.Flows.Depths(ctx, x.run.Tenant)
	x.running = map[string]int{}
	for _, d := range depths {
		x.running[d.Queue] = d.Running
		x.total += d.Running
	}
	return err
}

// queued says what keeps a step that is ready from being claimed: what holds for more comes first.
func (x *explainer) queued(ctx context.Context, row *work.Step, b *Blocker) {
	queue := cmp.Or(row.Queue.Queue, work.DefaultQueue)
	valve := x.flow.Queue(row.Queue.Queue)
	switch {
	case x.run.Paused != nil:
		b.Reason, b.Next = paused("the run", x.run.Paused), "orrery runs resume "+x.run.Name
	case row.Held:
		// It waits for a slot of its run, and nobody else is asked for that.
	case x.flow.Paused != nil:
		b.Reason, b.Next = paused("tenant "+string(x.run.Tenant), x.flow.Paused), "orrery tenant resume"
	case x.flow.Packs[x.run.Pack.Name].Paused != nil:
		b.Reason, b.Next = paused("pack "+x.run.Pack.Name, x.flow.Packs[x.run.Pack.Name].Paused), "orrery packs resume "+x.run.Pack.Name
	case valve.Paused != nil:
		b.Reason, b.Next = paused("queue "+queue, valve.Paused), "orrery queue resume "+queue
	case x.flow.Max > 0 && x.total >= x.flow.Max:
		b.Reason = work.Reason{Code: work.WaitsForTenant, Subject: string(x.run.Tenant), Message: fmt.Sprintf("%d steps run, as many as the tenant may", x.total)}
	case valve.Max > 0 && x.running[queue] >= valve.Max:
		b.Reason = work.Reason{Code: work.WaitsForQueue, Subject: queue, Message: fmt.Sprintf("%d steps run, as many as of the queue may", x.running[queue])}
	case row.Reason.Code == work.WaitsForConcurrency:
		b.Reason.Message = x.held(ctx, row.Reason.Subject)
	case row.Reason.Code == work.WaitsForCapability:
		b.Reason.Message = cmp.Or(b.Reason.Message, "no worker that asked for work offers it")
	case row.Reason.Code == work.WaitsForWorker:
		b.Reason.Message = cmp.Or(b.Reason.Message, x.cordoned())
	}
}

// paused says who held something back, since when and why.
func paused(what string, by *work.Actor) work.Reason {
	message := fmt.Sprintf("%s is paused by %s since %s", what, by.Name, by.At)
	if by.Reason != "" {
		message += ": " + by.Reason
	}
	return work.Reason{Code: work.WaitsForResume, Subject: what, Message: message}
}

// cordoned names the workers that take nothing new.
func (x *explainer) cordoned() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(x.flow.Workers)) {
		if x.flow.Workers[name].Paused != nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "cordoned: " + strings.Join(names, ", ")
}

// held says who has a concurrency key.
func (x *explainer) held(ctx context.Context, key string) string {
	if x.s.Flows == nil {
		return ""
	}
	if text, known := x.holders[key]; known {
		return text
	}
	const most = 3
	holders, err := x.s.Flows.Holders(ctx, x.run.Tenant, key)
	x.err = errors.Join(x.err, err)
	var parts []string
	for i, h := range holders {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(holders)-most))
			break
		}
		part := h.RunName
		if h.Step != "" {
			part += " step " + string(h.Step) + " on " + h.Worker
		}
		parts = append(parts, part+" since "+h.Since.String())
	}
	text := ""
	if len(parts) > 0 {
		text = "held by " + strings.Join(parts, ", ")
	}
	x.holders[key] = text
	return text
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
