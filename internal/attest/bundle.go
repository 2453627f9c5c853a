package attest

import (
	"bytes"
	"context"
	"io"
	"iter"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// maxOutputs bounds the bytes of outputs that travel inside a bundle; beyond it they are named by digest only.
const maxOutputs = 64 << 20

// documentBundle is the kind under which the digest of a run's first bundle is kept, so that later exports are the same bytes.
const documentBundle = "evidence"

// Keeper stores bundles once they are made. It is nil for somebody who may only look.
type Keeper interface {
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)
}

// Export writes the evidence of an ended run. The first export makes and signs it; later ones give the same bytes, unless there was no
// room to keep it. Errors: fault.Conflict when the run has not ended, fault.Incomplete when it is not sealed yet, fault.Unverified when
// what was kept is not the evidence of this run.
func (s *Service) Export(ctx context.Context, run work.Run, keep Keeper, w io.Writer) error {
	earlier, err := s.Store.Document(ctx, run.Tenant, run.ID, documentBundle)
	if err != nil {
		return err
	}
	if earlier != nil {
		kept, err := s.kept(ctx, run, work.Digest(earlier))
		if err != nil {
			return fault.Wrap(fault.Internal, err, "evidence of run %s", run.Name)
		}
		_, err = w.Write(kept)
		return err
	}
	if keep != nil {
		if _, err := s.Seal(ctx, run.Tenant); err != nil {
			return err
		}
	}
	var made bytes.Buffer
	if err := s.make(ctx, run, &made); err != nil {
		return err
	}
	if keep != nil {
		// Evidence that cannot be kept is as good; the next export makes it again.
		if err := s.keep(ctx, run, keep, made.Bytes()); err != nil && !fault.Passing(err) {
			return err
		}
	}
	_, err = made.WriteTo(w)
	return err
}

func (s *Service) keep(ctx context.Context, run work.Run, keep Keeper, bundle []byte) error {
	digest, _, err := keep.Put(ctx, run.Tenant, bytes.NewReader(bundle))
	if err != nil {
		return err
	}
	return s.Store.Attach(ctx, run.Tenant, run.ID, documentBundle, []byte(digest))
}

// kept returns the bundle that was kept for a run, and refuses that of another: what a row says is no proof.
func (s *Service) kept(ctx context.Context, run work.Run, digest work.Digest) ([]byte, error) {
	bundle, err := s.fetch(ctx, run.Tenant, digest)
	if err != nil {
		return nil, err
	}
	of, err := evidence.Identify(bytes.NewReader(bundle))
	if err != nil {
		return nil, err
	}
	if of.Tenant != run.Tenant || of.RunID != run.ID || of.PlanHash != run.PlanHash {
		return nil, fault.New(fault.Unverified, "what was kept is the evidence of run %s of tenant %s, with plan %s", of.RunID, of.Tenant, of.PlanHash).
			WithHint("somebody has changed the store: restore a backup, or look at the evidence that was exported before")
	}
	return bundle, nil
}

func (s *Service) make(ctx context.Context, run work.Run, w io.Writer) error {
	r := &evidence.Record{Run: run, Log: s.lines(ctx, run), Outputs: evidence.Outputs{Limit: maxOutputs, Fetch: func(d work.Digest) ([]byte, error) {
		return s.fetch(ctx, run.Tenant, d)
	}}}
	var err error
	if r.Plan, err = s.Store.Plan(ctx, run.Tenant, run.PlanHash); err != nil {
		return err
	}
	if r.Request, err = s.Store.Document(ctx, run.Tenant, run.ID, "request"); err != nil {
		return err
	}
	if r.Events, err = s.events(ctx, run); err != nil {
		return err
	}
	if r.Seal, err = s.position(ctx, run); err != nil {
		return err
	}
	if r.Trust, err = s.Trust(); err != nil {
		return err
	}
	b, err := evidence.Build(ctx, r, s.Attestor)
	if err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return err
}

func (s *Service) fetch(ctx context.Context, tenant work.Tenant, digest work.Digest) ([]byte, error) {
	r, _, err := s.Blobs.Open(ctx, tenant, digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func (s *Service) events(ctx context.Context, run work.Run) ([]work.Event, error) {
	const page = 5000
	out := make([]work.Event, 0, run.Seq)
	for {
		events, err := s.Store.Events(ctx, run.Tenant, run.ID, int64(len(out))+1, page)
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
		if len(events) < page {
			return out, nil
		}
	}
}

func (s *Service) lines(ctx context.Context, run work.Run) iter.Seq2[work.LogLine, error] {
	return func(yield func(work.LogLine, error) bool) {
		const page = 5000
		for from := int64(1); ; {
			lines, err := s.Store.Lines(ctx, run.Tenant, run.ID, from, page)
			if err != nil {
				yield(work.LogLine{}, err)
				return
			}
			for _, l := range lines {
				if !yield(l, nil) {
					return
				}
				from = l.Seq + 1
			}
			if len(lines) < page {
				return
			}
		}
	}
}

// position proves where the run stands in the log as it is now.
func (s *Service) position(ctx context.Context, run work.Run) (evidence.Seal, error) {
	_, index, err := s.Store.Leaf(ctx, run.Tenant, run.ID)
	if err != nil {
		return evidence.Seal{}, err
	}
	size, checkpoint, err := s.Store.LogSize(ctx, run.Tenant)
	if err != nil {
		return evidence.Seal{}, err
	}
	proof, err := ledger.ProveInclusion(size, index, &hashes{ctx: ctx, s: s.Store, tenant: run.Tenant, first: ledger.StoredCount(size)})
	if err != nil {
		return evidence.Seal{}, err
	}
	return evidence.Seal{
		Position:   ledger.Position{Origin: ledger.Origin(run.Tenant), Index: index, Size: size, Proof: proof},
		Checkpoint: checkpoint,
	}, nil
}
