package s3

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/blob/blobtest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

// server is shared by the tests of this package, each with a bucket of its own.
var (
	server  testservice.SharedS3
	buckets atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(server.Main(m)) }

func options(t testing.TB) Options {
	s := server.Server(t)
	return Options{
		Endpoint: s.Endpoint, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Region: "us-east-1", Spool: t.TempDir(),
		Bucket: fmt.Sprintf("bucket-%d", buckets.Add(1)), Prefix: "some/prefix",
	}
}

func open(t testing.TB) blob.Store {
	t.Helper()
	s, err := Open(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files are where the server keeps the generations of a blob.
func files(t testing.TB, of blob.Store, tenant work.Tenant, digest work.Digest) []string {
	t.Helper()
	s := of.(*Store)
	folder, err := s.folder(tenant, digest)
	if err != nil {
		t.Fatal(err)
	}
	have, err := s.generations(context.Background(), folder)
	if err != nil || len(have) == 0 {
		t.Fatalf("%d generations, %v", len(have), err)
	}
	var out []string
	for _, g := range have {
		out = append(out, filepath.Join(server.Server(t).Data(), s.o.Bucket, g.key))
	}
	return out
}

func TestStore(t *testing.T) {
	blobtest.Run(t, blobtest.Harness{
		Open: open,
		Age: func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest, stored time.Time) {
			for _, file := range files(t, s, tenant, digest) {
				if err := os.Chtimes(file, stored, stored); err != nil {
					t.Fatal(err)
				}
			}
		},
		Damage: func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest) {
			for _, file := range files(t, s, tenant, digest) {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				data[len(data)/2] ^= 1
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		Tell: func(s blob.Store, stored func(work.Tenant, int64)) { s.(*Store).Stored = stored },
		Leftovers: func(t testing.TB, of blob.Store) int {
			s := of.(*Store)
			left, err := os.ReadDir(s.o.Spool)
			if err != nil {
				t.Fatal(err)
			}
			n := len(left)
			for u := range s.client.ListIncompleteUploads(context.Background(), s.o.Bucket, "", true) {
				if u.Err != nil {
					t.Fatal(u.Err)
				}
				n++
			}
			return n
		},
	})
}

// A blob that goes in parts comes back whole.
func TestLarge(t *testing.T) {
	s := open(t)
	const size = partSize + 7<<20
	digest, n, err := s.Put(t.Context(), "acme", &pattern{left: size})
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	r, n, err := s.Open(t.Context(), "acme", digest)
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	defer r.Close()
	again, n, err := s.Put(t.Context(), "acme", r) // reads to the end, and so compares the digest
	if err != nil || again != digest || n != size {
		t.Fatalf("%s and %s, %d bytes, %v", digest, again, n, err)
	}
}

type pattern struct {
	left int
	at   byte
}

func (p *pattern) Read(into []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(into), p.left)
	for i := range n {
		p.at = p.at*31 + 7
		into[i] = p.at
	}
	if p.left -= n; p.left == 0 {
		return n, io.EOF
	}
	return n, nil
}

// What is wrong with the server is said with its code.
func TestErrors(t *testing.T) {
	o := options(t)
	o.SecretKey = "wrong"
	if _, err := Open(t.Context(), o); fault.CodeOf(err) != fault.Denied {
		t.Errorf("a wrong key: %v", err)
	}
	o = options(t)
	o.Endpoint = "127.0.0.1:1"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Open(ctx, o); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}
