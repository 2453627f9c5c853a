package collect

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// B14: a blob goes at the second look, when the grace is over, and what is named in any way stays.
func TestB14_Collect(t *testing.T) {
	r := newRig(t, t.TempDir())
	ctx := t.Context()
	file, out, cached, kept := r.put("file"), r.put("out"), r.put("cached"), r.put("bundle")
	s := r.submission(file, nil)
	r.must("submit", r.Submit(ctx, []store.Submission{s})[0].Err)
	r.report(r.claim(), "", out)
	again := r.submission(file, nil)
	r.must("submit", r.Submit(ctx, []store.Submission{again})[0].Err)
	r.report(r.claim(), cached.Digest, cached)
	pack, orphan := r.put("pack"), r.put("orphan")
	r.publish("p", pack)
	look := func() Result {
		t.Helper()
		planned, err := r.collect.Preview(ctx, acme)
		r.must("preview", err)
		got, err := r.collect.Collect(ctx, acme)
		r.must("collect", err)
		if planned != got {
			t.Errorf("foreseen %+v, done %+v", planned, got)
		}
		return got
	}
	wants := func(what string, got Result, kept, waiting, freed int64) {
		t.Helper()
		if got.Kept.Blobs != kept || got.Waiting.Blobs != waiting || got.Freed.Blobs != freed {
			t.Errorf("%s: %+v", what, got)
		}
	}
	wants("the first look", look(), 4, 2, 0) // the bundle is named by nothing yet
	r.advance(grace / 2)
	wants("too early", look(), 4, 2, 0)
	r.erase(s.Run.ID, kept.Digest)
	r.advance(grace / 2)
	got := look()
	wants("the grace is over", got, 4, 1, 1) // out and orphan: only the latter is due
	if r.has(orphan.Digest) || got.Freed.Bytes != orphan.Size {
		t.Errorf("freed %d bytes", got.Freed.Bytes)
	}
	r.advance(grace)
	wants("after the run", look(), 4, 0, 1)
	if r.has(out.Digest) {
		t.Error("the output of a deleted run is left")
	}
	for name, a := range map[string]work.Artifact{"the file of a run": file, "a cached result": cached, "the pack": pack, "kept evidence": kept} {
		if !r.has(a.Digest) {
			t.Errorf("%s is gone", name)
		}
	}
	last, err := r.collect.Last(ctx, acme)
	if err != nil || last.Freed.Blobs != 1 || last.At != r.now() {
		t.Errorf("counted: %+v, %v", last, err)
	}
	if other, err := r.collect.Collect(ctx, "zenith"); err != nil || other.Kept.Blobs+other.Waiting.Blobs != 0 {
		t.Errorf("another tenant: %+v, %v", other, err)
	}
}

// I18: the report of an attempt may come long after what it put.
func TestB14_CollectWaitsForAttempts(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.must("submit", r.Submit(t.Context(), []store.Submission{r.submission(r.put("file"), nil)})[0].Err)
	g := r.claim()
	r.advance(time.Hour)
	out := r.put("out")
	for range 5 {
		_, err := r.collect.Collect(t.Context(), acme)
		r.must("collect", err)
		r.advance(2 * grace)
	}
	if !r.has(out.Digest) {
		t.Fatal("the output of an attempt under way is gone")
	}
	r.report(g, "", out)
	other := r.put("nobody's")
	for range 3 {
		r.advance(2 * grace)
		_, err := r.collect.Collect(t.Context(), acme)
		r.must("collect", err)
	}
	if !r.has(out.Digest) || r.has(other.Digest) {
		t.Error("after the report")
	}
}

// Whoever asks for a blob between the looks begins its time again: it need not be uploaded, and will be named soon.
func TestB14_AskedForBetweenLooks(t *testing.T) {
	r := newRig(t, t.TempDir())
	file := r.put("file")
	collect := func(freed int64) {
		t.Helper()
		if got, err := r.collect.Collect(t.Context(), acme); err != nil || got.Freed.Blobs != freed {
			t.Errorf("%+v, %v", got, err)
		}
	}
	collect(0)
	r.advance(grace - time.Hour)
	if has, err := r.blobs.Has(t.Context(), acme, file.Digest); !has || err != nil {
		t.Fatal(has, err)
	}
	r.advance(2 * time.Hour)
	collect(0)
	r.advance(grace)
	collect(1)
}

