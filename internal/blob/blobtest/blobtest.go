// Package blobtest is the suite that every store of blobs has to pass.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Harness is what a store under test offers beside its methods.
type Harness struct {
	// Open returns an empty store.
	Open func(testing.TB) blob.Store

	// Age makes a blob look as if it had been stored at a time.
	Age func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest, stored time.Time)

	// Damage changes one byte of a blob.
	Damage func(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest)

	// Tell lets a function hear of bytes that are there and were not.
	Tell func(s blob.Store, stored func(tenant work.Tenant, bytes int64))

	// Leftovers counts files that are no blobs.
	Leftovers func(testing.TB, blob.Store) int
}

const (
	acme   work.Tenant = "acme"
	zenith work.Tenant = "zenith"
)

// Run tests a store.
func Run(t *testing.T, h Harness) {
	for name, test := range map[string]func(*testing.T, Harness, blob.Store){
		"Sizes": sizes, "Again": again, "Missing": absent, "Tenants": tenants, "Batch": batch, "BrokenReader": brokenReader,
		"Cancelled": cancelled, "Damaged": damaged, "List": list, "Collect": collect, "CollectWhilePutting": collectWhilePutting,
		"CollectWhileAsking": collectWhileAsking, "CollectStopped": collectStopped, "Stored": stored,
		"Together": together,
	} {
		t.Run(name, func(t *testing.T) {
			s := h.Open(t)
			test(t, h, s)
			if n := h.Leftovers(t, s); n != 0 {
				t.Errorf("%d unfinished files were left behind", n)
			}
		})
	}
}

func digestOf(data []byte) work.Digest {
	return work.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
}

func put(t testing.TB, s blob.Store, tenant work.Tenant, data []byte) work.Digest {
	t.Helper()
	digest, size, err := s.Put(t.Context(), tenant, bytes.NewReader(data))
	if err != nil || digest != digestOf(data) || size != int64(len(data)) {
		t.Fatalf("put %d bytes: %s, %d, %v", len(data), digest, size, err)
	}
	return digest
}

func read(t testing.TB, s blob.Store, tenant work.Tenant, digest work.Digest) ([]byte, error) {
	t.Helper()
	r, size, err := s.Open(t.Context(), tenant, digest)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if closed := r.Close(); err == nil {
		err = closed
	}
	if err == nil && size != int64(len(data)) {
		t.Errorf("a blob of %d bytes was said to have %d", len(data), size)
	}
	return data, err
}

func digests(t testing.TB, s blob.Store, tenant work.Tenant) []work.Digest {
	t.Helper()
	var out []work.Digest
	for e, err := range s.List(t.Context(), tenant) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Digest)
	}
	slices.Sort(out)
	return out
}

func sizes(t *testing.T, _ Harness, s blob.Store) {
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		data := bytes.Repeat([]byte{byte(size), 7}, size/2+1)[:size]
		got, err := read(t, s, acme, put(t, s, acme, data))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
		}
	}
}

func again(t *testing.T, _ Harness, s blob.Store) {
	for _, data := range [][]byte{[]byte("small"), bytes.Repeat([]byte("large"), 100_000)} {
		first, second := put(t, s, acme, data), put(t, s, acme, data)
		if got, err := read(t, s, acme, second); first != second || err != nil || !bytes.Equal(got, data) {
			t.Errorf("stored twice: %s and %s, %v", first, second, err)
		}
	}
	if n := len(digests(t, s, acme)); n != 2 {
		t.Errorf("two blobs are listed as %d", n)
	}
}

