// Package folder keeps blobs in a folder: one file each, below its tenant and the first digits of its digest.
package folder

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Store keeps blobs below one folder.
type Store struct {
	dir string

	mu    sync.Mutex
	ready map[string]bool // folders that are there for sure
}

var _ blob.Store = (*Store)(nil)

// Open returns the store in a folder, which is made when something is put.
func Open(dir string) (*Store, error) {
	return &Store{dir: dir, ready: map[string]bool{}}, nil
}

// path is where a blob lies. The tenant is spelled so that no name leads out of the folder or into another's.
func (s *Store) path(tenant work.Tenant, digest work.Digest) (string, error) {
	d, err := work.ParseDigest(string(digest))
	if err != nil {
		return "", fault.New(fault.Invalid, "%v", err)
	}
	return filepath.Join(s.tenant(tenant), d.Hex()[:2], d.Hex()), nil
}

func (s *Store) tenant(tenant work.Tenant) string {
	return filepath.Join(s.dir, hex.EncodeToString([]byte(tenant)))
}

// Put implements blob.Store: the bytes are written beside their place, flushed, and given their name.
func (s *Store) Put(_ context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error) {
	incoming := filepath.Join(s.tenant(tenant), "incoming")
	if err := s.make(incoming); err != nil {
		return "", 0, err
	}
	tmp := filepath.Join(incoming, rand.Text())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, full(err)
	}
	defer os.Remove(tmp) // gone already when all went well
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(f, sum), r)
	if err != nil {
		f.Close()
		return "", 0, full(err)
	}
	digest := work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	name, err := s.path(tenant, digest)
	if err != nil {
		f.Close()
		return "", 0, err
	}
	if info, err := os.Stat(name); err == nil && info.Size() == size {
		f.Close()
		return digest, size, s.touch(name)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return "", 0, full(err)
	}
	if err := s.make(filepath.Dir(name)); err != nil {
		return "", 0, err
	}
	if err := os.Rename(tmp, name); err != nil {
		return "", 0, full(err)
	}
	return digest, size, flush(filepath.Dir(name))
}

// make creates a folder durably, once.
func (s *Store) make(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return full(err)
	}
	for at := dir; len(at) >= len(s.dir); at = filepath.Dir(at) {
		if err := flush(filepath.Dir(at)); err != nil {
			return err
		}
	}
	s.ready[dir] = true
	return nil
}

// touch keeps a blob that was put again from being collected as an old one.
func (s *Store) touch(name string) error {
	now := time.Now()
	return full(os.Chtimes(name, now, now))
}

func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return full(err)
	}
	return full(errors.Join(d.Sync(), d.Close()))
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error) {
	name, err := s.path(tenant, digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fault.New(fault.NotFound, "there is nothing with digest %s", digest)
	}
	if err != nil {
		return nil, 0, fault.Wrap(fault.Internal, err, "blob")
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fault.Wrap(fault.Internal, err, "blob")
	}
	return &checked{f: f, want: digest, sum: sha256.New()}, info.Size(), nil
}

// checked compares what it read with the digest when the end comes.
type checked struct {
	f    *os.File
	want work.Digest
	sum  hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.want.Hex() {
			return n, fault.New(fault.Unverified, "the bytes stored as %s have digest sha256:%s", c.want, got).
				WithHint("the disk or somebody changed them: restore the folder blobs/ from a backup")
		}
	}
	return n, err
}

func (c *checked) Close() error { return c.f.Close() }

// Has implements blob.Store.
func (s *Store) Has(_ context.Context, tenant work.Tenant, digest work.Digest) (bool, error) {
	name, err := s.path(tenant, digest)
	if err != nil {
		return false, err
	}
	if err := s.touch(name); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// Collect implements blob.Store.
func (s *Store) Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (count, bytes int64, err error) {
	err = filepath.WalkDir(s.tenant(tenant), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil || info.ModTime().After(before) {
			return ctx.Err()
		}
		if digest, err := work.ParseDigest("sha256:" + d.Name()); err == nil && keep(digest) {
			return nil
		}
		if err := os.Remove(name); err != nil {
			return err
		}
		count++
		bytes += info.Size()
		return ctx.Err()
	})
	return count, bytes, fault.Wrap(fault.Internal, err, "collecting blobs")
}

// full gives an error of the disk its code.
func full(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.Exhausted, "the disk is full: %w", err).WithHint("make room on the disk that holds the data folder")
	}
	return fault.New(fault.Internal, "blob: %w", err)
}
