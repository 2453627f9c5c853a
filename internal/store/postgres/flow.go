package postgres

import (
	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// ReadyTenants implements kernel.FlowReader.
func (r *reader) ReadyTenants() ([]work.Tenant, error) {
	var out []work.Tenant
	err := r.ask(`WITH RECURSIVE tenants (tenant) AS (
		SELECT (SELECT x.tenant FROM ready x ORDER BY tenant LIMIT 1)
		UNION ALL SELECT (SELECT x.tenant FROM ready x WHERE x.tenant > t.tenant ORDER BY tenant LIMIT 1) FROM tenants t WHERE t.tenant IS NOT NULL)
		SELECT tenant FROM tenants WHERE tenant IS NOT NULL ORDER BY tenant`, func(rows pgx.Rows) error {
		var t work.Tenant
		err := rows.Scan(&t)
		out = append(out, t)
		return err
	})
	return out, err
}

// Leases implements kernel.FlowReader. There are no more rows than workers have slots.
func (r *reader) Leases(tenant work.Tenant) ([]kernel.LeaseCount, error) {
	var out []kernel.LeaseCount
	err := r.ask(`SELECT tenant, queue, count(*) FROM leases WHERE $1 = '' OR tenant = $1 GROUP BY tenant, queue ORDER BY tenant, queue`,
		func(rows pgx.Rows) error {
			var c kernel.LeaseCount
			err := rows.Scan(&c.Tenant, &c.Queue, &c.N)
			out = append(out, c)
			return err
		}, string(tenant))
	return out, err
}

// Depths implements kernel.FlowReader.
func (r *reader) Depths(tenant work.Tenant, limit int) ([]store.QueueDepth, error) {
	var out []store.QueueDepth
	err := r.ask(`WITH `+findQueues+` SELECT l.queue, n.n, o.oldest FROM queues l
		CROSS JOIN LATERAL (SELECT count(*) AS n FROM (SELECT 1 FROM ready x WHERE x.tenant = $1 AND x.queue = l.queue LIMIT $2) c) n
		CROSS JOIN LATERAL (SELECT min(x.queued) AS oldest FROM ready x WHERE x.tenant = $1 AND x.queue = l.queue) o
		WHERE l.queue IS NOT NULL ORDER BY l.queue`, func(rows pgx.Rows) error {
		d := store.QueueDepth{Tenant: tenant}
		err := rows.Scan(&d.Queue, &d.Ready, &d.Oldest)
		out = append(out, d)
		return err
	}, tenant, all(limit))
	return out, err
}

// LiveRuns implements kernel.FlowReader. It passes over runs that have ended and that nobody has acknowledged: no index may hold what
// changes with a transition.
func (r *reader) LiveRuns(tenant work.Tenant, limit int) (int, error) {
	n := 0
	_, err := r.one(`SELECT count(*) FROM (SELECT 1 FROM runs WHERE tenant = $1 AND open AND state IN ('queued', 'running') LIMIT $2) x`,
		[]any{&n}, tenant, all(limit))
	return n, err
}

// Kinds of what is counted or kept as it is until a commit.
const (
	limits = "limits"
	shared = "shared"
)

// LockLimits implements kernel.Locker.
func (t *tx) LockLimits(tenant work.Tenant) error {
	t.lockKey(limits, tenant, "")
	return nil
}

// shareFlow asks for a record that stays as it is until the commit. Readers share a lock of their own, so that none of them changes the row.
func (t *tx) shareFlow(key recordKey) {
	if _, known := t.flows[key]; known || t.records[key] != nil {
		return
	}
	t.flows[key] = nil
	t.l.hear(`SELECT pg_advisory_xact_lock_shared($1)`, func(pgx.Rows) error { return nil }, keyHash(shared+key.kind, key.tenant, key.id))
	t.l.hear(recordByKey, func(rows pgx.Rows) error {
		var found []store.Record
		err := scanRecord(rows, &found)
		t.flows[key] = &found[0]
		return err
	}, key.tenant, key.kind, key.id)
}

// Share implements kernel.Locker.
func (t *tx) Share(tenant work.Tenant, kind, id string) (*store.Record, error) {
	key := recordKey{tenant, kind, id}
	if row := t.records[key]; row != nil {
		return copyOf(row.now), nil
	}
	if _, known := t.flows[key]; !known {
		t.shareFlow(key)
		if err := t.l.send(); err != nil {
			return nil, t.fail(err)
		}
	}
	return copyOf(t.flows[key]), nil
}
