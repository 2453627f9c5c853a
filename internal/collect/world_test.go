package collect

import (
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

var errKilled = errors.New("killed")

// mortal ends in the middle of a collection: every call after the first few fails.
type mortal struct{ left int }

func (m *mortal) dies() bool {
	m.left--
	return m.left < 0
}

type mortalRows struct {
	Store
	m *mortal
}

func (r mortalRows) Change(ctx context.Context, c ...store.RecordChange) error {
	if r.m.dies() {
		return errKilled
	}
	return r.Store.Change(ctx, c...)
}

type mortalBlobs struct {
	blob.Store
	m *mortal
}

func (b mortalBlobs) Collect(ctx context.Context, tenant work.Tenant, before time.Time, keep func(work.Digest) bool) (int64, int64, error) {
	killed := false
	n, size, err := b.Store.Collect(ctx, tenant, before, func(d work.Digest) bool {
		killed = killed || b.m.dies()
		return killed || keep(d)
	})
	if err == nil && killed {
		err = errKilled
	}
	return n, size, err
}

func (b mortalBlobs) List(ctx context.Context, tenant work.Tenant) iter.Seq2[blob.Entry, error] {
	if b.m.dies() {
		return func(yield func(blob.Entry, error) bool) { yield(blob.Entry{}, errKilled) }
	}
	return b.Store.List(ctx, tenant)
}

// world is what must be there.
type world struct {
	*rig
	t      *rapid.T
	names  map[work.Digest]string // what somebody has put or asked for and will name, or has named
	runs   map[work.RunID][]work.Artifact
	ended  []work.RunID
	grants []*grant
	sent   []pending
}

type grant struct {
	*store.Grant
	put []work.Artifact
}

type pending struct {
	s       store.Submission
	names   []work.Artifact
	expires work.Time // within the grace the submission arrives
}

func (w *world) any(label string) string {
	return "blob " + string('a'+rune(rapid.IntRange(0, 11).Draw(w.t, label)))
}

func (w *world) prepare() {
	file := w.put(w.any("file"))
	p := pending{expires: w.now().Add(grace), names: []work.Artifact{file}}
	var carried []work.Carried
	if len(w.ended) > 0 && rapid.Bool().Draw(w.t, "retry") {
		from := rapid.SampledFrom(w.ended).Draw(w.t, "of")
		if all := w.runs[from]; len(all) > 0 {
			a := all[0]
			has, err := w.blobs.Has(context.Background(), acme, a.Digest)
			w.must("has", err)
			if !has {
				w.t.Fatalf("%s of run %s is gone", a.Path, from)
			}
			carried = append(carried, work.Carried{Step: "a", Run: from, Attempt: 1, Artifacts: []work.Artifact{a}})
			p.names = append(p.names, a)
		}
	}
	p.s = w.submission(file, carried)
	w.sent = append(w.sent, p)
}

func (w *world) arrive() {
	if len(w.sent) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.sent)-1).Draw(w.t, "submission")
	p := w.sent[i]
	w.sent = slices.Delete(w.sent, i, i+1)
	w.must("submit", w.Submit(context.Background(), []store.Submission{p.s})[0].Err)
	w.runs[p.s.Run.ID] = p.names
	run, err := w.Run(context.Background(), acme, string(p.s.Run.ID))
	w.must("run", err)
	if run.State.Terminal() {
		w.ended = append(w.ended, run.ID)
	}
}

func (w *world) work() {
	if g := w.claim(); g != nil {
		w.grants = append(w.grants, &grant{Grant: g})
	}
	if len(w.grants) == 0 {
		return
	}
	g := rapid.SampledFrom(w.grants).Draw(w.t, "attempt")
	if rapid.Bool().Draw(w.t, "puts") {
		g.put = append(g.put, w.put(w.any("output")))
		return
	}
	var key work.Digest
	if len(g.put) > 0 && rapid.Bool().Draw(w.t, "cached") {
		key = g.put[0].Digest
		w.keepCached(key, g.put)
	}
	w.report(g.Grant, key, g.put...)
	w.runs[g.Run] = append(w.runs[g.Run], g.put...)
	w.ended = append(w.ended, g.Run)
	w.grants = slices.DeleteFunc(w.grants, func(o *grant) bool { return o == g })
}

// keepCached notes what a cached result names: the first one under a key stays for ever.
func (w *world) keepCached(key work.Digest, put []work.Artifact) {
	had, err := w.Cached(context.Background(), acme, key)
	w.must("cached", err)
	if had != nil {
		return
	}
	for _, a := range put {
		w.names[a.Digest] = "a cached result"
	}
}

func (w *world) forget() {
	if len(w.ended) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.ended)-1).Draw(w.t, "run")
	evidence := w.put(w.any("evidence"))
	w.names[evidence.Digest] = "kept evidence"
	w.erase(w.ended[i], evidence.Digest)
	delete(w.runs, w.ended[i])
	w.ended = slices.Delete(w.ended, i, i+1)
}

func (w *world) upload() {
	file := w.put(w.any("pack"))
	w.n++
	w.publish(string(file.Digest)+"-"+time.Duration(w.n).String(), file)
	w.names[file.Digest] = "a pack"
}

