package collect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/blob/s3"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

var buckets testservice.SharedS3

func TestMain(m *testing.M) { os.Exit(buckets.Main(m)) }

// installation is several servers on one PostgreSQL and one bucket, with the clock of the machine.
type installation struct {
	servers []*Service
	stores  []*kernel.Store
	blobs   []*s3.Store
	data    string // where the bucket keeps its objects
}

func install(t *testing.T, n int) *installation {
	t.Helper()
	bucket := buckets.Server(t)
	database, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Close() })
	url, err := database.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{data: filepath.Join(bucket.Data(), "shared")}
	now := func() work.Time { return work.At(time.Now()) }
	for range n {
		driver, err := postgres.Open(t.Context(), postgres.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		rows := kernel.New(driver, kernel.Options{Now: now})
		t.Cleanup(func() { _ = rows.Close() })
		blobs, err := s3.Open(t.Context(), s3.Options{
			Endpoint: bucket.Endpoint, AccessKey: bucket.AccessKey, SecretKey: bucket.SecretKey, Region: "us-east-1", Bucket: "shared", Spool: t.TempDir(),
		})
		if err != nil {
			t.Fatal(err)
		}
		in.stores, in.blobs = append(in.stores, rows), append(in.blobs, blobs)
		in.servers = append(in.servers, &Service{Store: rows, Blobs: blobs, Now: now, Grace: time.Hour})
	}
	return in
}

// age makes every object, and every note, look as if it had been there for days.
func (in *installation) age(t *testing.T) {
	t.Helper()
	old := time.Now().Add(-72 * time.Hour)
	err := filepath.WalkDir(in.data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(path, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
	notes, err := in.stores[0].Records(t.Context(), acme, noteKind, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		n.Doc = fmt.Appendf(nil, `{"since":%q,"bytes":1}`, work.At(old))
		if err := in.stores[0].Change(t.Context(), store.RecordChange{Record: n}); err != nil {
			t.Fatal(err)
		}
	}
}

// Servers on one PostgreSQL and one bucket collect at the same time as people name, through any of them, what is due to go: each blob is
// gone when nobody asked for it, and there when somebody was told that it is.
func TestB14_SeveralServersOneBucket(t *testing.T) {
	in := install(t, 2)
	ctx := t.Context()
	const files = 60
	var digests []work.Digest
	for i := range files {
		d, _, err := in.blobs[0].Put(ctx, acme, bytes.NewReader(fmt.Appendf(nil, "file %d", i)))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	if r, err := in.servers[0].Collect(ctx, acme); err != nil || r.Waiting.Blobs != files {
		t.Fatalf("the first look: %+v, %v", r, err)
	}
	in.age(t)

	told := make([]bool, files)
	var group sync.WaitGroup
	for i, s := range in.servers {
		group.Go(func() {
			if _, err := s.Collect(ctx, acme); err != nil && fault.CodeOf(err) != fault.Conflict {
				t.Errorf("server %d: %v", i, err)
			}
		})
		group.Go(func() {
			for n := i; n < files; n += 3 { // a third of them nobody needs
				has, err := in.blobs[i].Has(ctx, acme, digests[n])
				if err != nil {
					t.Errorf("file %d: %v", n, err)
				}
				if told[n] = has; has {
					in.name(t, i, n, digests[n])
				}
			}
		})
	}
	group.Wait()
	if _, err := in.servers[1].Collect(ctx, acme); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for n, d := range digests {
		body, _, err := in.blobs[1].Open(ctx, acme, d)
		there := err == nil
		if there {
			kept++
			if _, err := io.Copy(io.Discard, body); err != nil {
				t.Errorf("file %d: %v", n, err)
			}
			_ = body.Close() // it was read to the end
		}
		if there != told[n] {
			t.Errorf("file %d: somebody was told %t, and it is there: %t", n, told[n], there)
		}
	}
	t.Logf("%d of %d were asked for in time", kept, files)
}

// name makes a run that names a file.
func (in *installation) name(t *testing.T, server, n int, d work.Digest) {
	r := &rig{tb: t, Store: in.stores[server], n: n}
	s := r.submission(work.Artifact{Path: fmt.Sprint(n), Digest: d, Size: 1}, nil)
	if out := in.stores[server].Submit(context.Background(), []store.Submission{s}); out[0].Err != nil {
		t.Errorf("submit: %v", out[0].Err)
	}
}
