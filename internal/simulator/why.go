package simulator

import (
	"context"
	"slices"
	"strings"

	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// ask wants to know why a run waits.
func (c *client) ask(run work.RunID) {
	c.w.call(always, func(s store.Store) any {
		row, err := s.Run(context.Background(), c.tenant, string(run))
		if fault.CodeOf(err) == fault.NotFound {
			return nil // a restore took it
		}
		why, err := (&control.Service{Store: s, Flows: s}).Why(context.Background(), row)
		if err != nil {
			c.w.violate("client %d: why %s: %v", c.index, run, err)
			return nil
		}
		c.w.checker.explained(runKey{c.tenant, run}, &why)
		return nil
	}, func(any) {})
}

// explained checks that every step that waits has exactly one reason, that the reason is true at this moment, and that nothing else has one
// (I28).
func (c *checker) explained(key runKey, why *control.Why) {
	a := c.books.runs[key]
	c.w.cover["runs asked why they wait"]++
	given := map[work.StepID]control.Blocker{}
	for _, b := range why.BlockedBy {
		if _, twice := given[b.Step]; twice && b.Step != "" { // a run may be paused and wait for its key
			c.w.violate("I28: step %q of run %s has two reasons: %+v", b.Step, key.run, why.BlockedBy)
		}
		given[b.Step] = b
		c.w.cover["reason "+string(b.Reason.Code)]++
		if !c.isTrue(key, a, &b) {
			c.w.violate("I28: step %q of run %s is said to wait for %+v, and does not", b.Step, key.run, b.Reason)
		}
	}
	for id := range a.steps {
		row := a.steps[id]
		waits := row.State == work.Pending && row.Unmet > 0 && !a.row.State.Terminal() && !c.cutShort(a, id) || row.State == work.Waiting || row.State == work.Retrying ||
			row.State == work.Queued && row.Queue != nil || row.Lease != nil
		if _, has := given[id]; waits && !has {
			c.w.violate("I28: nothing is said of why step %s of run %s, which is %s, does not run", id, key.run, row.State)
		}
	}
}

// cutShort reports whether a block around a step has ended.
func (c *checker) cutShort(a *account, id work.StepID) bool {
	for spec := c.spec(a, id); spec.Parent != ""; spec = c.spec(a, spec.Parent) {
		if a.steps[spec.Parent.Instantiate(id.Indices())].State.Terminal() {
			return true
		}
	}
	return false
}

// isTrue reports whether what is said of a step is so, by the books.
func (c *checker) isTrue(key runKey, a *account, b *control.Blocker) bool {
	row, there := a.steps[b.Step]
	switch {
	case b.Step == "":
		return c.trueOfRun(key, a, b)
	case !there:
		return false
	case row.State == work.Queued && row.Queue != nil:
		return c.trueOfQueued(kernel.StepRef{Tenant: key.tenant, Run: key.run, Step: b.Step}, a, b)
	}
	switch b.Reason.Code {
	case work.WaitsForSteps:
		for name := range strings.SplitSeq(b.Reason.Subject, ", ") {
			if need := a.steps[work.StepID(name)]; name == "" || need.State.Terminal() || name == "the run" && a.row.State.Terminal() {
				return false
			}
		}
		return row.State == work.Pending
	case work.WaitsForApproval:
		return row.State == work.Waiting && c.spec(a, b.Step).Kind == work.KindApproval
	case work.WaitsForRetry:
		return row.State == work.Retrying && b.Reason.Until == row.Timer
	case "RUNNING":
		return row.Lease != nil && row.Lease.Worker == b.Reason.Subject
	default:
		return false
	}
}

func (c *checker) trueOfRun(key runKey, a *account, b *control.Blocker) bool {
	switch b.Reason.Code {
	case work.WaitsForResume:
		return a.paused
	case work.WaitsForTime:
		return b.Reason.Until == c.delays[tokenKey{key.tenant, a.row.RunToken}] && a.row.Started == 0
	case work.WaitsForConcurrency:
		for other, o := range c.books.runs {
			under := o.row.Phase == work.PhaseMain || o.row.Phase == work.PhaseFinally
			if other.tenant == key.tenant && under && o.row.ConcurrencyKey == b.Reason.Subject && strings.Contains(b.Reason.Message, o.row.Name) {
				return true
			}
		}
	}
	return false
}

func (c *checker) trueOfQueued(ref kernel.StepRef, a *account, b *control.Blocker) bool {
	f := c.books.flows[ref.Tenant]
	row := a.steps[ref.Step]
	queue := c.spec(a, ref.Step).Run.Queue
	if queue == "" {
		queue = work.DefaultQueue
	}
	held := map[work.ReasonCode]bool{
		work.WaitsForParallelism: row.Held && !a.paused,
		work.WaitsForTenant:      f.Max > 0 && c.books.running[ref.Tenant] >= f.Max,
		work.WaitsForQueue:       f.Queues[queue].Max > 0 && c.books.lanes[lane{ref.Tenant, row.Queue.Name()}] >= f.Queues[queue].Max,
		work.WaitsForConcurrency: row.Queue.Concurrency != "" && c.books.keys[tokenKey{ref.Tenant, row.Queue.Concurrency}] >= keyMax(row.Queue.Concurrency),
	}
	able, free, all := c.able(ref)
	held[work.WaitsForCapability] = all > 0 && able == 0
	resumes := map[string]bool{
		"the run": a.paused, "tenant " + string(ref.Tenant): f.Paused != nil, "queue " + queue: f.Queues[queue].Paused != nil,
		"pack " + a.row.Pack.Name: f.Packs[a.row.Pack.Name].Paused != nil, "worker": able > 0 && free == 0,
	}
	what, _, named := strings.Cut(b.Reason.Subject, " ")
	subject := b.Reason.Subject
	if what == "worker" && named {
		subject = "worker"
	}
	switch b.Reason.Code {
	case work.WaitsForResume:
		return resumes[subject]
	case work.WaitsForWorker: // nothing at all holds it back
		for _, is := range held {
			if is {
				return false
			}
		}
		for _, is := range resumes {
			if is {
				return false
			}
		}
		return true
	default:
		return held[b.Reason.Code]
	}
}

// able counts the workers whose session is open that could run a step, those of them that take work, and all of the tenant.
func (c *checker) able(ref kernel.StepRef) (able, free, all int) {
	f, whole := c.books.flows[ref.Tenant], c.books.flows[store.Installation]
	labels := c.spec(c.books.run(ref.Tenant, ref.Run), ref.Step).Run.Labels
	for _, s := range c.books.sessions {
		if s.Expires <= c.w.storeClock() || !slices.Contains([]work.Tenant{ref.Tenant, store.Installation}, s.Tenant) {
			continue
		}
		all++
		if labels["disk"] != "" && s.Offer.Labels["disk"] != labels["disk"] {
			continue
		}
		able++
		shared := s.Tenant == store.Installation && (whole.Paused != nil || whole.Workers[s.Worker].Paused != nil)
		free += one(!shared && f.Workers[s.Worker].Paused == nil)
	}
	return able, free, all
}
