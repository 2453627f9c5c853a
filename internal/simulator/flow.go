package simulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// settings are how the work of a tenant flows, each by what it is about: "queue exports paused" -> the name of who paused it. What is not
// set is not in it.
type settings map[string]string

func settingsOf(f *store.Flow) settings {
	s := settings{}
	set := func(key string, n int) {
		if n != 0 {
			s[key] = fmt.Sprint(n)
		}
	}
	paused := func(key string, by *work.Actor) {
		if by != nil {
			s[key] = by.Name
		}
	}
	paused("tenant paused", f.Paused)
	set("tenant limit", f.Max)
	set("tenant weight", f.Weight)
	set("quota runs", f.Quota.Runs)
	set("quota steps", f.Quota.Steps)
	set("quota bytes", int(f.Quota.Bytes))
	for kind, valves := range map[string]map[string]store.Valve{store.FlowQueue: f.Queues, store.FlowPack: f.Packs, store.FlowWorker: f.Workers} {
		for name, v := range valves {
			paused(kind+" "+name+" paused", v.Paused)
			set(kind+" "+name+" limit", v.Max)
			set(kind+" "+name+" drain", one(v.Drain))
		}
	}
	return s
}

// effect is what a change sets, as it was asked for; "" or "0" takes a setting away.
func effect(c *store.FlowChange) settings {
	subject := c.Kind
	if c.Name != "" {
		subject += " " + c.Name
	}
	switch c.Verb {
	case "pause", "cordon":
		return settings{subject + " paused": c.Actor.Name}
	case "drain":
		return settings{subject + " paused": c.Actor.Name, subject + " drain": "1"}
	case "resume":
		return settings{subject + " paused": ""}
	case "uncordon":
		return settings{subject + " paused": "", subject + " drain": ""}
	case "quota":
		return settings{"quota runs": fmt.Sprint(c.Quota.Runs), "quota steps": fmt.Sprint(c.Quota.Steps)}
	default:
		return settings{subject + " " + c.Verb: fmt.Sprint(c.N)}
	}
}

func (s settings) with(e settings) settings {
	out := maps.Clone(s)
	for key, value := range e {
		if out[key] = value; value == "" || value == "0" {
			delete(out, key)
		}
	}
	return out
}

// flowed takes a change of how a tenant's work flows: it must be one that somebody asked for, applied to what was so before (I21).
func (c *checker) flowed(row *store.Record) {
	var next store.Flow
	if err := json.Unmarshal(row.Doc, &next); err != nil {
		c.w.violate("I21: the flow of %s cannot be read: %v", row.Tenant, err)
		return
	}
	old := c.books.flows[row.Tenant]
	was, is := settingsOf(&old), settingsOf(&next)
	if !slices.ContainsFunc(c.asked[row.Tenant], func(e settings) bool { return maps.Equal(was.with(e), is) }) {
		c.w.violate("I21: the flow of %s was %v and is %v, which nobody asked for", row.Tenant, was, is)
	}
	if old.Weight != next.Weight {
		c.waits = map[turn]map[work.Tenant]int{} // what was waited for under other weights says nothing
	}
	c.books.flows[row.Tenant] = next
	c.w.tell("%s flows %v", row.Tenant, is)
}

// worker is who asks for work, as far as it matters to what it may have.
type asker struct {
	name   string
	shared bool // it serves every tenant
	labels map[string]string
}

// hindrance is why a step that is ready cannot be given to a worker at this moment, "" if it can. It is worked out from what was committed
// and from nothing that a row says about reasons.
func (c *checker) hindrance(ref kernel.StepRef, by *asker) string {
	f := c.books.flows[ref.Tenant]
	switch {
	case f.Paused != nil:
		return "tenant paused"
	case f.Workers[by.name].Paused != nil:
		return "worker paused"
	case f.Max > 0 && c.books.running[ref.Tenant] >= f.Max:
		return "tenant full"
	}
	if whole := c.books.flows[store.Installation]; by.shared && (whole.Paused != nil || whole.Workers[by.name].Paused != nil) {
		return "worker paused"
	}
	return c.stepHindrance(ref, by.labels)
}

