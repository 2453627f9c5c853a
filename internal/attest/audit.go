package attest

import (
	"context"
	"errors"
	"io"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// SealAudit puts the audit stream of a tenant, as far as it is written, into the tenant's log, unless it is there. It returns what is sealed.
func (s *Service) SealAudit(ctx context.Context, tenant work.Tenant) (store.AuditEnd, error) {
	end, err := s.Store.AuditEnd(ctx, tenant)
	if err != nil || end.Seq == 0 {
		return end, err
	}
	for {
		_, _, err := s.Store.Leaf(ctx, tenant, store.AuditSeal(end.Seq))
		if err == nil || fault.CodeOf(err) != fault.Incomplete {
			return end, err
		}
		leaf, err := ledger.AuditLeaf{Version: ledger.AuditVersion, Tenant: tenant, Entries: end.Seq, Head: end.Head, Sealed: s.Now()}.Encode()
		if err != nil {
			return end, err
		}
		err = s.grow(ctx, tenant, []work.RunID{store.AuditSeal(end.Seq)}, [][]byte{leaf})
		if err == nil || fault.CodeOf(err) != fault.Conflict {
			return end, err
		}
		if ctx.Err() != nil {
			return end, ctx.Err() // else another server was faster: look again
		}
	}
}

// ExportAudit writes the audit stream of a tenant as one file that anybody can check, after sealing it. Errors: fault.NotFound when nothing
// was noted yet, fault.Unverified when the stream is not the one that was sealed.
func (s *Service) ExportAudit(ctx context.Context, tenant work.Tenant, w io.Writer) error {
	end, err := s.SealAudit(ctx, tenant)
	if err != nil {
		return err
	}
	if end.Seq == 0 {
		return fault.New(fault.NotFound, "nobody has changed anything in tenant %s that is noted in its audit stream", tenant)
	}
	leaf, seal, err := s.Prove(ctx, work.Run{Tenant: tenant, ID: store.AuditSeal(end.Seq)})
	if err != nil {
		return err
	}
	b, err := evidence.BuildAudit(end.Seq, leaf, seal, func(yield func(work.Event, error) bool) {
		const page = 1000
		for from := int64(1); from <= end.Seq; {
			entries, err := s.Store.Events(ctx, tenant, store.AuditStream, from, int(min(page, end.Seq-from+1)))
			if err == nil && len(entries) == 0 {
				err = fault.New(fault.Unverified, "the audit stream has %d entries, and entry %d is missing", end.Seq, from)
			}
			if err != nil {
				yield(work.Event{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			from += int64(len(entries))
		}
	})
	if err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return errors.Join(err, ctx.Err())
}
