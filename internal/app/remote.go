package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/warrant"
	"orrery.example/orrery/internal/worker"
)

// WorkerOptions say how a process works for a server.
type WorkerOptions struct {
	Options
	Server    string
	TokenFile string // read again for each request, so that it can be renewed
	CAFile    string // authorities of the server's certificate; "" for the system's
	CertFile  string // the worker's own certificate, with KeyFile; "" for none
	KeyFile   string
	JoinFile  string // a token that counts once, to get a certificate with; "" for none
	Name      string
	Labels    map[string]string
	TrustFile string // the trust root of this worker: a keyring, or a signed trust root

	TrustServer bool   // instead: the server's word for whose signatures count
	RulesFile   string // whose signatures may run what here; "" for whoever is trusted
	Version     string
	Aside       Aside
}

// RunWorker works for a server until ctx ends or the server says to leave, then lets what runs end. ready is called once with the name that
// the worker has in the evidence.
func RunWorker(ctx context.Context, o WorkerOptions, ready func(name string)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	defer o.Telemetry.Close()
	if err := o.Aside.serve(life, o.Telemetry, o.Log); err != nil {
		return err
	}
	w, source, err := newRemoteWorker(life, o)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, source.Leave)
	go func() {
		select {
		case <-source.Drained():
			o.Log.Info("the server says to leave")
			stop()
		case <-life.Done():
		}
	}()
	go func() {
		select {
		case name := <-source.Joined():
			ready(name)
		case <-life.Done():
		}
	}()
	return w.Run(ctx)
}

func newRemoteWorker(life context.Context, o WorkerOptions) (*worker.Worker, *remote.Source, error) {
	client, err := dial(life, o)
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(life, client.Close)
	driver, err := NewSandbox(o.Options)
	if err != nil {
		return nil, nil, err
	}
	spaces, spool := filepath.Join(o.Dir, "work"), filepath.Join(o.Dir, "uploads")
	if err := sweep(spaces); err != nil {
		return nil, nil, err
	}
	if err := sweep(spool); err != nil {
		return nil, nil, err
	}
	cache, err := folder.Open(filepath.Join(o.Dir, "cache"))
	if err != nil {
		return nil, nil, err
	}
	if o.Slots <= 0 {
		o.Slots = 2 * runtime.NumCPU()
	}
	if o.StepPath == "" {
		o.StepPath = defaultPath
	}
	found := driver.Probe(life)
	probe, err := json.Marshal(found)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, err, "what the sandbox can do")
	}
	tier := int(found.Tier)
	source := client.Source(life, remote.About{
		Worker: o.Name, Version: o.Version, Slots: o.Slots, Sandbox: probe,
		Offer: api.WorkerOffer{Runners: worker.Runners(), Labels: o.Labels, Tier: tier},
	})
	guard, err := o.guard(client, source)
	if err != nil {
		return nil, nil, err
	}
	return worker.New(worker.Config{
		Name: o.Name, Tenant: o.Tenant, Slots: o.Slots, Dir: spaces, Sandbox: driver, Labels: o.Labels, Tier: tier,
		Inside: insideOf(life, driver), Secret: o.Telemetry.secret((&secrets{}).resolve), Path: o.StepPath, Wake: source.Wake(), Now: Now, Log: o.Log, Admit: guard.Check, Sign: client.SignResults,
		Observe: o.Telemetry.attempts(o.Name),
	}, o.Telemetry.source(source, o.Slots), client.Blobs(cache, spool)), source, nil
}

// dial makes the connection, with the proofs of who the worker is.
func dial(life context.Context, o WorkerOptions) (*remote.Client, error) {
	c := remote.Config{Server: o.Server, Tenant: string(o.Tenant), Log: o.Log}
	if o.TokenFile != "" {
		t := &tokenFile{path: o.TokenFile, log: o.Log}
		if err := t.read(); err != nil {
			return nil, err
		}
		c.Token = t.value
	} else if o.CertFile == "" && o.JoinFile == "" {
		return nil, fault.New(fault.Invalid, "a worker proves who it is").WithHint("give --token-file, --join-file, or --cert and --key")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		raw, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the authorities of the server: %v", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", o.CAFile)
		}
	}
	if o.CertFile != "" {
		// Read for every handshake: the certificate is short-lived and renewed in place.
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			return &cert, fault.Wrap(fault.Invalid, err, "the certificate of the worker")
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	c.TLS = config
	if o.JoinFile != "" {
		return join(life, o, c)
	}
	return remote.New(c)
}

