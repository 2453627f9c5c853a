package memory

import (
	"cmp"
	"maps"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// ReadyTenants implements kernel.FlowReader.
func (r reader) ReadyTenants() ([]work.Tenant, error) {
	var out []work.Tenant
	for _, step := range r.d.ready.items {
		if len(out) == 0 || out[len(out)-1] != step.Tenant {
			out = append(out, step.Tenant)
		}
	}
	return out, nil
}

// Leases implements kernel.FlowReader.
func (r reader) Leases(tenant work.Tenant) ([]kernel.LeaseCount, error) {
	counts := map[kernel.LeaseCount]int{}
	for _, l := range r.d.bySess.items {
		if tenant == "" || l.ref.Tenant == tenant {
			counts[kernel.LeaseCount{Tenant: l.ref.Tenant, Queue: r.d.steps[l.ref].Lease.Queue}]++
		}
	}
	var out []kernel.LeaseCount
	for c, n := range counts {
		c.N = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b kernel.LeaseCount) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Queue, b.Queue))
	})
	return out, nil
}

// Depths implements kernel.FlowReader.
func (r reader) Depths(tenant work.Tenant, limit int) ([]store.QueueDepth, error) {
	of := map[string]store.QueueDepth{}
	for _, step := range r.d.ready.items {
		if step.Tenant != tenant {
			continue
		}
		d, seen := of[step.Queue.Queue]
		d.Tenant, d.Queue = tenant, step.Queue.Queue
		if limit <= 0 || d.Ready < limit {
			d.Ready++
		}
		if !seen || step.Queue.At < d.Oldest {
			d.Oldest = step.Queue.At
		}
		of[d.Queue] = d
	}
	var out []store.QueueDepth
	for _, queue := range slices.Sorted(maps.Keys(of)) {
		out = append(out, of[queue])
	}
	return out, nil
}

// LiveRuns implements kernel.FlowReader.
func (r reader) LiveRuns(tenant work.Tenant, limit int) (int, error) {
	n := 0
	for _, o := range r.d.created.from(runOrder{tenant: tenant}) {
		if o.tenant != tenant || limit > 0 && n == limit {
			break
		}
		if r.d.runs[runKey{tenant, o.id}].Ended == 0 {
			n++
		}
	}
	return n, nil
}

// Holders implements kernel.FlowReader.
func (r reader) Holders(tenant work.Tenant, key string, limit int) ([]kernel.StepRef, error) {
	var out []kernel.StepRef
	for _, l := range leases(r.d.byKey, tenant, key) {
		out = append(out, l.ref)
	}
	var runs []kernel.StepRef
	for _, o := range r.d.keyed.from(keyedOrder{tenant: tenant, key: key}) {
		if o.tenant != tenant || o.key != key || o.waiting {
			break
		}
		runs = append(runs, kernel.StepRef{Tenant: tenant, Run: o.id})
	}
	slices.SortFunc(runs, compareRefs)
	out = append(out, runs...)
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}
