package app

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/gvisor"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/workspace"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/warrant"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// defaultPath is where programs of steps are looked for.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Start lets the folder work in the background until ctx ends: a worker, the timers, the inbox, the seals. The returned
// function waits until everything under way has ended.
func (f *Folder) Start(ctx context.Context) (wait func() error, err error) {
	guard, err := f.newGuard(f.Keys)
	if err != nil {
		return nil, err
	}
	w, err := f.worker(ctx, f.Tenant, filepath.Join(f.Dir, "work"), func(context.Context, work.Tenant) (keyring.Ring, error) { return f.Keys, nil }, guard.Check)
	if err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	var failed error
	group.Go(func() { failed = w.Run(ctx) })
	group.Go(func() { f.timers(ctx) })
	group.Go(func() { f.inbox(ctx) })
	group.Go(func() { f.seals(ctx, f.Attest, f.Tenant) })
	group.Go(func() { f.policies.Run(ctx) })
	return func() error { group.Wait(); return failed }, nil
}

// newGuard lets a worker here run what somebody has asked for whom the keyring trusts.
func (f *Folder) newGuard(keys keyring.Ring) (*warrant.Guard, error) {
	return warrant.New(warrant.Config{
		Request: func(ctx context.Context, t work.Tenant, run work.RunID) ([]byte, error) {
			return f.Store.Document(ctx, t, run, kernel.DocumentRequest)
		},
		Trust: keys.Trust, Now: Now,
	})
}

// worker makes the worker of this process for a tenant, or for all, with an empty folder for its workspaces.
func (f *Folder) worker(ctx context.Context, tenant work.Tenant, spaces string, rings ringOf, admit func(context.Context, *store.Grant, *engine.Graph) error) (*worker.Worker, error) {
	driver, err := f.Driver()
	if err != nil {
		return nil, err
	}
	if err := sweep(spaces); err != nil {
		return nil, err
	}
	slots := f.Slots
	if slots <= 0 {
		slots = 2 * runtime.NumCPU()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	path := f.StepPath
	if path == "" {
		path = defaultPath
	}
	secret := f.Secret
	if secret == nil {
		secret = f.secrets.resolve
	}
	name := host + "/local"
	return worker.New(worker.Config{
		Name: name, Tenant: tenant, Slots: slots, Dir: spaces, Local: !f.Shared(), Sandbox: driver, Tier: int(sandbox.T3),
		Inside: insideOf(ctx, driver), Secret: f.Telemetry.secret(secret), Path: path, Wake: f.Store.Watch(ctx), Now: Now, Log: f.Log,
		Admit: admit, Observe: f.Telemetry.attempts(name), Sign: signer(rings),
	}, f.Telemetry.source(f.Store, slots), f.Limited), nil
}

// insideOf tells where a step sees its work folder: at a fixed place when it has a root of its own, else where it is. A second kernel makes
// no difference to that, so it is not tried for it.
func insideOf(ctx context.Context, driver sandbox.Driver) func(string) string {
	if d, ok := driver.(*gvisor.Driver); ok {
		driver = d.Walls()
	}
	if driver.Probe(ctx).Tier >= sandbox.T2 {
		return func(string) string { return linux.WorkPath }
	}
	return func(dir string) string { return dir }
}

// sweep removes workspaces that a killed process left behind.
func sweep(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fault.Wrap(fault.Internal, err, "folder for workspaces")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "folder for workspaces")
	}
	for _, e := range entries {
		if err := workspace.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// timers acts on what is due, and sleeps until the next thing is or a commit may have brought a nearer one.
func (f *Folder) timers(ctx context.Context) {
	wake := f.Store.Watch(ctx)
	const longest, batch = 10 * time.Second, 500
	for {
		next, err := f.Store.Tick(context.WithoutCancel(ctx), batch)
		if err != nil {
			f.failed("timers", err)
		}
		wait := longest
		if next != 0 {
			wait = min(longest, max(0, next.Sub(Now())))
		}
		if !pause(ctx, nil, min(wait, calm)) || wait > calm && !pause(ctx, wake, wait-calm) {
			return
		}
	}
}

// calm is how long what goes on in the background leaves the store alone after each look: under load hints come with every commit, and
// a look at each would cost more than the commits.
const calm = 25 * time.Millisecond

// seals puts ended runs of a tenant into the log soon after their end.
func (f *Folder) seals(ctx context.Context, a *attest.Service, tenant work.Tenant) {
	wake := f.Store.Watch(ctx)
	var audited time.Time
	for {
		if _, err := a.Seal(context.WithoutCancel(ctx), tenant); err != nil {
			f.failed("sealing", err, "tenant", tenant)
		}
		if time.Since(audited) > auditEvery {
			if _, err := a.SealAudit(context.WithoutCancel(ctx), tenant); err != nil {
				f.failed("sealing the audit stream", err, "tenant", tenant)
			}
			audited = time.Now()
		}
		if !pause(ctx, nil, calm) || !pause(ctx, wake, time.Second) {
			return
		}
	}
}

// auditEvery is how long entries of the audit stream may wait for the log: each seal is a leaf more.
const auditEvery = time.Minute

// pause waits for a hint or for some time, and reports false when ctx has ended.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return ctx.Err() == nil
}
