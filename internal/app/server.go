package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/admission"
	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/httpapi/live"
	"orrery.example/orrery/internal/httpapi/rest"
	"orrery.example/orrery/internal/httpapi/workerapi"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/notify"
	"orrery.example/orrery/internal/oidc"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/stream"
	"orrery.example/orrery/internal/warrant"
	"orrery.example/orrery/internal/work"
)

// ServerOptions say how an installation answers over HTTP.
type ServerOptions struct {
	Options
	Listen   string
	Work     bool    // run steps in this process, too
	Rate     float64 // requests a second of one token
	Burst    int
	CertFile string // TLS, with KeyFile; both or none
	KeyFile  string
	ClientCA string // certificates of workers are signed by one of these; "" for none
	Drain    time.Duration
	Version  string

	Sealed    bool          // nobody outside is asked or told: see sealed
	Providers []oidc.Issuer // identity providers that are trusted
	Aside     Aside
	Inspect   func(ctx context.Context) map[string]any // documents for a debug bundle, by name; nil for none

	Heartbeat time.Duration // of streams, 0 for 15 seconds
	Notify    NotifyOptions
	Publish   []string // brokers that events are published to, by their URLs

	BlobGrace time.Duration // how long a blob stays that nothing names

	SecretEnv   []string // variables that a step here may be given
	SecretDir   string   // and files, below a folder of the tenant's name
	SecretVault string   // and entries of the Vault server, below a path of the tenant's name
}

// Server is an installation: the data folder, its tenants, and the API over them.
type Server struct {
	*Folder
	Identity *identity.Service
	Admin    string // the token of the first administrator, "" unless it was made just now

	opts      ServerOptions
	api       *httpapi.Server
	authority *authority.Authority // of workers' identities
	admission *admission.Service
	federated *oidc.Service // verifies tokens of identity providers
	streams   *stream.Hub
	notify    *notify.Service
	published []*stream.Publisher
	incidents *incident.Service

	mu     sync.Mutex
	spaces map[work.Tenant]*rest.Space
	guards map[work.Tenant]*warrant.Guard
	life   context.Context // of background work, nil before Serve
	group  sync.WaitGroup
}

// AdminTokenFile is where the first administrator's token is left, readable for its owner only.
const AdminTokenFile = "admin-token"

