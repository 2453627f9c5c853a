// Package attest seals ended runs: it appends them to the tenant's Merkle log, signs checkpoints, and makes their evidence.
package attest

import (
	"context"
	"io"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Blobs is where the bytes of outputs are.
type Blobs interface {
	Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error)
}

// Service seals and attests. Seal is called by one goroutine at a time per tenant; the store refuses what two would do at once.
type Service struct {
	Store    store.Store
	Blobs    Blobs
	Attestor keyring.Signer                // signs what runs did
	LogKey   *keyring.Private              // signs checkpoints and nothing else
	Trust    func() (keyring.Trust, error) // goes into bundles as a snapshot
	Now      func() work.Time
}

// sealBatch is how many runs one checkpoint covers at most.
const sealBatch = 512

// Seal puts every ended run that is not in the log into it, in the order of their ends. It returns how many it sealed.
func (s *Service) Seal(ctx context.Context, tenant work.Tenant) (int, error) {
	for sealed := 0; ; {
		runs, err := s.Store.Unsealed(ctx, tenant, sealBatch)
		if err != nil || len(runs) == 0 {
			return sealed, err
		}
		if err := s.append(ctx, tenant, runs); err != nil {
			if fault.CodeOf(err) == fault.Conflict {
				continue // another server was faster: look again
			}
			return sealed, err
		}
		sealed += len(runs)
	}
}

func (s *Service) append(ctx context.Context, tenant work.Tenant, runs []work.Run) error {
	ids, leaves := make([]work.RunID, len(runs)), make([][]byte, len(runs))
	for i := range runs {
		var err error
		ids[i] = runs[i].ID
		if leaves[i], err = evidence.Leaf(runs[i]).Encode(); err != nil {
			return err
		}
	}
	return s.grow(ctx, tenant, ids, leaves)
}

// grow adds leaves to the log, under a new checkpoint. Error: fault.Conflict when somebody else has grown it meanwhile.
func (s *Service) grow(ctx context.Context, tenant work.Tenant, ids []work.RunID, leaves [][]byte) error {
	size, _, err := s.Store.LogSize(ctx, tenant)
	if err != nil {
		return err
	}
	reader := &hashes{ctx: ctx, s: s.Store, tenant: tenant, first: ledger.StoredCount(size)}
	a := store.LogAppend{Size: size, FirstHash: reader.first, Leaves: leaves, Runs: ids}
	for i, leaf := range leaves {
		added, err := ledger.Append(size+int64(i), leaf, reader)
		if err != nil {
			return err
		}
		for _, h := range added {
			reader.added = append(reader.added, h)
			a.Hashes = append(a.Hashes, [32]byte(h))
		}
	}
	grown := size + int64(len(leaves))
	root, err := ledger.Root(grown, reader)
	if err != nil {
		return err
	}
	pub, err := s.LogKey.Key.LogKey()
	if err != nil {
		return err
	}
	a.Checkpoint, err = ledger.SignCheckpoint(ledger.Checkpoint{Origin: ledger.Origin(tenant), Size: grown, Root: root}, pub, s.LogKey.SignCheckpoint)
	if err != nil {
		return err
	}
	return s.Store.AppendLog(ctx, tenant, a)
}

// hashes reads stored nodes of the log, and those that an append under way has added.
type hashes struct {
	ctx    context.Context
	s      store.Log
	tenant work.Tenant
	first  int64
	added  []ledger.Node
}

// ReadHashes implements ledger.HashReader.
func (h *hashes) ReadHashes(indexes []int64) ([]ledger.Node, error) {
	out := make([]ledger.Node, len(indexes))
	var ask []int64
	var at []int
	for i, index := range indexes {
		if index >= h.first && index < h.first+int64(len(h.added)) {
			out[i] = h.added[index-h.first]
			continue
		}
		ask, at = append(ask, index), append(at, i)
	}
	if len(ask) == 0 {
		return out, nil
	}
	stored, err := h.s.LogHashes(h.ctx, h.tenant, ask)
	if err != nil {
		return nil, err
	}
	for i, node := range stored {
		out[at[i]] = ledger.Node(node)
	}
	return out, nil
}
