package folder

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/blob/blobtest"
	"orrery.example/orrery/internal/work"
)

func open(t testing.TB) blob.Store {
	f, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func pathOf(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest) string {
	path, err := s.(*Store).path(tenant, digest)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStore(t *testing.T) {
	blobtest.Run(t, blobtest.Harness{
		Open: open,
		Age: func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest, stored time.Time) {
			if err := os.Chtimes(pathOf(t, s, tenant, digest), stored, stored); err != nil {
				t.Fatal(err)
			}
		},
		Damage: func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest) {
			path := pathOf(t, s, tenant, digest)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		Tell: func(s blob.Store, stored func(work.Tenant, int64)) { s.(*Store).Stored = stored },
		Leftovers: func(t testing.TB, s blob.Store) int {
			left, err := filepath.Glob(filepath.Join(s.(*Store).dir, "*", incoming, "*"))
			if err != nil {
				t.Fatal(err)
			}
			return len(left)
		},
	})
}

// A blob of the wrong size is damaged for sure: storing it again mends it.
func TestPutMendsATruncatedBlob(t *testing.T) {
	s := open(t)
	digests, err := s.PutAll(t.Context(), "acme", [][]byte{[]byte("whole")})
	if err != nil {
		t.Fatal(err)
	}
	path := pathOf(t, s, "acme", digests[0])
	if err := os.Truncate(path, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutAll(t.Context(), "acme", [][]byte{[]byte("whole")}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "whole" {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestOpenSweepsWhatAStoppedProcessLeft(t *testing.T) {
	root := filepath.Join(t.TempDir(), "odd [name]*")
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutAll(t.Context(), "acme", [][]byte{[]byte("whole")}); err != nil {
		t.Fatal(err)
	}
	dir, err := s.tenant("acme")
	if err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 2 * staleAfter, "new": 0} {
		path := filepath.Join(dir, incoming, name)
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(root); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, incoming))
	if err != nil || len(left) != 1 || left[0].Name() != "new" {
		t.Fatalf("%v, %v", left, err)
	}
}

func TestOnlyTheOwnerCanLook(t *testing.T) {
	s := open(t)
	digests, err := s.PutAll(t.Context(), "acme", [][]byte{[]byte("private")})
	if err != nil {
		t.Fatal(err)
	}
	path := pathOf(t, s, "acme", digests[0])
	for _, p := range []string{path, filepath.Dir(path), filepath.Join(filepath.Dir(path), incoming)} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
}

// BenchmarkPut is the price of a small blob, alone and in a batch.
func BenchmarkPut(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			s, n := open(b), 0
			for b.Loop() {
				blobs := make([][]byte, batch)
				for i := range blobs {
					n++
					blobs[i] = fmt.Appendf(nil, "blob %d", n)
				}
				if _, err := s.PutAll(b.Context(), "acme", blobs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/blob")
		})
	}
}
