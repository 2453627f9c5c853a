package app

import (
	"context"
	"io"
	"time"

	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/retention"
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

// retain deletes what the policies of the tenants let go.
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
