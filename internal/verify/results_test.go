package verify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

const spiffe = "spiffe://orrery/tenant/acme/worker/pool/w1"

// byKey signs results with a key that the trust root knows, each signature for so many.
func byKey(key *keyring.Private, size int) func([]evidence.Result) error {
	return func(results []evidence.Result) error {
		for batch := range slices.Chunk(results, size) {
			err := evidence.SignResults(batch, nil, func(payloadType string, payload []byte) (dsse.Envelope, error) {
				return key.Sign(context.Background(), payloadType, payload)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// issuer is an authority of workers' certificates.
type issuer struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: evidencetest.Start.Std(), NotAfter: evidencetest.Start.Std().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	return &issuer{key, root}
}

// trusted adds the authority to a trust root.
func (i *issuer) trusted(t *testing.T, trust keyring.Trust) keyring.Trust {
	t.Helper()
	k, err := keyring.NewKey("authority", i.key.Public(), []keyring.Usage{keyring.Worker}, evidencetest.Start-1)
	if err != nil {
		t.Fatal(err)
	}
	if trust, err = trust.With(k); err != nil {
		t.Fatal(err)
	}
	return trust
}

// signs signs results with a certificate of the authority for a name and a time.
func (i *issuer) signs(t *testing.T, name string, from, to time.Time) func([]evidence.Result) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, i.root, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	return func(results []evidence.Result) error {
		return evidence.SignResults(results, der, func(payloadType string, payload []byte) (dsse.Envelope, error) {
			return dsse.Sign(payloadType, payload, "", func(pae []byte) ([]byte, error) {
				sum := sha256.Sum256(pae)
				return ecdsa.SignASN1(rand.Reader, key, sum[:])
			})
		})
	}
}

// alter changes what the history says of reports, and everything that follows from it, as a server can that has all its own keys.
func alter(kind work.EventType, step work.StepID, old, new string) func(*work.Event) {
	return func(e *work.Event) {
		if (kind == "" || e.Type == kind) && (step == "" || e.Step == step) {
			e.Data = json.RawMessage(strings.ReplaceAll(string(e.Data), old, new))
		}
	}
}

// N1, N3: a result that the server has altered is found out by the signature of its worker, and by nothing else.
func TestN1_AlteredResults(t *testing.T) {
	w := evidencetest.NewWorld(t)
	a, stranger := newIssuer(t), newIssuer(t)
	trust := a.trusted(t, w.Trust)
	start := evidencetest.Start.Std()
	from, to := start.Add(-time.Minute), start.Add(time.Hour)
	certified := a.signs(t, spiffe, from, to)
	all, one := byKey(w.Worker, 100), byKey(w.Worker, 1)
	swap := func(results []evidence.Result) error {
		err := all(results)
		results[0].Report.Signed, results[1].Report.Signed = results[1].Report.Signed, results[0].Report.Signed
		return err
	}
	strip := func(results []evidence.Result) error {
		err := all(results)
		results[1].Report.Signed = nil
		return err
	}
	place := func(change func(*work.ResultBatch)) func([]evidence.Result) error {
		return func(results []evidence.Result) error {
			err := all(results)
			change(results[0].Report.Signed.Batch)
			return err
		}
	}
	elsewhere := func(results []evidence.Result) error {
		moved := slices.Clone(results)
		for i := range moved {
			moved[i].Run = "run_of_another"
		}
		return all(moved)
	}
	more := alter("", "", `"outputs":{"size":12}`, `"outputs":{"size":13}`)
	for _, c := range []struct {
		name   string
		sign   func([]evidence.Result) error
		worker string
		data   func(*work.Event)
		trust  keyring.Trust
		want   verify.Verdict
		detail string
	}{
		{"not signed", nil, "", nil, trust, verify.Valid, "no result is signed"},
		{"not signed, altered", nil, "", more, trust, verify.Valid, "no result is signed"}, // which is what signatures are for
		{"signed at once", all, "", nil, trust, verify.Valid, "5 results signed by worker"},
		{"signed one by one", one, "", nil, trust, verify.Valid, "5 results signed by worker"},
		{"with a certificate", certified, spiffe, nil, trust, verify.Valid, "5 results signed by " + spiffe},
		{"with a certificate, and a name of its own", certified, spiffe + "/rack7", nil, trust, verify.Valid, spiffe},
		{"one without", strip, "", nil, trust, verify.Valid, "4 results signed by worker, 1 not signed"},
		{"altered", all, "", more, trust, verify.Invalid, `attempt 2 of "build"`},
		{"altered, one by one", one, "", more, trust, verify.Invalid, `attempt 2 of "build"`},
		{"altered, with a certificate", certified, spiffe, more, trust, verify.Invalid, `attempt 2 of "build"`},
		{"the sandbox was weaker", all, "", alter(work.StepReported, "cleanup", `"label":"t2"`, `"label":"t3"`), trust, verify.Invalid, "cleanup"},
		{"the signatures of others", swap, "", nil, trust, verify.Invalid, "build"},
		{"another place in the batch", place(func(b *work.ResultBatch) { b.Index++ }), "", nil, trust, verify.Invalid, "build"},
		{"another size of the batch", place(func(b *work.ResultBatch) { b.Size++ }), "", nil, trust, verify.Invalid, "build"},
		{"no way to the root", place(func(b *work.ResultBatch) { b.Proof = b.Proof[1:] }), "", nil, trust, verify.Invalid, "build"},
		{"signed for another run", elsewhere, "", nil, trust, verify.Invalid, "build"},
		{"nobody knows the key", all, "", nil, without(trust, "worker"), verify.NotTrusted, "no such worker"},
		{"a key for something else", byKey(w.Attestor, 9), "", nil, trust, verify.NotTrusted, "no such worker"},
		{"nobody knows the authority", certified, spiffe, nil, w.Trust, verify.NotTrusted, "no authority"},
		{"another authority", stranger.signs(t, spiffe, from, to), spiffe, nil, trust, verify.NotTrusted, "no authority"},
		{"the certificate of another", certified, "spiffe://orrery/tenant/acme/worker/pool/w2", nil, trust, verify.Invalid, "is that of " + spiffe},
		{"of another tenant", a.signs(t, strings.Replace(spiffe, "acme", "globex", 1), from, to), strings.Replace(spiffe, "acme", "globex", 1), nil, trust, verify.Invalid, "no worker of tenant acme"},
		{"of no worker", a.signs(t, "spiffe://orrery/server", from, to), "spiffe://orrery/server", nil, trust, verify.Invalid, "no worker"},
		{"certified too late", a.signs(t, spiffe, to, to.Add(time.Hour)), spiffe, nil, trust, verify.Invalid, "did not last"},
		{"certified too early", a.signs(t, spiffe, from.Add(-time.Hour), from), spiffe, nil, trust, verify.Invalid, "did not last"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := pack(t, w.Record(t, evidencetest.Case{Sign: c.sign, Worker: c.worker, Data: c.data}), w.Attestor)
			r := judge(raw, c.trust)
			for _, check := range r.Checks {
				if check.Name == "results" && !strings.Contains(check.Detail, c.detail) || check.Name != "results" && check.Result != verify.Pass && check.Name != "policy" {
					t.Errorf("%s: %s %s", check.Name, check.Result, check.Detail)
				}
			}
			if r.Verdict != c.want {
				t.Errorf("%s, want %s", r.Verdict, c.want)
			}
			if got := script(t, raw, c.trust); got != c.want {
				t.Errorf("verify.py says %s, want %s", got, c.want)
			}
		})
	}
	raw := pack(t, w.Record(t, evidencetest.Case{Sign: strip}), w.Attestor)
	if r := verify.Bundle(strings.NewReader(string(raw)), trust, verify.Options{SignedResults: true}); r.Verdict != verify.Incomplete {
		t.Errorf("a result without a signature where all must have one: %s", r.Verdict)
	}
	if got := script(t, raw, trust, "--signed-results"); got != verify.Incomplete {
		t.Errorf("verify.py, where all must be signed: %s", got)
	}
}

// script returns the verdict of the verifier that was written from the page alone.
func script(t *testing.T, bundle []byte, trust keyring.Trust, more ...string) verify.Verdict {
	t.Helper()
	dir := t.TempDir()
	doc, err := canonical.Marshal(trust)
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "e.tar"), bundle, 0o600), os.WriteFile(filepath.Join(dir, "trust.json"), doc, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"../../scripts/verify/verify.py", filepath.Join(dir, "e.tar"), filepath.Join(dir, "trust.json")}, more...)
	out, err := exec.Command("python3", args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if t.Failed() {
		t.Logf("%s", out)
	}
	return verify.Verdict(lines[len(lines)-1])
}
