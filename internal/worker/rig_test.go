package worker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

func TestMain(m *testing.M) {
	os.Exit(m.Run())
}

// rig is a worker on a store in memory.
type rig struct {
	t      *testing.T
	driver *memory.Driver
	store  *kernel.Store
	blobs  *blobs
	skew   atomic.Int64 // how far the clock has been moved
	runs   int
	config worker.Config
	source worker.Source
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, driver: memory.New(), blobs: &blobs{m: map[work.Digest][]byte{}}}
	r.store = kernel.New(r.driver, kernel.Options{Now: r.now})
	r.source = r.store
	r.config = worker.Config{
		Name: "test", Tenant: work.LocalTenant, Slots: 4, Dir: t.TempDir(), Local: true, Tier: 2, Path: "/usr/local/bin:/usr/bin:/bin",
		Inside: func(string) string { return linux.WorkPath }, Now: r.now, Log: slog.New(slog.DiscardHandler),
		Secret: func(_ work.Tenant, ref string) ([]byte, error) { return []byte(canary), nil },
	}
	if err := os.Chmod(r.config.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// canary is the value of every secret.
const canary = "Canary/6h2K+pV9zQ4xW81="

func (r *rig) now() work.Time { return work.At(time.Now().Add(time.Duration(r.skew.Load()))) }

// sandboxed gives the worker the sandbox of this machine.
func (r *rig) sandboxed() *rig {
	r.t.Helper()
	d, err := linux.New(linux.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	if d.Probe(r.t.Context()).Tier < sandbox.T2 {
		r.t.Skip("this machine has no sandbox of tier 2")
	}
	r.config.Sandbox = d
	return r
}

// start lets the worker work until the test ends. Without hints it finds work by polling alone.
func (r *rig) start(hints bool) {
	r.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	if hints {
		r.config.Wake = r.store.Watch(ctx)
	}
	ended := make(chan error, 1)
	w := worker.New(r.config, r.source, r.blobs)
	go func() { ended <- w.Run(ctx) }()
	r.t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				r.t.Error(err)
			}
		case <-time.After(patience):
			r.t.Error("the worker does not end")
		}
	})
}

// step is a run step with what tests mostly want.
func step(id work.StepID, spec work.RunSpec) work.PlanStep {
	if spec.Sandbox.MinTier == "" {
		spec.Sandbox.MinTier = "t2"
	}
	if spec.TimeoutMs == 0 {
		spec.TimeoutMs = 60_000
	}
	if spec.GraceMs == 0 {
		spec.GraceMs = 200
	}
	if spec.Retry.MaxAttempts == 0 {
		spec.Retry.MaxAttempts = 1
	}
	return work.PlanStep{ID: id, Kind: work.KindRun, Run: &spec}
}

func shell(id work.StepID, script string, outputs ...work.StepOutput) work.PlanStep {
	return step(id, work.RunSpec{Runner: "shell", Script: script, Outputs: outputs})
}

// submit starts a run of steps. Every plan has the secret input "key".
func (r *rig) submit(files []work.File, steps ...work.PlanStep) work.RunID {
	r.t.Helper()
	r.runs++
	p := &work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: "test", Version: "1.0.0", Digest: canonical.Digest([]byte("test"))},
		Inputs: []work.Input{{Name: "key", Type: "secret", Secret: "env:KEY"}}, Files: files, Steps: steps,
	}
	raw, err := canonical.Marshal(p)
	if err != nil {
		r.t.Fatal(err)
	}
	hash := canonical.Digest(raw)
	id := work.RunID("run_" + string(rune('a'+r.runs)))
	run := work.Run{Tenant: work.LocalTenant, ID: id, Name: string(id[4:]), PlanHash: hash, Pack: p.Pack, Submitter: "somebody"}
	out := r.store.Submit(r.t.Context(), []store.Submission{{Run: run, Canonical: raw, Data: work.SubmittedData{
		Name: run.Name, PlanHash: hash, Pack: p.Pack, Submitter: run.Submitter, InputsHash: hash, ReplayToken: "r",
	}}})[0]
	if out.Err != nil {
		r.t.Fatal(out.Err)
	}
	return id
}

// patience is how long something may take that happens by itself. Nothing that is well comes near.
const patience = 2 * time.Minute

