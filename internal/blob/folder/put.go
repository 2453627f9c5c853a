package folder

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"orrery.example/orrery/internal/work"
)

// small is the size up to which a blob is read before anything is written: most are small, and many are there already.
const small = 64 << 10

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error) {
	dir, err := s.tenant(tenant)
	if err != nil {
		return "", 0, err
	}
	r = &patient{ctx, r}
	head, err := io.ReadAll(io.LimitReader(r, small+1))
	if err != nil {
		return "", 0, err
	}
	if len(head) <= small {
		digests, err := s.PutAll(ctx, tenant, [][]byte{head})
		if err != nil {
			return "", 0, err
		}
		return digests[0], int64(len(head)), nil
	}
	if err := s.makeTenant(dir); err != nil {
		return "", 0, err
	}
	file, digest, size, err := grow(dir, io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		return "", 0, err
	}
	if err := s.place(tenant, file, filepath.Join(dir, digest.Hex()), size); err != nil {
		return "", 0, err
	}
	return digest, size, flush(dir)
}

// PutAll implements blob.Store. The files are written side by side, so that the disk makes them durable together, and their names are
// made durable at once.
func (s *Store) PutAll(ctx context.Context, tenant work.Tenant, blobs [][]byte) ([]work.Digest, error) {
	dir, err := s.tenant(tenant)
	if err != nil {
		return nil, err
	}
	digests := make([]work.Digest, len(blobs))
	fresh := make([][]byte, 0, len(blobs))
	young := false
	known := map[work.Digest]bool{}
	for i, data := range blobs {
		sum := sha256.Sum256(data)
		digests[i] = work.Digest("sha256:" + hex.EncodeToString(sum[:]))
		if known[digests[i]] {
			continue
		}
		known[digests[i]] = true
		age, had := s.needed(filepath.Join(dir, digests[i].Hex()), int64(len(data)))
		if !had {
			fresh = append(fresh, data)
		}
		young = young || had && age < time.Minute // who stores it may not have come so far as to make its name durable
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(fresh) > 0 {
		if err := s.makeTenant(dir); err != nil {
			return nil, err
		}
		if err := together(fresh, func(data []byte) error {
			file, digest, size, err := grow(dir, bytes.NewReader(data))
			if err != nil {
				return err
			}
			return s.place(tenant, file, filepath.Join(dir, digest.Hex()), size)
		}); err != nil {
			return nil, err
		}
	}
	if len(fresh) > 0 || young {
		return digests, flush(dir)
	}
	return digests, nil
}

// syncs is how many are asked for at a time: the filesystem puts those that wait into one.
const syncs = 16

// together calls do for every value, several at a time, and returns their errors. After an error what has not begun is left out.
func together[T any](values []T, do func(T) error) error {
	var group sync.WaitGroup
	var failed atomic.Bool
	next := make(chan T)
	errs := make([]error, min(syncs, len(values)))
	for i := range errs {
		group.Go(func() {
			for v := range next {
				if failed.Load() {
					continue
				}
				if err := do(v); err != nil {
					errs[i] = err
					failed.Store(true)
				}
			}
		})
	}
	for _, v := range values {
		next <- v
	}
	close(next)
	group.Wait()
	return errors.Join(errs...)
}

// grow writes bytes to a file of their own beside the blobs and sees that they are on the disk.
func grow(dir string, r io.Reader) (file string, digest work.Digest, size int64, err error) {
	file = filepath.Join(dir, incoming, rand.Text())
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", 0, full(err)
	}
	from := &source{r: r}
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, sum), from)
	if err == nil {
		err = f.Sync()
	}
	err = full(errors.Join(err, f.Close()))
	if from.err != nil {
		err = from.err // the caller's own
	}
	if err != nil {
		_ = os.Remove(file) // what stays is swept later
		return "", "", 0, err
	}
	return file, work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), size, nil
}

// needed notes that a blob is needed from now on, if it is there, and tells how long nobody has needed it. One of another size is
// damaged and has to be written again.
func (s *Store) needed(name string, size int64) (age time.Duration, had bool) {
	s.present.RLock()
	defer s.present.RUnlock()
	info, err := os.Lstat(name)
	if err != nil || info.Size() != size || !info.Mode().IsRegular() {
		return 0, false
	}
	had, err = touch(name)
	return time.Since(info.ModTime()), had && err == nil
}

// place gives a file the name of its blob, unless that is there by now.
func (s *Store) place(tenant work.Tenant, file, name string, size int64) error {
	if _, had := s.needed(name, size); had {
		return full(os.Remove(file))
	}
	if err := os.Rename(file, name); err != nil {
		_ = os.Remove(file) // what stays is swept later
		return full(err)
	}
	if s.Stored != nil {
		s.Stored(tenant, size)
	}
	return nil
}

// makeTenant creates the folders of a tenant durably, once.
func (s *Store) makeTenant(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready[dir] {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(dir, incoming), 0o700); err != nil {
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

// flush makes the names in a folder durable.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return full(err)
	}
	return full(errors.Join(d.Sync(), d.Close()))
}

// source remembers the error of a reader, to tell it from one of writing.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// patient stops reading when nobody waits any more.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}
