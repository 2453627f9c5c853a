package authority_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

func csr(t *testing.T, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var spiffe = regexp.MustCompile(`^spiffe://orrery/tenant/acme/worker/pool-a/[a-z0-9]{16}$`)

func TestLife(t *testing.T) {
	clock := time.Now()
	now := func() work.Time { return work.At(clock) }
	dir := t.TempDir()
	a, err := authority.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "authority.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	token, err := a.Invite("acme", "pool-a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(token+"x", csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
	if _, err := a.Join(token, csr(t, elliptic.P384())); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	// What was promised counts after a restart, too.
	if a, err = authority.Open(dir, now); err != nil {
		t.Fatal(err)
	}
	text, err := a.Join(token, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(token, csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a token counted twice", err)
	}
	cert := parse(t, text)
	p, err := a.Identify(cert)
	if err != nil || p.Tenant != "acme" || p.Kind != "worker" || !spiffe.MatchString(p.Subject) {
		t.Fatal(p, err)
	}
	if life := cert.NotAfter.Sub(clock); life > time.Hour {
		t.Error(life)
	}
	openssl(t, dir, text)

	clock = clock.Add(50 * time.Minute)
	text, err = a.Renew(cert, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	renewed := parse(t, text)
	clock = clock.Add(20 * time.Minute)
	if _, err := a.Identify(cert); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a certificate counts after its end", err)
	}
	if _, err := a.Renew(cert, csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a certificate was renewed after its end", err)
	}
	if again, err := a.Identify(renewed); err != nil || again.Subject != p.Subject {
		t.Error(again, err)
	}
	if err := a.Deny("globex", p.Subject, authority.Denial{Reason: "r"}); fault.CodeOf(err) != fault.NotFound {
		t.Error("one tenant denies the worker of another", err)
	}
	if err := a.Deny("acme", p.Subject, authority.Denial{Reason: "stolen", By: "alice"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.Identify(renewed); fault.CodeOf(err) != fault.Unauthenticated {
			t.Error("a denied worker is let in", err)
		}
		if a, err = authority.Open(dir, now); err != nil {
			t.Fatal(err)
		}
	}
}

// Certificates of another authority do not count, whatever they say.
func TestStranger(t *testing.T) {
	now := func() work.Time { return work.At(time.Now()) }
	ours, err := authority.Open(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := authority.Open(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	token, err := theirs.Invite("acme", "pool-a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	text, err := theirs.Join(token, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Identify(parse(t, text)); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
	if _, err := ours.Identify(ours.Root()); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("the authority itself is no worker", err)
	}
	for _, pool := range []string{"", "a/b", "..", "a b"} {
		if _, err := ours.Invite("acme", pool, 0); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("pool %q: %v", pool, err)
		}
	}
}

// OpenSSL takes the chain, too.
func openssl(t *testing.T, dir string, cert []byte) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		return // the rest of the test holds without it
	}
	path := filepath.Join(t.TempDir(), "worker.pem")
	if err := os.WriteFile(path, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", filepath.Join(dir, authority.RootFile), path}} {
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Errorf("openssl %v: %v\n%s", args, err, out)
		}
	}
}
