package verify

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

type outputsDocument struct {
	Run   json.RawMessage `json:"run"`
	Files []outputFile    `json:"files"`
}

type outputFile struct {
	Step       work.StepID `json:"step"`
	Name       string      `json:"name"`
	Path       string      `json:"path"`
	Digest     work.Digest `json:"digest"`
	Size       int64       `json:"size"`
	Executable bool        `json:"executable,omitempty"`
	File       string      `json:"file,omitempty"`
}

// checkValues recomputes the files that show inputs, outputs and connections, and verifies the bytes of outputs.
func (b *bundle) checkValues() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know the values")
	}
	inputs := append([]work.Input{}, b.plan.Inputs...)
	if err := b.equals("inputs.redacted.json", inputs); err != nil {
		return "", err
	}
	if d, _, err := canonical.DigestOf(inputs); err != nil || d != b.hist.submitted.InputsHash {
		return "", wrong("the history names other inputs than the plan")
	}
	doc := outputsDocument{Run: b.hist.ended.Outputs, Files: []outputFile{}}
	used := map[string]bool{}
	for _, s := range b.hist.steps {
		for _, a := range s.ending().Artifacts {
			f := outputFile{s.id, a.Name, a.Path, a.Digest, a.Size, a.Executable, ""}
			if m := b.files[outputs+a.Digest.Hex()]; m != nil {
				if m.sum != a.Digest.Hex() || m.size != a.Size {
					return "", wrong("output %q of step %q is not the file that its worker reported", a.Name, s.id)
				}
				f.File, used[m.name] = m.name, true
			}
			doc.Files = append(doc.Files, f)
		}
	}
	if doc.Run == nil {
		doc.Run = json.RawMessage("null")
	}
	if err := b.equals("outputs.json", doc); err != nil {
		return "", err
	}
	if err := b.onlyThese(outputs, used); err != nil {
		return "", err
	}
	connections, refused, err := b.checkEgress()
	if err != nil {
		return "", err
	}
	attempts := work.Count(connections, "connection attempt")
	if refused > 0 {
		attempts += fmt.Sprintf(", %d refused", refused)
	}
	return fmt.Sprintf("%s, the bytes of %d are here; %s", work.Count(len(doc.Files), "output"), len(used), attempts), nil
}

func (b *bundle) equals(name string, want any) error {
	raw, err := b.file(name)
	if err != nil {
		return err
	}
	if expected, err := canonical.MarshalUpTo(want, maxDocument); err != nil || !bytes.Equal(raw, expected) {
		return wrong("%s says something else than the plan and the history", name)
	}
	return nil
}

func (b *bundle) checkEgress() (n, refused int, err error) {
	raw, err := b.file("egress.ndjson")
	if err != nil {
		return 0, 0, err
	}
	var expected []byte
	for _, e := range b.timeline {
		if e.Type != work.StepReported {
			continue
		}
		var d struct {
			Egress []json.RawMessage `json:"egress"`
		}
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return 0, 0, wrong("the connections of attempt %d of %q are no list", e.Attempt, e.Step)
		}
		for _, one := range d.Egress {
			line, err := canonical.Marshal(map[string]any{"step": e.Step, "attempt": e.Attempt, "record": one})
			if err != nil {
				return 0, 0, wrong("a connection of %q has no canonical form", e.Step)
			}
			expected = append(append(expected, line...), '\n')
			n++
			var record struct {
				Decision string `json:"decision"`
			}
			if err := json.Unmarshal(one, &record); err != nil {
				return 0, 0, wrong("a connection of %q is no record", e.Step)
			}
			if record.Decision == "refused" {
				refused++
			}
		}
	}
	if !bytes.Equal(raw, expected) {
		return 0, 0, wrong("egress.ndjson says something else than the history")
	}
	return n, refused, nil
}

func (b *bundle) position() (ledger.Position, error) {
	raw, err := b.file("audit/proof.json")
	if err != nil {
		return ledger.Position{}, err
	}
	var p ledger.Position
	return p, strict("audit/proof.json", raw, &p)
}

// checkLedger verifies that the end of the run is in the tenant's log, under a signed checkpoint.
func (b *bundle) checkLedger() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know what the log must hold")
	}
	raw, err := b.file("audit/leaf.json")
	if err != nil {
		return "", err
	}
	expected, err := ledger.Leaf{
		Tenant: b.manifest.Tenant, Run: b.manifest.RunID, PlanHash: b.manifest.PlanHash, State: b.hist.ended.State,
		Events: b.report.Events, Head: b.report.Head, Ended: b.hist.overAt,
	}.Encode()
	if err != nil || !bytes.Equal(raw, expected) {
		return "", wrong("the leaf of the log is about another end than the history's")
	}
	return b.checkInclusion(raw, b.manifest.Tenant, b.hist.overAt)
}

// checkInclusion verifies that a leaf is in the log of a tenant, under a checkpoint that is signed by a key which counts at a time.
func (b *bundle) checkInclusion(raw []byte, tenant work.Tenant, when work.Time) (string, error) {
	at, err := b.position()
	if err != nil {
		return "", err
	}
	origin := "orrery.example/audit/" + string(tenant)
	if at.Origin != origin {
		return "", wrong("the leaf is in the log %q, not %q", at.Origin, origin)
	}
	signed, err := b.file("audit/checkpoint")
	if err != nil {
		return "", err
	}
	var keys []ed25519.PublicKey
	for _, k := range b.trust.Keys {
		if pub, err := k.LogKey(); err == nil {
			keys = append(keys, pub)
		}
	}
	c, by, err := ledger.OpenCheckpoint(signed, origin, keys)
	if err != nil {
		return "", err
	}
	if c.Size != at.Size {
		return "", wrong("the proof is for a log of %d leaves, the checkpoint for one of %d", at.Size, c.Size)
	}
	if err := ledger.CheckInclusion(at.Proof, c.Size, c.Root, at.Index, raw); err != nil {
		return "", err
	}
	for _, k := range b.trust.Keys {
		if pub, err := k.LogKey(); err == nil && pub.Equal(by) {
			if err := b.counts(k, when); err != nil {
				return "", fault.Wrap(fault.Untrusted, err, "audit/checkpoint")
			}
		}
	}
	return fmt.Sprintf("leaf %d of %d in %s", at.Index, c.Size, origin), nil
}

// checkSnapshot reads the keys that the producer trusted. They decide nothing here.
func (b *bundle) checkSnapshot() (string, error) {
	raw, err := b.file("trust/keyring.json")
	if err != nil {
		return "", err
	}
	t, err := keyring.ParseTrust(raw)
	if err != nil {
		return "", wrong("trust/keyring.json: %s", err)
	}
	return work.Count(len(t.Keys), "key") + ", kept as evidence; the verdict rests on your trust root", nil
}