// OpenServer opens the data folder of an installation and makes its first administrator when it is fresh.
func OpenServer(ctx context.Context, o ServerOptions) (*Server, error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, fault.New(fault.Invalid, "TLS needs a certificate and its key").WithHint("give --tls-cert and --tls-key")
	}
	if o.BlobGrace = cmp.Or(o.BlobGrace, collect.DefaultGrace); o.BlobGrace < leastGrace {
		return nil, fault.New(fault.Invalid, "the grace of files that nothing names is at least %s, not %s", leastGrace, o.BlobGrace)
	}
	o.Secret = nil // per tenant
	o.sealed()
	incidents := &incident.Service{Now: Now}
	o.heard = incidents.Committed
	f, err := Open(ctx, o.Options)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Folder: f, opts: o, Identity: &identity.Service{Records: f.Store, Now: Now},
		incidents: incidents, guards: map[work.Tenant]*warrant.Guard{}, admission: &admission.Service{Records: f.Store, Now: Now},
		spaces: map[work.Tenant]*rest.Space{f.Tenant: {Keys: f.Keys, Control: f.Control, Attest: f.Attest, Retention: f.Retention()}},
	}
	s.spaces[f.Tenant].Collect = s.collection
	f.Control.Admit = s.admit(f.Keys)
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *Server) prepare(ctx context.Context) error {
	var err error
	if s.Admin, err = s.Identity.Bootstrap(ctx, s.Tenant); err != nil {
		return err
	}
	if s.Admin != "" {
		if err := os.WriteFile(filepath.Join(s.Dir, AdminTokenFile), []byte(s.Admin+"\n"), 0o600); err != nil {
			return fault.Wrap(fault.Internal, err, "the first administrator's token")
		}
	}
	if s.encrypter == nil {
		if err := s.encrypt(ctx); err != nil {
			return err
		}
	}
	if s.authority, err = authority.Open(ctx, authority.Config{Records: s.Store, Encrypter: s.encrypter, Now: Now}); err != nil {
		return err
	}
	if err := s.signers(s.Keys); err != nil {
		return err
	}
	if s.federated, err = oidc.New(s.opts.Providers, Now, s.Log); err != nil {
		return err
	}
	s.streams = stream.NewHub(s.Store, s.opts.Heartbeat)
	if s.notify, err = s.Notifier(s.opts.Notify); err != nil {
		return err
	}
	if s.published, err = s.publishers(); err != nil {
		return err
	}
	s.attend()
	routes := rest.Routes(rest.Deps{Store: s.Store, Streams: s.streams, Notify: s.notify, Incidents: s.incidents, Blobs: s.Limited, Keeper: s.Blobs, Usage: s.Meter.Usage, Identity: s.Identity, Admission: s.admission, Login: s.logins(), Space: s.space, Check: s.checks, Now: Now, Debug: s.debug})
	routes = append(routes, workerapi.Routes(workerapi.Deps{
		Store: s.Store, Blobs: s.Limited, Spool: filepath.Join(s.Dir, "uploads"), Now: Now, Log: s.Log, Trust: s.trust, Roots: s.roots, Signed: s.signatures, Authority: s.authority,
	})...)
	routes = append(routes, live.Routes(live.Deps{Store: s.Store, Streams: s.streams, Identity: s.Identity})...)
	routes = append(routes, httpapi.ProbeRoutes(httpapi.Probes{Ready: s.ready, Metrics: s.opts.Aside.metrics(s.Telemetry), Version: s.opts.Version})...)
	documents, err := httpapi.DocumentRoutes(routes, s.opts.Version)
	if err != nil {
		return err
	}
	config := httpapi.Config{
		Routes: append(routes, documents...), Identity: callers{s.Identity, s.federated, s.opts.Sealed}, Tickets: s.Identity, Certificate: s.authority.Identify, Records: s.Store,
		Version: s.opts.Version, Rate: s.opts.Rate, Burst: s.opts.Burst, Now: Now, Log: s.Log,
	}
	if s.Telemetry != nil {
		config.Observe = s.Telemetry.request
	}
	s.api, err = httpapi.New(config)
	return err
}

// debug writes a debug bundle of this server.
func (s *Server) debug(ctx context.Context, w io.Writer) error {
	var documents map[string]any
	if s.opts.Inspect != nil {
		documents = s.opts.Inspect(ctx)
	}
	return Bundle(ctx, w, s.opts.Version, s.Folder, s.Telemetry, documents)
}

// trust is the keyring of a tenant, as a document.
func (s *Server) trust(ctx context.Context, tenant work.Tenant) ([]byte, error) {
	sp, err := s.space(ctx, tenant)
	if err != nil {
		return nil, err
	}
	t, err := sp.Keys.Trust()
	if err != nil {
		return nil, err
	}
	return t.Encode()
}

// roots are the signed trust roots of a tenant.
func (s *Server) roots(ctx context.Context, tenant work.Tenant, after int64, limit int) ([]json.RawMessage, error) {
	found, err := s.Identity.Roots(ctx, tenant, after, limit)
	out := make([]json.RawMessage, len(found))
	for i := range found {
		out[i] = found[i].Signed
	}
	return out, err
}

// admit holds runs to the rules of their tenant, and the signatures of packs to its keys.
func (s *Server) admit(keys keyring.Ring) func(context.Context, work.Tenant, work.PackRef, string) error {
	return func(ctx context.Context, tenant work.Tenant, pack work.PackRef, submitter string) error {
		trust, err := keys.Trust()
		if err != nil {
			return err
		}
		return s.admission.Admit(ctx, tenant, pack, submitter, trust)
	}
}

