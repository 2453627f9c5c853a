package simulator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// queueNames and packNames are what clients and operators draw from.
func queueNames() []string { return []string{"exports", "reports"} }

func packNames() []string { return []string{"nightly", "random"} }

// operator is who holds work back and lets it go on: pauses, limits, weights, quotas, cordons.
type operator struct {
	w      *world
	tenant work.Tenant
}

func newOperator(w *world, tenant work.Tenant) *operator {
	o := &operator{w, tenant}
	o.live()
	return o
}

func (o *operator) live() {
	o.w.after(o.w.between(3*time.Second, 20*time.Second), func() {
		if o.w.healing {
			o.release()
		} else {
			o.change(o.draw())
		}
		o.live()
	})
}

// draw picks something to hold back or to let go on. What lets go on is drawn oftener, or hardly anything would ever run.
func (o *operator) draw() store.FlowChange {
	rng := o.w.rng
	pause := []string{"pause", "resume", "resume", "resume"}[rng.IntN(4)]
	worker := fmt.Sprintf("worker%d", rng.IntN(len(o.w.workers)))
	cordon := []string{"cordon", "drain", "uncordon", "uncordon"}[rng.IntN(4)]
	if o.tenant == store.Installation {
		return store.FlowChange{Kind: store.FlowWorker, Name: worker, Verb: cordon}
	}
	queue := append([]string{work.DefaultQueue}, queueNames()...)[rng.IntN(3)]
	switch rng.IntN(9) {
	case 0:
		return store.FlowChange{Kind: store.FlowTenant, Verb: pause}
	case 1, 2:
		return store.FlowChange{Kind: store.FlowQueue, Name: queue, Verb: pause}
	case 3:
		return store.FlowChange{Kind: store.FlowPack, Name: packNames()[rng.IntN(2)], Verb: pause}
	case 4:
		return store.FlowChange{Kind: store.FlowWorker, Name: worker, Verb: cordon}
	case 5:
		return store.FlowChange{Kind: store.FlowTenant, Verb: "limit", N: []int{0, 0, 3, 5}[rng.IntN(4)]}
	case 6:
		return store.FlowChange{Kind: store.FlowQueue, Name: queue, Verb: "limit", N: rng.IntN(3)}
	case 7:
		return store.FlowChange{Kind: store.FlowTenant, Verb: "weight", N: 1 + rng.IntN(3)}
	default:
		return store.FlowChange{Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Runs: []int{0, 0, 40}[rng.IntN(3)], Steps: []int{0, 0, 15}[rng.IntN(3)]}}
	}
}

func (o *operator) change(c store.FlowChange) {
	c.Tenant, c.Actor = o.tenant, work.Actor{Name: fmt.Sprintf("operator%d", o.w.rng.IntN(3)), Reason: "maintenance"}
	checker := o.w.checker
	checker.asked[o.tenant] = append(checker.asked[o.tenant], effect(&c))
	o.w.call(always, func(s store.Store) any {
		_, err := s.ChangeFlow(context.Background(), c)
		if code := fault.CodeOf(err); code != "" && code != fault.Conflict && code != fault.Internal {
			o.w.violate("%s of %s: %v", c.Subject(), c.Tenant, err)
		}
		return fault.CodeOf(err)
	}, func(reply any) {
		if reply == fault.Code("") {
			o.w.cover["acknowledged "+c.Verb+" of "+c.Kind]++
		}
	})
}

// release lets go of every pause. Limits, weights and quotas stay: work must come to its end with them.
func (o *operator) release() {
	f := o.w.checker.books.flows[o.tenant]
	if f.Paused != nil {
		o.change(store.FlowChange{Kind: store.FlowTenant, Verb: "resume"})
	}
	for _, held := range []struct {
		kind, verb string
		valves     map[string]store.Valve
	}{{store.FlowQueue, "resume", f.Queues}, {store.FlowPack, "resume", f.Packs}, {store.FlowWorker, "uncordon", f.Workers}} {
		for _, name := range slices.Sorted(maps.Keys(held.valves)) {
			if held.valves[name].Paused != nil {
				o.change(store.FlowChange{Kind: held.kind, Name: name, Verb: held.verb})
			}
		}
	}
}
