package postgres

import (
	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/chunk"
	"orrery.example/orrery/internal/work"
)

// A row of history holds at most this many entries, so that a reader that wants a few does not decode thousands.
const maxEntries = store.ChunkEvents

// chunks are rows of history on their way to the server.
type chunks struct {
	tenants, runs []string
	firsts        []int64
	bodies        [][]byte
}

func (c *chunks) add(tenant work.Tenant, run work.RunID, first int64, body []byte) {
	c.tenants, c.runs = append(c.tenants, string(tenant)), append(c.runs, string(run))
	c.firsts, c.bodies = append(c.firsts, first), append(c.bodies, body)
}

func (c *chunks) stage(l *link, query string) {
	if len(c.runs) > 0 {
		l.tell(query, c.tenants, c.runs, c.firsts, c.bodies)
		*c = chunks{}
	}
}

const (
	// A transaction has its id before it takes a number, and has the locks of its runs: see settled.
	insertEvents = `INSERT INTO events (tenant, run, first, body, pos) SELECT tenant, run, first, body, nextval('events_pos') FROM (
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) WITH ORDINALITY AS e (tenant, run, first, body, n)
		WHERE pg_current_xact_id() IS NOT NULL ORDER BY n) AS ordered`
	insertLines = `INSERT INTO lines (tenant, run, first, body) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])`

	// The chunk that has the entry $3, and those after it.
	readEvents = `SELECT first, body FROM events WHERE tenant = $1 AND run = $2 AND first >= coalesce(
		(SELECT max(first) FROM events WHERE tenant = $1 AND run = $2 AND first <= $3), 0) ORDER BY first LIMIT $4`
	readLines = `SELECT first, body FROM lines WHERE tenant = $1 AND run = $2 AND first >= coalesce(
		(SELECT max(first) FROM lines WHERE tenant = $1 AND run = $2 AND first <= $3), 0) ORDER BY first LIMIT $4`
)

// window collects up to limit entries with the number from and above out of chunks.
func window[T any](r *reader, query string, decode func(first int64, body []byte) ([]T, error),
	tenant work.Tenant, run work.RunID, from int64, limit int) ([]T, error) {
	from = max(from, 1)
	rowsWanted := 0 // a chunk has one entry at least, and the first may have none of those that are wanted
	if limit > 0 {
		rowsWanted = limit + 1
	}
	var out []T
	err := r.ask(query, func(rows pgx.Rows) error {
		var first int64
		var body []byte
		if err := rows.Scan(&first, &body); err != nil || limit > 0 && len(out) == limit {
			return err
		}
		entries, err := decode(first, body)
		if err != nil {
			return err
		}
		if skip := from - first; skip > 0 {
			entries = entries[min(skip, int64(len(entries))):]
		}
		if limit > 0 {
			entries = entries[:min(limit-len(out), len(entries))]
		}
		out = append(out, entries...)
		return nil
	}, tenant, run, from, all(rowsWanted))
	return out, err
}

// Events implements kernel.HistoryReader.
func (r *reader) Events(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	return window(r, readEvents, func(first int64, body []byte) ([]work.Event, error) {
		return chunk.Events(tenant, run, first, body)
	}, tenant, run, from, limit)
}

// Lines implements kernel.HistoryReader.
func (r *reader) Lines(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	return window(r, readLines, func(first int64, body []byte) ([]work.LogLine, error) {
		return chunk.Lines(run, first, body)
	}, tenant, run, from, limit)
}

// AppendEvents implements kernel.HistoryWriter.
func (t *tx) AppendEvents(tenant work.Tenant, run work.RunID, events []work.Event) error {
	for i := range events {
		if e := &events[i]; e.Seq != events[0].Seq+int64(i) || e.Tenant != tenant || e.Run != run {
			return fault.New(fault.Internal, "event %d of run %s does not follow the one before it", e.Seq, e.Run)
		}
	}
	for len(events) > 0 {
		n := min(len(events), maxEntries)
		t.events.add(tenant, run, events[0].Seq, chunk.AppendEvents(nil, events[:n]))
		events = events[n:]
	}
	return nil
}

// AppendLines implements kernel.HistoryWriter.
func (t *tx) AppendLines(tenant work.Tenant, run work.RunID, lines []work.LogLine) error {
	for i := range lines {
		if l := &lines[i]; l.Seq != lines[0].Seq+int64(i) || l.Run != run {
			return fault.New(fault.Internal, "line %d of run %s does not follow the one before it", l.Seq, l.Run)
		}
	}
	for len(lines) > 0 {
		n := min(len(lines), maxEntries)
		t.lines.add(tenant, run, lines[0].Seq, chunk.AppendLines(nil, lines[:n]))
		lines = lines[n:]
	}
	return nil
}

// LogSize implements kernel.LogReader. A transaction that writes is the only one that can grow the log until it ends.
func (r *reader) LogSize(tenant work.Tenant) (int64, []byte, error) {
	size, _, checkpoint, err := r.logEnd(tenant)
	return size, checkpoint, err
}

func (r *reader) logEnd(tenant work.Tenant) (size, hashes int64, checkpoint []byte, err error) {
	_, err = r.one(`SELECT size, hashes, checkpoint FROM logs WHERE tenant = $1`+r.forUpdate(), []any{&size, &hashes, &checkpoint}, tenant)
	return size, hashes, checkpoint, err
}