func absent(t *testing.T, _ Harness, s blob.Store) {
	nowhere := digestOf([]byte("nowhere"))
	if _, err := read(t, s, acme, nowhere); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("Open: %v", err)
	}
	if has, err := s.Has(t.Context(), acme, nowhere); has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
	if err := s.Delete(t.Context(), acme, nowhere); err != nil {
		t.Errorf("Delete: %v", err)
	}
	for _, d := range []work.Digest{"", "sha256:", "sha256:../../../etc/passwd", nowhere[:70], work.Digest(strings.ToUpper(string(nowhere)))} {
		_, err := read(t, s, acme, d)
		_, asked := s.Has(t.Context(), acme, d)
		for what, err := range map[string]error{"Open": err, "Has": asked, "Delete": s.Delete(t.Context(), acme, d)} {
			if fault.CodeOf(err) != fault.Invalid {
				t.Errorf("%s of %q: %v", what, d, err)
			}
		}
	}
	_, _, putErr := s.Put(t.Context(), "", strings.NewReader("x"))
	_, allErr := s.PutAll(t.Context(), "", nil)
	_, _, openErr := s.Open(t.Context(), "", nowhere)
	_, hasErr := s.Has(t.Context(), "", nowhere)
	_, _, collectErr := s.Collect(t.Context(), "", time.Now(), func(work.Digest) bool { return false })
	for what, err := range map[string]error{
		"Put": putErr, "PutAll": allErr, "Open": openErr, "Has": hasErr, "Delete": s.Delete(t.Context(), "", nowhere), "Collect": collectErr,
	} {
		if fault.CodeOf(err) != fault.TenantRequired {
			t.Errorf("%s without a tenant: %v", what, err)
		}
	}
}

// tenants: nothing that one tenant does shows another what a third has.
func tenants(t *testing.T, _ Harness, s blob.Store) {
	names := []work.Tenant{acme, zenith, "ACME", "a/b", "..", "incoming", "61636d65", "ünï"}
	data := []byte("secret of acme")
	digest := put(t, s, acme, data)
	for _, other := range names[1:] {
		if has, err := s.Has(t.Context(), other, digest); has || err != nil {
			t.Errorf("%q has it: %v, %v", other, has, err)
		}
		_, err := read(t, s, other, digest)
		_, never := read(t, s, other, digestOf([]byte("never stored")))
		if fault.CodeOf(err) != fault.NotFound || strings.ReplaceAll(err.Error(), digest.Hex(), "") != strings.ReplaceAll(never.Error(), digestOf([]byte("never stored")).Hex(), "") {
			t.Errorf("%q can tell it from what was never stored: %v and %v", other, err, never)
		}
		if err := s.Delete(t.Context(), other, digest); err != nil {
			t.Errorf("%q: %v", other, err)
		}
		if _, _, err := s.Collect(t.Context(), other, time.Now().Add(time.Hour), func(work.Digest) bool { return false }); err != nil {
			t.Errorf("%q: %v", other, err)
		}
		if listed := digests(t, s, other); len(listed) != 0 {
			t.Errorf("%q lists %v", other, listed)
		}
	}
	if got, err := read(t, s, acme, digest); err != nil || !bytes.Equal(got, data) {
		t.Errorf("its owner has lost it: %q, %v", got, err)
	}
	for _, name := range names {
		put(t, s, name, []byte(name))
	}
	for _, name := range names[1:] {
		if listed := digests(t, s, name); !slices.Equal(listed, []work.Digest{digestOf([]byte(name))}) {
			t.Errorf("%q lists %v", name, listed)
		}
	}
}

func batch(t *testing.T, _ Harness, s blob.Store) {
	blobs := make([][]byte, 200)
	for i := range blobs {
		blobs[i] = fmt.Appendf(nil, "blob %d", i%150)
	}
	put(t, s, acme, blobs[3])
	got, err := s.PutAll(t.Context(), acme, blobs)
	if err != nil || len(got) != len(blobs) {
		t.Fatalf("%d digests, %v", len(got), err)
	}
	for i, data := range blobs {
		if stored, err := read(t, s, acme, got[i]); err != nil || !bytes.Equal(stored, data) {
			t.Fatalf("blob %d came back as %q, %v", i, stored, err)
		}
	}
	if n := len(digests(t, s, acme)); n != 150 {
		t.Errorf("150 blobs are listed as %d", n)
	}
	if none, err := s.PutAll(t.Context(), acme, nil); err != nil || len(none) != 0 {
		t.Errorf("nothing at all: %v, %v", none, err)
	}
}

var errBroken = errors.New("blobtest: the reader broke")

