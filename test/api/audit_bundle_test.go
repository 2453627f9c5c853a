package api

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

const entries = "audit/entries.ndjson"

// J16, N5: what is noted of a tenant is sealed in its log; an entry that was removed, altered, swapped or is another tenant's shows offline,
// to both verifiers.
func TestJ16_AuditBundles(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { auditBundles(t, app.ServerOptions{}) })
	t.Run("postgres", func(t *testing.T) {
		pg, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := pg.Close(); err != nil {
				t.Error(err)
			}
		})
		url, err := pg.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		auditBundles(t, app.ServerOptions{Options: app.Options{Store: url}})
	})
}

func auditBundles(t *testing.T, o app.ServerOptions) {
	r := start(t, o)
	files, whole, trust := map[string]map[string][]byte{}, map[string][]byte{}, map[string]keyring.Trust{}
	for _, tenant := range []string{"acme", "globex"} {
		tokens := r.tenant(tenant, "admin", "viewer")
		r.code(r.ask("GET", "/api/v1/audit/bundle", tokens["viewer"], tenant, nil), 403, "DENIED")
		for _, pool := range []string{"one", "two", "three"} {
			r.want(r.ask("POST", "/api/v1/retention/holds", tokens["admin"], tenant, map[string]any{"on": "label/case=" + pool, "reason": "court"}), 200)
		}
		res := r.ask("GET", "/api/v1/audit/bundle", tokens["admin"], tenant, nil)
		if res.status != 200 {
			t.Fatalf("%d %s", res.status, res.body)
		}
		again := r.ask("GET", "/api/v1/audit/bundle", tokens["admin"], tenant, nil)
		if !bytes.Equal(again.body, res.body) {
			t.Error("the same stream gives another bundle")
		}
		root := r.ask("GET", "/api/v1/trust-root", tokens["admin"], tenant, nil)
		doc, err := canonical.Transform(root.body)
		if err != nil {
			t.Fatal(err)
		}
		if trust[tenant], err = keyring.ParseTrust(doc); err != nil {
			t.Fatal(err)
		}
		whole[tenant], files[tenant] = res.body, unpackAudit(t, res.body)
	}
	lines := bytes.SplitAfter(files["acme"][entries], []byte("\n"))
	lines = lines[:len(lines)-1]
	n := len(lines)
	if n < 4 || !bytes.Contains(files["acme"][entries], []byte("court")) {
		t.Fatalf("there are %d entries: %s", n, files["acme"][entries])
	}
	with := func(name string, raw []byte) []byte {
		changed := maps.Clone(files["acme"])
		changed[name] = raw
		return packAudit(t, changed)
	}
	cut := func(from, to int) []byte { return bytes.Join(slices.Delete(slices.Clone(lines), from, to), nil) }
	swapped := slices.Clone(lines)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	for _, c := range []struct {
		name  string
		raw   []byte
		trust keyring.Trust
		want  verify.Verdict
	}{
		{"as it is", whole["acme"], trust["acme"], verify.Valid},
		{"another tenant's, under its own trust root", whole["globex"], trust["globex"], verify.Valid},
		{"signed by nobody that is trusted", whole["globex"], trust["acme"], verify.NotTrusted},
		{"an entry removed", with(entries, cut(1, 2)), trust["acme"], verify.Invalid},
		{"the first removed", with(entries, cut(0, 1)), trust["acme"], verify.Invalid},
		{"the last removed", with(entries, cut(n-1, n)), trust["acme"], verify.Invalid},
		{"an entry altered", with(entries, bytes.Replace(files["acme"][entries], []byte("court"), []byte("fraud"), 1)), trust["acme"], verify.Invalid},
		{"entries swapped", with(entries, bytes.Join(swapped, nil)), trust["acme"], verify.Invalid},
		{"altered, and chained anew", with(entries, relink(t, lines, nil)), trust["acme"], verify.Invalid},
		{"the entries of another tenant", with(entries, files["globex"][entries]), trust["acme"], verify.Invalid},
		{"the leaf of another tenant", with("audit/leaf.json", files["globex"]["audit/leaf.json"]), trust["acme"], verify.Invalid},
		{"the checkpoint of another tenant", with("audit/checkpoint", files["globex"]["audit/checkpoint"]), trust["acme"], verify.Invalid},
		{"altered, chained and sealed anew, and not in the log", resealed(t, files["acme"], lines), trust["acme"], verify.Invalid},
		{"with something beside", with("audit/more.json", []byte("{}")), trust["acme"], verify.Invalid},
	} {
		report := verify.Bundle(bytes.NewReader(c.raw), c.trust, verify.Options{})
		if report.Verdict != c.want && !(c.want == verify.Invalid && report.Verdict == verify.NotTrusted && strings.Contains(c.name, "checkpoint")) {
			t.Errorf("%s: %s, want %s: %+v", c.name, report.Verdict, c.want, report.Checks)
		}
		if got := verdictOf(t, c.raw, c.trust); got != report.Verdict {
			t.Errorf("%s: verify.py says %s, orrery %s", c.name, got, report.Verdict)
		}
	}
	if report := verify.Bundle(bytes.NewReader(whole["acme"]), trust["acme"], verify.Options{Tenant: "globex"}); report.Verdict != verify.Invalid {
		t.Errorf("the stream of acme as that of globex is %s", report.Verdict)
	}
	if report := verify.Bundle(bytes.NewReader(whole["acme"]), trust["acme"], verify.Options{Run: "run_x"}); report.Verdict != verify.Invalid {
		t.Errorf("an audit stream as the evidence of a run is %s", report.Verdict)
	}
}

// relink alters the reason of an entry and makes the chain fit, as whoever has the store can. It tells leaf what the chain ends with.
func relink(t *testing.T, lines [][]byte, leaf *ledger.AuditLeaf) []byte {
	t.Helper()
	var chain ledger.Chain
	var out []byte
	for _, line := range lines {
		var e work.Event
		if err := json.Unmarshal(bytes.Replace(line, []byte("court"), []byte("fraud"), 1), &e); err != nil {
			t.Fatal(err)
		}
		e.Prev, e.Hash, e.Seq = "", "", 0
		err := chain.Append(&e)
		if err == nil {
			out, err = ledger.Encode(out, &e)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, '\n')
	}
	if leaf != nil {
		leaf.Entries, leaf.Head = chain.Len(), chain.Head()
	}
	return out
}

// resealed has a leaf that fits the altered entries.
func resealed(t *testing.T, files map[string][]byte, lines [][]byte) []byte {
	t.Helper()
	leaf, err := ledger.ParseAuditLeaf(files["audit/leaf.json"])
	if err != nil {
		t.Fatal(err)
	}
	changed := maps.Clone(files)
	changed[entries] = relink(t, lines, &leaf)
	if changed["audit/leaf.json"], err = leaf.Encode(); err != nil {
		t.Fatal(err)
	}
	return packAudit(t, changed)
}

func unpackAudit(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func packAudit(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644, ModTime: time.Unix(1_800_000_000, 0), Format: tar.FormatUSTAR})
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// verdictOf asks the verifier that was written from the page alone.
func verdictOf(t *testing.T, bundle []byte, trust keyring.Trust) verify.Verdict {
	t.Helper()
	dir := t.TempDir()
	doc, err := trust.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"a.tar": bundle, "trust.json": doc} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("python3", "../../scripts/verify/verify.py", filepath.Join(dir, "a.tar"), filepath.Join(dir, "trust.json")).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	return verify.Verdict(words[len(words)-1])
}