// LogHashes implements kernel.LogReader.
func (r *reader) LogHashes(tenant work.Tenant, indexes []int64) ([][32]byte, error) {
	out := make([][32]byte, len(indexes))
	at := make(map[int64][]int, len(indexes))
	for i, index := range indexes {
		at[index] = append(at[index], i)
	}
	if err := r.ask(`SELECT idx, hash FROM log_hashes WHERE tenant = $1 AND idx = ANY ($2)`, func(rows pgx.Rows) error {
		var index int64
		var hash []byte
		err := rows.Scan(&index, &hash)
		for _, i := range at[index] {
			copy(out[i][:], hash)
		}
		delete(at, index)
		return err
	}, tenant, indexes); err != nil {
		return nil, err
	}
	for index := range at {
		return nil, fault.New(fault.Internal, "the log has no hash %d", index)
	}
	return out, nil
}

// Leaf implements kernel.LogReader.
func (r *reader) Leaf(tenant work.Tenant, run work.RunID) ([]byte, int64, error) {
	var leaf []byte
	var index int64
	_, err := r.one(`SELECT leaf, idx FROM leaves WHERE tenant = $1 AND run = $2`, []any{&leaf, &index}, tenant, run)
	return leaf, index, err
}

// AppendLog implements kernel.HistoryWriter.
func (t *tx) AppendLog(tenant work.Tenant, a store.LogAppend) error {
	size, hashes, _, err := t.logEnd(tenant)
	if err != nil {
		return err
	}
	if size != a.Size || hashes != a.FirstHash {
		return fault.New(fault.Conflict, "the log has %d leaves and %d hashes, not %d and %d", size, hashes, a.Size, a.FirstHash)
	}
	if len(a.Leaves) != len(a.Runs) {
		return fault.New(fault.Internal, "%d leaves for %d runs", len(a.Leaves), len(a.Runs))
	}
	ids, indexes := make([]string, len(a.Runs)), make([]int64, len(a.Runs))
	for i, run := range a.Runs {
		ids[i], indexes[i] = string(run), size+int64(i)
	}
	if err := t.seal(tenant, a.Runs); err != nil {
		return err
	}
	t.l.tell(`INSERT INTO leaves (tenant, idx, run, leaf) SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bytea[])`, tenant, indexes, ids, a.Leaves)
	at, values := make([]int64, len(a.Hashes)), make([][]byte, len(a.Hashes))
	for i := range a.Hashes {
		at[i], values[i] = hashes+int64(i), a.Hashes[i][:]
	}
	t.l.tell(`INSERT INTO log_hashes (tenant, idx, hash) SELECT $1, * FROM unnest($2::bigint[], $3::bytea[])`, tenant, at, values)
	insertOrMove := `INSERT INTO logs (tenant, size, hashes, checkpoint) VALUES ($1, $2, $3, $4)`
	if size > 0 || hashes > 0 {
		insertOrMove = `UPDATE logs SET size = $2, hashes = $3, checkpoint = $4 WHERE tenant = $1`
	}
	t.l.tell(insertOrMove, tenant, size+int64(len(ids)), hashes+int64(len(values)), a.Checkpoint)
	return nil
}

// seal takes runs off the list of those that are to be sealed. Errors: fault.Conflict for one that is not on it, and for a seal of the audit
// stream that is there.
func (t *tx) seal(tenant work.Tenant, sealed []work.RunID) error {
	var keys []runKey
	var seals []string
	for _, id := range sealed {
		if store.IsAuditSeal(id) {
			seals = append(seals, string(id))
		} else {
			keys = append(keys, runKey{tenant, id})
		}
	}
	if len(seals) > 0 {
		there := false
		err := t.ask(`SELECT 1 FROM leaves WHERE tenant = $1 AND run = ANY($2)`, func(pgx.Rows) error { there = true; return nil }, tenant, seals)
		if err != nil {
			return err
		}
		if there {
			return fault.New(fault.Conflict, "the audit stream is sealed up to there already")
		}
	}
	if len(keys) == 0 {
		return nil
	}
	var rows []*work.Run
	t.hearRuns(lookAtRuns, keys, &rows)
	if err := t.l.send(); err != nil {
		return t.fail(err)
	}
	var ended timerColumns
	for _, row := range rows {
		ended.add(row.Ended, tenant, row.ID, "")
	}
	open := 0 // looked for before anything is changed: another server may have sealed them
	if err := t.ask(`SELECT 1 FROM unnest($1::text[], $2::bigint[], $3::text[]) AS k (tenant, ended, run)
		CROSS JOIN LATERAL (SELECT 1 FROM unsealed x WHERE x.tenant = k.tenant AND x.ended = k.ended AND x.run = k.run LIMIT 1) u`,
		func(pgx.Rows) error { open++; return nil }, ended.tenants, ended.at, ended.runs); err != nil {
		return err
	}
	if open != len(keys) {
		return fault.New(fault.Conflict, "%d of the %d runs have not ended or are sealed already", len(keys)-open, len(keys))
	}
	t.l.tell(unsealedGoes, ended.tenants, ended.at, ended.runs)
	return nil
}