func brokenReader(t *testing.T, _ Harness, s blob.Store) {
	for _, size := range []int{10, 200_000} {
		r := io.MultiReader(bytes.NewReader(make([]byte, size)), brokenAtOnce{})
		if _, _, err := s.Put(t.Context(), acme, r); !errors.Is(err, errBroken) {
			t.Errorf("after %d bytes: %v", size, err)
		}
	}
	if listed := digests(t, s, acme); len(listed) != 0 {
		t.Errorf("half a blob was stored: %v", listed)
	}
}

type brokenAtOnce struct{}

func (brokenAtOnce) Read([]byte) (int, error) { return 0, errBroken }

func cancelled(t *testing.T, _ Harness, s blob.Store) {
	digest := put(t, s, acme, []byte("here"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, putErr := s.Put(ctx, acme, strings.NewReader("x"))
	_, allErr := s.PutAll(ctx, acme, [][]byte{[]byte("x")})
	_, _, openErr := s.Open(ctx, acme, digest)
	_, hasErr := s.Has(ctx, acme, digest)
	for what, err := range map[string]error{"Put": putErr, "PutAll": allErr, "Open": openErr, "Has": hasErr, "Delete": s.Delete(ctx, acme, digest)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if listed := digests(t, s, acme); !slices.Equal(listed, []work.Digest{digest}) {
		t.Errorf("listed: %v", listed)
	}
}

func damaged(t *testing.T, h Harness, s blob.Store) {
	for _, size := range []int{1, 1000, 200_000} {
		digest := put(t, s, acme, bytes.Repeat([]byte("x"), size))
		h.Damage(t, s, acme, digest)
		if _, err := read(t, s, acme, digest); fault.CodeOf(err) != fault.Unverified {
			t.Errorf("a damaged blob of %d bytes was read: %v", size, err)
		}
	}
}

func list(t *testing.T, _ Harness, s blob.Store) {
	var want []work.Digest
	for i := range 50 {
		want = append(want, put(t, s, acme, fmt.Appendf(nil, "%d", i)))
	}
	slices.Sort(want)
	if got := digests(t, s, acme); !slices.Equal(got, want) {
		t.Errorf("%d blobs are listed as %d", len(want), len(got))
	}
	for e, err := range s.List(t.Context(), acme) { // stops when asked to
		if err != nil || !slices.Contains(want, e.Digest) || e.Size == 0 || e.Used.IsZero() {
			t.Errorf("%+v, %v", e, err)
		}
		break
	}
	if err := s.Delete(t.Context(), acme, want[7]); err != nil {
		t.Fatal(err)
	}
	if got := digests(t, s, acme); !slices.Equal(got, slices.Delete(want, 7, 8)) {
		t.Errorf("after a deletion %d are listed", len(got))
	}
}

func collect(t *testing.T, h Harness, s blob.Store) {
	now := time.Now()
	old, limit := now.Add(-48*time.Hour), now.Add(-24*time.Hour)
	kept, young := put(t, s, acme, []byte("kept")), put(t, s, acme, []byte("young"))
	stale, renewed := put(t, s, acme, []byte("stale")), put(t, s, acme, []byte("renewed"))
	asked := put(t, s, acme, []byte("asked for"))
	for _, d := range []work.Digest{kept, stale, renewed, asked} {
		h.Age(t, s, acme, d, old)
	}
	put(t, s, acme, []byte("renewed")) // whoever stores it again needs it
	if has, err := s.Has(t.Context(), acme, asked); err != nil || !has {
		t.Fatalf("Has: %v, %v", has, err)
	}
	count, size, err := s.Collect(t.Context(), acme, limit, func(d work.Digest) bool { return d == kept })
	if err != nil || count != 1 || size != 5 {
		t.Errorf("collected %d blobs with %d bytes, %v", count, size, err)
	}
	want := []work.Digest{kept, young, renewed, asked}
	slices.Sort(want)
	if left := digests(t, s, acme); !slices.Equal(left, want) {
		t.Errorf("left: %v", left)
	}
	if _, err := read(t, s, acme, stale); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a collected blob: %v", err)
	}
}

// collectWhilePutting: a blob that is stored again between the list and the removal stays.
func collectWhilePutting(t *testing.T, h Harness, s blob.Store) {
	data := []byte("wanted again")
	digest := put(t, s, acme, data)
	h.Age(t, s, acme, digest, time.Now().Add(-48*time.Hour))
	count, _, err := s.Collect(t.Context(), acme, time.Now().Add(-24*time.Hour), func(work.Digest) bool {
		put(t, s, acme, data) // the collection has seen it as old by now
		return false
	})
	if err != nil || count != 0 {
		t.Errorf("collected %d, %v", count, err)
	}
	if stored, err := read(t, s, acme, digest); err != nil || !bytes.Equal(stored, data) {
		t.Errorf("it is gone: %v", err)
	}
}

// collectWhileAsking: who is told between the list and the removal that a blob is there can rely on it.
func collectWhileAsking(t *testing.T, h Harness, s blob.Store) {
	data := []byte("there already")
	digest := put(t, s, acme, data)
	h.Age(t, s, acme, digest, time.Now().Add(-48*time.Hour))
	told := false
	count, _, err := s.Collect(t.Context(), acme, time.Now().Add(-24*time.Hour), func(d work.Digest) bool {
		var err error
		if told, err = s.Has(t.Context(), acme, d); err != nil {
			t.Errorf("Has: %v", err)
		}
		return false
	})
	if err != nil || count != 0 || !told {
		t.Errorf("collected %d, told %t, %v", count, told, err)
	}
	if stored, err := read(t, s, acme, digest); err != nil || !bytes.Equal(stored, data) {
		t.Errorf("it is gone: %v", err)
	}
}

// collectStopped: a collection that is stopped has counted what it removed, and another one goes on.
func collectStopped(t *testing.T, h Harness, s blob.Store) {
	const all = 10
	for i := range all {
		h.Age(t, s, acme, put(t, s, acme, fmt.Appendf(nil, "%d", i)), time.Now().Add(-48*time.Hour))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	asked := 0
	first, bytes, err := s.Collect(ctx, acme, time.Now().Add(-24*time.Hour), func(work.Digest) bool {
		if asked++; asked > 3 {
			stop()
			return true
		}
		return false
	})
	if left := len(digests(t, s, acme)); left != all-int(first) || bytes != first || first != 3 {
		t.Errorf("%d with %d bytes were removed, %d are left: %v", first, bytes, left, err)
	}
	second, _, err := s.Collect(t.Context(), acme, time.Now().Add(-24*time.Hour), func(work.Digest) bool { return false })
	if err != nil || first+second != all {
		t.Errorf("then %d: %v", second, err)
	}
}

// stored: whoever counts is told of each blob once.
func stored(t *testing.T, h Harness, s blob.Store) {
	var mu sync.Mutex
	told := map[work.Tenant]int64{}
	h.Tell(s, func(tenant work.Tenant, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		told[tenant] += bytes
	})
	small, large := []byte("small"), bytes.Repeat([]byte("large"), 100_000)
	for range 2 {
		put(t, s, acme, small)
		put(t, s, acme, large)
		if _, err := s.PutAll(t.Context(), zenith, [][]byte{small, small, []byte("other")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Put(t.Context(), acme, brokenAtOnce{}); err == nil {
		t.Error("a broken reader was stored")
	}
	if told[acme] != int64(len(small)+len(large)) || told[zenith] != int64(len(small)+len("other")) {
		t.Errorf("told of %v", told)
	}
}

// together: many put, read and remove the same few blobs at once; who reads gets a whole one or none.
func together(t *testing.T, _ Harness, s blob.Store) {
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 20 {
				data := bytes.Repeat([]byte{byte('a' + (worker+i)%3)}, 70_000*((worker+i)%2)+10)
				digest, _, err := s.Put(t.Context(), acme, bytes.NewReader(data))
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if got, err := read(t, s, acme, digest); err == nil && !bytes.Equal(got, data) || err != nil && fault.CodeOf(err) != fault.NotFound {
					t.Errorf("Open: %d bytes, %v", len(got), err)
				}
				if worker == 0 {
					if err := s.Delete(t.Context(), acme, digest); err != nil {
						t.Errorf("Delete: %v", err)
					}
				}
			}
		})
	}
	group.Wait()
}
