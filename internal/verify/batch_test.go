package verify_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/verify"
)

// A request that was signed together with others is as good as one that was signed alone, and one that was not among them is none,
// also when whoever makes the evidence is the forger. A verifier that knows no line of this program says the same.
func TestBatchedRequest(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 is not installed: apt-get install python3")
	}
	w := evidencetest.NewWorld(t)
	place := func(change func(p *dsse.Place)) func(*dsse.Envelope) {
		return func(e *dsse.Envelope) { change(e.Signatures[0].Batch) }
	}
	for name, c := range map[string]struct {
		evidencetest.Case
		verdict verify.Verdict
	}{
		"of two":          {evidencetest.Case{Batch: 2}, verify.Valid},
		"of seven":        {evidencetest.Case{Batch: 7}, verify.Valid},
		"of a hundred":    {evidencetest.Case{Batch: 100}, verify.Valid},
		"another place":   {evidencetest.Case{Batch: 7, Forge: place(func(p *dsse.Place) { p.Index-- })}, verify.Invalid},
		"another size":    {evidencetest.Case{Batch: 7, Forge: place(func(p *dsse.Place) { p.Size++ })}, verify.Invalid},
		"another node":    {evidencetest.Case{Batch: 7, Forge: place(func(p *dsse.Place) { p.Proof[0][0] ^= 1 })}, verify.Invalid},
		"a short proof":   {evidencetest.Case{Batch: 7, Forge: place(func(p *dsse.Place) { p.Proof = p.Proof[1:] })}, verify.Invalid},
		"a long proof":    {evidencetest.Case{Batch: 7, Forge: place(func(p *dsse.Place) { p.Proof = append(p.Proof, p.Proof[0]) })}, verify.Invalid},
		"another request": {evidencetest.Case{Batch: 7, Request: func(s *evidence.Submission) { s.PlanHash = s.InputsDigest }}, verify.Invalid},
		"without a place": {evidencetest.Case{Batch: 7, Forge: func(e *dsse.Envelope) { e.Signatures[0].Batch = nil }}, verify.Invalid},
	} {
		raw := pack(t, w.Record(t, c.Case), w.Attestor)
		r := judge(raw, w.Trust)
		if r.Verdict != c.verdict {
			t.Errorf("%s: %s", name, r.Verdict)
			show(t, r)
		}
		if said := independently(t, w, raw); said != string(c.verdict) {
			t.Errorf("%s: verify.py says %s", name, said)
		}
	}
}

// independently returns the verdict of scripts/verify/verify.py.
func independently(t *testing.T, w *evidencetest.World, raw []byte) string {
	t.Helper()
	dir := t.TempDir()
	trust, err := w.Trust.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "trust.json"), trust)
	write(t, filepath.Join(dir, "bundle.tar"), raw)
	out, err := exec.Command("python3", "-B", "../../scripts/verify/verify.py", filepath.Join(dir, "bundle.tar"), filepath.Join(dir, "trust.json")).CombinedOutput()
	if len(out) == 0 {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines)
	return strings.Fields(lines[len(lines)-1])[0]
}
