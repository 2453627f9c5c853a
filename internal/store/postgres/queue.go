package postgres

import (
	"cmp"
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
		WHERE l.queue IS NOT NULL AND l.queue <> ALL ($4::text[])),
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

const sessionColumns = `SELECT id, tenant, worker, expires, local FROM sessions `

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
	var worker []byte
	err := rows.Scan(&s.ID, &s.Tenant, &worker, &s.Expires, &s.Local)
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
	t.l.tell(`INSERT INTO sessions (id, tenant, worker, expires, local) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, worker = excluded.worker, expires = excluded.expires, local = excluded.local`,
		s.ID, s.Tenant, []byte(s.Worker), s.Expires, s.Local)
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