func TestB14_NothingGoesDuringABackup(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.put("orphan")
	_, err := r.collect.Collect(t.Context(), acme)
	r.must("collect", err)
	r.advance(grace)
	r.collect.Held = func() (string, error) { return "a backup is being made", nil }
	if got, err := r.collect.Collect(t.Context(), acme); err != nil || got.Freed.Blobs != 0 || got.Waiting.Blobs != 1 || got.Held == "" {
		t.Errorf("%+v, %v", got, err)
	}
	asked := 0
	r.collect.Held = func() (string, error) { // begins while files go
		if asked++; asked > 1 {
			return "a backup is being made", nil
		}
		return "", nil
	}
	if got, err := r.collect.Collect(t.Context(), acme); err != nil || got.Freed.Blobs != 0 || got.Held == "" {
		t.Errorf("%+v, %v", got, err)
	}
	r.collect.Held = nil
	if got, err := r.collect.Collect(t.Context(), acme); err != nil || got.Freed.Blobs != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// One process collects at a time; when it is gone, another goes on.
func TestB14_Turns(t *testing.T) {
	r := newRig(t, t.TempDir())
	mine, err := r.collect.take(t.Context(), acme)
	r.must("take", err)
	if _, err := r.collect.Collect(t.Context(), acme); fault.CodeOf(err) != fault.Conflict {
		t.Fatalf("a second one: %v", err)
	}
	r.advance(2 * turnRenew)
	r.must("renew", mine.keep(t.Context()))
	r.advance(2 * turnLasts)
	yours, err := r.collect.take(t.Context(), acme)
	r.must("take over", err)
	r.advance(2 * turnRenew)
	if err := mine.keep(t.Context()); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("the first one goes on: %v", err)
	}
	r.must("end", mine.end(t.Context()))
	r.must("renew", yours.keep(t.Context()))
	r.must("end", yours.end(t.Context()))
	_, err = r.collect.Collect(t.Context(), acme)
	r.must("collect", err)
}

func TestNamed(t *testing.T) {
	var n named
	d := work.Digest("sha256:" + string(slices.Repeat([]byte("0123456789abcdef"), 4)))
	n.add([]byte(`{"a":"` + d + `","b":["sha256:","sha256:00","sha256:zz` + d[9:] + `","` + work.Digest("sha256:f") + d[8:] + `"]}`))
	n.sort()
	if !n.has(d) || !n.has("sha256:f"+d[8:]) || n.has("sha256:e"+d[8:]) {
		t.Errorf("%x", n.heads)
	}
}

// FuzzNamed: whatever a text holds, a digest that stands in it is found.
func FuzzNamed(f *testing.F) {
	f.Add([]byte(`{"digest":"`), []byte(`"}sha256:sha256:`))
	d := work.Digest("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	f.Fuzz(func(t *testing.T, before, after []byte) {
		var n named
		n.add(slices.Concat(before, []byte(d), after))
		n.sort()
		if !n.has(d) {
			t.Errorf("not in %q…%q", before, after)
		}
	})
}

// The audit entry comes with the removal, and says how much.
func TestB14_CollectionIsAudited(t *testing.T) {
	r := newRig(t, t.TempDir())
	orphan := r.put("orphan")
	collect := func() *store.Audit {
		t.Helper()
		entry := &store.Audit{Tenant: acme, Action: "collectBlobs", Actor: "ann", Kind: "user"}
		_, err := r.collect.Collect(store.WithAudit(t.Context(), entry), acme)
		r.must("collect", err)
		return entry
	}
	if collect().Written() {
		t.Error("nothing went, and there is an entry")
	}
	r.advance(grace)
	entry := collect()
	var detail Amount
	if err := json.Unmarshal(entry.Detail, &detail); err != nil || !entry.Written() || detail != (Amount{1, orphan.Size}) {
		t.Errorf("%+v, %v", entry, err)
	}
}
