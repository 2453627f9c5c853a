// Package blob is the contract of content-addressed storage: artifacts, files of packs, bundles, each named by its SHA-256 within its tenant.
package blob

import (
	"context"
	"io"
	"time"

	"orrery.example/orrery/internal/work"
)

// Store keeps bytes by their digest. What one tenant stored is not there for another, so that nobody can find out by a digest
// what somebody else has. It is safe for concurrent use.
type Store interface {
	// Put stores everything that r gives and returns its digest and size. What is there already stays as it is. When it returns without
	// error the bytes are durable. Errors: those of r, fault.Exhausted when there is no room.
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)

	// Open returns the bytes and their size. Errors: fault.NotFound; a reader that finds other bytes than the digest names ends with
	// fault.Unverified instead of io.EOF.
	Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error)

	// Has reports whether the bytes are there.
	Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error)

	// Collect removes what keep does not want and nobody has put or asked for since before. It returns how many blobs and bytes.
	Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (count, bytes int64, err error)
}
