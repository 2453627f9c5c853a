package app

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/retention"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Retention deletes runs of a tenant whose evidence a service makes.
func (f *Folder) retention(a *attest.Service) *retention.Service {
	return &retention.Service{Store: f.Store, Now: Now, Evidence: func(ctx context.Context, run work.Run) error {
		if a == nil {
			return fault.New(fault.Locked, "another process holds the data folder")
		}
		return a.Export(ctx, run, f.Blobs, io.Discard)
	}}
}

// Retention deletes runs of the folder's tenant.
func (f *Folder) Retention() *retention.Service { return f.retention(f.Attest) }

const (
	sweepEvery = time.Hour
	sweepFirst = time.Minute // after the start, when those who wait have been served
	sweepMost  = 1000        // runs of a tenant in one sweep
)

// retain deletes what the policies of the tenants let go, and then the blobs that nothing names any more.
func (s *Server) retain(ctx context.Context) {
	for wait := sweepFirst; pause(ctx, nil, wait); wait = sweepEvery {
		for after := ""; ; {
			tenants, err := s.Identity.Tenants(ctx, after, 100)
			if err != nil {
				s.Log.Error("retention", "error", err)
				break
			}
			for _, t := range tenants {
				after = string(t.Name)
				s.sweep(ctx, t.Name)
				s.collect(ctx, t.Name)
			}
			if len(tenants) < 100 {
				break
			}
		}
	}
}

func (s *Server) sweep(ctx context.Context, tenant work.Tenant) {
	sp, err := s.space(ctx, tenant)
	if err != nil {
		s.Log.Error("retention", "tenant", tenant, "error", err)
		return
	}
	n, err := s.retention(sp.Attest).Sweep(ctx, tenant, work.Actor{Name: "retention", Reason: "the policy of the tenant"}, sweepMost)
	if err != nil {
		s.Log.Error("retention", "tenant", tenant, "error", err)
	}
	if n > 0 {
		s.Log.Info("runs were deleted by policy", "tenant", tenant, "runs", n)
	}
}

// collectEvery is how often a server looks for blobs that nothing names.
const collectEvery = 12 * time.Hour

// leastGrace is the least that a server gives to those who put a file and name it with another request.
const leastGrace = time.Hour

// Collector removes the blobs of tenants that nothing names any more. A folder that this process has to itself may be given any grace;
// with a server there are others, who name what they have put some time later.
func (f *Folder) Collector(grace time.Duration) *collect.Service {
	return &collect.Service{Store: f.Store, Blobs: f.Blobs, Now: Now, Grace: grace, Meter: f.Meter, Held: func() (string, error) { return backupUnderWay(f.Dir) }}
}

// backupLock is the file that a backup holds while it reads the folder.
const backupLock = "backup.lock"

// holdBlobs keeps blobs from being removed until release is called, or the process ends.
func holdBlobs(dir string) (release func() error, err error) {
	name := filepath.Join(dir, backupLock)
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		if f, err = os.Open(name); errors.Is(err, fs.ErrNotExist) {
			return func() error { return nil }, nil // no server has written here since there are collections
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the lock of backups")
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); { // a collector has it for no longer than a look takes
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Internal, err, "the lock of backups"), f.Close())
	}
	return f.Close, nil
}

// backupUnderWay says that somebody holds the blobs, "" for nobody.
func backupUnderWay(dir string) (string, error) {
	f, err := os.OpenFile(filepath.Join(dir, backupLock), os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return "", nil // whoever may only look removes nothing
	}
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "the lock of backups")
	}
	defer f.Close() // unlocks
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return "", nil
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
		return "a backup is being made", nil
	default:
		return "", fault.Wrap(fault.Internal, err, "the lock of backups")
	}
}

// collection is a collection that somebody asked for.
func (s *Server) collection(ctx context.Context, tenant work.Tenant, preview bool) (collect.Result, error) {
	c := s.Collector(s.opts.BlobGrace)
	if preview {
		return c.Preview(ctx, tenant)
	}
	r, err := c.Collect(ctx, tenant)
	if err == nil {
		s.Telemetry.collected(tenant, r)
	}
	return r, err
}

// collect removes what nothing names in a tenant, when nobody has looked for some time.
func (s *Server) collect(ctx context.Context, tenant work.Tenant) {
	last, err := s.Collector(s.opts.BlobGrace).Last(ctx, tenant)
	if err == nil && Now() < last.At.Add(collectEvery) {
		s.Telemetry.collected(tenant, collect.Result{Kept: last.Kept, Waiting: last.Waiting})
		return
	}
	var r collect.Result
	if err == nil {
		audited := store.WithAudit(ctx, &store.Audit{
			Tenant: tenant, Action: "collectBlobs", Actor: "collector", Kind: "service", Reason: "nothing names them any more",
		})
		r, err = s.collection(audited, tenant, false)
	}
	switch {
	case fault.CodeOf(err) == fault.Conflict: // another server is at it
	case err != nil:
		s.failed("collect", err, "tenant", tenant)
	case r.Freed.Blobs > 0:
		s.Log.Info("files that nothing names were removed", "tenant", tenant, "files", r.Freed.Blobs, "bytes", r.Freed.Bytes)
	}
}
