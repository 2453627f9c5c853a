package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/httpapi/workerapi"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

const acme work.Tenant = "acme"

// tokens stand for who holds them.
type tokens map[string]access.Principal

func (t tokens) Expect(string, work.Tenant) (string, []store.RecordRef) { return "", nil }

func (t tokens) Tenant(context.Context, work.Tenant, store.Found) error { return nil }

func (t tokens) Principal(_ context.Context, token string, _ store.Found) (access.Principal, error) {
	if p, ok := t[token]; ok {
		return p, nil
	}
	return access.Principal{}, fault.New(fault.Unauthenticated, "nobody knows this token")
}

// rig is a server on a store in memory.
type rig struct {
	t         testing.TB
	store     *kernel.Store
	blobs     *folder.Store
	handler   http.Handler
	server    *httptest.Server
	authority *authority.Authority
	start     time.Time
	skew      atomic.Int64
	speed     atomic.Int64
	requests  atomic.Int64
	exchanges atomic.Int64 // of the requests
	mu        sync.Mutex
	runs      int
	stated    []json.RawMessage // what authors have signed of packs
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, start: time.Now()}
	r.store = kernel.New(memory.New(), kernel.Options{Now: r.now})
	var err error
	if r.blobs, err = folder.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	e, err := keyring.NewEncrypter(bytes.Repeat([]byte{7}, keyring.EncryptionKeySize))
	if err != nil {
		t.Fatal(err)
	}
	if r.authority, err = authority.Open(t.Context(), authority.Config{Records: r.store, Encrypter: e, Now: r.now}); err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.New(httpapi.Config{
		Routes: workerapi.Routes(workerapi.Deps{
			Store: r.store, Blobs: r.blobs, Spool: t.TempDir(), Now: r.now, Authority: r.authority,
			Signed: func(context.Context, work.Tenant, work.Digest) ([]json.RawMessage, error) { return r.stated, nil },
		}),
		Certificate: r.authority.Identify,
		Identity: tokens{
			"one": {Subject: "pool", Kind: "service", Tenant: acme, Scopes: []access.Scope{access.Worker, access.OrchRead, access.OrchOperate}},
			"two": {Subject: "pool", Kind: "service", Tenant: "globex", Scopes: []access.Scope{access.Worker}},
			"not": {Subject: "reader", Kind: "user", Tenant: acme, Scopes: []access.Scope{access.PacksRead}},
		},
		Records: r.store, Now: r.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		if strings.HasSuffix(req.URL.Path, "/exchange") {
			r.exchanges.Add(1)
		}
		server.ServeHTTP(w, req)
	})
	r.server = httptest.NewServer(r.handler)
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) now() work.Time {
	passed := time.Since(r.start) * time.Duration(max(1, r.speed.Load()))
	return work.At(r.start.Add(passed + time.Duration(r.skew.Load())))
}

// fast lets the clock of the server run faster.
func (r *rig) fast(n int64) { r.speed.Store(n) }

// timers lets the store act on what is due until the test ends.
func (r *rig) timers() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	hints := r.store.Watch(ctx)
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if _, err := r.store.Tick(context.Background(), 500); err != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-hints:
			case <-tick.C:
			}
		}
	}()
	r.t.Cleanup(func() { stop(); <-done })
}

func (r *rig) client(at, token string) *remote.Client {
	c, err := remote.New(remote.Config{Server: at, Token: func() string { return token }})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// bench is a worker under test.
type bench struct {
	source *remote.Source
	ended  chan error
	stop   context.CancelFunc
}

// worker starts a worker against an address; prepare may change what it is made of.
func (r *rig) worker(at string, slots int, prepare func(*worker.Config)) *bench {
	r.t.Helper()
	life, kill := context.WithCancel(context.Background())
	ctx, stop := context.WithCancel(life)
	c := r.client(at, "one")
	about := remote.About{Worker: "w", Slots: slots, Offer: api.WorkerOffer{Runners: worker.Runners(), Labels: map[string]string{"zone": "a"}, Tier: 2}}
	config := worker.Config{
		Name: "w", Tenant: acme, Slots: slots, Dir: r.t.TempDir(), Sandbox: direct{}, Labels: about.Offer.Labels, Tier: 2,
		Inside: func(dir string) string { return dir }, Path: os.Getenv("PATH"), Now: func() work.Time { return work.At(time.Now()) },
		Log: slog.New(slog.DiscardHandler),
	}
	if prepare != nil {
		prepare(&config)
	}
	cache, err := folder.Open(r.t.TempDir())
	if err != nil {
		r.t.Fatal(err)
	}
	b := &bench{source: c.Source(life, about), ended: make(chan error, 1), stop: stop}
	config.Wake = b.source.Wake()
	w := worker.New(config, b.source, c.Blobs(cache, config.Dir))
	context.AfterFunc(ctx, b.source.Leave)
	go func() { b.ended <- w.Run(ctx) }()
	r.t.Cleanup(func() {
		stop()
		select {
		case err := <-b.ended:
			if err != nil {
				r.t.Error(err)
			}
		case <-time.After(patience):
			r.t.Error("the worker does not end")
		}
		kill()
		c.Close()
	})
	return b
}

// direct runs steps as they are, without isolation: what is tested here is how work travels.
type direct struct{}

func (direct) Probe(context.Context) sandbox.Capability { return sandbox.Capability{Tier: 2} }

func (direct) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = s.Env, s.Dir, s.Stdout, s.Stdout
	cmd.WaitDelay = time.Second
	res := sandbox.Result{Cause: sandbox.Exited, Protections: sandbox.Protections{Tier: 2, Label: "none", Layers: map[string]string{}}}
	if err := cmd.Run(); err != nil {
		res.ExitCode = 1
		if ctx.Err() != nil {
			res.Cause = sandbox.Cancelled
		}
	}
	return res, nil
}

