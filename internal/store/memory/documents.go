package memory

import (
	"cmp"
	"slices"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Plan implements kernel.DocumentReader.
func (r reader) Plan(tenant work.Tenant, hash work.Digest) ([]byte, error) {
	return slices.Clone(r.d.plans[textKey{tenant, string(hash)}]), nil
}

// Documents implements kernel.DocumentReader.
func (r reader) Documents(tenant work.Tenant, runs []work.RunID, kind string) ([][]byte, error) {
	out := make([][]byte, len(runs))
	for i, run := range runs {
		var err error
		if out[i], err = r.Document(tenant, run, kind); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Document implements kernel.DocumentReader.
func (r reader) Document(tenant work.Tenant, run work.RunID, kind string) ([]byte, error) {
	return slices.Clone(r.d.documents[documentKey{runKey{tenant, run}, kind}]), nil
}

// Cached implements kernel.DocumentReader.
func (r reader) Cached(tenant work.Tenant, key work.Digest) (*store.CachedResult, error) {
	c, ok := r.d.cached[textKey{tenant, string(key)}]
	if !ok {
		return nil, nil
	}
	c.Artifacts = slices.Clone(c.Artifacts)
	return &c, nil
}

// Results implements kernel.ListReader.
func (r reader) Results(tenant work.Tenant, after work.Digest, limit int) ([]store.KeyedResult, error) {
	var out []store.KeyedResult
	for key, c := range r.d.cached {
		if key.tenant == tenant && key.text > string(after) {
			c.Artifacts = slices.Clone(c.Artifacts)
			out = append(out, store.KeyedResult{Key: work.Digest(key.text), CachedResult: c})
		}
	}
	slices.SortFunc(out, func(a, b store.KeyedResult) int { return cmp.Compare(a.Key, b.Key) })
	return atMost(out, limit), nil
}

// atMost cuts a list at a limit, 0 for none.
func atMost[T any](list []T, limit int) []T {
	if limit > 0 && len(list) > limit {
		return list[:limit]
	}
	return list
}

// DeadLetters implements kernel.DocumentReader.
func (r reader) DeadLetters(tenant work.Tenant, limit int) ([]store.DeadLetter, error) {
	var out []store.DeadLetter
	for _, l := range r.d.letters {
		if l.Tenant == tenant && l.resolved == nil {
			out = append(out, l.DeadLetter)
		}
	}
	slices.SortFunc(out, func(a, b store.DeadLetter) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Step, b.Step))
	})
	return atMost(out, limit), nil
}

// PutPlan implements kernel.DocumentWriter.
func (t *tx) PutPlan(tenant work.Tenant, hash work.Digest, canonical []byte) error {
	key := textKey{tenant, string(hash)}
	if _, had := t.d.plans[key]; !had {
		put(t, t.d.plans, key, slices.Clone(canonical))
	}
	return nil
}

// PutDocument implements kernel.DocumentWriter.
func (t *tx) PutDocument(tenant work.Tenant, run work.RunID, kind string, data []byte) error {
	put(t, t.d.documents, documentKey{runKey{tenant, run}, kind}, append([]byte{}, data...))
	return nil
}

// PutCached implements kernel.DocumentWriter.
func (t *tx) PutCached(tenant work.Tenant, key work.Digest, c store.CachedResult) error {
	k := textKey{tenant, string(key)}
	if _, had := t.d.cached[k]; !had {
		c.Artifacts = slices.Clone(c.Artifacts)
		put(t, t.d.cached, k, c)
	}
	return nil
}

// PutDeadLetter implements kernel.DocumentWriter. The first one of a step stays, and with it that it is resolved.
func (t *tx) PutDeadLetter(l store.DeadLetter) error {
	ref := kernel.StepRef{Tenant: l.Tenant, Run: l.Run, Step: l.Step}
	if _, had := t.d.letters[ref]; !had {
		put(t, t.d.letters, ref, letter{DeadLetter: l})
	}
	return nil
}

// ResolveDeadLetters implements kernel.DocumentWriter.
func (t *tx) ResolveDeadLetters(tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error {
	for ref, l := range t.d.letters {
		if ref.Tenant == tenant && ref.Run == run && (step == "" || ref.Step == step) && l.resolved == nil {
			l.resolved = &by
			put(t, t.d.letters, ref, l)
		}
	}
	return nil
}