func (w *world) sweep() {
	s := *w.collect
	if rapid.Bool().Draw(w.t, "killed") {
		m := &mortal{left: rapid.IntRange(0, 12).Draw(w.t, "after")}
		s.Store, s.Blobs = mortalRows{w.Store, m}, mortalBlobs{w.blobs, m}
		if _, err := s.Collect(context.Background(), acme); err != nil && fault.CodeOf(err) != fault.Conflict && !errors.Is(err, errKilled) {
			w.t.Fatalf("collect: %v", err)
		}
		return
	}
	if _, err := s.Collect(context.Background(), acme); err != nil && fault.CodeOf(err) != fault.Conflict {
		w.t.Fatalf("collect: %v", err)
	}
}

func (w *world) pass() {
	w.advance(time.Duration(rapid.Int64Range(0, int64(3*grace/2)).Draw(w.t, "time")))
	w.sent = slices.DeleteFunc(w.sent, func(p pending) bool { return p.expires < w.now() })
}

// check looks for everything that somebody names, or is about to.
func (w *world) check() {
	there := map[work.Digest]bool{}
	for e, err := range w.blobs.List(context.Background(), acme) {
		w.must("list", err)
		there[e.Digest] = true
	}
	for d, by := range w.names {
		if !there[d] {
			w.t.Fatalf("%s, of %s, is gone", d.Short(), by)
		}
	}
	wants := func(by string, all []work.Artifact) {
		for _, a := range all {
			if !there[a.Digest] {
				w.t.Fatalf("%s, of %s, is gone", a.Path, by)
			}
		}
	}
	for id, all := range w.runs {
		wants("run "+string(id), all)
	}
	for _, g := range w.grants {
		wants("an attempt of "+string(g.Run), g.put)
	}
	for _, p := range w.sent {
		wants("a submission on its way", p.names)
	}
}

// I18: whatever happens in whatever order, with collections that are killed at any point between, nothing that somebody names or is about
// to name goes; and when nobody does anything more, the rest goes.
func TestB14_NothingNamedIsLost(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			rt.Fatal(err)
		}
		w := &world{rig: newRig(rt, dir), t: rt, names: map[work.Digest]string{}, runs: map[work.RunID][]work.Artifact{}}
		actions := []func(){w.prepare, w.arrive, w.work, w.work, w.forget, w.upload, w.sweep, w.sweep, w.pass}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
			w.check()
		}
		for _, g := range w.grants {
			w.report(g.Grant, "", g.put...)
			w.runs[g.Run] = append(w.runs[g.Run], g.put...)
		}
		w.grants, w.sent = nil, nil
		for range 3 {
			w.advance(2 * grace)
			_, err := w.collect.Collect(context.Background(), acme)
			w.must("collect", err)
		}
		w.check()
		w.onlyNamed()
	})
}

// onlyNamed looks for what nothing names any more.
func (w *world) onlyNamed() {
	named := map[work.Digest]bool{}
	for d := range w.names {
		named[d] = true
	}
	for _, all := range w.runs {
		for _, a := range all {
			named[a.Digest] = true
		}
	}
	for e, err := range w.blobs.List(context.Background(), acme) {
		w.must("list", err)
		if !named[e.Digest] {
			w.t.Fatalf("%s is left, and nothing names it", e.Digest.Short())
		}
	}
	notes, err := w.Records(context.Background(), acme, noteKind, "", "", 0)
	w.must("notes", err)
	if len(notes) != 0 {
		w.t.Fatalf("%d notes are left", len(notes))
	}
}

// I18: killed at every point, one after the other, a collection has lost nothing, and the next one ends it.
func TestB14_KilledCollection(t *testing.T) {
	for at := 0; ; at++ {
		r := newRig(t, t.TempDir())
		named := r.put("named")
		r.must("submit", r.Submit(t.Context(), []store.Submission{r.submission(named, nil)})[0].Err)
		for _, text := range []string{"one", "two", "three"} {
			r.put(text)
		}
		_, err := r.collect.Collect(t.Context(), acme)
		r.must("the first look", err)
		r.put("four")
		r.advance(grace)
		m := &mortal{left: at}
		dying := *r.collect
		dying.Store, dying.Blobs = mortalRows{r.Store, m}, mortalBlobs{r.blobs, m}
		_, killed := dying.Collect(t.Context(), acme)
		if !r.has(named.Digest) {
			t.Fatalf("killed at %d: what a run names is gone", at)
		}
		r.advance(turnLasts) // another process waits for the turn of one that is gone
		_, err = r.collect.Collect(t.Context(), acme)
		r.must("the next one", err)
		r.advance(grace)
		last, err := r.collect.Collect(t.Context(), acme)
		if err != nil || last.Kept.Blobs != 1 || last.Waiting.Blobs != 0 {
			t.Fatalf("killed at %d: %+v, %v", at, last, err)
		}
		if killed == nil {
			if at < 5 {
				t.Errorf("there were only %d points to be killed at", at)
			}
			return
		}
	}
}