func noop(id string) work.PlanStep { return runStep(id, work.RunSpec{Runner: "noop"}) }

func shell(id, script string) work.PlanStep {
	return runStep(id, work.RunSpec{Runner: "shell", Script: script})
}

func runStep(id string, spec work.RunSpec) work.PlanStep {
	spec.Sandbox.MinTier, spec.TimeoutMs, spec.GraceMs = "t2", 600_000, 200
	if spec.Retry.MaxAttempts == 0 {
		spec.Retry.MaxAttempts = 1
	}
	return work.PlanStep{ID: work.StepID(id), Kind: work.KindRun, Run: &spec}
}

// submit starts a run.
func (r *rig) submit(request []byte, id work.RunID, p *work.Plan) (work.RunID, work.Digest) {
	r.t.Helper()
	r.mu.Lock()
	r.runs++
	if id == "" {
		id = work.RunID(fmt.Sprintf("run_%03d", r.runs))
	}
	r.mu.Unlock()
	p.Version, p.Pack = work.PlanVersion, work.PackRef{Name: "test", Version: "1.0.0", Digest: canonical.Digest([]byte("test"))}
	raw, err := canonical.Marshal(p)
	if err != nil {
		r.t.Fatal(err)
	}
	hash := canonical.Digest(raw)
	run := work.Run{Tenant: acme, ID: id, Name: string(id[4:]), PlanHash: hash, Pack: p.Pack, Submitter: "somebody"}
	out := r.store.Submit(context.Background(), []store.Submission{{Run: run, Canonical: raw, Request: request, Data: work.SubmittedData{
		Name: run.Name, PlanHash: hash, Pack: p.Pack, Submitter: run.Submitter, InputsHash: hash, ReplayToken: "r",
	}}})[0]
	if out.Err != nil {
		r.t.Fatal(out.Err)
	}
	return id, hash
}

// patience is how long something may take that happens by itself. Nothing that is well comes near.
const patience = 2 * time.Minute

// until waits for a run to be as wanted.
func (r *rig) until(id work.RunID, what string, as func(*work.Run) bool) work.Run {
	r.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	hints := r.store.Watch(ctx)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		run, err := r.store.Run(ctx, acme, string(id))
		if err != nil {
			r.t.Fatal(err)
		}
		if as(&run) {
			return run
		}
		select {
		case <-hints:
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("%s never got %s: %s %+v", id, what, run.State, run.Reason)
		}
	}
}

func (r *rig) ends(id work.RunID) work.Run {
	r.t.Helper()
	return r.until(id, "to its end", func(run *work.Run) bool { return run.State.Terminal() })
}

func (r *rig) events(id work.RunID) []work.Event {
	r.t.Helper()
	events, err := r.store.Events(context.Background(), acme, id, 1, 100_000)
	if err != nil {
		r.t.Fatal(err)
	}
	return events
}

func (r *rig) count(id work.RunID, kind work.EventType) int {
	n := 0
	for _, e := range r.events(id) {
		if e.Type == kind {
			n++
		}
	}
	return n
}

func (r *rig) text(id work.RunID) string {
	r.t.Helper()
	lines, err := r.store.Lines(context.Background(), acme, id, 1, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Message + "\n")
	}
	return b.String()
}

func read(t testing.TB, b worker.Blobs, d work.Digest) []byte {
	t.Helper()
	f, _, err := b.Open(context.Background(), acme, d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	if _, err := io.Copy(&out, f); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
