package sqlite

import (
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/chunk"
	"orrery.example/orrery/internal/work"
)

// A row of history holds at most this many entries, so that a reader that wants a few does not decode thousands.
const maxEntries = store.ChunkEvents

// The chunk that has the entry ?3, and those after it.
const (
	readEvents = `SELECT first, body FROM events WHERE tenant = ?1 AND run = ?2 AND first >= coalesce(
		(SELECT max(first) FROM events WHERE tenant = ?1 AND run = ?2 AND first <= ?3), 0) ORDER BY first`
	readLines = `SELECT first, body FROM lines WHERE tenant = ?1 AND run = ?2 AND first >= coalesce(
		(SELECT max(first) FROM lines WHERE tenant = ?1 AND run = ?2 AND first <= ?3), 0) ORDER BY first`
)

// window collects up to limit entries with the number from and above out of chunks.
func window[T any](r reader, query string, decode func(first int64, body []byte) ([]T, error),
	tenant work.Tenant, run work.RunID, from int64, limit int) ([]T, error) {
	from = max(from, 1)
	var out []T
	err := r.c.each(query, func(v values) error {
		first := v.number(0)
		entries, err := decode(first, v.bytes(1))
		if err != nil {
			return err
		}
		if skip := from - first; skip > 0 {
			entries = entries[min(skip, int64(len(entries))):]
		}
		if limit > 0 && len(out)+len(entries) >= limit {
			out = append(out, entries[:limit-len(out)]...)
			return errStop
		}
		out = append(out, entries...)
		return nil
	}, string(tenant), string(run), from)
	return out, err
}

// Events implements kernel.HistoryReader.
func (r reader) Events(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	return window(r, readEvents, func(first int64, body []byte) ([]work.Event, error) {
		return chunk.Events(tenant, run, first, body)
	}, tenant, run, from, limit)
}

// Lines implements kernel.HistoryReader.
func (r reader) Lines(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	return window(r, readLines, func(first int64, body []byte) ([]work.LogLine, error) {
		return chunk.Lines(run, first, body)
	}, tenant, run, from, limit)
}

// Feed implements kernel.HistoryReader.
func (r reader) Feed(tenant work.Tenant, after, upTo int64, limit int) ([]store.FeedEvent, error) {
	var out []store.FeedEvent
	err := r.c.each(`SELECT pos, run, first, body FROM events WHERE tenant = ?1 AND pos >= ?2 AND run <> ?3 ORDER BY pos`, func(v values) error {
		entries, err := chunk.Events(tenant, work.RunID(v.text(1)), v.number(2), v.bytes(3))
		if err != nil {
			return err
		}
		for i := range entries {
			position := v.number(0)*store.ChunkEvents + int64(i)
			if position > upTo || limit > 0 && len(out) == limit {
				return errStop
			}
			if position > after {
				out = append(out, store.FeedEvent{Position: position, Event: entries[i]})
			}
		}
		return nil
	}, string(tenant), after/store.ChunkEvents, string(store.AuditStream))
	return out, err
}

// FeedEnd implements kernel.HistoryReader.
func (r reader) FeedEnd(tenant work.Tenant, upTo int64) (int64, error) {
	last := int64(0)
	found, err := r.c.one(`SELECT pos FROM events WHERE tenant = ?1 AND pos <= ?2 ORDER BY pos DESC`, func(v values) { last = v.number(0) },
		string(tenant), upTo/store.ChunkEvents)
	if err != nil || !found {
		return 0, err
	}
	return last*store.ChunkEvents + store.ChunkEvents - 1, nil
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
		t.body = chunk.AppendEvents(t.body[:0], events[:n])
		if _, err := t.c.do(`INSERT INTO events (tenant, run, first, body) VALUES (?, ?, ?, ?)`,
			string(tenant), string(run), events[0].Seq, t.body); err != nil {
			return err
		}
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
		t.body = chunk.AppendLines(t.body[:0], lines[:n])
		if _, err := t.c.do(`INSERT INTO lines (tenant, run, first, body) VALUES (?1, ?2, ?3, ?4)`,
			string(tenant), string(run), lines[0].Seq, t.body); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// LogSize implements kernel.LogReader.
func (r reader) LogSize(tenant work.Tenant) (int64, []byte, error) {
	var size int64
	var checkpoint []byte
	_, err := r.c.one(`SELECT size, checkpoint FROM logs WHERE tenant = ?1`, func(v values) {
		size, checkpoint = v.number(0), v.bytes(1)
	}, string(tenant))
	return size, checkpoint, err
}

// LogHashes implements kernel.LogReader.
func (r reader) LogHashes(tenant work.Tenant, indexes []int64) ([][32]byte, error) {
	out := make([][32]byte, len(indexes))
	for i, index := range indexes {
		found, err := r.c.one(`SELECT hash FROM log_hashes WHERE tenant = ?1 AND idx = ?2`, func(v values) {
			copy(out[i][:], v.bytes(0))
		}, string(tenant), index)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fault.New(fault.Internal, "the log has no hash %d", index)
		}
	}
	return out, nil
}

