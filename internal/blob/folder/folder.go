// Package folder keeps blobs in a folder: one file each, named by its digest, below its tenant.
package folder

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Store keeps blobs below one folder. Several processes may put and read at the same time; only one may delete and collect.
type Store struct {
	// Stored is told of bytes that are there and were not; nil tells nobody. It is set before the first use.
	Stored func(tenant work.Tenant, bytes int64)

	dir string

	// present is held for writing by who removes, so that a blob cannot go between the look that finds it and the note that it is
	// needed.
	present sync.RWMutex

	mu    sync.Mutex
	ready map[string]bool // folders that are there for sure
}

var _ blob.Store = (*Store)(nil)

// Open returns the store in a folder, which is made when something is put.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, ready: map[string]bool{}}
	return s, s.sweep(time.Now().Add(-staleAfter))
}

// staleAfter is how old an unfinished file must be to be surely nobody's any more.
const staleAfter = 24 * time.Hour

// sweep removes what a process that was stopped has left behind.
func (s *Store) sweep(before time.Time) error {
	left, err := filepath.Glob(filepath.Join(escape(s.dir), "*", incoming, "*"))
	if err != nil {
		return fault.New(fault.Internal, "blobs: %w", err)
	}
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && info.ModTime().Before(before) {
			_ = os.Remove(name) // what cannot be removed is left for the next time
		}
	}
	return nil
}

// escape keeps a path from being read as a pattern.
func escape(path string) string {
	var out []byte
	for i := range len(path) {
		switch c := path[i]; c {
		case '*', '?', '[', '\\':
			out = append(out, '\\', c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// incoming is the folder beside a tenant's blobs where files grow.
const incoming = "incoming"

// tenant is where a tenant's blobs are. It is spelled so that no name leads out of the folder or into another's.
func (s *Store) tenant(tenant work.Tenant) (string, error) {
	if tenant == "" {
		return "", fault.New(fault.TenantRequired, "a blob belongs to a tenant")
	}
	return filepath.Join(s.dir, hex.EncodeToString([]byte(tenant))), nil
}

// path is where a blob lies.
func (s *Store) path(tenant work.Tenant, digest work.Digest) (string, error) {
	dir, err := s.tenant(tenant)
	if err != nil {
		return "", err
	}
	d, err := work.ParseDigest(string(digest))
	if err != nil {
		return "", fault.New(fault.Invalid, "%v", err)
	}
	return filepath.Join(dir, d.Hex()), nil
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	name, err := s.path(tenant, digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fault.New(fault.NotFound, "there is nothing with digest %s", digest)
	}
	if err != nil {
		return nil, 0, full(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(full(err), f.Close())
	}
	return newVerified(f, digest), info.Size(), nil
}

// Has implements blob.Store.
func (s *Store) Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	name, err := s.path(tenant, digest)
	if err != nil {
		return false, err
	}
	s.present.RLock()
	defer s.present.RUnlock()
	return touch(name)
}

// touch notes that a blob is needed, and reports whether it is there.
func touch(name string) (bool, error) {
	now := time.Now()
	switch err := os.Chtimes(name, now, now); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		_, err := os.Lstat(name) // whoever may only look does not collect either
		return err == nil, nil
	default:
		return false, full(err)
	}
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, tenant work.Tenant, digest work.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := s.path(tenant, digest)
	if err != nil {
		return err
	}
	s.present.Lock()
	defer s.present.Unlock()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return full(err)
	}
	return nil
}

// page is how many names are read from a folder at a time.
const page = 1024

// List implements blob.Store.
func (s *Store) List(ctx context.Context, tenant work.Tenant) iter.Seq2[blob.Entry, error] {
	return func(yield func(blob.Entry, error) bool) {
		dir, err := s.tenant(tenant)
		if err != nil {
			yield(blob.Entry{}, err)
			return
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(blob.Entry{}, full(err))
			return
		}
		defer f.Close()
		for {
			if err := ctx.Err(); err != nil {
				yield(blob.Entry{}, err)
				return
			}
			files, err := f.ReadDir(page)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(blob.Entry{}, full(err))
				return
			}
			if !entries(files, yield) {
				return
			}
		}
	}
}

// entries yields the blobs among files, and reports whether more are wanted.
func entries(files []fs.DirEntry, yield func(blob.Entry, error) bool) bool {
	for _, file := range files {
		digest, err := work.ParseDigest("sha256:" + file.Name())
		if err != nil {
			continue // not a blob
		}
		info, err := file.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			yield(blob.Entry{}, full(err))
			return false
		case !yield(blob.Entry{Digest: digest, Size: info.Size(), Used: info.ModTime()}, nil):
			return false
		}
	}
	return true
}

// Collect implements blob.Store.
func (s *Store) Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (count, bytes int64, err error) {
	for e, err := range s.List(ctx, tenant) {
		if err != nil {
			return count, bytes, err
		}
		if e.Used.After(before) || keep(e.Digest) {
			continue
		}
		removed, err := s.removeStale(tenant, e.Digest, before)
		if err != nil {
			return count, bytes, err
		}
		if removed {
			count++
			bytes += e.Size
		}
	}
	return count, bytes, nil
}

// removeStale removes a blob unless somebody has needed it by now.
func (s *Store) removeStale(tenant work.Tenant, digest work.Digest, before time.Time) (bool, error) {
	name, err := s.path(tenant, digest)
	if err != nil {
		return false, err
	}
	s.present.Lock()
	defer s.present.Unlock()
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(before) {
		return false, nil
	}
	if err == nil {
		err = os.Remove(name)
	}
	return err == nil, full(err)
}

// full gives an error of the disk its code.
func full(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.Exhausted, "the disk is full: %w", err).WithHint("make room on the disk that holds the data folder")
	}
	return fault.Wrap(fault.Internal, err, "blobs")
}
