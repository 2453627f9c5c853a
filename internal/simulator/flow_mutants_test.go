package simulator_test

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"

	"orrery.example/orrery/internal/simulator"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// flowBugs break what decides which step runs where and when.
func flowBugs() []func() *simulator.Bug {
	plain := func(name string, wrap func(kernel.Tx) kernel.Tx) func() *simulator.Bug {
		return onTx(name, func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return wrap(tx) } })
	}
	claims := func(name string, edit func(*store.Flow)) func() *simulator.Bug {
		return plain(name, func(tx kernel.Tx) kernel.Tx { return &otherFlow{Tx: tx, edit: edit} })
	}
	return []func() *simulator.Bug{
		claims("tenant-pause-ignored", func(f *store.Flow) { f.Paused = nil }),
		claims("queue-pause-ignored", func(f *store.Flow) { f.Queues = opened(f.Queues) }),
		claims("pack-pause-ignored", func(f *store.Flow) { f.Packs = nil }),
		claims("cordon-ignored", func(f *store.Flow) { f.Workers = nil }),
		claims("tenant-limit-ignored", func(f *store.Flow) { f.Max = 0 }),
		claims("queue-limit-off-by-one", func(f *store.Flow) { f.Queues = widened(f.Queues) }),
		claims("weight-ignored", func(f *store.Flow) { f.Weight = 0 }),
		onTx("pause-from-memory", func() wrapTx {
			seen := map[work.Tenant]remembrance{}
			return func(_ int, tx kernel.Tx) kernel.Tx {
				return &otherFlow{Tx: tx, recall: func(now store.Record) store.Record {
					r := seen[now.Tenant]
					if r.uses == 0 {
						r = remembrance{now, 4}
					}
					r.uses--
					seen[now.Tenant] = r
					return r.row
				}}
			}
		}),
		onTx("resume-forgotten", func() wrapTx {
			held := map[string]*work.Actor{}
			return func(_ int, tx kernel.Tx) kernel.Tx {
				return &otherFlow{Tx: tx, edit: func(f *store.Flow) {
					for name, v := range f.Packs {
						held[name] = cmp.Or(held[name], v.Paused)
					}
					for name, by := range held {
						f.Packs = with(f.Packs, name, store.Valve{Paused: by})
					}
				}}
			}
		}),
		onTx("pause-lost-by-the-next-change", func() wrapTx {
			old := map[work.Tenant]store.Record{}
			return func(_ int, tx kernel.Tx) kernel.Tx { return lostUpdate{tx, old} }
		}),
		onTx("limit-read-then-write", func() wrapTx {
			seen := map[work.Tenant]leasesSeen{}
			return func(_ int, tx kernel.Tx) kernel.Tx { return oldLeases{tx, seen} }
		}),
		onTx("quota-of-runs-read-then-write", func() wrapTx {
			seen := map[string]counted{}
			return func(_ int, tx kernel.Tx) kernel.Tx { return oldLiveRuns{tx, seen} }
		}),
		plain("quota-of-steps-not-looked-at", func(tx kernel.Tx) kernel.Tx { return noDepths{tx} }),
		plain("last-come-first-served", func(tx kernel.Tx) kernel.Tx {
			return reordered{tx, func(a, b *kernel.ReadyStep) int { return cmp.Compare(b.Queue.At, a.Queue.At) }}
		}),
		plain("priority-upside-down", func(tx kernel.Tx) kernel.Tx {
			return reordered{tx, func(a, b *kernel.ReadyStep) int { return cmp.Compare(a.Queue.Priority, b.Queue.Priority) }}
		}),
		plain("queue-never-looked-at", func(tx kernel.Tx) kernel.Tx { return blindTo{tx, "reports"} }),
		plain("one-tenant-first", func(tx kernel.Tx) kernel.Tx { return firstTenant{tx} }),
		plain("shares-without-leases", func(tx kernel.Tx) kernel.Tx { return noLeases{tx} }),
		plain("delayed-run-starts-early", func(tx kernel.Tx) kernel.Tx { return hasty{tx} }),
		plain("delayed-run-forgotten", func(tx kernel.Tx) kernel.Tx { return noDueRuns{tx} }),
		onStore("reason-without-pauses", func(s store.Store) store.Store { return noFlow{s} }),
		onStore("reason-without-holders", func(s store.Store) store.Store { return noHolders{s} }),
		onStore("reason-without-limits", func(s store.Store) store.Store { return noRunning{s} }),
		onStore("reason-without-workers", func(s store.Store) store.Store { return anyWorker{s} }),
	}
}

// otherFlow lets claims go by another flow than the one that is stored.
type otherFlow struct {
	kernel.Tx
	claims bool
	edit   func(*store.Flow)
	recall func(store.Record) store.Record
}

// Sessions is asked for by id by claims and heartbeats, before they ask for the flow.
func (t *otherFlow) Sessions(id string, now work.Time) ([]store.Session, error) {
	t.claims = t.claims || id != ""
	return t.Tx.Sessions(id, now)
}

func (t *otherFlow) Record(tenant work.Tenant, kind, id string) (*store.Record, error) {
	row, err := t.Tx.Record(tenant, kind, id)
	if err != nil || row == nil || kind != store.FlowKind || !t.claims {
		return row, err
	}
	if t.recall != nil {
		old := t.recall(*row)
		return &old, nil
	}
	var f store.Flow
	if err := json.Unmarshal(row.Doc, &f); err != nil {
		return nil, err
	}
	t.edit(&f)
	row.Doc, err = json.Marshal(&f)
	return row, err
}

