package memory

import (
	"cmp"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// window returns up to limit entries of a history that starts with number 1.
func window[T any](history []T, from int64, limit int) []T {
	from = max(from, 1)
	if from > int64(len(history)) {
		return nil
	}
	rest := history[from-1:]
	if limit > 0 && len(rest) > limit {
		rest = rest[:limit]
	}
	return slices.Clone(rest)
}

// Events implements kernel.HistoryReader.
func (r reader) Events(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	return window(r.d.events[runKey{tenant, run}], from, limit), nil
}

// Lines implements kernel.HistoryReader.
func (r reader) Lines(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	return window(r.d.lines[runKey{tenant, run}], from, limit), nil
}

// AppendEvents implements kernel.HistoryWriter.
func (t *tx) AppendEvents(tenant work.Tenant, run work.RunID, events []work.Event) error {
	key := runKey{tenant, run}
	before := t.d.events[key]
	for i, e := range events {
		if e.Seq != int64(len(before)+i+1) || e.Tenant != tenant || e.Run != run {
			return fault.New(fault.Internal, "event %d of run %s does not follow event %d of run %s", e.Seq, e.Run, len(before)+i, run)
		}
	}
	put(t, t.d.events, key, append(before, events...))
	for at := 0; at < len(events) && run != store.AuditStream; at += store.ChunkEvents {
		t.d.pieces++
		put(t, t.d.feed, tenant, append(t.d.feed[tenant], piece{t.d.pieces, run, events[at].Seq, min(store.ChunkEvents, len(events)-at)}))
	}
	return nil
}

// piece is a few events of a run that were appended together.
type piece struct {
	number int64
	run    work.RunID
	first  int64
	events int
}

// Feed implements kernel.HistoryReader.
func (r reader) Feed(tenant work.Tenant, after, upTo int64, limit int) ([]store.FeedEvent, error) {
	var out []store.FeedEvent
	feed := r.d.feed[tenant]
	from, _ := slices.BinarySearchFunc(feed, after/store.ChunkEvents, func(p piece, number int64) int { return cmp.Compare(p.number, number) })
	for _, p := range feed[from:] {
		history := r.d.events[runKey{tenant, p.run}]
		for i := range p.events {
			position := p.number*store.ChunkEvents + int64(i)
			if position > upTo || limit > 0 && len(out) == limit {
				return out, nil
			}
			if position > after {
				out = append(out, store.FeedEvent{Position: position, Event: history[p.first-1+int64(i)]})
			}
		}
	}
	return out, nil
}

// AppendLines implements kernel.HistoryWriter.
func (t *tx) AppendLines(tenant work.Tenant, run work.RunID, lines []work.LogLine) error {
	key := runKey{tenant, run}
	before := t.d.lines[key]
	for i, l := range lines {
		if l.Seq != int64(len(before)+i+1) || l.Run != run {
			return fault.New(fault.Internal, "line %d of run %s does not follow line %d of run %s", l.Seq, l.Run, len(before)+i, run)
		}
	}
	put(t, t.d.lines, key, append(before, lines...))
	return nil
}

// FeedEnd implements kernel.HistoryReader.
func (r reader) FeedEnd(tenant work.Tenant, upTo int64) (int64, error) {
	for _, p := range slices.Backward(r.d.feed[tenant]) {
		if end := p.number*store.ChunkEvents + int64(p.events) - 1; end <= upTo {
			return end, nil
		}
	}
	return 0, nil
}

// LogSize implements kernel.LogReader.
func (r reader) LogSize(tenant work.Tenant) (int64, []byte, error) {
	l := r.d.logs[tenant]
	return l.size, l.checkpoint, nil
}

// LogHashes implements kernel.LogReader.
func (r reader) LogHashes(tenant work.Tenant, indexes []int64) ([][32]byte, error) {
	hashes := r.d.logs[tenant].hashes
	out := make([][32]byte, len(indexes))
	for i, index := range indexes {
		if index < 0 || index >= int64(len(hashes)) {
			return nil, fault.New(fault.Internal, "the log has no hash %d", index)
		}
		out[i] = hashes[index]
	}
	return out, nil
}

// Leaf implements kernel.LogReader.
func (r reader) Leaf(tenant work.Tenant, run work.RunID) ([]byte, int64, error) {
	l := r.d.leaves[runKey{tenant, run}]
	return l.bytes, l.index, nil
}

// AppendLog implements kernel.HistoryWriter.
func (t *tx) AppendLog(tenant work.Tenant, a store.LogAppend) error {
	l := t.d.logs[tenant]
	if a.Size != l.size || a.FirstHash != int64(len(l.hashes)) {
		return fault.New(fault.Conflict, "the log has %d leaves and %d hashes, not %d and %d", l.size, len(l.hashes), a.Size, a.FirstHash)
	}
	if len(a.Leaves) != len(a.Runs) {
		return fault.New(fault.Internal, "%d leaves for %d runs", len(a.Leaves), len(a.Runs))
	}
	for i, run := range a.Runs {
		key := runKey{tenant, run}
		row := t.d.runs[key]
		_, sealed := t.d.leaves[key]
		if store.IsAuditSeal(run) && !sealed {
			put(t, t.d.leaves, key, leaf{a.Size + int64(i), a.Leaves[i]})
			continue
		}
		if row == nil || sealed || row.Ended == 0 {
			return fault.New(fault.Conflict, "run %s has not ended or is sealed already", run)
		}
		t.orderRun(row, false)
		put(t, t.d.leaves, key, leaf{a.Size + int64(i), a.Leaves[i]})
		t.orderRun(row, true)
	}
	put(t, t.d.logs, tenant, log{
		size: a.Size + int64(len(a.Leaves)), checkpoint: a.Checkpoint, hashes: append(l.hashes, a.Hashes...),
	})
	return nil
}
