package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// explainer knows what holds back the work of a tenant at the moment. What a row says of why it waits was written when somebody looked at it
// last, so everything that changes without the row is looked up again.
type explainer struct {
	s       *Service
	run     *work.Run
	flow    store.Flow
	whole   store.Flow     // of the installation, for workers that serve every tenant
	running map[string]int // leases by queue
	total   int
	workers []store.Session
	holders map[string][]store.Holder // by concurrency key
	states  map[work.StepID]work.State
	plan    *work.Plan
	err     error
}

func (x *explainer) look(ctx context.Context) error {
	if x.s.Flows == nil || x.run.State.Terminal() {
		return nil
	}
	var err error
	if x.flow, err = x.s.Flows.Flow(ctx, x.run.Tenant); err != nil {
		return err
	}
	if x.whole, err = x.s.Flows.Flow(ctx, store.Installation); err != nil {
		return err
	}
	if x.workers, err = x.s.Flows.Workers(ctx, x.run.Tenant); err != nil || !x.flow.Limited() {
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
	pack := x.run.Pack.Name
	switch {
	case x.run.Paused != nil:
		b.Reason, b.Next = paused("the run", x.run.Paused), "orrery runs resume "+x.run.Name
	case row.Held:
		b.Reason.Message = cmp.Or(b.Reason.Message, fmt.Sprintf("%d of its steps have a slot, as many as may", x.run.Slots))
	case x.s.Flows == nil:
		// Somebody else explains the rest.
	case x.flow.Paused != nil:
		b.Reason, b.Next = paused("tenant "+string(x.run.Tenant), x.flow.Paused), "orrery tenant resume"
	case x.flow.Packs[pack].Paused != nil:
		b.Reason, b.Next = paused("pack "+pack, x.flow.Packs[pack].Paused), "orrery packs resume "+pack
	case valve.Paused != nil:
		b.Reason, b.Next = paused("queue "+queue, valve.Paused), "orrery queue resume "+queue
	case x.flow.Max > 0 && x.total >= x.flow.Max:
		b.Reason = work.Reason{Code: work.WaitsForTenant, Subject: string(x.run.Tenant), Message: fmt.Sprintf("%d of %d steps of the tenant run", x.total, x.flow.Max)}
	case valve.Max > 0 && x.running[queue] >= valve.Max:
		b.Reason = work.Reason{Code: work.WaitsForQueue, Subject: queue, Message: fmt.Sprintf("%d of %d steps of the queue run", x.running[queue], valve.Max)}
	case x.full(ctx, row.Queue):
		b.Reason = work.Reason{Code: work.WaitsForConcurrency, Subject: row.Queue.Concurrency, Message: heldBy(x.held(ctx, row.Queue.Concurrency), false)}
	default:
		b.Reason, b.Next = x.unclaimed(ctx, row.ID)
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

// unclaimed says why a step waits that nothing but workers is missing to, and the command that helps.
func (x *explainer) unclaimed(ctx context.Context, id work.StepID) (work.Reason, string) {
	spec := x.spec(ctx, id)
	if spec == nil || spec.Run == nil {
		return work.Reason{Code: work.WaitsForWorker}, ""
	}
	if len(x.workers) == 0 {
		return work.Reason{Code: work.WaitsForWorker, Message: "no worker is there"}, ""
	}
	var able, shut []string
	var by *work.Actor
	for i := range x.workers {
		if x.workers[i].Offer.Lacks(spec.Run) != "" {
			continue
		}
		able = append(able, x.workers[i].Worker)
		if held := x.cordoned(&x.workers[i]); held != nil {
			shut, by = append(shut, x.workers[i].Worker), held
		}
	}
	switch {
	case len(able) == 0:
		return work.Reason{
			Code: work.WaitsForCapability, Subject: x.lacking(spec.Run), Message: fmt.Sprintf("none of %s offers it", work.Count(len(x.workers), "worker")),
		}, ""
	case len(shut) == len(able):
		reason := paused("worker "+shut[0], by)
		if more := len(shut) - 1; more > 0 {
			reason.Message += fmt.Sprintf("; so is every other one that could run it (%s)", strings.Join(shut[1:], ", "))
		}
		return reason, "orrery worker uncordon " + shut[0]
	}
	reason := work.Reason{Code: work.WaitsForWorker, Message: fmt.Sprintf("%s can run it and has not asked for more", work.Count(len(able)-len(shut), "worker"))}
	if len(shut) > 0 {
		reason.Message += "; cordoned: " + strings.Join(shut, ", ")
	}
	return reason, ""
}

// cordoned returns who keeps a worker from taking work of the run's tenant, nil for nobody.
func (x *explainer) cordoned(s *store.Session) *work.Actor {
	by := x.flow.Worker(s.Worker).Paused
	if s.Tenant == store.Installation {
		by = cmp.Or(by, x.whole.Worker(s.Worker).Paused, x.whole.Paused)
	}
	return by
}

// lacking names what of a step's needs no worker has, or all of them where each is offered by some worker.
func (x *explainer) lacking(spec *work.RunSpec) string {
	needs := []work.RunSpec{{Runner: spec.Runner}}
	names := []string{"runner " + spec.Runner}
	for _, k := range slices.Sorted(maps.Keys(spec.Labels)) {
		needs = append(needs, work.RunSpec{Runner: spec.Runner, Labels: map[string]string{k: spec.Labels[k]}})
		names = append(names, "label "+k+"="+spec.Labels[k])
	}
	if spec.Sandbox.MinTier > "t0" {
		needs = append(needs, work.RunSpec{Runner: spec.Runner, Sandbox: spec.Sandbox})
		names = append(names, "sandbox "+spec.Sandbox.MinTier)
	}
	for i := range needs {
		if !slices.ContainsFunc(x.workers, func(s store.Session) bool { return s.Offer.Lacks(&needs[i]) == "" }) {
			return names[i]
		}
	}
	return strings.Join(names, " and ")
}

// held returns who has a concurrency key.
func (x *explainer) held(ctx context.Context, key string) []store.Holder {
	if holders, known := x.holders[key]; known || x.s.Flows == nil {
		return holders
	}
	holders, err := x.s.Flows.Holders(ctx, x.run.Tenant, key)
	x.err = errors.Join(x.err, err)
	x.holders[key] = holders
	return holders
}

// full reports whether as many steps as may have the concurrency key of one that is ready.
func (x *explainer) full(ctx context.Context, q *work.QueueEntry) bool {
	if q.Concurrency == "" {
		return false
	}
	steps := 0
	for _, h := range x.held(ctx, q.Concurrency) {
		if h.Step != "" {
			steps++
		}
	}
	return steps >= q.Max
}

// heldBy names who has a concurrency key: the runs for a run that waits for it, the steps for a step.
func heldBy(holders []store.Holder, runs bool) string {
	const most = 3
	var parts []string
	n := 0
	for _, h := range holders {
		if runs != (h.Step == "") {
			continue
		}
		if n++; n > most {
			continue
		}
		part := h.RunName
		if h.Step != "" {
			part += " step " + string(h.Step) + " on " + h.Worker
		}
		parts = append(parts, part+" since "+h.Since.String())
	}
	if n > most {
		parts = append(parts, fmt.Sprintf("and %d more", n-most))
	}
	if n == 0 {
		return ""
	}
	return "held by " + strings.Join(parts, ", ")
}

// spec returns what the plan says of a step, nil when the plan is not to be had.
func (x *explainer) spec(ctx context.Context, id work.StepID) *work.PlanStep {
	if x.plan == nil {
		x.plan = &work.Plan{}
		raw, err := x.s.Store.Plan(ctx, x.run.Tenant, x.run.PlanHash)
		if err == nil {
			err = fault.Wrap(fault.Internal, json.Unmarshal(raw, x.plan), "plan %s", x.run.PlanHash.Short())
		}
		x.err = errors.Join(x.err, err)
	}
	for i := range x.plan.Steps {
		if x.plan.Steps[i].ID == id.Template() {
			return &x.plan.Steps[i]
		}
	}
	return nil
}

// pending names the steps that another waits for. Where all of those have ended, some of them badly, it waits for the end of what is around
// it, to be skipped.
func (x *explainer) pending(ctx context.Context, id work.StepID, said string) work.Reason {
	reason := work.Reason{Code: work.WaitsForSteps, Message: said}
	spec := x.spec(ctx, id)
	if spec == nil {
		return reason
	}
	var open, bad []string
	for _, need := range spec.Needs {
		switch need = need.Instantiate(id.Indices()); {
		case !x.states[need].Terminal():
			open = append(open, string(need))
		case x.states[need] != work.Succeeded:
			bad = append(bad, fmt.Sprintf("%s is %s", need, strings.ToLower(x.states[need].Word().Word)))
		}
	}
	if reason.Subject = strings.Join(open, ", "); len(open) == 0 {
		reason.Subject = cmp.Or(string(spec.Parent.Instantiate(id.Indices())), "the run")
		reason.Message = "it is skipped when that ends, because " + strings.Join(bad, ", ")
	}
	return reason
}

// over reports whether a block around a step has ended: what had not begun of it never will.
func (x *explainer) over(ctx context.Context, id work.StepID) bool {
	for spec := x.spec(ctx, id); spec != nil && spec.Parent != ""; spec = x.spec(ctx, spec.Parent) {
		if x.states[spec.Parent.Instantiate(id.Indices())].Terminal() {
			return true
		}
	}
	return false
}

// approvals says how many a gate has of those that it needs, and who may give them.
func (x *explainer) approvals(ctx context.Context, row *work.Step) string {
	spec := x.spec(ctx, row.ID)
	if spec == nil || spec.Approval == nil {
		return ""
	}
	text := fmt.Sprintf("%d of %s", len(row.Decisions), work.Count(spec.Approval.Required, "approval"))
	if len(spec.Approval.Approvers) > 0 {
		text += ", by " + strings.Join(spec.Approval.Approvers, ", ")
	}
	return text
}
