package attest

import (
	"context"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// Prove returns the leaf of a run and the proof that it is under the newest checkpoint. Errors: fault.Incomplete when it is not sealed.
func (s *Service) Prove(ctx context.Context, run work.Run) (leaf []byte, seal evidence.Seal, err error) {
	if leaf, _, err = s.Store.Leaf(ctx, run.Tenant, run.ID); err != nil {
		return nil, seal, err
	}
	seal, err = s.position(ctx, run)
	return leaf, seal, err
}

// Growth returns the newest checkpoint and the proof that the log of from leaves is the beginning of it. Errors: fault.Invalid for a size
// that the log has not had.
func (s *Service) Growth(ctx context.Context, tenant work.Tenant, from int64) (size int64, checkpoint []byte, proof []ledger.Node, err error) {
	if size, checkpoint, err = s.Store.LogSize(ctx, tenant); err != nil {
		return 0, nil, nil, err
	}
	proof, err = ledger.ProveConsistency(from, size, &hashes{ctx: ctx, s: s.Store, tenant: tenant, first: ledger.StoredCount(size)})
	return size, checkpoint, proof, err
}
