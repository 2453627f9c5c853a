package simulator

import (
	"cmp"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// lane is a queue of a tenant.
type lane struct {
	tenant work.Tenant
	queue  string
}

// stored is the lane with the queue's name in rows.
func (l lane) stored() lane {
	if l.queue == work.DefaultQueue {
		l.queue = ""
	}
	return l
}

// turn is a tenant that waits at one server since that started: turns are a memory of the process.
type turn struct {
	server, life int
	tenant       work.Tenant
}

// line keeps the lanes up to date with the row of a step as it was and as it is.
func (b *books) line(row *work.Step, n int) {
	ref := kernel.StepRef{Tenant: row.Tenant, Run: row.Run, Step: row.ID}
	if n < 0 {
		delete(b.ready, ref)
	} else if row.State == work.Queued && !row.Held && row.Queue != nil {
		b.ready[ref] = true
	}
	if row.Lease == nil {
		return
	}
	b.running[row.Tenant] += n
	b.lanes[lane{row.Tenant, row.Lease.Queue}] += n
	if row.Lease.Concurrency != "" {
		b.keys[tokenKey{row.Tenant, row.Lease.Concurrency}] += n
	}
}

// exchanged looks at what a request for work brought, right after its commit: nobody waits who could have had something (I25), what comes
// first in its queue is served first (I26), and tenants get their shares (I27).
func (c *checker) exchanged(s *server, by *asker, req *store.ExchangeRequest, grants []store.Grant) {
	if req.Max == 0 {
		return
	}
	left := c.waiting(req.Tenant)
	free := map[work.Tenant]bool{} // tenants that have more which this worker could run
	for _, ref := range left {
		why := c.hindrance(ref, by)
		if why != "" {
			c.w.cover["ready steps held back: "+why]++
			continue
		}
		if free[ref.Tenant] = true; len(grants) < req.Max {
			c.w.violate("I25: %s asks for %d steps and gets %d, while step %s of run %s is ready and nothing holds it back",
				by.name, req.Max, len(grants), ref.Step, ref.Run)
		}
	}
	for i := range grants {
		c.first(&grants[i], by, left)
	}
	if req.Tenant == store.Installation {
		c.shared(s, grants, free)
	}
}

// waiting returns what is ready in a tenant, or in all of them, in a fixed order.
func (c *checker) waiting(tenant work.Tenant) []kernel.StepRef {
	var out []kernel.StepRef
	for ref := range c.books.ready {
		if tenant == store.Installation || ref.Tenant == tenant {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, func(a, b kernel.StepRef) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Step, b.Step))
	})
	return out
}

// place is where a step stands in its queue: its priority is that of the plan, and its time that of the event by which it got there.
func (c *checker) place(ref kernel.StepRef) (queue string, priority int, at work.Time) {
	a := c.books.run(ref.Tenant, ref.Run)
	spec := c.spec(a, ref.Step)
	return spec.Run.Queue, spec.Run.Priority, a.queued[ref.Step]
}

// first checks that nothing which could have been granted stands before what was (I26). Only what rises with grants can hold a step back now
// that did not then, so what is free now was free when it was passed over. The tenant's limit may have been reached by the grant itself.
func (c *checker) first(g *store.Grant, by *asker, left []kernel.StepRef) {
	queue, priority, at := c.place(kernel.StepRef{Tenant: g.Tenant, Run: g.Run, Step: g.Step})
	for _, ref := range left {
		if ref.Tenant != g.Tenant {
			continue
		}
		q, p, t := c.place(ref)
		before := cmp.Or(cmp.Compare(priority, p), cmp.Compare(t, at), cmp.Compare(ref.Run, g.Run), cmp.Compare(ref.Step, g.Step)) < 0
		if q == queue && before && c.stepHindrance(ref, by.labels) == "" {
			c.w.violate("I26: step %s of run %s is granted before step %s of run %s, which comes first in queue %q", g.Step, g.Run, ref.Step, ref.Run, q)
		}
	}
}

func (c *checker) weight(tenant work.Tenant) int { return max(1, c.books.flows[tenant].Weight) }

// shared checks the turns of tenants at a server (I27): each lease goes to a tenant that has the fewest for its weight, and among equals
// nobody who could have had it waits for more leases of another than that has parts to one of its own.
func (c *checker) shared(s *server, grants []store.Grant, free map[work.Tenant]bool) {
	had := map[work.Tenant]int{}
	for i := range c.w.o.Tenants {
		t := tenantName(i)
		if had[t] = c.books.running[t]; !free[t] {
			delete(c.waits, turn{s.index, s.life, t})
		}
	}
	for i := range grants {
		had[grants[i].Tenant]--
	}
	for i := range grants {
		t := grants[i].Tenant
		delete(c.waits, turn{s.index, s.life, t})
		for j := range c.w.o.Tenants {
			if other := tenantName(j); other != t && free[other] {
				c.passedOver(turn{s.index, s.life, other}, t, had)
			}
		}
		had[t]++
	}
}

// passedOver notes that a tenant was served while another could have been.
func (c *checker) passedOver(at turn, served work.Tenant, had map[work.Tenant]int) {
	c.w.cover["tenants that waited for another"]++
	mine, theirs := had[at.tenant]*c.weight(served), had[served]*c.weight(at.tenant)
	if theirs > mine {
		c.w.violate("I27: %s gets a step with %d running and a weight of %d, while %s waits with %d and %d",
			served, had[served], c.weight(served), at.tenant, had[at.tenant], c.weight(at.tenant))
	}
	if theirs < mine {
		return
	}
	if c.waits[at] == nil {
		c.waits[at] = map[work.Tenant]int{}
	}
	c.waits[at][served]++
	most := (c.weight(served) + c.weight(at.tenant) - 1) / c.weight(at.tenant)
	if n := c.waits[at][served]; n > most {
		c.w.violate("I27: %s has waited for %d steps of %s, of which %d are its share", at.tenant, n, served, most)
	}
}
