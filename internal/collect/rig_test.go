package collect

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

const (
	acme  work.Tenant = "acme"
	grace             = 24 * time.Hour
)

// tb is what a test and a property have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Cleanup(func())
}

// rig is a store and a folder of blobs with one clock, which only the test moves.
type rig struct {
	tb
	*kernel.Store
	blobs   *dated
	collect *Service
	clock   *atomic.Int64
	n       int
}

func newRig(t tb, dir string) *rig {
	clock := &atomic.Int64{}
	clock.Store(int64(work.At(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))))
	now := func() work.Time { return work.Time(clock.Load()) }
	s := kernel.New(memory.New(), kernel.Options{Now: now})
	t.Cleanup(func() { _ = s.Close() })
	files, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	blobs := &dated{Store: files, dir: dir, now: now}
	return &rig{tb: t, Store: s, blobs: blobs, clock: clock, collect: &Service{Store: s, Blobs: blobs, Now: now, Grace: grace}}
}

func (r *rig) now() work.Time           { return work.Time(r.clock.Load()) }
func (r *rig) advance(by time.Duration) { r.clock.Store(int64(r.now().Add(by))) }
func (r *rig) must(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// dated is a folder of blobs whose files bear the time of the test.
type dated struct {
	blob.Store
	dir string
	now func() work.Time
}

func (d *dated) date(tenant work.Tenant, digest work.Digest) error {
	at := d.now().Std()
	return os.Chtimes(filepath.Join(d.dir, hex.EncodeToString([]byte(tenant)), digest.Hex()), at, at)
}

// Put implements blob.Store.
func (d *dated) Put(ctx context.Context, tenant work.Tenant, from io.Reader) (work.Digest, int64, error) {
	digest, n, err := d.Store.Put(ctx, tenant, from)
	if err == nil {
		err = d.date(tenant, digest)
	}
	return digest, n, err
}

// Has implements blob.Store.
func (d *dated) Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error) {
	has, err := d.Store.Has(ctx, tenant, digest)
	if err == nil && has {
		err = d.date(tenant, digest)
	}
	return has, err
}

// put stores some bytes of its own, or those of a number.
func (r *rig) put(text string) work.Artifact {
	r.Helper()
	digest, n, err := r.blobs.Put(context.Background(), acme, bytes.NewReader([]byte(text)))
	r.must("put", err)
	return work.Artifact{Name: "out", Path: text, Digest: digest, Size: n}
}

func (r *rig) has(d work.Digest) bool {
	r.Helper()
	for e, err := range r.blobs.List(context.Background(), acme) {
		r.must("list", err)
		if e.Digest == d {
			return true
		}
	}
	return false
}

// submission is a run of one step whose pack has one file.
func (r *rig) submission(file work.Artifact, carried []work.Carried) store.Submission {
	r.Helper()
	r.n++
	p := &work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: "suite", Version: "1.0.0", Digest: canonical.Digest(nil)},
		Files: []work.File{{Path: file.Path, Digest: file.Digest, Size: file.Size}},
		Steps: []work.PlanStep{{ID: "a", Kind: work.KindRun, Run: &work.RunSpec{
			Runner: "process", Command: []string{"true"}, Sandbox: work.SandboxSpec{MinTier: "t0"},
			TimeoutMs: 30 * 24 * time.Hour.Milliseconds(), GraceMs: 1_000, Retry: work.RetrySpec{MaxAttempts: 1},
		}}},
	}
	raw, err := canonical.Marshal(p)
	r.must("a plan", err)
	run := work.Run{
		Tenant: acme, ID: work.RunID(fmt.Sprintf("run_%026d", r.n)), Name: fmt.Sprintf("amber-fox-%d", r.n), PlanHash: canonical.Digest(raw),
		Pack: p.Pack, Submitter: "ann",
	}
	return store.Submission{Run: run, Canonical: raw, Data: work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, ReplayToken: "replay",
		InputsHash: canonical.Digest([]byte("{}")), Carried: carried,
	}}
}

// claim grants the next step, if there is one, to a session that lasts.
func (r *rig) claim() *store.Grant {
	r.Helper()
	ctx := context.Background()
	r.must("session", r.OpenSession(ctx, store.Session{ID: "s", Worker: "w", Tenant: acme, Expires: r.now().Add(365 * 24 * time.Hour), Local: true}))
	reply, err := r.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: acme, Runners: []string{"process"}, MinTier: 3, Max: 1})
	r.must("claim", err)
	if len(reply.Grants) == 0 {
		return nil
	}
	return &reply.Grants[0]
}

func (r *rig) report(g *store.Grant, key work.Digest, artifacts ...work.Artifact) {
	r.Helper()
	reply, err := r.Exchange(context.Background(), store.ExchangeRequest{Session: "s", Tenant: acme, Reports: []store.ReportCommand{{
		Run: g.Run, Step: g.Step, Report: work.ReportedData{
			Token: g.Token, Worker: "w", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, CacheKey: key, Artifacts: artifacts,
		},
	}}})
	r.must("report", err)
	r.must("report", reply.Errs[0])
}

// erase makes evidence of a run and deletes it.
func (r *rig) erase(run work.RunID, evidence work.Digest) {
	r.Helper()
	ctx := context.Background()
	size, _, err := r.LogSize(ctx, acme)
	r.must("log", err)
	r.must("seal", r.AppendLog(ctx, acme, store.LogAppend{
		Size: size, Runs: []work.RunID{run}, Leaves: [][]byte{[]byte("leaf")}, FirstHash: size, Hashes: [][32]byte{{1}}, Checkpoint: []byte("c"),
	}))
	r.must("evidence", r.Attach(ctx, acme, run, evidenceDocument, []byte(evidence)))
	for {
		left, err := r.Erase(ctx, acme, run, 100)
		r.must("erase", err)
		if !left {
			return
		}
	}
}

func (r *rig) publish(id string, file work.Artifact) {
	r.Helper()
	doc, err := json.Marshal(map[string]any{"files": []work.Artifact{file}})
	r.must("a pack", err)
	r.must("publish", r.Change(context.Background(), store.RecordChange{Record: store.Record{Tenant: acme, Kind: store.PackKind, ID: id, Doc: doc}}))
}