// Leaf implements kernel.LogReader.
func (r reader) Leaf(tenant work.Tenant, run work.RunID) ([]byte, int64, error) {
	var leaf []byte
	var index int64
	_, err := r.c.one(`SELECT leaf, idx FROM leaves WHERE tenant = ?1 AND run = ?2`, func(v values) {
		leaf, index = v.bytes(0), v.number(1)
	}, string(tenant), string(run))
	return leaf, index, err
}

// AppendLog implements kernel.HistoryWriter.
func (t *tx) AppendLog(tenant work.Tenant, a store.LogAppend) error {
	size, _, err := t.LogSize(tenant)
	if err != nil {
		return err
	}
	hashes := int64(0)
	if _, err := t.c.one(`SELECT idx FROM log_hashes WHERE tenant = ?1 ORDER BY idx DESC LIMIT 1`, func(v values) {
		hashes = v.number(0) + 1
	}, string(tenant)); err != nil {
		return err
	}
	if size != a.Size || hashes != a.FirstHash {
		return fault.New(fault.Conflict, "the log has %d leaves and %d hashes, not %d and %d", size, hashes, a.Size, a.FirstHash)
	}
	if len(a.Leaves) != len(a.Runs) {
		return fault.New(fault.Internal, "%d leaves for %d runs", len(a.Leaves), len(a.Runs))
	}
	for i, run := range a.Runs {
		if err := t.seal(tenant, run, size+int64(i), a.Leaves[i]); err != nil {
			return err
		}
	}
	for i := range a.Hashes {
		if _, err := t.c.do(`INSERT INTO log_hashes (tenant, idx, hash) VALUES (?1, ?2, ?3)`,
			string(tenant), hashes+int64(i), a.Hashes[i][:]); err != nil {
			return err
		}
	}
	_, err = t.c.do(`INSERT INTO logs (tenant, size, checkpoint) VALUES (?1, ?2, ?3)
		ON CONFLICT (tenant) DO UPDATE SET size = ?2, checkpoint = ?3`, string(tenant), size+int64(len(a.Leaves)), a.Checkpoint)
	return err
}

func (t *tx) seal(tenant work.Tenant, run work.RunID, index int64, leaf []byte) error {
	if err := t.sealable(tenant, run, index); err != nil {
		return err
	}
	_, err := t.c.do(`INSERT INTO leaves (tenant, idx, run, leaf) VALUES (?1, ?2, ?3, ?4)`, string(tenant), index, string(run), leaf)
	return err
}

// sealable notes of what is sealed where its leaf is. Error: fault.Conflict for what is not to be sealed.
func (t *tx) sealable(tenant work.Tenant, run work.RunID, index int64) error {
	if store.IsAuditSeal(run) {
		sealed, err := t.c.one(`SELECT 1 FROM leaves WHERE tenant = ?1 AND run = ?2`, func(values) {}, string(tenant), string(run))
		if err == nil && sealed {
			err = fault.New(fault.Conflict, "%s is sealed already", run)
		}
		return err
	}
	changed, err := t.c.do(`UPDATE runs SET sealed = ?3 WHERE tenant = ?1 AND id = ?2 AND ended IS NOT NULL AND sealed IS NULL`,
		string(tenant), string(run), index)
	if err != nil {
		return err
	}
	if changed == 0 {
		return fault.New(fault.Conflict, "run %s has not ended or is sealed already", run)
	}
	return nil
}
