package memory

import (
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// DeleteRun implements kernel.RowWriter.
func (t *tx) DeleteRun(tenant work.Tenant, id work.RunID) error {
	key := runKey{tenant, id}
	row := t.d.runs[key]
	if row == nil {
		return nil
	}
	t.orderRun(row, false)
	drop(t, t.d.runs, key)
	drop(t, t.d.names, textKey{tenant, row.Name})
	if row.RunToken != "" {
		drop(t, t.d.tokens, textKey{tenant, row.RunToken})
	}
	return nil
}

// EraseRows implements kernel.RowWriter.
func (t *tx) EraseRows(tenant work.Tenant, run work.RunID, limit int) (n int, last int64, err error) {
	key := runKey{tenant, run}
	for _, ref := range slices.Clone(within(t.d.stepIDs.from(kernel.StepRef{Tenant: tenant, Run: run}), tenant, run, limit)) {
		t.orderStep(t.d.steps[ref], ref, false)
		set(t, t.d.stepIDs, ref, false)
		drop(t, t.d.steps, ref)
		n++
	}
	for ref := range t.d.letters {
		if ref.Tenant == tenant && ref.Run == run && n < limit {
			drop(t, t.d.letters, ref)
			n++
		}
	}
	for doc := range t.d.documents {
		if doc.runKey == key && n < limit {
			drop(t, t.d.documents, doc)
			n++
		}
	}
	if _, some := t.d.lines[key]; some && n < limit {
		drop(t, t.d.lines, key)
		n++
	}
	if _, some := t.d.events[key]; some && n < limit {
		drop(t, t.d.events, key)
		for _, p := range t.d.feed[tenant] {
			if p.run == run {
				last = p.number*store.ChunkEvents + int64(p.events) - 1
			}
		}
		put(t, t.d.feed, tenant, slices.DeleteFunc(slices.Clone(t.d.feed[tenant]), func(p piece) bool { return p.run == run }))
		n++
	}
	return n, last, nil
}