// until waits for commits until a run is as wanted.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.t.Context(), patience)
	defer stop()
	wake := r.store.Watch(ctx)
	for !holds() {
		if _, more := <-wake; !more {
			r.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// end waits for the end of a run.
func (r *rig) end(id work.RunID) work.Run {
	r.t.Helper()
	var run work.Run
	r.until("the run ends", func() bool {
		var err error
		if run, err = r.store.Run(r.t.Context(), work.LocalTenant, string(id)); err != nil {
			r.t.Fatal(err)
		}
		return run.State.Terminal()
	})
	return run
}

func (r *rig) events(id work.RunID) []work.Event {
	r.t.Helper()
	events, err := r.store.Events(r.t.Context(), work.LocalTenant, id, 1, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	return events
}

// reports returns what workers reported about a step, attempt by attempt.
func (r *rig) reports(id work.RunID, step work.StepID) []work.ReportedData {
	r.t.Helper()
	var out []work.ReportedData
	for _, e := range r.events(id) {
		if e.Type == work.StepReported && e.Step == step {
			var d work.ReportedData
			if err := json.Unmarshal(e.Data, &d); err != nil {
				r.t.Fatal(err)
			}
			out = append(out, d)
		}
	}
	return out
}

// workerOf makes the worker without starting it.
func workerOf(r *rig) *worker.Worker { return worker.New(r.config, r.source, r.blobs) }

// only runs one step and returns its report after checking that the stored output is what the report binds.
func (r *rig) only(s work.PlanStep) (work.RunID, work.ReportedData) {
	r.t.Helper()
	id := r.submit(nil, s)
	r.end(id)
	reports := r.reports(id, s.ID)
	if len(reports) != 1 {
		r.t.Fatalf("there are %d reports", len(reports))
	}
	r.bound(id, s.ID, 1, reports[0].Transcript)
	return id, reports[0]
}

// bound checks that the stored lines of an attempt are those of its transcript, and returns them.
func (r *rig) bound(id work.RunID, step work.StepID, attempt int, want work.Transcript) []work.LogLine {
	r.t.Helper()
	all, err := r.store.Lines(r.t.Context(), work.LocalTenant, id, 1, 1_000_000)
	if err != nil {
		r.t.Fatal(err)
	}
	var kept []work.LogLine
	sum := sha256.New()
	for i, l := range all {
		if l.Seq != int64(i)+1 {
			r.t.Fatalf("line %d has number %d", i+1, l.Seq)
		}
		if l.Step == step && l.Attempt == attempt {
			kept = append(kept, l)
			io.WriteString(sum, l.Message+"\n")
		}
	}
	digest := work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	if len(kept) == 0 {
		digest = ""
	}
	if int64(len(kept)) != want.Lines || digest != want.Digest {
		r.t.Errorf("%d lines with digest %s are stored, the report says %d with %s", len(kept), digest, want.Lines, want.Digest)
	}
	return kept
}

// empty checks that no workspace is left.
func (r *rig) empty() {
	r.t.Helper()
	left, err := os.ReadDir(r.config.Dir)
	if err != nil || len(left) > 0 {
		r.t.Errorf("workspaces are left over: %v, %v", left, err)
	}
}

// blobs keeps files in memory.
type blobs struct {
	mu   sync.Mutex
	m    map[work.Digest][]byte
	full int // how often there is no room yet, -1 for always
}

func (b *blobs) Put(_ context.Context, _ work.Tenant, from io.Reader) (work.Digest, int64, error) {
	raw, err := io.ReadAll(from)
	if err != nil {
		return "", 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full != 0 {
		b.full = max(b.full-1, -1)
		return "", 0, fault.Wrap(fault.Internal, syscall.ENOSPC, "blobs")
	}
	d := canonical.Digest(raw)
	b.m[d] = raw
	return d, int64(len(raw)), nil
}

func (b *blobs) Open(_ context.Context, _ work.Tenant, d work.Digest) (io.ReadCloser, int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, ok := b.m[d]
	if !ok {
		return nil, 0, fault.New(fault.NotFound, "there is no %s", d)
	}
	return io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), nil
}

// has reports whether any stored file holds a text.
func (b *blobs) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, raw := range b.m {
		if bytes.Contains(raw, []byte(text)) {
			return true
		}
	}
	return false
}

// driver is a sandbox that does what a test says.
type driver func(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error)

func (driver) Probe(context.Context) sandbox.Capability { return sandbox.Capability{Tier: sandbox.T2} }

func (d driver) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	return d(ctx, spec)
}

// well is the end of a step that did what it should.
func well() (sandbox.Result, error) { return sandbox.Result{Cause: sandbox.Exited}, nil }

func quoted(t *testing.T, v any) json.RawMessage {
	t.Helper()
	raw, err := canonical.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
