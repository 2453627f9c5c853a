package postgres

import (
	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/chunk"
	"orrery.example/orrery/internal/work"
)

// sides is what changes in the narrow tables beside runs and steps, as columns: what a row was found by goes, what it is to be found by
// comes.
type sides struct {
	readyIn, readyOut   readyColumns
	leaseIn, leaseOut   leaseColumns
	timerIn, timerOut   timerColumns
	keyedIn, keyedOut   keyedColumns
	unsealed, unsealing timerColumns // with the end of the run as the time
	liveIn, liveOut     liveColumns
}

type readyColumns struct {
	tenants, runners, runs, steps, queues []string
	ranks, queued, limits                 []int64
	keys                                  [][]byte
}

type leaseColumns struct {
	tenants, sessions, runs, steps, queues []string
	keys                                   [][]byte
}

type timerColumns struct {
	at                   []int64
	tenants, runs, steps []string
}

type liveColumns struct{ tenants, runs []string }

type keyedColumns struct {
	tenants, runs []string
	keys          [][]byte
	waiting       []bool
	created       []int64
}

// readyEntry is the place of a step in the queue, nil for none.
func readyEntry(s *work.Step) *work.QueueEntry {
	if s == nil || s.State != work.Queued || s.Held {
		return nil
	}
	return s.Queue
}

func (b *sides) step(old, row *work.Step) {
	was, is := readyEntry(old), readyEntry(row)
	if was != nil && (is == nil || *was != *is) {
		b.readyOut.add(old, was)
	}
	if is != nil && (was == nil || *was != *is) {
		b.readyIn.add(row, is)
	}
	var had *work.Lease
	timer := work.Time(0)
	if old != nil {
		had, timer = old.Lease, old.Timer
	}
	has := row.Lease
	same := had != nil && has != nil && had.Session == has.Session && had.Concurrency == has.Concurrency && had.Queue == has.Queue
	if had != nil && !same {
		b.leaseOut.add(row, had)
	}
	if has != nil && !same {
		b.leaseIn.add(row, has)
	}
	b.timer(timer, row.Timer, row.Tenant, row.Run, row.ID)
}

func (b *sides) timer(old, now work.Time, tenant work.Tenant, run work.RunID, step work.StepID) {
	if old == now {
		return
	}
	if old != 0 {
		b.timerOut.add(old, tenant, run, step)
	}
	if now != 0 {
		b.timerIn.add(now, tenant, run, step)
	}
}

func (b *sides) run(old, row *work.Run) {
	due, ended := work.Time(0), work.Time(0)
	if old != nil {
		due, ended = old.Due, old.Ended
	}
	b.timer(due, row.Due, row.Tenant, row.ID, "")
	if ended != row.Ended {
		if ended != 0 {
			b.unsealing.add(ended, row.Tenant, row.ID, "")
		}
		if row.Ended != 0 {
			b.unsealed.add(row.Ended, row.Tenant, row.ID, "")
		}
	}
	switch had, has := old != nil && old.Ended == 0, row.Ended == 0; {
	case has && !had:
		b.liveIn.add(row)
	case had && !has:
		b.liveOut.add(row)
	}
	if row.ConcurrencyKey == "" {
		return
	}
	was := old != nil && keyed(old.Phase)
	is := keyed(row.Phase)
	same := was && is && (old.Phase == work.PhaseAdmission) == (row.Phase == work.PhaseAdmission)
	if was && !same {
		b.keyedOut.add(old)
	}
	if is && !same {
		b.keyedIn.add(row)
	}
}

// keyed reports whether a run has its concurrency key, or stands in line for it.
func keyed(p work.Phase) bool { return p != work.PhaseEnded && p != work.PhaseDelayed }

func (c *readyColumns) add(s *work.Step, q *work.QueueEntry) {
	c.tenants, c.runners = append(c.tenants, string(s.Tenant)), append(c.runners, q.Runner)
	c.runs, c.steps = append(c.runs, string(s.Run)), append(c.steps, string(s.ID))
	c.ranks, c.queued, c.limits = append(c.ranks, -int64(q.Priority)), append(c.queued, int64(q.At)), append(c.limits, int64(q.Max))
	c.keys, c.queues = append(c.keys, []byte(q.Concurrency)), append(c.queues, q.Queue)
}