// stepHindrance is what of that is about the step alone.
func (c *checker) stepHindrance(ref kernel.StepRef, labels map[string]string) string {
	a := c.books.run(ref.Tenant, ref.Run)
	f := c.books.flows[ref.Tenant]
	row := a.steps[ref.Step]
	valve := f.Queues[row.Queue.Name()]
	if row.Queue.Name() == "" {
		valve = f.Queues[work.DefaultQueue]
	}
	switch {
	case a.paused:
		return "run paused"
	case f.Packs[a.row.Pack.Name].Paused != nil:
		return "pack paused"
	case valve.Paused != nil:
		return "queue paused"
	case valve.Max > 0 && c.books.lanes[lane{ref.Tenant, row.Queue.Name()}] >= valve.Max:
		return "queue full"
	}
	if key := row.Queue.Concurrency; key != "" && c.books.keys[tokenKey{ref.Tenant, key}] >= keyMax(key) {
		return "key full"
	}
	for name, value := range c.spec(a, ref.Step).Run.Labels {
		if labels[name] != value {
			return "label missing"
		}
	}
	return ""
}

// admitted checks that nothing is granted past what holds work back: no pause of anything that the step belongs to, no limit that is reached
// (I7, I22). Leases are counted when the whole commit is in the books.
func (c *checker) admitted(a *account, e *work.Event, session *store.Session) {
	f, whole := c.books.flows[e.Tenant], c.books.flows[store.Installation]
	spec := c.spec(a, e.Step)
	queue := spec.Run.Queue
	if queue == "" {
		queue = work.DefaultQueue
	}
	for what, by := range map[string]*work.Actor{
		"tenant": f.Paused, "queue": f.Queues[queue].Paused, "pack": f.Packs[a.row.Pack.Name].Paused, "worker": f.Workers[session.Worker].Paused,
	} {
		if by != nil {
			c.w.violate("I22: step %s of run %s is claimed by %s while its %s is paused", e.Step, e.Run, session.Worker, what)
		}
	}
	if session.Tenant == store.Installation && (whole.Paused != nil || whole.Workers[session.Worker].Paused != nil) {
		c.w.violate("I22: step %s of run %s is claimed by %s, which takes nothing of any tenant", e.Step, e.Run, session.Worker)
	}
	c.claimedNow = append(c.claimedNow, lane{e.Tenant, queue})
}

// limits checks that after a commit that granted leases no limit is passed (I7).
func (c *checker) limits() {
	for _, l := range c.claimedNow {
		f := c.books.flows[l.tenant]
		if n := c.books.running[l.tenant]; f.Max > 0 && n > f.Max {
			c.w.violate("I7: %d steps of %s run, and it may have %d", n, l.tenant, f.Max)
		}
		if n, most := c.books.lanes[l.stored()], f.Queues[l.queue].Max; most > 0 && n > most {
			c.w.violate("I7: %d steps of queue %s of %s run, and it may have %d", n, l.queue, l.tenant, most)
		}
	}
	c.claimedNow = c.claimedNow[:0]
}

// submitting checks, before a commit is in the books, that a run that it creates is within the quota of its tenant (I23).
func (c *checker) submitting(tenant work.Tenant) {
	if q, runs, steps := c.quotaOf(tenant); q.Runs > 0 && runs >= q.Runs || q.Steps > 0 && steps >= q.Steps {
		c.w.violate("I23: %s gets another run beside %d runs and %d steps that wait, with a quota of %+v", tenant, runs, steps, q)
	}
}

func (c *checker) quotaOf(tenant work.Tenant) (q store.Quota, runs, steps int) {
	for ref := range c.books.ready {
		steps += one(ref.Tenant == tenant)
	}
	return c.books.flows[tenant].Quota, c.books.live[tenant], steps
}

// refused checks that a submission is refused only when the quota is used up (I23).
func (c *checker) refused(tenant work.Tenant) {
	c.w.cover["submissions beyond a quota"]++
	if q, runs, steps := c.quotaOf(tenant); (q.Runs == 0 || runs < q.Runs) && (q.Steps == 0 || steps < q.Steps) {
		c.w.violate("I23: %s gets no run with %d runs and %d steps that wait, with a quota of %+v", tenant, runs, steps, q)
	}
}

// startsInTime checks that a delayed run does not start before its time by the store's clock (I24).
func (c *checker) startsInTime(a *account, e *work.Event) {
	var d work.SubmittedData
	c.read(&a.events[0], &d)
	at := c.delays[tokenKey{e.Tenant, d.RunToken}]
	if at == 0 {
		return
	}
	c.w.cover["delayed runs that started"]++
	if now := c.w.storeClock(); now < at {
		c.w.violate("I24: run %s starts %s before its time", e.Run, at.Sub(now))
	}
}