// signatures are what authors have signed of a pack.
func (s *Server) signatures(ctx context.Context, tenant work.Tenant, pack work.Digest) ([]json.RawMessage, error) {
	found, err := s.admission.Signatures(ctx, tenant, pack)
	out := make([]json.RawMessage, len(found))
	for i := range found {
		out[i] = found[i].Signed
	}
	return out, err
}

// ready asks the store something.
func (s *Server) ready(ctx context.Context) error {
	_, err := s.Store.AuditEnd(ctx, s.Tenant)
	return err
}

// Routes returns every operation, for tests that ask all of them.
func (s *Server) Routes() []httpapi.Route { return s.api.Routes }

// Handler answers requests.
func (s *Server) Handler() http.Handler { return s.api }

// space returns what belongs to a tenant. Each has a keyring of its own, so that nobody who is trusted in one signs in another.
func (s *Server) space(ctx context.Context, tenant work.Tenant) (*rest.Space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.spaces[tenant]; sp != nil {
		return sp, nil
	}
	if err := s.Identity.KnowTenant(ctx, tenant, nil); err != nil {
		return nil, err
	}
	keys := s.ring(tenant)
	sealer, err := s.attestor(keys)
	if err != nil {
		return nil, err
	}
	if err := s.signers(keys); err != nil {
		return nil, err
	}
	sp := &rest.Space{Keys: keys, Attest: sealer, Retention: s.retention(sealer), Collect: s.collection, Control: &control.Service{Store: s.Store, Nonces: s.Store, Blobs: s.Limited, Flows: s.Store, Trust: keys.Trust, Now: Now, Admit: s.admit(keys)}}
	s.spaces[tenant] = sp
	if s.life != nil {
		if err := s.serveTenant(tenant, sp); err != nil {
			return nil, err
		}
	}
	return sp, nil
}

// ring returns the keys of a tenant: in the store when several servers share it, else in a folder of the tenant.
func (s *Server) ring(tenant work.Tenant) keyring.Ring {
	if s.Shared() {
		return s.keystore().Ring(tenant)
	}
	return keyring.Open(filepath.Join(s.Dir, "tenants", string(tenant)))
}

// Serve answers until ctx ends, then drains: readiness says no, streams end, requests under way are answered, steps that run here may end.
// ready is called with the address when requests are answered.
func (s *Server) Serve(ctx context.Context, ready func(url string)) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.opts.Listen)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "listen")
	}
	scheme := "http"
	if s.opts.CertFile != "" {
		config, err := s.tls()
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		listener, scheme = tls.NewListener(listener, config), "https"
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := s.opts.Aside.serve(life, s.Telemetry, s.Log); err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := s.work(life); err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{
		Handler: s.api, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	ready(scheme + "://" + listener.Addr().String())
	select {
	case err := <-failed:
		stop()
		s.group.Wait()
		return fault.Wrap(fault.Unavailable, err, "serve")
	case <-ctx.Done():
	}
	s.api.Drain()
	limit, done := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Drain)
	defer done()
	err = server.Shutdown(limit)
	stop()
	if !s.settled(limit) {
		s.Log.Warn("steps were still running at the end of the drain; they are given back at the next start")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.Join(server.Close(), nil)
	}
	return fault.Wrap(fault.Internal, err, "stop")
}

// settled waits for background work, until limit ends.
func (s *Server) settled(limit context.Context) bool {
	ended := make(chan struct{})
	go func() {
		s.group.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-limit.Done():
		return false
	}
}

func (s *Server) tls() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.opts.CertFile, s.opts.KeyFile)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the TLS certificate: %v", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	config.ClientCAs.AddCert(s.authority.Root())
	if s.opts.ClientCA != "" {
		raw, err := os.ReadFile(s.opts.ClientCA)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the certificates of workers' authorities: %v", err)
		}
		if !config.ClientCAs.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", s.opts.ClientCA)
		}
	}
	return config, nil
}

