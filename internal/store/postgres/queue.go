package postgres

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// all turns a limit of 0, none, into one that PostgreSQL takes.
func all(limit int) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return int64(limit)
}

// Every queue and runner, from its start or from behind a step; the queues are found one after the other, without passing over what stands
// in them. What another transaction is about to claim is passed over by one that writes. The rows are chosen before anything else looks at
// them, so that LIMIT means what it says whatever plan is chosen.
const (
	findQueues = `RECURSIVE queues (queue) AS (
		SELECT (SELECT x.queue FROM ready x WHERE x.tenant = $1 ORDER BY queue LIMIT 1)
		UNION ALL SELECT (SELECT x.queue FROM ready x WHERE x.tenant = $1 AND x.queue > q.queue ORDER BY queue LIMIT 1)
		FROM queues q WHERE q.queue IS NOT NULL)`
	readyColumnList = `run, step, runner, rank, queued, key, max_leases, queue`
	readyFrom       = `WITH ` + findQueues + `, lanes AS MATERIALIZED (SELECT l.queue, k.runner FROM queues l CROSS JOIN unnest($2::text[]) AS k (runner)
		WHERE l.queue IS NOT NULL AND NOT EXISTS (SELECT 1 FROM unnest($4::text[]) AS x (name)
			WHERE l.queue = x.name OR right(x.name, 1) = chr(31) AND starts_with(l.queue, x.name))),
		chosen AS MATERIALIZED (SELECT q.* FROM lanes k CROSS JOIN LATERAL (
		SELECT ` + readyColumnList + ` FROM ready x WHERE x.tenant = $1 AND x.queue = k.queue AND x.runner = k.runner`
	readyOrder  = ` ORDER BY rank, queued, run, step LIMIT $3`
	readyBehind = ` AND (x.rank, x.queued, x.run, x.step) > ($5::bigint, $6::bigint, $7::text, $8::text)`
	readyEnd    = `) q) SELECT ` + readyColumnList + ` FROM chosen ORDER BY rank, queued, run, step LIMIT $3`
	passOver    = ` FOR UPDATE SKIP LOCKED`
)

// Ready implements kernel.QueueReader.
func (r *reader) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	runners = slices.Compact(slices.Sorted(slices.Values(runners)))
	if len(runners) == 0 {
		return nil, nil
	}
	if except == nil {
		except = []string{}
	}
	query, args := readyFrom, []any{tenant, runners, all(limit), except}
	if after != nil {
		query, args = query+readyBehind, append(args, -int64(after.Queue.Priority), int64(after.Queue.At), after.Run, after.Step)
	}
	query += readyOrder
	if r.t != nil {
		query += passOver
	}
	var out []kernel.ReadyStep
	err := r.ask(query+readyEnd, func(rows pgx.Rows) error {
		s := kernel.ReadyStep{StepRef: kernel.StepRef{Tenant: tenant}}
		var rank int64
		var key []byte
		err := rows.Scan(&s.Run, &s.Step, &s.Queue.Runner, &rank, &s.Queue.At, &key, &s.Queue.Max, &s.Queue.Queue)
		s.Queue.Priority, s.Queue.Concurrency = int(-rank), string(key)
		out = append(out, s)
		return err
	}, args...)
	return out, err
}

// LeasesByKey implements kernel.QueueReader. A transaction that writes keeps others from granting under the key until it ends.
func (r *reader) LeasesByKey(tenant work.Tenant, key string) (int, error) {
	if key == "" {
		return 0, nil
	}
	r.lockKey(concurrency, tenant, key)
	n := 0
	_, err := r.one(`SELECT count(*) FROM leases WHERE tenant = $1 AND key = $2 AND key <> ''`, []any{&n}, tenant, []byte(key))
	return n, err
}

func (r *reader) refs(query string, args ...any) ([]kernel.StepRef, error) {
	var out []kernel.StepRef
	err := r.ask(query, func(rows pgx.Rows) error {
		var ref kernel.StepRef
		err := rows.Scan(&ref.Tenant, &ref.Run, &ref.Step)
		out = append(out, ref)
		return err
	}, args...)
	return out, err
}

// LeasesBySession implements kernel.QueueReader.
func (r *reader) LeasesBySession(session string) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, run, step FROM leases WHERE session = $1 ORDER BY tenant, run, step`, session)
}

// DueSteps implements kernel.QueueReader.
func (r *reader) DueSteps(now work.Time, limit int) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, run, step FROM timers WHERE at <= $1 AND step <> '' ORDER BY at, tenant, run, step LIMIT $2`, now, all(limit))
}

