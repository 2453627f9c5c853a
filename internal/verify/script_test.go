package verify_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/evidence/evidencetest"
)

// What this package accepts, tar, sha256sum and openssl accept, and what they can see that is wrong, they refuse, too.
func TestStandardTools(t *testing.T) {
	for _, tool := range []string{"sh", "tar", "openssl", "sha256sum", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal(tool, "is not installed: it comes with Debian")
		}
	}
	w := evidencetest.NewWorld(t)
	dir := t.TempDir()
	key, other := filepath.Join(dir, "attestor.pub.pem"), filepath.Join(dir, "other.pub.pem")
	write(t, key, []byte(w.Attestor.Key.Public))
	write(t, other, []byte(evidencetest.NewWorld(t).Attestor.Key.Public))
	run := func(raw []byte, key string) (string, int) {
		t.Helper()
		bundle := filepath.Join(dir, "bundle.tar")
		write(t, bundle, raw)
		cmd := exec.Command("sh", "../../scripts/verify/verify.sh", bundle, key)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for name, c := range map[string]evidencetest.Case{"succeeded": {}, "failed": {Failed: true}, "cancelled": {Cancel: true}} {
		raw := pack(t, w.Record(t, c), w.Attestor)
		if out, code := run(raw, key); code != 0 || !strings.Contains(out, "VALID    signatures") {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
		if out, code := run(raw, other); code != 1 {
			t.Errorf("%s under another key: %d\n%s", name, code, out)
		}
	}
	whole, at := unpack(t, pack(t, w.Record(t, evidencetest.Case{}), w.Attestor))
	for name, change := range map[string]func(members){
		"plan changed":   func(m members) { m["plan.json"] = append(m["plan.json"], ' ') },
		"sums follow":    func(m members) { swap(m, "plan.json", append(bytes.Clone(m["plan.json"]), ' ')) },
		"file more":      func(m members) { m["outputs/more"] = nil },
		"file less":      func(m members) { delete(m, "timeline.ndjson") },
		"no attestation": func(m members) { delete(m, "attestations/run.dsse.json") },
		"signature bent": func(m members) {
			swap(m, "attestations/run.dsse.json", bytes.Replace(m["attestations/run.dsse.json"], []byte(`"sig":"M`), []byte(`"sig":"N`), 1))
		},
		"manifest of another": func(m members) { m["manifest.dsse.json"] = m["attestations/run.dsse.json"] },
	} {
		m := maps.Clone(whole)
		change(m)
		if out, code := run(m.pack(t, at), key); code != 1 {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
}

// swap puts other bytes in the place of a file and keeps SHA256SUMS in step, as a forger would.
func swap(m members, name string, raw []byte) {
	was := canonical.Digest(m[name]).Hex()
	m[name] = raw
	m["SHA256SUMS"] = bytes.Replace(m["SHA256SUMS"], []byte(was), []byte(canonical.Digest(raw).Hex()), 1)
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