// work starts what goes on beside requests: timers, the inbox, seals, and for every tenant a worker when steps run here.
func (s *Server) work(ctx context.Context) error {
	s.mu.Lock()
	s.life = ctx
	for tenant, sp := range s.spaces {
		if err := s.serveTenant(tenant, sp); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.mu.Unlock()
	s.group.Go(func() { s.timers(ctx) })
	s.group.Go(func() { s.inbox(ctx) })
	s.group.Go(func() { s.policies.Run(ctx) })
	s.group.Go(func() { s.prune(ctx) })
	s.group.Go(func() { s.notify.Run(ctx, s.tenants) })
	for _, p := range s.published {
		s.group.Go(func() { p.Run(ctx, s.tenants) })
	}
	s.group.Go(func() { s.incidents.Run(ctx, s.Tenant, s.tenants) })
	s.group.Go(func() { s.retain(ctx) })
	if s.opts.Work {
		if err := s.steps(ctx); err != nil {
			return err
		}
	}
	for after := ""; ; {
		const page = 100
		tenants, err := s.Identity.Tenants(ctx, after, page)
		if err != nil {
			return err
		}
		for _, t := range tenants {
			after = string(t.Name)
			if _, err := s.space(ctx, t.Name); err != nil {
				return err
			}
		}
		if len(tenants) < page {
			return nil
		}
	}
}

// serveTenant starts what a tenant needs. The lock is held.
func (s *Server) serveTenant(tenant work.Tenant, sp *rest.Space) error {
	ctx := s.life
	s.group.Go(func() { s.seals(ctx, sp.Attest, tenant) })
	return nil
}

// steps runs steps here: one worker takes those of every tenant, in fair shares.
func (s *Server) steps(ctx context.Context) error {
	mine := *s.Folder
	mine.Secret = s.secret
	w, err := mine.worker(ctx, store.Installation, filepath.Join(s.Dir, "work"), s.keysOf, s.guard)
	if err != nil {
		return err
	}
	s.group.Go(func() {
		if err := w.Run(ctx); err != nil {
			s.failed("worker", err)
		}
	})
	return nil
}

// guard checks a lease against the trust root of its tenant.
func (s *Server) guard(ctx context.Context, lease *store.Grant, plan *engine.Graph) error {
	sp, err := s.space(ctx, lease.Tenant)
	if err != nil {
		return err
	}
	s.mu.Lock()
	g := s.guards[lease.Tenant]
	if g == nil {
		if g, err = s.newGuard(sp.Keys); err == nil {
			s.guards[lease.Tenant] = g
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return g.Check(ctx, lease, plan)
}

// secret lets steps of a tenant have what the operator has set aside for that, and nothing else of this machine: whoever may submit a run
// must not read the files and variables of the server.
func (s *Server) secret(tenant work.Tenant, ref string) ([]byte, error) {
	kind, where, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		for _, name := range s.opts.SecretEnv {
			if name == where {
				return s.secrets.resolve(tenant, ref)
			}
		}
	case "file", "age":
		own := filepath.Join(s.opts.SecretDir, string(tenant)) + string(filepath.Separator)
		real, err := filepath.EvalSymlinks(where)
		if s.opts.SecretDir != "" && err == nil && strings.HasPrefix(real, own) {
			return s.secrets.resolve(tenant, ref)
		}
	case "vault":
		if s.opts.Sealed {
			return nil, fault.New(fault.Denied, "this installation is sealed, so no Vault server is asked for the secret %s", ref).WithHint("put it below --secret-dir/%s", tenant)
		}
		below := strings.Trim(s.opts.SecretVault, "/")
		if below != "" && strings.HasPrefix(where, below+"/"+string(tenant)+"/") {
			return s.secrets.resolve(tenant, ref)
		}
	}
	return nil, fault.New(fault.Denied, "the secret %s is not set aside for steps on this server", ref).
		WithHint("name it with --secret-env, or put it below --secret-dir/%s or --secret-vault/%s", tenant, tenant)
}

// prune forgets records that have expired.
func (s *Server) prune(ctx context.Context) {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		const few = 500 // small deletes: nobody waits long for the writer
		for n := few; n == few && ctx.Err() == nil; {
			var err error
			if n, err = s.Store.Prune(context.WithoutCancel(ctx), few); err != nil {
				s.failed("pruning", err)
				break
			}
		}
	}
}
