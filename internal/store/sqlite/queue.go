package sqlite

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Ready implements kernel.QueueReader. The index is by queue and runner first, so that steps no worker here can run, and those of queues
// that are left out, are not passed over; what stands in the queues for each of the runners is merged.
func (r reader) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	lanes, err := r.readyLanes(tenant)
	if err != nil {
		return nil, err
	}
	var out []kernel.ReadyStep
	looked := 0
	for _, l := range lanes {
		if work.Left(except, l.queue) || !slices.Contains(runners, l.runner) {
			continue
		}
		steps, err := r.readyFor(tenant, l.queue, l.runner, after, limit)
		if err != nil {
			return nil, err
		}
		out = append(out, steps...)
		looked++
	}
	if looked > 1 {
		slices.SortFunc(out, kernel.CompareReady)
	}
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

// The queue of a runner: from its start, what stands behind a step with the same priority, and what has a lower one. Each finds
// its first row through the index.
const (
	readyColumns = `SELECT run, id, priority, queued, doc FROM steps WHERE standing = 2 AND tenant = ? AND queue = ? AND runner = ?`
	readyOrder   = ` ORDER BY priority DESC, queued, run, id LIMIT ?`
	readyFirst   = readyColumns + readyOrder
	readyBehind  = readyColumns + ` AND priority = ? AND (queued, run, id) > (?, ?, ?)` + readyOrder
	readyBelow   = readyColumns + ` AND priority < ?` + readyOrder
)

func (r reader) readyFor(tenant work.Tenant, queue, runner string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	var out []kernel.ReadyStep
	collect := func(v values) error {
		s := kernel.ReadyStep{
			StepRef: kernel.StepRef{Tenant: tenant, Run: work.RunID(v.text(0)), Step: work.StepID(v.text(1))},
			Queue:   work.QueueEntry{Runner: runner, Priority: int(v.number(2)), At: work.Time(v.number(3)), Queue: queue},
		}
		var err error
		s.Queue.Concurrency, s.Queue.Max, err = queueLimits(v.text(4))
		out = append(out, s)
		return err
	}
	if after == nil {
		err := r.c.each(readyFirst, collect, string(tenant), queue, runner, all(limit))
		return out, err
	}
	q := after.Queue
	err := r.c.each(readyBehind, collect,
		string(tenant), queue, runner, int64(q.Priority), int64(q.At), string(after.Run), string(after.Step), all(limit))
	if err == nil && (limit <= 0 || len(out) < limit) {
		err = r.c.each(readyBelow, collect, string(tenant), queue, runner, int64(q.Priority), all(limit))
	}
	return out, err
}

// LeasesByKey implements kernel.QueueReader.
func (r reader) LeasesByKey(tenant work.Tenant, key string) (int, error) {
	n := 0
	_, err := r.c.one(`SELECT count(*) FROM steps WHERE tenant = ?1 AND lease_key = ?2 AND lease_key IS NOT NULL`,
		func(v values) { n = int(v.number(0)) }, string(tenant), key)
	return n, err
}

func (r reader) refs(query string, args ...any) ([]kernel.StepRef, error) {
	var out []kernel.StepRef
	err := r.c.each(query, func(v values) error {
		out = append(out, kernel.StepRef{Tenant: work.Tenant(v.text(0)), Run: work.RunID(v.text(1)), Step: work.StepID(v.text(2))})
		return nil
	}, args...)
	return out, err
}

// LeasesBySession implements kernel.QueueReader.
func (r reader) LeasesBySession(session string) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, run, id FROM steps WHERE session = ?1 AND session IS NOT NULL ORDER BY tenant, run, id`, session)
}

// DueSteps implements kernel.QueueReader.
func (r reader) DueSteps(now work.Time, limit int) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, run, id FROM steps WHERE timer <= ?1 AND timer IS NOT NULL ORDER BY timer, tenant, run, id LIMIT ?2`,
		int64(now), all(limit))
}

// DueRuns implements kernel.QueueReader.
func (r reader) DueRuns(now work.Time, limit int) ([]kernel.StepRef, error) {
	return r.refs(`SELECT tenant, id, '' FROM runs WHERE due <= ?1 AND due IS NOT NULL ORDER BY due, tenant, id LIMIT ?2`,
		int64(now), all(limit))
}

// NextDue implements kernel.QueueReader.
func (r reader) NextDue() (work.Time, error) {
	var next work.Time
	_, err := r.c.one(`SELECT (SELECT min(timer) FROM steps WHERE timer IS NOT NULL), (SELECT min(due) FROM runs WHERE due IS NOT NULL),
		(SELECT min(expires) FROM sessions)`, func(v values) {
		for i := range v {
			if t := work.Time(v.number(i)); t != 0 && (next == 0 || t < next) {
				next = t
			}
		}
	})
	return next, err
}

// Sessions implements kernel.QueueReader.
func (r reader) Sessions(id string, now work.Time) ([]store.Session, error) {
	const columns = `SELECT id, tenant, worker, expires, local, offer FROM sessions `
	switch id {
	case "":
		return r.sessions(columns+`WHERE expires <= ?1 ORDER BY expires, id`, int64(now))
	case "*local":
		return r.sessions(columns + `WHERE local = 1 ORDER BY expires, id`)
	case "*live":
		return r.sessions(columns+`WHERE expires > ?1 ORDER BY expires, id`, int64(now))
	default:
		return r.sessions(columns+`WHERE id = ?1`, id)
	}
}