func (c *leaseColumns) add(s *work.Step, l *work.Lease) {
	c.tenants, c.sessions = append(c.tenants, string(s.Tenant)), append(c.sessions, l.Session)
	c.runs, c.steps, c.keys = append(c.runs, string(s.Run)), append(c.steps, string(s.ID)), append(c.keys, []byte(l.Concurrency))
	c.queues = append(c.queues, l.Queue)
}

func (c *timerColumns) add(at work.Time, tenant work.Tenant, run work.RunID, step work.StepID) {
	c.at, c.tenants = append(c.at, int64(at)), append(c.tenants, string(tenant))
	c.runs, c.steps = append(c.runs, string(run)), append(c.steps, string(step))
}

func (c *liveColumns) add(r *work.Run) {
	c.tenants, c.runs = append(c.tenants, string(r.Tenant)), append(c.runs, string(r.ID))
}

func (c *keyedColumns) add(r *work.Run) {
	c.tenants, c.runs, c.keys = append(c.tenants, string(r.Tenant)), append(c.runs, string(r.ID)), append(c.keys, []byte(r.ConcurrencyKey))
	c.waiting, c.created = append(c.waiting, r.Phase == work.PhaseAdmission), append(c.created, int64(r.Created))
}

// Rows are found through the primary key and deleted by where they are: nothing moves them, they only come and go, and a planner that
// has never seen the table has no choice to get wrong.
const (
	readyGoes = `DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT r.ctid
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[]) AS k (tenant, runner, rank, queued, run, step, queue)
		CROSS JOIN LATERAL (SELECT x.ctid FROM ready x WHERE x.tenant = k.tenant AND x.queue = k.queue AND x.runner = k.runner AND x.rank = k.rank
			AND x.queued = k.queued AND x.run = k.run AND x.step = k.step LIMIT 1) r))`
	readyComes = `INSERT INTO ready (tenant, runner, rank, queued, run, step, key, max_leases, queue)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::text[])`
	leaseGoes = `DELETE FROM leases WHERE ctid = ANY (ARRAY(SELECT r.ctid
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k (tenant, session, run, step)
		CROSS JOIN LATERAL (SELECT x.ctid FROM leases x WHERE x.session = k.session AND x.tenant = k.tenant AND x.run = k.run AND x.step = k.step LIMIT 1) r))`
	leaseComes = `INSERT INTO leases (tenant, session, run, step, key, queue)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[])`
	timerGoes = `DELETE FROM timers WHERE ctid = ANY (ARRAY(SELECT r.ctid
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS k (at, tenant, run, step)
		CROSS JOIN LATERAL (SELECT x.ctid FROM timers x WHERE x.at = k.at AND x.tenant = k.tenant AND x.run = k.run AND x.step = k.step LIMIT 1) r))`
	timerComes = `INSERT INTO timers (at, tenant, run, step) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])`
	keyedGoes  = `DELETE FROM keyed_runs WHERE ctid = ANY (ARRAY(SELECT r.ctid
		FROM unnest($1::text[], $2::bytea[], $3::boolean[], $4::bigint[], $5::text[]) AS k (tenant, key, waiting, created, run)
		CROSS JOIN LATERAL (SELECT x.ctid FROM keyed_runs x WHERE x.tenant = k.tenant AND x.key = k.key AND x.waiting = k.waiting
			AND x.created = k.created AND x.run = k.run LIMIT 1) r))`
	keyedComes = `INSERT INTO keyed_runs (tenant, key, waiting, created, run)
		SELECT * FROM unnest($1::text[], $2::bytea[], $3::boolean[], $4::bigint[], $5::text[])`
	unsealedGoes = `DELETE FROM unsealed WHERE ctid = ANY (ARRAY(SELECT r.ctid
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS k (tenant, ended, run)
		CROSS JOIN LATERAL (SELECT x.ctid FROM unsealed x WHERE x.tenant = k.tenant AND x.ended = k.ended AND x.run = k.run LIMIT 1) r))`
	liveGoes = `DELETE FROM live_runs WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM unnest($1::text[], $2::text[]) AS k (tenant, run)
		CROSS JOIN LATERAL (SELECT x.ctid FROM live_runs x WHERE x.tenant = k.tenant AND x.run = k.run LIMIT 1) r))`
	liveComes     = `INSERT INTO live_runs (tenant, run) SELECT * FROM unnest($1::text[], $2::text[])`
	unsealedComes = `INSERT INTO unsealed (tenant, ended, run) SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])`
)

