package ledger

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// AuditVersion tells the leaf of an audit stream from that of a run.
const AuditVersion = "orrery.audit/v1"

// AuditLeaf is what the log keeps of the audit stream of its tenant: how many entries there were at a time, and the hash of the last, which
// stands for all of them.
type AuditLeaf struct {
	Version string      `json:"v"`
	Tenant  work.Tenant `json:"tenant"`
	Entries int64       `json:"entries"`
	Head    work.Digest `json:"head"`
	Sealed  work.Time   `json:"sealed"`
}

// Encode returns the bytes that are hashed: canonical JSON.
func (l AuditLeaf) Encode() ([]byte, error) { return canonical.Marshal(l) }

// ParseAuditLeaf reads what Encode writes, and nothing else. Error: fault.Invalid.
func ParseAuditLeaf(raw []byte) (AuditLeaf, error) {
	var l AuditLeaf
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fault.New(fault.Invalid, "this is no leaf of an audit stream")
	}
	again, err := l.Encode()
	if err != nil || !bytes.Equal(again, raw) || l.Version != AuditVersion || l.Entries < 1 {
		return l, fault.New(fault.Invalid, "this is no leaf of an audit stream")
	}
	return l, nil
}
