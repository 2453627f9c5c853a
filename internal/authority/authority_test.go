package authority_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
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

// config is a store of its own, with a key that it is encrypted with.
func config(t *testing.T, now func() work.Time) authority.Config {
	t.Helper()
	key := make([]byte, keyring.EncryptionKeySize)
	_, _ = rand.Read(key)
	e, err := keyring.NewEncrypter(key)
	if err != nil {
		t.Fatal(err)
	}
	return authority.Config{Records: kernel.New(memory.New(), kernel.Options{Now: now}), Encrypter: e, Now: now}
}

// Two servers on one store: of those who join with one token at once, one is let in.
func TestJoinOnce(t *testing.T) {
	c := config(t, func() work.Time { return work.At(time.Now()) })
	var servers [2]*authority.Authority
	for i := range servers {
		var err error
		if servers[i], err = authority.Open(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if !servers[0].Root().Equal(servers[1].Root()) {
		t.Fatal("they are two authorities")
	}
	token, err := servers[0].Invite(t.Context(), "acme", "pool-a", 0)
	if err != nil {
		t.Fatal(err)
	}
	var in atomic.Int64
	var group sync.WaitGroup
	for i := range 16 {
		request := csr(t, elliptic.P256())
		group.Go(func() {
			switch _, err := servers[i%2].Join(t.Context(), token, request); fault.CodeOf(err) {
			case "":
				in.Add(1)
			case fault.Unauthenticated:
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if in.Load() != 1 {
		t.Errorf("%d workers joined with one token", in.Load())
	}
}

var spiffe = regexp.MustCompile(`^spiffe://orrery/tenant/acme/worker/pool-a/[a-z0-9]{16}$`)

func TestLife(t *testing.T) {
	clock := time.Now()
	now := func() work.Time { return work.At(clock) }
	ctx, config := t.Context(), config(t, now)
	a, err := authority.Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyring.NewEncrypter(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Open(ctx, authority.Config{Records: config.Records, Encrypter: other, Now: now}); fault.CodeOf(err) != fault.Unverified {
		t.Error("the key is read without the encryption key:", err)
	}
	token, err := a.Invite(t.Context(), "acme", "pool-a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(t.Context(), token+"x", csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
	if _, err := a.Join(t.Context(), token, csr(t, elliptic.P384())); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	// What was promised counts after a restart, too.
	if a, err = authority.Open(ctx, config); err != nil {
		t.Fatal(err)
	}
	text, err := a.Join(t.Context(), token, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(t.Context(), token, csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a token counted twice", err)
	}
	cert := parse(t, text)
	p, err := a.Identify(t.Context(), cert)
	if err != nil || p.Tenant != "acme" || p.Kind != "worker" || !spiffe.MatchString(p.Subject) {
		t.Fatal(p, err)
	}
	if life := cert.NotAfter.Sub(clock); life > time.Hour {
		t.Error(life)
	}
	openssl(t, a.RootPEM(), text)

	clock = clock.Add(50 * time.Minute)
	text, err = a.Renew(t.Context(), cert, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	renewed := parse(t, text)
	clock = clock.Add(20 * time.Minute)
	if _, err := a.Identify(t.Context(), cert); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a certificate counts after its end", err)
	}
	if _, err := a.Renew(t.Context(), cert, csr(t, elliptic.P256())); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a certificate was renewed after its end", err)
	}
	if again, err := a.Identify(t.Context(), renewed); err != nil || again.Subject != p.Subject {
		t.Error(again, err)
	}
	if err := a.Deny(t.Context(), "globex", p.Subject, authority.Denial{Reason: "r"}); fault.CodeOf(err) != fault.NotFound {
		t.Error("one tenant denies the worker of another", err)
	}
	if err := a.Deny(t.Context(), "acme", p.Subject, authority.Denial{Reason: "stolen", By: "alice"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.Identify(t.Context(), renewed); fault.CodeOf(err) != fault.Unauthenticated {
			t.Error("a denied worker is let in", err)
		}
		if a, err = authority.Open(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
}

// Certificates of another authority do not count, whatever they say.
func TestStranger(t *testing.T) {
	now := func() work.Time { return work.At(time.Now()) }
	ours, err := authority.Open(t.Context(), config(t, now))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := authority.Open(t.Context(), config(t, now))
	if err != nil {
		t.Fatal(err)
	}
	token, err := theirs.Invite(t.Context(), "acme", "pool-a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	text, err := theirs.Join(t.Context(), token, csr(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Identify(t.Context(), parse(t, text)); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
	if _, err := ours.Identify(t.Context(), ours.Root()); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("the authority itself is no worker", err)
	}
	for _, pool := range []string{"", "a/b", "..", "a b"} {
		if _, err := ours.Invite(t.Context(), "acme", pool, 0); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("pool %q: %v", pool, err)
		}
	}
}

// OpenSSL takes the chain, too.
func openssl(t *testing.T, root, cert []byte) {
	t.Helper()
	path, authorities := filepath.Join(t.TempDir(), "worker.pem"), filepath.Join(t.TempDir(), "root.pem")
	if err := errors.Join(os.WriteFile(path, cert, 0o600), os.WriteFile(authorities, root, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", authorities, path}} {
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Errorf("openssl %v: %v\n%s", args, err, out)
		}
	}
}
