package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Blobs are the files of a server. Bytes are checked where they arrive; what was fetched is kept in the cache, because the steps of a
// run need the same files again and again.
type Blobs struct {
	c     *Client
	cache blob.Store // nil for none
	spool string     // where a file waits while it is uploaded
}

// Blobs returns the files of the server.
func (c *Client) Blobs(cache blob.Store, spool string) *Blobs { return &Blobs{c, cache, spool} }

const (
	inMemory = 1 << 20 // files up to this size are not written to the spool
	partSize = 8 << 20 // larger ones go in parts, so that a broken connection costs one part
)

// Open implements worker.Blobs.
func (b *Blobs) Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error) {
	if b.cache == nil {
		return b.fetch(ctx, digest)
	}
	if r, size, err := b.cache.Open(ctx, tenant, digest); fault.CodeOf(err) != fault.NotFound {
		return r, size, err
	}
	if err := b.fill(ctx, tenant, digest); err != nil {
		return nil, 0, err
	}
	return b.cache.Open(ctx, tenant, digest)
}

func (b *Blobs) fill(ctx context.Context, tenant work.Tenant, digest work.Digest) (err error) {
	for range tries {
		var r io.ReadCloser
		if r, _, err = b.fetch(ctx, digest); err != nil {
			return err
		}
		_, _, err = b.cache.Put(ctx, tenant, r)
		r.Close()
		if !fault.Passing(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (b *Blobs) fetch(ctx context.Context, digest work.Digest) (r io.ReadCloser, size int64, err error) {
	for range tries {
		b.c.gate.wait(ctx)
		var req *http.Request
		if req, err = b.c.request(ctx, http.MethodGet, "blobs/"+string(digest), nil); err != nil {
			return nil, 0, err
		}
		var res *http.Response
		if res, err = b.c.send(req); err == nil {
			return &checked{r: res.Body, want: digest, sum: sha256.New()}, res.ContentLength, nil
		}
		if !fault.Passing(err) || ctx.Err() != nil {
			return nil, 0, err
		}
	}
	return nil, 0, err
}

// checked ends with an error instead of io.EOF when the bytes are not what the digest names.
type checked struct {
	r    io.ReadCloser
	want work.Digest
	sum  hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	switch {
	case errors.Is(err, io.EOF):
		if got := digestOf(c.sum); got != c.want {
			return n, fault.New(fault.Unverified, "the bytes hash to %s, not to %s", got, c.want)
		}
	case err != nil:
		return n, fault.Wrap(fault.Unavailable, err, "the transfer of a file broke off")
	}
	return n, err
}

func (c *checked) Close() error { return c.r.Close() }

func digestOf(h hash.Hash) work.Digest {
	return work.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// Put implements worker.Blobs. The digest is known only at the end, so what does not fit into memory goes through a file.
func (b *Blobs) Put(ctx context.Context, _ work.Tenant, r io.Reader) (work.Digest, int64, error) {
	sum := sha256.New()
	head, err := io.ReadAll(io.LimitReader(io.TeeReader(r, sum), inMemory+1))
	if err != nil {
		return "", 0, err
	}
	if len(head) <= inMemory {
		d := digestOf(sum)
		return d, int64(len(head)), b.send(ctx, d, bytes.NewReader(head), int64(len(head)))
	}
	f, err := os.CreateTemp(b.spool, "upload-*")
	if err != nil {
		return "", 0, fault.Wrap(fault.Internal, err, "a file to upload")
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(head); err != nil {
		return "", 0, fault.Wrap(fault.Internal, err, "a file to upload")
	}
	rest, err := io.Copy(io.MultiWriter(f, sum), r)
	if err != nil {
		return "", 0, err
	}
	size := int64(len(head)) + rest
	d := digestOf(sum)
	return d, size, b.send(ctx, d, f, size)
}

// send uploads a file, whole when it is small, else in parts from where the server says that it has got to.
func (b *Blobs) send(ctx context.Context, d work.Digest, from io.ReaderAt, size int64) (err error) {
	var at int64
	for failed := 0; failed < tries; {
		b.c.gate.wait(ctx)
		if size > partSize && (at == 0 || err != nil) {
			var done bool
			if at, done, err = b.offset(ctx, d); done {
				return nil
			}
		}
		if err == nil || size <= partSize {
			at, err = b.part(ctx, d, from, at, size)
		}
		switch {
		case err == nil && at >= size:
			return nil
		case err == nil:
			failed = 0
		case ctx.Err() != nil:
			return err
		default:
			switch fault.CodeOf(err) {
			case fault.Unavailable, fault.Exhausted, fault.Conflict, fault.Invalid: // the last two: the server has another part of it than was thought
				failed++
			default:
				return err
			}
		}
	}
	return err
}

func (b *Blobs) offset(ctx context.Context, d work.Digest) (at int64, done bool, err error) {
	req, err := b.c.request(ctx, http.MethodHead, "blobs/"+string(d), nil)
	if err != nil {
		return 0, false, err
	}
	res, err := b.c.send(req)
	if err != nil {
		return 0, false, err
	}
	res.Body.Close()
	if res.Header.Get("Upload-Complete") == "?1" {
		return 0, true, nil
	}
	at, err = strconv.ParseInt(res.Header.Get("Upload-Offset"), 10, 64)
	return at, false, fault.Wrap(fault.Unavailable, err, "how much of a file the server has")
}

// part uploads the next part and returns how far the server has got.
func (b *Blobs) part(ctx context.Context, d work.Digest, from io.ReaderAt, at, size int64) (int64, error) {
	n := min(size-at, partSize)
	if size <= partSize {
		at, n = 0, size
	}
	var body io.Reader = io.NewSectionReader(from, at, n)
	if n == 0 {
		body = http.NoBody
	}
	req, err := b.c.request(ctx, http.MethodPut, "blobs/"+string(d), body)
	if err != nil {
		return at, err
	}
	req.ContentLength = n
	if n < size {
		req.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, at+n-1, size))
	}
	res, err := b.c.send(req)
	if err != nil {
		return at, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection can be used again
	res.Body.Close()
	return at + n, nil
}
