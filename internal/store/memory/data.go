package memory

import (
	"cmp"
	"maps"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// data is everything that is kept: rows by key, and the orders in which they are asked for.
type data struct {
	runs     map[runKey]*work.Run
	names    map[textKey]work.RunID
	tokens   map[textKey]work.RunID
	created  *ordered[runOrder]   // all runs of a tenant by creation
	keyed    *ordered[keyedOrder] // runs under way with a concurrency key
	dueRuns  *ordered[dueOrder]
	unsealed *ordered[runOrder] // ended runs without a leaf, by end

	steps    map[kernel.StepRef]*work.Step
	stepIDs  *ordered[kernel.StepRef]
	live     *ordered[kernel.StepRef]
	held     *ordered[kernel.StepRef]
	ready    *ordered[kernel.ReadyStep]
	dueSteps *ordered[dueOrder]
	bySess   *ordered[leaseOrder] // group is the session
	byKey    *ordered[leaseOrder] // group is the concurrency key

	sessions map[string]store.Session
	events   map[runKey][]work.Event
	lines    map[runKey][]work.LogLine
	feed     map[work.Tenant][]piece // what was appended, in order
	pieces   int64                   // so far; one that is undone leaves a gap

	plans     map[textKey][]byte
	documents map[documentKey][]byte
	cached    map[textKey]store.CachedResult
	letters   map[kernel.StepRef]letter
	logs      map[work.Tenant]log
	leaves    map[runKey]leaf

	records   map[recordKey]store.Record
	recordIDs *ordered[recordKey]
	expiring  *ordered[expiryOrder]
}

// Orders of rows.
type (
	runOrder struct {
		tenant work.Tenant
		at     work.Time
		id     work.RunID
	}
	keyedOrder struct {
		tenant  work.Tenant
		key     string
		waiting bool
		at      work.Time
		id      work.RunID
	}
	dueOrder struct {
		at  work.Time
		ref kernel.StepRef
	}
	leaseOrder struct {
		tenant work.Tenant
		group  string
		ref    kernel.StepRef
	}
)

func newData() data {
	return data{
		runs:      map[runKey]*work.Run{},
		names:     map[textKey]work.RunID{},
		tokens:    map[textKey]work.RunID{},
		created:   newOrdered(compareRuns),
		keyed:     newOrdered(compareKeyed),
		dueRuns:   newOrdered(compareDue),
		unsealed:  newOrdered(compareRuns),
		steps:     map[kernel.StepRef]*work.Step{},
		stepIDs:   newOrdered(compareRefs),
		live:      newOrdered(compareRefs),
		held:      newOrdered(compareRefs),
		ready:     newOrdered(compareReady),
		dueSteps:  newOrdered(compareDue),
		bySess:    newOrdered(compareLeases),
		byKey:     newOrdered(compareLeases),
		sessions:  map[string]store.Session{},
		events:    map[runKey][]work.Event{},
		lines:     map[runKey][]work.LogLine{},
		feed:      map[work.Tenant][]piece{},
		plans:     map[textKey][]byte{},
		documents: map[documentKey][]byte{},
		cached:    map[textKey]store.CachedResult{},
		letters:   map[kernel.StepRef]letter{},
		logs:      map[work.Tenant]log{},
		leaves:    map[runKey]leaf{},
		records:   map[recordKey]store.Record{},
		recordIDs: newOrdered(compareRecords),
		expiring:  newOrdered(compareExpiry),
	}
}

// clone copies maps and orders. Rows themselves are replaced and never changed, so both may have them.
func (d *data) clone() data {
	c := *d
	c.runs, c.names, c.tokens = maps.Clone(d.runs), maps.Clone(d.names), maps.Clone(d.tokens)
	c.created, c.keyed, c.dueRuns, c.unsealed = d.created.clone(), d.keyed.clone(), d.dueRuns.clone(), d.unsealed.clone()
	c.steps, c.stepIDs, c.live, c.held = maps.Clone(d.steps), d.stepIDs.clone(), d.live.clone(), d.held.clone()
	c.ready, c.dueSteps, c.bySess, c.byKey = d.ready.clone(), d.dueSteps.clone(), d.bySess.clone(), d.byKey.clone()
	c.sessions, c.events, c.lines = maps.Clone(d.sessions), cloneSlices(d.events), cloneSlices(d.lines)
	c.feed = cloneSlices(d.feed)
	c.plans, c.documents, c.cached = maps.Clone(d.plans), maps.Clone(d.documents), maps.Clone(d.cached)
	c.letters, c.logs, c.leaves = maps.Clone(d.letters), maps.Clone(d.logs), maps.Clone(d.leaves)
	c.records, c.recordIDs, c.expiring = maps.Clone(d.records), d.recordIDs.clone(), d.expiring.clone()
	return c
}

// cloneSlices clips each slice, so that what one side appends does not show on the other.
func cloneSlices[K comparable, V any](m map[K][]V) map[K][]V {
	c := make(map[K][]V, len(m))
	for k, v := range m {
		c[k] = slices.Clip(v)
	}
	return c
}

func compareRuns(a, b runOrder) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id))
}

func compareKeyed(a, b keyedOrder) int {
	c := cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.key, b.key))
	if c == 0 && a.waiting != b.waiting {
		if b.waiting {
			return -1
		}
		return 1
	}
	return cmp.Or(c, cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id))
}

func compareRefs(a, b kernel.StepRef) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Step, b.Step))
}

func compareDue(a, b dueOrder) int { return cmp.Or(cmp.Compare(a.at, b.at), compareRefs(a.ref, b.ref)) }

func compareLeases(a, b leaseOrder) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.group, b.group), compareRefs(a.ref, b.ref))
}

// compareReady is the order of the queue.
func compareReady(a, b kernel.ReadyStep) int {
	return cmp.Or(
		cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(b.Queue.Priority, a.Queue.Priority),
		cmp.Compare(a.Queue.At, b.Queue.At), compareRefs(a.StepRef, b.StepRef),
	)
}
