package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/minio/minio-go/v7"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

const (
	// inMemory is how much of a blob is kept in memory until its digest is known. The rest goes to a file.
	inMemory = 1 << 20

	// partSize is from when on a blob goes in parts of that size; S3 takes ten thousand of them.
	partSize = 64 << 20

	// atOnce is how many small blobs are on their way at the same time.
	atOnce = 16
)

// spool reads everything to learn its digest, which is part of the key, and gives it back from the beginning.
type spool struct {
	io.ReadSeeker
	digest work.Digest
	size   int64
	file   *os.File // nil for a small one
}

func (s *Store) spool(ctx context.Context, r io.Reader) (*spool, error) {
	sum := sha256.New()
	in := &cancellable{ctx, io.TeeReader(r, sum)}
	small, err := io.ReadAll(io.LimitReader(in, inMemory))
	if err != nil {
		return nil, err
	}
	out := &spool{ReadSeeker: bytes.NewReader(small), size: int64(len(small))}
	if len(small) == inMemory {
		if out.file, err = os.CreateTemp(s.o.Spool, "orrery-blob-"); err != nil {
			return nil, fault.New(fault.Internal, "a blob cannot be kept on its way: %w", err)
		}
		_, err = out.file.Write(small)
		if err == nil {
			var rest int64
			rest, err = io.Copy(out.file, in)
			out.size += rest
		}
		if err == nil {
			_, err = out.file.Seek(0, io.SeekStart)
		}
		if err != nil {
			return nil, errors.Join(err, out.close())
		}
		out.ReadSeeker = out.file
	}
	out.digest = work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	return out, nil
}

func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}

// cancellable ends with the error of its context.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Put implements blob.Store. A large object goes in parts, which the server puts together at the end; until then it is not there.
func (s *Store) Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error) {
	if _, err := s.tenant(tenant); err != nil {
		return "", 0, err
	}
	in, err := s.spool(ctx, r)
	if err != nil {
		return "", 0, err
	}
	err = s.put(ctx, tenant, in)
	if err = errors.Join(err, in.close()); err != nil {
		return "", 0, err
	}
	return in.digest, in.size, nil
}

func (s *Store) put(ctx context.Context, tenant work.Tenant, in *spool) error {
	folder, err := s.folder(tenant, in.digest)
	if err != nil {
		return err
	}
	if there, err := s.renew(ctx, folder); err != nil || there {
		return err
	}
	options := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: partSize}
	if in.size > partSize {
		options.SendContentMd5 = true // of each part
	} else {
		sum, err := hex.DecodeString(in.digest.Hex())
		if err != nil {
			return fault.New(fault.Internal, "blob: %w", err)
		}
		// The server compares what has arrived with the very digest that names it.
		options.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(sum)}
	}
	if _, err = s.client.PutObject(ctx, s.o.Bucket, newKey(folder), in, in.size, options); err != nil {
		return classify(err)
	}
	if s.Stored != nil {
		s.Stored(tenant, in.size)
	}
	return nil
}

// PutAll implements blob.Store.
func (s *Store) PutAll(ctx context.Context, tenant work.Tenant, blobs [][]byte) ([]work.Digest, error) {
	if _, err := s.tenant(tenant); err != nil {
		return nil, err
	}
	out, errs := make([]work.Digest, len(blobs)), make([]error, len(blobs))
	first := map[work.Digest]bool{}
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, data := range blobs {
		sum := sha256.Sum256(data)
		if out[i] = work.Digest("sha256:" + hex.EncodeToString(sum[:])); first[out[i]] {
			continue
		}
		first[out[i]] = true
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			errs[i] = s.put(ctx, tenant, &spool{ReadSeeker: bytes.NewReader(data), digest: out[i], size: int64(len(data))})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// checked compares what it read with the digest when the end comes.
type checked struct {
	io.ReadCloser
	want work.Digest
	sum  hash.Hash
}

func check(r io.ReadCloser, want work.Digest) io.ReadCloser {
	return &checked{r, want, sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.want.Hex() {
			return n, fault.New(fault.Unverified, "the bytes stored as %s have digest sha256:%s", c.want, got).
				WithHint("somebody or something changed them: restore the bucket from a backup")
		}
		return n, err
	}
	return n, classify(err)
}
