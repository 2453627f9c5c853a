package remote_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// secure is the server again, over TLS, with the identities of its authority.
func (r *rig) secure(t *testing.T) (url string, trusted *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(r.handler)
	clients := x509.NewCertPool()
	clients.AddCert(r.authority.Root())
	s.TLS = &tls.Config{ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	trusted = x509.NewCertPool()
	trusted.AddCert(s.Certificate())
	return s.URL, trusted
}

// A worker joins with a token that counts once, works under the name of its certificate, renews it, and is out when it is denied.
func TestCertificates(t *testing.T) {
	r := newRig(t)
	url, trusted := r.secure(t)
	dir := t.TempDir()
	id, err := remote.OpenIdentity(dir)
	if err != nil || id.Joined() {
		t.Fatal(err)
	}
	config := remote.Config{Server: url, TLS: &tls.Config{RootCAs: trusted, GetClientCertificate: id.Certificate, MinVersion: tls.VersionTLS12}}
	c, err := remote.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx := t.Context()
	if err := id.Join(ctx, c, "orj_wrong"); fault.CodeOf(err) != fault.Unauthenticated {
		t.Fatal(err)
	}
	token, err := r.authority.Invite(t.Context(), acme, "pool-a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Join(ctx, c, token); err != nil || !id.Joined() {
		t.Fatal(err)
	}
	other, err := remote.OpenIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Join(ctx, c, token); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a token counted twice", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "worker.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	life, stop := context.WithCancel(ctx)
	defer stop()
	source := c.Source(life, remote.About{Worker: "rack7", Slots: 1, Offer: api.WorkerOffer{Runners: []string{"noop"}, Tier: 2}})
	if err := source.OpenSession(ctx, store.Session{ID: "ses_certificate"}); err != nil {
		t.Fatal(err)
	}
	name := <-source.Joined()
	if !strings.HasPrefix(name, "spiffe://orrery/tenant/acme/worker/pool-a/") || !strings.HasSuffix(name, "/rack7") {
		t.Error(name)
	}
	before, err := os.ReadFile(filepath.Join(dir, "worker.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Renew(ctx, c); err != nil {
		t.Fatal(err)
	}
	if again, err := remote.OpenIdentity(dir); err != nil || !again.Joined() {
		t.Error("the renewed identity is not kept", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "worker.pem")); err != nil || string(after) == string(before) {
		t.Error("nothing was renewed", err)
	}
	run, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
	if _, err := c.Source(life, remote.About{}).Request(ctx, acme, run); err != nil {
		t.Error(err)
	}
	worker := strings.TrimSuffix(name, "/rack7")
	if err := r.authority.Deny(t.Context(), acme, worker, authority.Denial{Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if err := source.OpenSession(ctx, store.Session{ID: "ses_certificate"}); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a denied worker claims", err)
	}
	if errs := source.Ack(ctx, []store.AckCommand{{Run: run, Step: "a"}}); fault.CodeOf(errs[0]) != fault.Unauthenticated {
		t.Error("a denied worker is heard", errs)
	}
	if err := id.Renew(ctx, c); fault.CodeOf(err) != fault.Unauthenticated {
		t.Error("a denied worker renews its certificate", err)
	}
}

// A worker that the server refuses says so instead of trying for ever.
func TestRefused(t *testing.T) {
	r := newRig(t)
	for token, code := range map[string]fault.Code{"nobody's": fault.Unauthenticated, "not": fault.Denied} {
		c := r.client(r.server.URL, token)
		source := c.Source(t.Context(), remote.About{Worker: "w", Slots: 1})
		w := worker.New(worker.Config{Name: "w", Slots: 1, Now: r.now, Log: slog.New(slog.DiscardHandler)}, source, c.Blobs(nil, ""))
		if err := w.Run(t.Context()); fault.CodeOf(err) != code {
			t.Errorf("%s: %v", token, err)
		}
		c.Close()
	}
}

// A token is not sent to another machine in the clear.
func TestClear(t *testing.T) {
	if _, err := remote.New(remote.Config{Server: "http://192.0.2.1:8420"}); fault.CodeOf(err) != fault.Denied {
		t.Error(err)
	}
	for _, wrong := range []string{"", "ftp://x", "https://", "host:1"} {
		if _, err := remote.New(remote.Config{Server: wrong}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
