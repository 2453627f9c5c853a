package workerapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// Headers of the resumable upload, named as in the draft of the IETF for it.
const (
	headerOffset   = "Upload-Offset"
	headerComplete = "Upload-Complete"
)

// transferWait is how long the transfer of one file may take.
const transferWait = time.Hour

func (s *service) download(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, err := tenant(c)
	if err != nil {
		return err
	}
	d, err := digest(r, "digest")
	if err != nil {
		return err
	}
	from, size, err := s.Blobs.Open(r.Context(), t, d)
	if err != nil {
		return err
	}
	defer from.Close()
	linger(w, transferWait)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.Copy(w, from); err != nil {
		panic(http.ErrAbortHandler) // the client must not take the part for the whole
	}
	return nil
}

func (s *service) offset(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, d, err := s.named(r, c)
	if err != nil {
		return err
	}
	known, err := s.Blobs.Has(r.Context(), t, d)
	if err != nil {
		return err
	}
	w.Header().Set(headerComplete, "?1")
	if !known {
		w.Header().Set(headerComplete, "?0")
		w.Header().Set(headerOffset, strconv.FormatInt(s.uploads.offset(t, d), 10))
	}
	return nil
}

func (s *service) named(r *http.Request, c *httpapi.Call) (work.Tenant, work.Digest, error) {
	t, err := tenant(c)
	if err != nil {
		return "", "", err
	}
	d, err := digest(r, "digest")
	return t, d, err
}

func (s *service) upload(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	t, d, err := s.named(r, c)
	if err != nil {
		return err
	}
	linger(w, transferWait)
	part, err := parseRange(r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	if part == nil {
		size, err := putWhole(r.Context(), s.Blobs, t, d, r.Body)
		if err != nil {
			return err
		}
		return httpapi.Reply(w, http.StatusOK, api.WorkerUpload{Digest: string(d), Size: size, Offset: size})
	}
	at, err := s.uploads.add(r.Context(), t, d, *part, r.Body)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, api.WorkerUpload{Digest: string(d), Size: part.total, Offset: at})
}

// putWhole stores a file if it is the one that the digest names, and nothing otherwise.
func putWhole(ctx context.Context, to blob.Store, t work.Tenant, d work.Digest, r io.Reader) (int64, error) {
	_, size, err := to.Put(ctx, t, &checked{r: r, want: d, sum: sha256.New()})
	return size, err
}

// checked ends with an error instead of io.EOF when the bytes are not what the digest names, so that nobody keeps them.
type checked struct {
	r    io.Reader
	want work.Digest
	sum  hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := work.Digest("sha256:" + hex.EncodeToString(c.sum.Sum(nil))); got != c.want {
			return n, fault.New(fault.Unverified, "the bytes hash to %s, not to %s", got, c.want)
		}
	}
	return n, err
}

// span is a part of a file, first and last byte included.
type span struct{ first, last, total int64 }

var contentRange = regexp.MustCompile(`^bytes (\d{1,18})-(\d{1,18})/(\d{1,18})$`)

func parseRange(h string) (*span, error) {
	if h == "" {
		return nil, nil
	}
	m := contentRange.FindStringSubmatch(h)
	if m == nil {
		return nil, fault.New(fault.Invalid, "Content-Range is %q", h).WithHint("write it as: bytes 0-1048575/4194304")
	}
	// Eighteen digits always fit.
	first, _ := strconv.ParseInt(m[1], 10, 64)
	last, _ := strconv.ParseInt(m[2], 10, 64)
	total, _ := strconv.ParseInt(m[3], 10, 64)
	if first > last || last >= total || total > maxBlob {
		return nil, fault.New(fault.Invalid, "Content-Range is %q, which is no part of a file of at most %d bytes", h, int64(maxBlob))
	}
	return &span{first, last, total}, nil
}

// uploads keeps files that are half there.
type uploads struct {
	dir string
	to  blob.Store

	mu   sync.Mutex
	busy map[string]bool
}

func newUploads(dir string, to blob.Store) *uploads {
	return &uploads{dir: dir, to: to, busy: map[string]bool{}}
}

// staleAfter is how long a file that nobody goes on with is kept.
const staleAfter = 24 * time.Hour

func (u *uploads) path(t work.Tenant, d work.Digest) string {
	name := sha256.Sum256([]byte(string(t) + "\n" + string(d)))
	return filepath.Join(u.dir, hex.EncodeToString(name[:])+".part")
}

func (u *uploads) offset(t work.Tenant, d work.Digest) int64 {
	info, err := os.Stat(u.path(t, d))
	if err != nil {
		return 0
	}
	return info.Size()
}

// add appends a part and returns how much is there; with the last one the file is checked and stored. Errors: fault.Conflict for a part
// that does not begin where the last one ended, or while another one comes in; fault.Unverified for a file with another digest.
func (u *uploads) add(ctx context.Context, t work.Tenant, d work.Digest, part span, body io.Reader) (int64, error) {
	path := u.path(t, d)
	if !u.take(path) {
		return 0, fault.New(fault.Conflict, "another part of this file is on its way")
	}
	defer u.release(path)
	f, err := u.open(path)
	if err != nil {
		return 0, fault.Wrap(fault.Internal, err, "a file that is half uploaded")
	}
	defer f.Close()
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fault.Wrap(fault.Internal, err, "a file that is half uploaded")
	}
	if at != part.first {
		return 0, fault.New(fault.Conflict, "the part begins at %d, the server has %d bytes", part.first, at).WithHint("go on from %d", at)
	}
	want := part.last - part.first + 1
	n, err := io.Copy(f, io.LimitReader(body, want)) // what arrived stays: the client goes on from there
	if err != nil || n < want {
		return 0, fault.New(fault.Invalid, "the part ended after %d of %d bytes", n, want)
	}
	if part.last+1 < part.total {
		return at + n, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, fault.Wrap(fault.Internal, err, "a file that is half uploaded")
	}
	_, err = putWhole(ctx, u.to, t, d, f)
	// Whatever came of it, there is nothing to go on with.
	return at + n, errors.Join(err, os.Remove(path))
}

func (u *uploads) open(path string) (*os.File, error) {
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	u.sweep()
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// sweep removes what was given up.
func (u *uploads) sweep() {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(u.dir, e.Name())) // the next sweep tries again
		}
	}
}

func (u *uploads) take(path string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[path] {
		return false
	}
	u.busy[path] = true
	return true
}

func (u *uploads) release(path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, path)
}