// Census implements kernel.CensusReader. Every count comes from an index that has only the rows that are counted.
func (r reader) Census(now work.Time) ([]store.Census, error) {
	found := map[work.Tenant]*store.Census{}
	count := func(add func(c *store.Census, v values), query string, args ...any) error {
		return r.c.each(query, func(v values) error {
			tenant := work.Tenant(v.text(0))
			if found[tenant] == nil {
				found[tenant] = &store.Census{Tenant: tenant}
			}
			add(found[tenant], v)
			return nil
		}, args...)
	}
	err := errors.Join(
		count(func(c *store.Census, v values) { c.Queued, c.Oldest = v.number(1), work.Time(v.number(2)) },
			`SELECT tenant, count(*), min(queued) FROM steps INDEXED BY steps_ready WHERE standing = 2 GROUP BY tenant`),
		count(func(c *store.Census, v values) { c.Leases, c.Lost = v.number(1), v.number(2) },
			`SELECT t.tenant, sum(n), sum(iif(coalesce(s.expires, 0) <= ?1, n, 0)) FROM
				(SELECT session, tenant, count(*) AS n FROM steps WHERE session IS NOT NULL GROUP BY session, tenant) t
				LEFT JOIN sessions s ON s.id = t.session GROUP BY t.tenant`, int64(now)),
		count(func(c *store.Census, v values) { c.Workers = v.number(1) },
			`SELECT tenant, count(*) FROM sessions WHERE expires > ?1 GROUP BY tenant`, int64(now)),
		count(func(c *store.Census, v values) { c.DeadLetters = v.number(1) },
			`SELECT tenant, count(*) FROM dead_letters WHERE resolved IS NULL GROUP BY tenant`),
		count(func(c *store.Census, v values) { c.Unsealed = v.number(1) },
			`SELECT tenant, count(*) FROM runs WHERE ended IS NOT NULL AND sealed IS NULL GROUP BY tenant`),
	)
	var out []store.Census
	for _, tenant := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[tenant])
	}
	return out, err
}

func (r reader) sessions(query string, args ...any) ([]store.Session, error) {
	var out []store.Session
	err := r.c.each(query, func(v values) error {
		s := store.Session{ID: v.text(0), Tenant: work.Tenant(v.text(1)), Worker: v.text(2), Expires: work.Time(v.number(3)), Local: v.number(4) != 0}
		err := json.Unmarshal([]byte(v.text(5)), &s.Offer)
		out = append(out, s)
		return err
	}, args...)
	return out, err
}

// PutSession implements kernel.RowWriter.
func (t *tx) PutSession(s store.Session) error {
	local := int64(0)
	if s.Local {
		local = 1
	}
	offer, err := json.Marshal(&s.Offer)
	if err != nil {
		return err
	}
	_, err = t.c.do(`INSERT INTO sessions (id, tenant, worker, expires, local, offer) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
		ON CONFLICT (id) DO UPDATE SET tenant = ?2, worker = ?3, expires = ?4, local = ?5, offer = ?6`,
		s.ID, string(s.Tenant), s.Worker, int64(s.Expires), local, string(offer))
	return err
}

// DeleteSession implements kernel.RowWriter.
func (t *tx) DeleteSession(id string) error {
	_, err := t.c.do(`DELETE FROM sessions WHERE id = ?1`, id)
	return err
}

// lane is where steps stand that one kind of runner may take from one queue.
type lane struct{ queue, runner string }

// lanes remembers in which lanes the writer has ever seen a step ready, by tenant: at least those in which one is. A look for them costs
// a statement, and there is a look with every claim.
type lanes map[work.Tenant][]lane

func (l lanes) add(tenant work.Tenant, queue, runner string) {
	known, asked := l[tenant]
	if one := (lane{queue, runner}); asked && !slices.Contains(known, one) {
		l[tenant] = append(known, one)
	}
}

// readyLanes returns the lanes in which something may be ready.
func (r reader) readyLanes(tenant work.Tenant) ([]lane, error) {
	if known, asked := r.lanes[tenant]; asked {
		return known, nil
	}
	out := []lane{}
	for last := (lane{}); ; {
		there, err := r.c.one(nextLane, func(v values) { last = lane{v.text(0), v.text(1)} }, string(tenant), last.queue, last.runner)
		if err != nil {
			return nil, err
		}
		if !there {
			break
		}
		out = append(out, last)
	}
	if r.lanes != nil {
		r.lanes[tenant] = out
	}
	return out, nil
}

// What is next in the index of what is ready, without passing over what stands there.
const (
	nextQueue = `SELECT queue FROM steps WHERE standing = 2 AND tenant = ?1 AND queue > ?2 ORDER BY queue LIMIT 1`
	nextLane  = `SELECT queue, runner FROM steps WHERE standing = 2 AND tenant = ?1 AND (queue, runner) > (?2, ?3) ORDER BY queue, runner LIMIT 1`
)

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

// Holders implements kernel.FlowReader.
func (r reader) Holders(tenant work.Tenant, key string, limit int) ([]kernel.StepRef, error) {
	out, err := r.refs(`SELECT tenant, run, id FROM steps WHERE tenant = ?1 AND lease_key = ?2 AND lease_key IS NOT NULL ORDER BY run, id LIMIT ?3`,
		string(tenant), key, all(limit))
	if err != nil || limit > 0 && len(out) == limit {
		return out, err
	}
	if limit > 0 {
		limit -= len(out)
	}
	runs, err := r.refs(`SELECT tenant, id, '' FROM runs WHERE tenant = ?1 AND concurrency = ?2 AND phase IN ('main', 'finally') AND phase <> 'ended'
		ORDER BY id LIMIT ?3`, string(tenant), key, all(limit))
	return append(out, runs...), err
}
