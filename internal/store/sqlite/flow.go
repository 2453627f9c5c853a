package sqlite

import (
	"maps"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// queues remembers in which queues the writer has ever seen a step ready, by tenant: at least those in which one is. A look for them costs
// a statement, and there is a look with every claim.
type queues map[work.Tenant]map[string]bool

func (q queues) add(tenant work.Tenant, queue string) {
	if known := q[tenant]; known != nil {
		known[queue] = true
	}
}

// nextQueue finds the queues of a tenant in which something is ready one after the other, without passing over what stands in them.
const nextQueue = `SELECT queue FROM steps WHERE standing = 2 AND tenant = ?1 AND queue > ?2 ORDER BY queue LIMIT 1`

// readyQueues returns the queues in which something may be ready, by name.
func (r reader) readyQueues(tenant work.Tenant) ([]string, error) {
	if r.queues != nil {
		if known := r.queues[tenant]; known != nil {
			if len(known) == 1 && known[""] {
				return []string{""}, nil
			}
			return slices.Sorted(maps.Keys(known)), nil
		}
	}
	found, err := r.findQueues(tenant)
	if err != nil {
		return nil, err
	}
	if r.queues != nil {
		known := map[string]bool{"": true}
		for _, queue := range found {
			known[queue] = true
		}
		r.queues[tenant] = known
		return slices.Sorted(maps.Keys(known)), nil
	}
	return found, nil
}

func (r reader) findQueues(tenant work.Tenant) ([]string, error) {
	var out []string
	if there, err := r.c.one(`SELECT 1 FROM steps WHERE standing = 2 AND tenant = ?1 AND queue = '' LIMIT 1`, func(values) {}, string(tenant)); err != nil {
		return nil, err
	} else if there {
		out = append(out, "")
	}
	for after := ""; ; {
		there, err := r.c.one(nextQueue, func(v values) { after = v.text(0) }, string(tenant), after)
		if err != nil || !there {
			return out, err
		}
		out = append(out, after)
	}
}

// ReadyTenants implements kernel.FlowReader.
func (r reader) ReadyTenants() ([]work.Tenant, error) {
	var out []work.Tenant
	for after := ""; ; {
		there, err := r.c.one(`SELECT tenant FROM steps WHERE standing = 2 AND tenant > ?1 ORDER BY tenant LIMIT 1`,
			func(v values) { after = v.text(0) }, after)
		if err != nil || !there {
			return out, err
		}
		out = append(out, work.Tenant(after))
	}
}

// Leases implements kernel.FlowReader. The index of sessions has what is asked for, and no more rows than there are leases.
func (r reader) Leases(tenant work.Tenant) ([]kernel.LeaseCount, error) {
	var out []kernel.LeaseCount
	err := r.c.each(`SELECT tenant, queue, count(*) FROM steps INDEXED BY steps_session WHERE session IS NOT NULL AND (?1 = '' OR tenant = ?1)
		GROUP BY tenant, queue ORDER BY tenant, queue`, func(v values) error {
		out = append(out, kernel.LeaseCount{Tenant: work.Tenant(v.text(0)), Queue: v.text(1), N: int(v.number(2))})
		return nil
	}, string(tenant))
	return out, err
}

// Depths implements kernel.FlowReader.
func (r reader) Depths(tenant work.Tenant, limit int) ([]store.QueueDepth, error) {
	queues, err := r.findQueues(tenant)
	if err != nil {
		return nil, err
	}
	var out []store.QueueDepth
	for _, queue := range queues {
		d := store.QueueDepth{Tenant: tenant, Queue: queue}
		if _, err := r.c.one(`SELECT count(*) FROM (SELECT 1 FROM steps WHERE standing = 2 AND tenant = ?1 AND queue = ?2 LIMIT ?3)`,
			func(v values) { d.Ready = int(v.number(0)) }, string(tenant), queue, all(limit)); err != nil {
			return nil, err
		}
		if err := r.oldest(tenant, &d); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// oldest looks at the first step of each runner and priority, where the oldest of them stands.
func (r reader) oldest(tenant work.Tenant, d *store.QueueDepth) error {
	const (
		first = `SELECT runner, priority, queued FROM steps WHERE standing = 2 AND tenant = ? AND queue = ? AND `
		order = ` ORDER BY runner, priority DESC, queued LIMIT 1`
	)
	runner, priority, seen := "", int64(0), false
	scan := func(v values) {
		var at work.Time
		if runner, priority, at = v.text(0), v.number(1), work.Time(v.number(2)); !seen || at < d.Oldest {
			d.Oldest, seen = at, true
		}
	}
	for {
		there, err := r.c.one(first+`runner > ?`+order, scan, string(tenant), d.Queue, runner)
		if err != nil || !there {
			return err
		}
		for there && err == nil {
			there, err = r.c.one(first+`runner = ? AND priority < ?`+order, scan, string(tenant), d.Queue, runner, priority)
		}
		if err != nil {
			return err
		}
	}
}

// LiveRuns implements kernel.FlowReader.
func (r reader) LiveRuns(tenant work.Tenant, limit int) (int, error) {
	n := 0
	_, err := r.c.one(`SELECT count(*) FROM (SELECT 1 FROM runs WHERE tenant = ?1 AND ended IS NULL LIMIT ?2)`,
		func(v values) { n = int(v.number(0)) }, string(tenant), all(limit))
	return n, err
}