// stage sends the changes. What goes is before what comes.
func (b *sides) stage(l *link) {
	if c := &b.readyOut; len(c.runs) > 0 {
		l.tell(readyGoes, c.tenants, c.runners, c.ranks, c.queued, c.runs, c.steps, c.queues)
	}
	if c := &b.readyIn; len(c.runs) > 0 {
		l.tell(readyComes, c.tenants, c.runners, c.ranks, c.queued, c.runs, c.steps, c.keys, c.limits, c.queues)
	}
	if c := &b.leaseOut; len(c.runs) > 0 {
		l.tell(leaseGoes, c.tenants, c.sessions, c.runs, c.steps)
	}
	if c := &b.leaseIn; len(c.runs) > 0 {
		l.tell(leaseComes, c.tenants, c.sessions, c.runs, c.steps, c.keys, c.queues)
	}
	if c := &b.timerOut; len(c.runs) > 0 {
		l.tell(timerGoes, c.at, c.tenants, c.runs, c.steps)
	}
	if c := &b.timerIn; len(c.runs) > 0 {
		l.tell(timerComes, c.at, c.tenants, c.runs, c.steps)
	}
	if c := &b.keyedOut; len(c.runs) > 0 {
		l.tell(keyedGoes, c.tenants, c.keys, c.waiting, c.created, c.runs)
	}
	if c := &b.keyedIn; len(c.runs) > 0 {
		l.tell(keyedComes, c.tenants, c.keys, c.waiting, c.created, c.runs)
	}
	if c := &b.unsealing; len(c.runs) > 0 {
		l.tell(unsealedGoes, c.tenants, c.at, c.runs)
	}
	if c := &b.unsealed; len(c.runs) > 0 {
		l.tell(unsealedComes, c.tenants, c.at, c.runs)
	}
	if c := &b.liveOut; len(c.runs) > 0 {
		l.tell(liveGoes, c.tenants, c.runs)
	}
	if c := &b.liveIn; len(c.runs) > 0 {
		l.tell(liveComes, c.tenants, c.runs)
	}
}

// DeleteRun implements kernel.RowWriter. Nothing else finds a run that has ended and is sealed.
func (t *tx) DeleteRun(tenant work.Tenant, id work.RunID) error {
	row, err := t.knowRun(runKey{tenant, id})
	if err != nil || row.now() == nil {
		return err
	}
	if err := t.stage(); err != nil {
		return err
	}
	t.l.tell(`DELETE FROM run_labels WHERE tenant = $1 AND run = $2 AND created = $3 AND key = ANY ($4) AND value = ANY ($5)`,
		tenant, id, row.stored.Created, labelParts(row.stored, 0), labelParts(row.stored, 1))
	t.l.tell(`DELETE FROM runs WHERE tenant = $1 AND id = $2`, tenant, id)
	row.stored, row.put = nil, nil
	return nil
}

func labelParts(row *work.Run, part int) []string {
	out := []string{}
	for _, l := range labelsOf(row.Project, row.Labels) {
		out = append(out, l[part])
	}
	return out
}

// EraseRows implements kernel.RowWriter. Rows go a few at a time, so that vacuum keeps up and no lock is held for long.
func (t *tx) EraseRows(tenant work.Tenant, run work.RunID, limit int) (n int, last int64, err error) {
	t.l.changes = true
	for _, table := range []string{"step_values", "steps", "lines", "documents", "dead_letters"} {
		if n >= limit {
			break
		}
		if err := t.ask(`DELETE FROM `+table+` WHERE ctid = ANY (ARRAY(SELECT ctid FROM `+table+` WHERE tenant = $1 AND run = $2 LIMIT $3)) RETURNING 1`,
			func(pgx.Rows) error { n++; return nil }, tenant, run, limit-n); err != nil {
			return n, last, err
		}
	}
	if n < limit {
		err = t.ask(`DELETE FROM events WHERE ctid = ANY (ARRAY(SELECT ctid FROM events WHERE tenant = $1 AND run = $2 LIMIT $3)) RETURNING pos, first, body`,
			func(rows pgx.Rows) error {
				n++
				var number, first int64
				var body []byte
				if err := rows.Scan(&number, &first, &body); err != nil {
					return err
				}
				entries, err := chunk.Events(tenant, run, first, body)
				last = max(last, number*store.ChunkEvents+int64(len(entries))-1)
				return err
			}, tenant, run, limit-n)
	}
	for ref := range t.steps {
		if ref.Tenant == tenant && ref.Run == run {
			delete(t.steps, ref)
		}
	}
	return n, last, err
}
