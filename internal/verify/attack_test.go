package verify_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

// A bundle with any one byte changed is never valid: every byte of headers and padding is tried, of contents a sample.
func TestEveryByteCounts(t *testing.T) {
	w := evidencetest.NewWorld(t)
	raw := pack(t, w.Record(t, evidencetest.Case{Items: 1}), w.Attestor)
	if r := judge(raw, w.Trust); r.Verdict != verify.Valid {
		t.Fatal(r.Verdict)
	}
	contents := make([]bool, len(raw)) // whether a byte is content of a file
	headers := 0
	for at := 0; at+512 <= len(raw) && raw[at] != 0; headers++ {
		size := 0
		for _, c := range raw[at+124 : at+135] {
			size = size*8 + int(c-'0')
		}
		for i := range size {
			contents[at+512+i] = true
		}
		at += 512 + (size+511)/512*512
	}
	rng := rand.New(rand.NewPCG(1, 1))
	tried := 0
	for at := range raw {
		if contents[at] && rng.IntN(40) != 0 || !contents[at] && testing.Short() && rng.IntN(5) != 0 {
			continue
		}
		was := raw[at]
		raw[at] ^= 1 << rng.IntN(8)
		if r := judge(raw, w.Trust); r.Verdict == verify.Valid {
			t.Fatalf("byte %d of %d changed from %q to %q: still valid", at, len(raw), was, raw[at])
		}
		raw[at] = was
		tried++
	}
	t.Logf("%d of %d bytes in %d files", tried, len(raw), headers)
	for _, n := range []int{0, 1, 511, 512, 513, len(raw) / 2, len(raw) - 1024, len(raw) - 512, len(raw) - 1} {
		if r := judge(raw[:n], w.Trust); r.Verdict != verify.Invalid {
			t.Errorf("cut to %d bytes: %s", n, r.Verdict)
		}
	}
	for _, more := range []string{"x", "\x00", strings.Repeat("\x00", 512), strings.Repeat("\x00", 9216)} {
		if r := judge(append(bytes.Clone(raw), more...), w.Trust); r.Verdict != verify.Invalid {
			t.Errorf("with %d bytes more: %s", len(more), r.Verdict)
		}
	}
}

// members is a bundle taken apart.
type members map[string][]byte

func unpack(t *testing.T, raw []byte) (members, time.Time) {
	t.Helper()
	m := members{}
	var at time.Time
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return m, at
		}
		if err != nil {
			t.Fatal(err)
		}
		if m[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		at = h.ModTime
	}
}

func (m members) pack(t *testing.T, at time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(m[name])), Mode: 0o644, ModTime: at, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sign makes the manifest anew: what an attestor that lies would do.
func (m members) sign(t *testing.T, by *keyring.Private) {
	t.Helper()
	var doc evidence.Manifest
	if err := json.Unmarshal(m["manifest.json"], &doc); err != nil {
		t.Fatal(err)
	}
	media := map[string]evidence.FileEntry{}
	for _, f := range doc.Files {
		media[f.Path] = f
	}
	doc.Files = nil
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if name == "manifest.json" || name == "manifest.dsse.json" || name == "SHA256SUMS" {
			continue
		}
		f := media[name]
		f.Path, f.Size, f.SHA256 = name, int64(len(m[name])), canonical.Digest(m[name]).Hex()
		doc.Files = append(doc.Files, f)
		sums.WriteString(f.SHA256 + "  " + name + "\n")
	}
	raw, err := canonical.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	e, err := by.Sign(context.Background(), evidence.PayloadManifest, raw)
	if err != nil {
		t.Fatal(err)
	}
	sums.WriteString(canonical.Digest(raw).Hex() + "  manifest.json\n")
	m["manifest.json"], m["manifest.dsse.json"], m["SHA256SUMS"] = raw, e.Encode(), []byte(sums.String())
}

func failed(r *verify.Report, name string) bool {
	return slices.ContainsFunc(r.Checks, func(c verify.Check) bool { return c.Name == name && c.Result != verify.Pass })
}

