// Package blob is the contract of content-addressed storage: artifacts, files of packs, bundles, each named by its SHA-256 within its tenant.
//
// A blob is there completely or not at all, and once Put has returned it survives a power cut. Whether another tenant has it cannot
// be found out, not even by storing it.
package blob

import (
	"context"
	"io"
	"iter"
	"time"

	"orrery.example/orrery/internal/work"
)

// Store keeps bytes by their digest. What one tenant stored is not there for another, so that nobody can find out by a digest
// what somebody else has. It is safe for concurrent use. Every method fails with fault.TenantRequired for an empty tenant and with
// fault.Invalid for what is no digest.
type Store interface {
	// Put stores everything that r gives and returns its digest and size. What is there already stays as it is. When it returns without
	// error the bytes are durable. Errors: those of r, fault.Exhausted when there is no room; nothing is stored then.
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)

	// PutAll stores many small blobs at a lower price than one by one and returns their digests in the same order. Errors: as Put, but
	// some of them may be stored then.
	PutAll(ctx context.Context, tenant work.Tenant, blobs [][]byte) ([]work.Digest, error)

	// Open returns the bytes and their size. Errors: fault.NotFound; a reader that finds other bytes than the digest names ends with
	// fault.Unverified instead of io.EOF.
	Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error)

	// Has reports whether the bytes are there. Who asks needs them: Collect leaves them alone for a while.
	Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error)

	// Delete removes a blob. It is no error that it is not there.
	Delete(ctx context.Context, tenant work.Tenant, digest work.Digest) error

	// List returns the blobs of a tenant in no order. One that comes or goes meanwhile may be in it or not.
	List(ctx context.Context, tenant work.Tenant) iter.Seq2[Entry, error]

	// Collect removes what keep does not want and nobody has put or asked for since before. It returns how many blobs and bytes. The
	// time since before is for blobs that are stored already while what refers to them is not.
	Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (count, bytes int64, err error)
}

// Entry is one blob in a list.
type Entry struct {
	Digest work.Digest
	Size   int64
	Used   time.Time // when it was last put or asked for
}
