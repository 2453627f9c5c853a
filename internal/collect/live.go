package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	runsAtOnce   = 200
	eventsAtOnce = 5000
	rowsAtOnce   = 500
)

// evidenceDocument is the kind under which the digest of a run's evidence is kept.
const evidenceDocument = "evidence"

// named is a set of digests. It keeps the first eight bytes of each, so that a store of ten million steps fits into memory; of two digests
// that share them, both are in it when one is.
type named struct {
	heads  []uint64
	sorted int // how many of them are in order, each once
}

const (
	prefix = "sha256:"
	digits = 64
)

// add puts every digest into the set that stands anywhere in a text, whatever it is the digest of: one too many keeps a blob that may
// go, one too few would lose one that must stay.
func (n *named) add(text []byte) {
	for {
		at := bytes.Index(text, []byte(prefix))
		if at < 0 {
			break
		}
		text = text[at+len(prefix):]
		if len(text) < digits {
			break
		}
		if head, err := strconv.ParseUint(string(text[:16]), 16, 64); err == nil {
			n.heads = append(n.heads, head)
		}
	}
	if len(n.heads) > 2*n.sorted+1<<16 {
		n.sort()
	}
}

func (n *named) sort() {
	slices.Sort(n.heads)
	n.heads = slices.Compact(n.heads)
	n.sorted = len(n.heads)
}

// has reports whether a digest is in the set, which is sorted.
func (n *named) has(d work.Digest) bool {
	head, err := strconv.ParseUint(d.Hex()[:16], 16, 64)
	_, found := slices.BinarySearch(n.heads, head)
	return err != nil || found
}

// marked is what one look over the rows of a tenant has found.
type marked struct {
	named
	leased work.Time // when the oldest attempt under way was granted, 0 for none
}

// mark looks at everything that may name a blob: runs with their plans and histories, kept evidence, results that steps may use again,
// uploaded packs, and what stays of deleted runs.
//
// What moves from one place to another while this goes on is not missed when it is looked for in the direction in which it moves: a run
// that is deleted leaves the name of its evidence behind, so deleted runs come last.
func (s *Service) mark(ctx context.Context, tenant work.Tenant) (*marked, error) {
	m := &marked{}
	if err := s.markRuns(ctx, tenant, m); err != nil {
		return nil, err
	}
	if err := s.markResults(ctx, tenant, m); err != nil {
		return nil, err
	}
	for _, kind := range []string{store.PackKind, store.ErasedKind} {
		err := s.eachRecord(ctx, tenant, kind, func(r *store.Record) error {
			m.add(r.Doc)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	m.sort()
	return m, nil
}

func (s *Service) markRuns(ctx context.Context, tenant work.Tenant, m *marked) error {
	plans := map[work.Digest]bool{}
	for after := work.RunID(""); ; {
		page, err := s.Store.RunsAfter(ctx, tenant, after, runsAtOnce)
		if err != nil {
			return err
		}
		for i := range page {
			after = page[i].ID
			if err := s.markPlan(ctx, &page[i], plans, m); err != nil {
				return err
			}
			if err := s.markRun(ctx, &page[i], m); err != nil {
				return err
			}
		}
		if len(page) < runsAtOnce {
			return nil
		}
	}
}

// markPlan adds the files of a run's plan, once for all runs with that plan.
func (s *Service) markPlan(ctx context.Context, run *work.Run, known map[work.Digest]bool, m *marked) error {
	if known[run.PlanHash] {
		return nil
	}
	known[run.PlanHash] = true
	raw, err := s.Store.Plan(ctx, run.Tenant, run.PlanHash)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the plan of run %s", run.Name)
	}
	m.add(raw)
	return nil
}

// markRun adds what the history of a run names, its evidence, and when the oldest of its leases was granted.
func (s *Service) markRun(ctx context.Context, run *work.Run, m *marked) error {
	for from := int64(1); ; {
		events, err := s.Store.Events(ctx, run.Tenant, run.ID, from, eventsAtOnce)
		if err != nil {
			return err
		}
		for i := range events {
			from = events[i].Seq + 1
			m.add(events[i].Data)
		}
		if len(events) < eventsAtOnce {
			break
		}
	}
	evidence, err := s.Store.Document(ctx, run.Tenant, run.ID, evidenceDocument)
	if err != nil {
		return err
	}
	m.add(evidence)
	if run.Phase == work.PhaseEnded {
		return nil
	}
	for after := work.StepID(""); ; {
		rows, err := s.Store.Steps(ctx, run.Tenant, run.ID, after, rowsAtOnce)
		if err != nil {
			return err
		}
		for i := range rows {
			after = rows[i].ID
			if l := rows[i].Lease; l != nil && (m.leased == 0 || l.Granted < m.leased) {
				m.leased = l.Granted
			}
		}
		if len(rows) < rowsAtOnce {
			return nil
		}
	}
}

func (s *Service) markResults(ctx context.Context, tenant work.Tenant, m *marked) error {
	for after := work.Digest(""); ; {
		page, err := s.Store.Results(ctx, tenant, after, rowsAtOnce)
		if err != nil {
			return err
		}
		for i := range page {
			after = page[i].Key
			raw, err := json.Marshal(&page[i].CachedResult)
			if err != nil {
				return fault.Wrap(fault.Internal, err, "a cached result")
			}
			m.add(raw)
		}
		if len(page) < rowsAtOnce {
			return nil
		}
	}
}

func (s *Service) eachRecord(ctx context.Context, tenant work.Tenant, kind string, do func(*store.Record) error) error {
	for after := ""; ; {
		page, err := s.Store.Records(ctx, tenant, kind, "", after, rowsAtOnce)
		if err != nil {
			return err
		}
		for i := range page {
			after = page[i].ID
			if err := do(&page[i]); err != nil {
				return err
			}
		}
		if len(page) < rowsAtOnce {
			return nil
		}
	}
}