func with(valves map[string]store.Valve, name string, v store.Valve) map[string]store.Valve {
	out := map[string]store.Valve{name: v}
	maps.Copy(out, valves)
	out[name] = v
	return out
}

func opened(valves map[string]store.Valve) map[string]store.Valve {
	out := map[string]store.Valve{}
	for name, v := range valves {
		out[name] = store.Valve{Max: v.Max}
	}
	return out
}

func widened(valves map[string]store.Valve) map[string]store.Valve {
	out := map[string]store.Valve{}
	for name, v := range valves {
		if v.Max > 0 {
			v.Max++
		}
		out[name] = v
	}
	return out
}

type remembrance struct {
	row  store.Record
	uses int
}

// lostUpdate writes a flow that was made from an older one.
type lostUpdate struct {
	kernel.Tx
	old map[work.Tenant]store.Record
}

func (t lostUpdate) PutRecord(r store.Record) error {
	if r.Kind != store.FlowKind {
		return t.Tx.PutRecord(r)
	}
	var now, was store.Flow
	if json.Unmarshal(r.Doc, &now) == nil && json.Unmarshal(t.old[r.Tenant].Doc, &was) == nil {
		t.old[r.Tenant] = r
		now.Queues = was.Queues
		r.Doc, _ = json.Marshal(&now)
		return t.Tx.PutRecord(r)
	}
	t.old[r.Tenant] = r
	return t.Tx.PutRecord(r)
}

type leasesSeen struct {
	counts []kernel.LeaseCount
	uses   int
}

// oldLeases counts the leases of a tenant outside of the transaction that takes one.
type oldLeases struct {
	kernel.Tx
	seen map[work.Tenant]leasesSeen
}

func (t oldLeases) Leases(tenant work.Tenant) ([]kernel.LeaseCount, error) {
	c := t.seen[tenant]
	if c.uses == 0 {
		counts, err := t.Tx.Leases(tenant)
		if err != nil {
			return nil, err
		}
		c = leasesSeen{counts, 3}
	}
	c.uses--
	t.seen[tenant] = c
	return slices.Clone(c.counts), nil
}

// oldLiveRuns does the same with the runs of a tenant.
type oldLiveRuns struct {
	kernel.Tx
	seen map[string]counted
}

func (t oldLiveRuns) LiveRuns(tenant work.Tenant, limit int) (int, error) {
	return remembered(t.seen, string(tenant), func() (int, error) { return t.Tx.LiveRuns(tenant, limit) })
}

// noDepths sees nothing that waits.
type noDepths struct{ kernel.Tx }

func (t noDepths) Depths(work.Tenant, int) ([]store.QueueDepth, error) { return nil, nil }

// reordered hands out what is ready in another order.
type reordered struct {
	kernel.Tx
	order func(a, b *kernel.ReadyStep) int
}

func (t reordered) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, _ int) ([]kernel.ReadyStep, error) {
	if after != nil {
		return nil, nil
	}
	ready, err := t.Tx.Ready(tenant, runners, except, nil, 0)
	slices.SortStableFunc(ready, func(a, b kernel.ReadyStep) int { return t.order(&a, &b) })
	return ready, err
}

// blindTo never looks into one queue.
type blindTo struct {
	kernel.Tx
	queue string
}

func (t blindTo) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	return t.Tx.Ready(tenant, runners, append(slices.Clone(except), t.queue), after, limit)
}

// firstTenant serves the others when the first one has nothing.
type firstTenant struct{ kernel.Tx }

func (t firstTenant) ReadyTenants() ([]work.Tenant, error) {
	tenants, err := t.Tx.ReadyTenants()
	return tenants[:min(1, len(tenants))], err
}

// noLeases shares out without looking at what runs.
type noLeases struct{ kernel.Tx }

func (t noLeases) Leases(tenant work.Tenant) ([]kernel.LeaseCount, error) {
	if tenant == "" {
		return nil, nil
	}
	return t.Tx.Leases(tenant)
}

// hasty takes what is due half a minute from now for due.
type hasty struct{ kernel.Tx }

func (t hasty) DueRuns(now work.Time, limit int) ([]kernel.StepRef, error) {
	return t.Tx.DueRuns(now+30_000_000, limit)
}

func (t hasty) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	row, err := t.Tx.Run(tenant, id)
	if row != nil && row.Phase == work.PhaseDelayed {
		row.NotBefore = 0
	}
	return row, err
}

// noFlow explains what waits without what is held back. Claims do not ask it.
type noFlow struct{ store.Store }

func (noFlow) Flow(context.Context, work.Tenant) (store.Flow, error) { return store.Flow{}, nil }

// noHolders finds nobody who has a concurrency key.
type noHolders struct{ store.Store }

func (noHolders) Holders(context.Context, work.Tenant, string) ([]store.Holder, error) {
	return nil, nil
}

// noRunning counts nothing that runs.
type noRunning struct{ store.Store }

func (noRunning) Depths(context.Context, work.Tenant) ([]store.QueueDepth, error) { return nil, nil }

// anyWorker takes every worker for one that offers everything.
type anyWorker struct{ store.Store }

func (s anyWorker) Workers(ctx context.Context, tenant work.Tenant) ([]store.Session, error) {
	workers, err := s.Store.Workers(ctx, tenant)
	for i := range workers {
		workers[i].Offer.Labels = map[string]string{"disk": "ssd"}
	}
	return workers, err
}

// noDueRuns does not find the runs whose time has come.
type noDueRuns struct{ kernel.Tx }

func (t noDueRuns) DueRuns(work.Time, int) ([]kernel.StepRef, error) {
	return t.Tx.DueRuns(math.MinInt64, 1)
}