// join gets the worker an identity of its own, once, and keeps it from running out.
func join(life context.Context, o WorkerOptions, c remote.Config) (*remote.Client, error) {
	id, err := remote.OpenIdentity(o.Dir)
	if err != nil {
		return nil, err
	}
	c.TLS.GetClientCertificate = id.Certificate
	client, err := remote.New(c)
	if err != nil {
		return nil, err
	}
	if !id.Joined() {
		raw, err := os.ReadFile(o.JoinFile)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the token for joining: %v", err)
		}
		if err := id.Join(life, client, strings.TrimSpace(string(raw))); err != nil {
			return nil, err
		}
	}
	go id.Keep(life, client)
	return client, nil
}

// tokenFile is a token that is renewed by replacing a file.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	token  string
	looked time.Time
	stamp  time.Time
}

func (t *tokenFile) read() error {
	info, err := os.Stat(t.path)
	if err != nil {
		return fault.New(fault.Invalid, "the token file: %v", err)
	}
	if exposed(info) {
		return fault.New(fault.Denied, "others may read the token file %s", t.path).WithHint("chmod 600 %s", t.path)
	}
	if info.ModTime().Equal(t.stamp) {
		return nil
	}
	raw, err := os.ReadFile(t.path)
	if err != nil {
		return fault.New(fault.Invalid, "the token file: %v", err)
	}
	if t.token = strings.TrimSpace(string(raw)); t.token == "" {
		return fault.New(fault.Invalid, "the token file %s is empty", t.path)
	}
	t.stamp = info.ModTime()
	return nil
}

// exposed reports whether a file of secrets may be read by more people than meant. A group may read what somebody else has put there for it,
// as the secrets of Kubernetes are; the owner of a file of his own has no reason to share it.
func exposed(info os.FileInfo) bool {
	mode := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	mine := !ok || int(st.Uid) == os.Getuid()
	return mode&0o007 != 0 || mine && mode&0o070 != 0
}

func (t *tokenFile) value() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) > time.Second {
		t.looked = now
		if err := t.read(); err != nil {
			t.log.Warn("the token is not renewed", "error", err)
		}
	}
	return t.token
}

// guard decides whose steps run here.
func (o WorkerOptions) guard(client *remote.Client, source *remote.Source) (*warrant.Guard, error) {
	c := warrant.Config{Request: source.Request, Authors: source.Signatures, Now: Now}
	var err error
	if c.Trust, err = o.trust(client); err != nil {
		return nil, err
	}
	if o.RulesFile != "" {
		raw, err := os.ReadFile(o.RulesFile)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the rules: %v", err)
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		var doc struct {
			Rules []access.Rule `json:"rules"`
		}
		if err := dec.Decode(&doc); err != nil || len(doc.Rules) == 0 {
			return nil, fault.New(fault.Invalid, "%s holds no rules: %v", o.RulesFile, err).
				WithHint(`write {"rules":[{"pack":"*","submitters":["alice"]}]}`)
		}
		c.Rules = doc.Rules
	}
	return warrant.New(c)
}

// follow reads the keyring of the server, and for some time goes by what it read.
func follow(client *remote.Client) func() (keyring.Trust, error) {
	const fresh = 15 * time.Second
	var mu sync.Mutex
	var known keyring.Trust
	var read time.Time
	return func() (keyring.Trust, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(read) < fresh {
			return known, nil
		}
		raw, err := client.Trust(context.Background())
		if err != nil {
			return keyring.Trust{}, err
		}
		t, err := keyring.ParseTrust(raw)
		if err == nil {
			known, read = t, time.Now()
		}
		return t, err
	}
}
