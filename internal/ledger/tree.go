package ledger

import (
	"encoding/json"

	"golang.org/x/mod/sumdb/tlog"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Leaf is what a tenant's log keeps of a run that has ended.
type Leaf struct {
	Tenant   work.Tenant `json:"tenant"`
	Run      work.RunID  `json:"run"`
	PlanHash work.Digest `json:"planHash"`
	State    work.State  `json:"state"`
	Events   int64       `json:"events"` // how many the history has
	Head     work.Digest `json:"head"`   // the hash of its last event
	Ended    work.Time   `json:"ended"`
}

// Encode returns the leaf as the log hashes it: canonical JSON. Error: fault.Invalid.
func (l Leaf) Encode() ([]byte, error) { return canonical.Marshal(l) }

// ParseLeaf reads what Encode writes and nothing else. Error: fault.Invalid.
func ParseLeaf(raw []byte) (Leaf, error) {
	var l Leaf
	if err := json.Unmarshal(raw, &l); err != nil {
		return Leaf{}, fault.New(fault.Invalid, "this is not a leaf of the log: %s", err)
	}
	again, err := l.Encode()
	if err != nil || string(again) != string(raw) {
		return Leaf{}, fault.New(fault.Invalid, "a leaf of the log is canonical JSON with its seven fields")
	}
	return l, nil
}

// Node is a hash in the tree.
type Node = tlog.Hash

// HashReader gives stored hashes by their index: what Append returned, in order from 0.
type HashReader = tlog.HashReader

// Hashes is a HashReader over hashes in memory.
type Hashes []Node

// ReadHashes implements HashReader.
func (h Hashes) ReadHashes(indexes []int64) ([]Node, error) {
	out := make([]Node, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(h)) {
			return nil, fault.New(fault.Invalid, "the log has no stored hash %d", x)
		}
		out[i] = h[x]
	}
	return out, nil
}

// StoredCount returns how many hashes are stored for a log of size leaves: the index of the first that Append returns.
func StoredCount(size int64) int64 { return tlog.StoredHashCount(size) }

// Append returns the hashes to store, in order, when leaf becomes the leaf with index size.
func Append(size int64, leaf []byte, stored HashReader) ([]Node, error) {
	hashes, err := tlog.StoredHashes(size, leaf, stored)
	return hashes, fault.Wrap(fault.Internal, err, "append to a log of %d leaves", size)
}

// Root returns the hash that stands for the first size leaves.
func Root(size int64, stored HashReader) (Node, error) {
	h, err := tlog.TreeHash(size, stored)
	return h, fault.Wrap(fault.Internal, err, "root of a log of %d leaves", size)
}

// ProveInclusion returns the proof that the leaf with the given index is under the root of the first size leaves.
func ProveInclusion(size, index int64, stored HashReader) ([]Node, error) {
	if index < 0 || index >= size {
		return nil, fault.New(fault.Invalid, "a log of %d leaves has no leaf %d", size, index)
	}
	p, err := tlog.ProveRecord(size, index, stored)
	return p, fault.Wrap(fault.Internal, err, "prove leaf %d of %d", index, size)
}

// CheckInclusion verifies what ProveInclusion returned. Error: fault.Unverified.
func CheckInclusion(proof []Node, size int64, root Node, index int64, leaf []byte) error {
	if index < 0 || index >= size {
		return fault.New(fault.Unverified, "a log of %d leaves has no leaf %d", size, index)
	}
	if err := tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(leaf)); err != nil {
		return fault.New(fault.Unverified, "the proof that leaf %d is in the log of %d leaves does not hold", index, size)
	}
	return nil
}

// ProveConsistency returns the proof that the log of size leaves begins with the one of old leaves.
func ProveConsistency(old, size int64, stored HashReader) ([]Node, error) {
	if old < 1 || old > size {
		return nil, fault.New(fault.Invalid, "there is no proof from %d to %d leaves", old, size)
	}
	p, err := tlog.ProveTree(size, old, stored)
	return p, fault.Wrap(fault.Internal, err, "prove the log of %d leaves against that of %d", size, old)
}

// CheckConsistency verifies what ProveConsistency returned. Error: fault.Unverified.
func CheckConsistency(proof []Node, old int64, oldRoot Node, size int64, root Node) error {
	if old < 1 || old > size {
		return fault.New(fault.Unverified, "a log of %d leaves does not extend one of %d", size, old)
	}
	if err := tlog.CheckTree(proof, size, root, old, oldRoot); err != nil {
		return fault.New(fault.Unverified, "the log of %d leaves does not begin with the one of %d: history was rewritten", size, old)
	}
	return nil
}

// Position says where in a log a leaf stands, and proves it. Its JSON is part of the evidence of a run.
type Position struct {
	Origin string `json:"origin"` // of the log
	Index  int64  `json:"index"`
	Size   int64  `json:"size"` // of the log that the checkpoint signs
	Proof  []Node `json:"proof"`
}