// DueRuns implements kernel.QueueReader.
func (r *reader) DueRuns(now work.Time, limit int) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, run, step FROM timers WHERE at <= $1 AND step = '' ORDER BY at, tenant, run LIMIT $2`, now, all(limit))
}

// NextDue implements kernel.QueueReader.
func (r *reader) NextDue() (work.Time, error) {
	var timer, session work.Time
	_, err := r.one(`SELECT coalesce((SELECT min(at) FROM timers), 0), coalesce((SELECT min(expires) FROM sessions), 0)`,
		[]any{&timer, &session})
	if timer == 0 || session != 0 && session < timer {
		timer = session
	}
	return timer, err
}

// sessionRow is what a transaction knows of a session, nil for one that is not there.
type sessionRow struct{ session *store.Session }

const sessionColumns = `SELECT id, tenant, worker, expires, local, offer FROM sessions `

// Sessions implements kernel.QueueReader. A transaction that writes keeps a session it has asked for by id from being ended by another,
// and passes over those that another uses when it looks for the ones to end.
func (r *reader) Sessions(id string, now work.Time) ([]store.Session, error) {
	share, own := "", ""
	if r.t != nil {
		share, own = " FOR KEY SHARE", passOver
	}
	switch id {
	case "":
		return r.findSessions(sessionColumns+`WHERE expires <= $1 ORDER BY expires, id`+own, now)
	case "*local":
		return r.findSessions(sessionColumns + `WHERE local ORDER BY expires, id` + own)
	case "*live":
		return r.findSessions(sessionColumns+`WHERE expires > $1 ORDER BY expires, id`, now)
	}
	if r.t != nil {
		if known := r.t.sessions[id]; known != nil {
			if known.session == nil {
				return nil, nil
			}
			return []store.Session{*known.session}, nil
		}
	}
	found, err := r.findSessions(sessionColumns+`WHERE id = $1`+share, id)
	if r.t != nil && err == nil {
		r.t.knowSessions([]string{id}, found)
	}
	return found, err
}

func (r *reader) findSessions(query string, args ...any) ([]store.Session, error) {
	var out []store.Session
	err := r.ask(query, func(rows pgx.Rows) error { return scanSession(rows, &out) }, args...)
	return out, err
}

func scanSession(rows pgx.Rows, into *[]store.Session) error {
	var s store.Session
	var worker, offer []byte
	err := rows.Scan(&s.ID, &s.Tenant, &worker, &s.Expires, &s.Local, &offer)
	if err == nil {
		err = json.Unmarshal(offer, &s.Offer)
	}
	s.Worker = string(worker)
	*into = append(*into, s)
	return err
}

func (t *tx) knowSessions(asked []string, found []store.Session) {
	for _, id := range asked {
		t.sessions[id] = &sessionRow{}
	}
	for _, s := range found {
		t.sessions[s.ID] = &sessionRow{&s}
	}
}

// PutSession implements kernel.RowWriter.
func (t *tx) PutSession(s store.Session) error {
	offer, err := json.Marshal(&s.Offer)
	if err != nil {
		return err
	}
	t.l.tell(`INSERT INTO sessions (id, tenant, worker, expires, local, offer) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, worker = excluded.worker, expires = excluded.expires, local = excluded.local,
		offer = excluded.offer`, s.ID, s.Tenant, []byte(s.Worker), s.Expires, s.Local, offer)
	t.sessions[s.ID] = &sessionRow{&s}
	return nil
}

// DeleteSession implements kernel.RowWriter.
func (t *tx) DeleteSession(id string) error {
	t.l.tell(`DELETE FROM sessions WHERE id = $1`, id)
	t.sessions[id] = &sessionRow{}
	return nil
}

func compareRefs(a, b kernel.StepRef) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Step, b.Step))
}

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

// LiveRuns implements kernel.FlowReader. The table has no other runs: in that of all runs no index may hold what changes with a transition.
func (r *reader) LiveRuns(tenant work.Tenant, limit int) (int, error) {
	n := 0
	_, err := r.one(`SELECT count(*) FROM (SELECT 1 FROM live_runs WHERE tenant = $1 LIMIT $2) x`, []any{&n}, tenant, all(limit))
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

// Holders implements kernel.FlowReader.
func (r *reader) Holders(tenant work.Tenant, key string, limit int) ([]kernel.StepRef, error) {
	if key == "" {
		return nil, nil
	}
	return r.refs(`SELECT tenant, run, step FROM (
		SELECT 1 AS part, tenant, run, step FROM leases WHERE tenant = $1 AND key = $2 AND key <> ''
		UNION ALL SELECT 2, tenant, run, '' FROM keyed_runs WHERE tenant = $1 AND key = $2 AND NOT waiting) h
		ORDER BY part, run, step LIMIT $3`, tenant, []byte(key), all(limit))
}