// Every file of another bundle in the place of this one's: with the old manifest, and with one signed anew.
func TestFilesOfAnother(t *testing.T) {
	w := evidencetest.NewWorld(t)
	mine := pack(t, w.Record(t, evidencetest.Case{}), w.Attestor)
	others := map[string][]byte{
		"another run":    pack(t, w.Record(t, evidencetest.Case{Run: "run_other"}), w.Attestor),
		"another tenant": pack(t, w.Record(t, evidencetest.Case{Tenant: "evil"}), w.Attestor),
		"another plan":   pack(t, w.Record(t, evidencetest.Case{Plan: func(p *work.Plan) { p.MaxParallel = 7 }}), w.Attestor),
		"another end":    pack(t, w.Record(t, evidencetest.Case{Failed: true}), w.Attestor),
	}
	for what, raw := range others {
		theirs, _ := unpack(t, raw)
		for name := range theirs {
			m, at := unpack(t, mine)
			if bytes.Equal(m[name], theirs[name]) {
				continue
			}
			m[name] = theirs[name]
			if r := judge(m.pack(t, at), w.Trust); r.Verdict != verify.Invalid {
				t.Errorf("%s of %s: %s", name, what, r.Verdict)
			}
			if name == "manifest.json" || name == "manifest.dsse.json" || name == "SHA256SUMS" {
				continue
			}
			m.sign(t, w.Attestor)
			if r := judge(m.pack(t, at), w.Trust); r.Verdict != verify.Invalid {
				t.Errorf("%s of %s under a manifest signed anew: %s", name, what, r.Verdict)
				show(t, r)
			}
		}
	}
}

// Without any one of its files a bundle is not valid, also when the manifest is signed anew without it.
func TestFilesRemoved(t *testing.T) {
	w := evidencetest.NewWorld(t)
	raw := pack(t, w.Record(t, evidencetest.Case{}), w.Attestor)
	whole, at := unpack(t, raw)
	for name := range whole {
		m := maps.Clone(whole)
		delete(m, name)
		r := judge(m.pack(t, at), w.Trust)
		if r.Verdict != verify.Incomplete && r.Verdict != verify.Invalid || name != "manifest.json" && !failed(r, "files") && !failed(r, "manifest") {
			t.Errorf("without %s: %s", name, r.Verdict)
		}
		if strings.HasPrefix(name, "manifest") || name == "SHA256SUMS" {
			continue
		}
		m.sign(t, w.Attestor)
		r = judge(m.pack(t, at), w.Trust)
		if r.Verdict != verify.Incomplete && r.Verdict != verify.Invalid {
			t.Errorf("without %s, under a manifest signed anew: %s", name, r.Verdict)
		}
		if strings.HasPrefix(name, "attestations/") && fault.Exit(r.Err()) != fault.ExitIncomplete {
			t.Errorf("without %s it is incomplete: %s", name, r.Verdict)
		}
	}
	for _, more := range []string{"approvals/build.1.dsse.json", "policy/x.1.json", "transcripts/nobody.ndjson", "outputs/" + strings.Repeat("0", 64)} {
		m := maps.Clone(whole)
		m[more] = []byte("{}\n")
		m.sign(t, w.Attestor)
		if r := judge(m.pack(t, at), w.Trust); r.Verdict != verify.Invalid {
			t.Errorf("with %s more: %s", more, r.Verdict)
		}
	}
}

// What is signed by keys that the verifier does not know, or not for that, is untrusted; so is everything under a fresh root.
func TestSignedByOthers(t *testing.T) {
	w, other := evidencetest.NewWorld(t), evidencetest.NewWorld(t)
	record := w.Record(t, evidencetest.Case{})
	raw := pack(t, record, w.Attestor)
	for name, c := range map[string]struct {
		raw   []byte
		trust keyring.Trust
		check string
	}{
		"another root":      {raw, other.Trust, "manifest"},
		"an empty root":     {raw, keyring.Trust{}, "manifest"},
		"unknown attestor":  {pack(t, record, other.Attestor), w.Trust, "attestation of the run"},
		"a person attests":  {pack(t, record, w.Bob), w.Trust, "manifest"},
		"unknown log":       {raw, without(w.Trust, "log"), "ledger"},
		"unknown approver":  {raw, without(w.Trust, "carol"), "approvals"},
		"unknown submitter": {raw, without(w.Trust, "alice"), "request"},
	} {
		r := judge(c.raw, c.trust)
		if r.Verdict != verify.NotTrusted || fault.Exit(r.Err()) != fault.ExitUntrusted || !failed(r, c.check) {
			t.Errorf("%s: %s", name, r.Verdict)
			show(t, r)
		}
	}
}

func without(t keyring.Trust, name string) keyring.Trust {
	return keyring.Trust{Version: t.Version, Keys: slices.DeleteFunc(slices.Clone(t.Keys), func(k keyring.Key) bool { return k.Name == name })}
}

