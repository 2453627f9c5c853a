package evidence

import (
	"iter"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// EntriesFile holds the audit stream in an audit bundle. Leaf, checkpoint and proof are called as in the evidence of runs.
const EntriesFile = "audit/entries.ndjson"

// BuildAudit makes the bundle of an audit stream that is sealed by a leaf. Nothing in it is signed but the checkpoint, which stands for the
// leaf, which stands for the entries. Errors: fault.Unverified when they are not those of the leaf, those of entries.
func BuildAudit(n int64, leaf []byte, seal Seal, entries iter.Seq2[work.Event, error]) (*Bundle, error) {
	sealed, err := ledger.ParseAuditLeaf(leaf)
	if err != nil {
		return nil, err
	}
	var lines []byte
	last := work.Digest("")
	count := int64(0)
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		if lines, err = ledger.Encode(lines, &e); err != nil {
			return nil, err
		}
		lines = append(lines, '\n')
		last = e.Hash
		count++
	}
	if count != n || sealed.Entries != n || sealed.Head != last {
		return nil, fault.New(fault.Unverified, "the audit stream of %s is not the one that was sealed", sealed.Tenant).
			WithHint("somebody has changed the store: restore a backup, and compare it with audit bundles that were exported before")
	}
	proof, err := canonical.Marshal(seal.Position)
	if err != nil {
		return nil, err
	}
	return &Bundle{
		files: map[string][]byte{EntriesFile: lines, LeafFile: leaf, ProofFile: proof, CheckpointFile: seal.Checkpoint},
		ended: time.Unix(int64(sealed.Sealed)/1_000_000, 0),
	}, nil
}
