package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

const auditEntries = "audit/entries.ndjson"

// auditStream stands where a run does in the entries of an audit stream.
const auditStream = "audit"

// isAudit reports whether the files are an audit bundle: entries, and what proves them, and nothing else.
func isAudit(files map[string]*member) bool {
	return files[auditEntries] != nil && files["manifest.json"] == nil
}

// audit examines an audit bundle: that the entries are the ones that a leaf of the tenant's log stands for.
func (b *bundle) audit() {
	var sealed ledger.AuditLeaf
	for _, c := range []struct {
		name  string
		check func() (string, error)
	}{
		{"files", func() (string, error) {
			for name := range b.files {
				if !slices.Contains([]string{auditEntries, "audit/checkpoint", "audit/leaf.json", "audit/proof.json"}, name) {
					return "", wrong("%s does not belong into an audit bundle", name)
				}
			}
			return "an audit stream and its proof", nil
		}},
		{"entries", b.checkEntries},
		{"seal", func() (detail string, err error) { sealed, detail, err = b.checkAuditLeaf(); return detail, err }},
		{"ledger", func() (string, error) {
			if sealed.Entries == 0 {
				return "", absent("it takes the leaf to know what the log must hold")
			}
			leaf, err := b.file("audit/leaf.json")
			if err != nil {
				return "", err
			}
			return b.checkInclusion(leaf, sealed.Tenant, sealed.Sealed)
		}},
	} {
		detail, err := c.check()
		b.report.add(c.name, detail, err)
	}
}

// checkEntries verifies the chain of the entries, each in its one spelling.
func (b *bundle) checkEntries() (string, error) {
	raw := b.files[auditEntries].data
	chain := ledger.Chain{}
	var buffer []byte
	for len(raw) > 0 {
		line, rest, ended := bytes.Cut(raw, []byte{'\n'})
		raw = rest
		var e work.Event
		if err := json.Unmarshal(line, &e); err != nil || !ended {
			return "", wrong("entry %d cannot be read", chain.Len()+1)
		}
		var err error
		if buffer, err = ledger.Encode(buffer[:0], &e); err != nil || !bytes.Equal(buffer, line) {
			return "", wrong("entry %d is not spelled as entries are", chain.Len()+1)
		}
		if e.Run != auditStream {
			return "", wrong("entry %d is of run %s, not of an audit stream", e.Seq, e.Run)
		}
		if err := chain.Check(&e); err != nil {
			return "", fault.Wrap(fault.Unverified, err, "entry %d", chain.Len()+1)
		}
		b.report.Tenant = e.Tenant
	}
	b.report.Events, b.report.Head = chain.Len(), chain.Head()
	return fmt.Sprintf("%d, unbroken up to %s", chain.Len(), chain.Head().Short()), nil
}

func (b *bundle) checkAuditLeaf() (ledger.AuditLeaf, string, error) {
	raw, err := b.file("audit/leaf.json")
	if err != nil {
		return ledger.AuditLeaf{}, "", err
	}
	l, err := ledger.ParseAuditLeaf(raw)
	switch {
	case err != nil:
		return ledger.AuditLeaf{}, "", wrong("audit/leaf.json: %s", err)
	case l.Tenant != b.report.Tenant:
		return ledger.AuditLeaf{}, "", wrong("the leaf is about tenant %s, the entries are of %s", l.Tenant, b.report.Tenant)
	case b.opts.Tenant != "" && l.Tenant != b.opts.Tenant:
		return ledger.AuditLeaf{}, "", wrong("this is the audit stream of tenant %s, not of %s", l.Tenant, b.opts.Tenant)
	case b.opts.Run != "" || b.opts.PlanHash != "":
		return ledger.AuditLeaf{}, "", wrong("this is an audit stream, not the evidence of a run")
	case l.Entries != b.report.Events || l.Head != b.report.Head:
		return ledger.AuditLeaf{}, "", wrong("%d entries up to %s were sealed, and here are %d up to %s", l.Entries, l.Head.Short(), b.report.Events, b.report.Head.Short())
	}
	return l, fmt.Sprintf("%d entries of tenant %s, sealed at %s", l.Entries, l.Tenant, l.Sealed), nil
}