// A key that is revoked or retired later does not take the evidence with it; one that is compromised does.
func TestKeysOverTime(t *testing.T) {
	w := evidencetest.NewWorld(t)
	raw := pack(t, w.Record(t, evidencetest.Case{}), w.Attestor)
	later := evidencetest.Start.Add(1000 * time.Hour)
	change := func(key *keyring.Private, r keyring.RevocationReason, at work.Time) keyring.Trust {
		tr, err := w.Trust.Revoke(key.KeyID(), keyring.Revocation{At: at, Reason: r})
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	retired, err := w.Trust.Retire(w.Attestor.KeyID(), evidencetest.Start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		trust keyring.Trust
		want  verify.Verdict
	}{
		"retired":                  {retired, verify.Valid},
		"superseded later":         {change(w.Bob, keyring.Superseded, later-1), verify.Valid},
		"superseded before":        {change(w.Bob, keyring.Superseded, evidencetest.Start-10), verify.NotTrusted},
		"compromised later":        {change(w.Bob, keyring.Compromised, later-1), verify.NotTrusted},
		"attestor compromised":     {change(w.Attestor, keyring.Compromised, later-1), verify.NotTrusted},
		"log superseded before":    {change(w.Log, keyring.Superseded, evidencetest.Start-10), verify.NotTrusted},
		"submitter compromised":    {change(w.Alice, keyring.Compromised, later-1), verify.NotTrusted},
		"somebody else superseded": {w.Trust, verify.Valid},
	} {
		r := verify.Bundle(bytes.NewReader(raw), c.trust, verify.Options{Now: later})
		if r.Verdict != c.want {
			t.Errorf("%s: %s", name, r.Verdict)
			show(t, r)
		}
	}
}

func TestExpectations(t *testing.T) {
	w := evidencetest.NewWorld(t)
	record := w.Record(t, evidencetest.Case{})
	raw := pack(t, record, w.Attestor)
	for name, o := range map[string]verify.Options{
		"run": {Run: "run_other"}, "tenant": {Tenant: "other"}, "plan": {PlanHash: canonical.Digest(nil)}, "size": {MaxBytes: 5000},
	} {
		if r := verify.Bundle(bytes.NewReader(raw), w.Trust, o); r.Verdict != verify.Invalid {
			t.Errorf("another %s was expected: %s", name, r.Verdict)
		}
	}
	o := verify.Options{Run: record.Run.ID, Tenant: record.Run.Tenant, PlanHash: record.Run.PlanHash, MaxBytes: int64(len(raw) + 1), Now: evidencetest.Start + 1e9}
	if r := verify.Bundle(bytes.NewReader(raw), w.Trust, o); r.Verdict != verify.Valid {
		t.Error(r.Verdict)
		show(t, r)
	}
}

// A relabelled key id, a second signature or another type around the same payload.
func TestEnvelopes(t *testing.T) {
	w := evidencetest.NewWorld(t)
	whole, at := unpack(t, pack(t, w.Record(t, evidencetest.Case{}), w.Attestor))
	change := func(name string, f func(*dsse.Envelope)) verify.Verdict {
		m := maps.Clone(whole)
		e, err := dsse.Decode(m[name])
		if err != nil {
			t.Fatal(err)
		}
		f(&e)
		m[name] = e.Encode()
		if name != "manifest.dsse.json" {
			m.sign(t, w.Attestor)
		}
		return judge(m.pack(t, at), w.Trust).Verdict
	}
	for _, name := range []string{"manifest.dsse.json", "attestations/run.dsse.json", "attestations/pack-run.dsse.json", "attestations/provenance.dsse.json"} {
		for what, f := range map[string]func(*dsse.Envelope){
			"two signatures":   func(e *dsse.Envelope) { e.Signatures = append(e.Signatures, e.Signatures[0]) },
			"another type":     func(e *dsse.Envelope) { e.Type = "text/plain" },
			"another key's id": func(e *dsse.Envelope) { e.Signatures[0].KeyID = w.Bob.KeyID() },
			"a cut signature":  func(e *dsse.Envelope) { e.Signatures[0].Sig = e.Signatures[0].Sig[:20] },
			"empty signature":  func(e *dsse.Envelope) { e.Signatures[0].Sig = nil },
		} {
			if v := change(name, f); v == verify.Valid {
				t.Errorf("%s with %s: %s", name, what, v)
			}
		}
	}
}
