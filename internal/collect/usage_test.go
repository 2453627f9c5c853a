package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/blob/folder"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
)

// meter is a process of its own over the store and the folder of a rig.
func (r *rig) meter() *Meter {
	r.Helper()
	files, err := folder.Open(r.blobs.dir)
	r.must("open", err)
	m := &Meter{Records: r.Store, Flows: r.Store, Blobs: files, Now: r.now}
	files.Stored = m.Stored
	return m
}

func (r *rig) quota(bytes int64) {
	r.Helper()
	_, err := r.ChangeFlow(context.Background(), store.FlowChange{Tenant: acme, Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Bytes: bytes}})
	r.must("quota", err)
}

// dateAll gives every file the time of the test.
func (r *rig) dateAll() {
	for e, err := range r.blobs.List(context.Background(), acme) {
		r.must("list", err)
		r.must("date", r.blobs.date(acme, e.Digest))
	}
}

func (r *rig) sum() (total int64) {
	for e, err := range r.blobs.List(context.Background(), acme) {
		r.must("list", err)
		total += e.Size
	}
	return total
}

func putText(m *Meter, text string) error {
	_, n, err := m.Limit().Put(context.Background(), acme, strings.NewReader(text))
	if err == nil && n != int64(len(text)) {
		return errors.New("another size")
	}
	return err
}

// O9: what goes beyond the quota is refused and not stored; what is there already can be put again.
func TestO9_QuotaOfBytes(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.put("0123456789") // before anybody counts
	r.quota(30)
	m := r.meter()
	large := strings.Repeat("large", 100_000)
	for i, c := range []struct {
		text string
		code fault.Code
	}{
		{"ten more b", ""}, {"0123456789", ""}, {"eleven byte", fault.OverQuota}, {large, fault.OverQuota}, {"exactly 10", ""},
		{"", ""}, {"x", fault.OverQuota}, {"ten more b", ""},
	} {
		if err := putText(m, c.text); fault.CodeOf(err) != c.code || (err == nil) != (c.code == "") {
			t.Errorf("case %d: %v", i, err)
		}
	}
	if got := r.sum(); got != 30 {
		t.Errorf("%d bytes are stored", got)
	}
	if _, err := m.Limit().PutAll(t.Context(), acme, [][]byte{[]byte("exactly 10"), []byte("one more")}); fault.CodeOf(err) != fault.OverQuota {
		t.Errorf("several at once: %v", err)
	}
	if _, err := m.Limit().PutAll(t.Context(), acme, [][]byte{[]byte("exactly 10"), []byte("0123456789")}); err != nil {
		t.Errorf("several that are there: %v", err)
	}
	if _, _, err := m.Limit().Put(t.Context(), "zenith", strings.NewReader(large)); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	r.quota(0)
	r.advance(2 * current)
	if err := putText(m, large); err != nil {
		t.Errorf("without a quota: %v", err)
	}
	r.quota(1_000_000)
	r.advance(2 * current)
	if err := putText(m, large); err != nil {
		t.Errorf("a large one that is there: %v", err)
	}
	if err := putText(m, large+large); fault.CodeOf(err) != fault.OverQuota {
		t.Errorf("a large one that is not: %v", err)
	}
	if _, _, err := m.Limit().Put(t.Context(), acme, io.MultiReader(strings.NewReader("a"), broken{})); !errors.Is(err, errBroken) {
		t.Errorf("a reader that breaks: %v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// Processes learn of each other's files, and a collection corrects what a killed one did not write down.
func TestO9_UsageOfSeveralServers(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.quota(100)
	a, b := r.meter(), r.meter()
	usage := func(m *Meter, want int64) {
		t.Helper()
		if got, err := m.Usage(t.Context(), acme); err != nil || got != want {
			t.Errorf("%d bytes, not %d: %v", got, want, err)
		}
	}
	r.must("put", putText(a, strings.Repeat("a", 60)))
	usage(a, 60)
	r.must("flush", a.Flush(t.Context()))
	usage(b, 60)
	if err := putText(b, strings.Repeat("b", 60)); fault.CodeOf(err) != fault.OverQuota {
		t.Errorf("the other process: %v", err)
	}
	r.must("put", putText(b, strings.Repeat("b", 30)))
	r.advance(2 * current)
	r.must("put", putText(b, "")) // b writes down what it added
	r.advance(2 * current)
	if err := putText(a, strings.Repeat("c", 30)); fault.CodeOf(err) != fault.OverQuota {
		t.Errorf("the first process: %v", err)
	}
	r.must("put", putText(a, strings.Repeat("d", 10))) // and is killed
	usage(b, 90)
	r.collect.Meter = b
	r.dateAll()
	_, err := r.collect.Collect(t.Context(), acme)
	r.must("collect", err)
	usage(b, 100)
	r.advance(grace)
	got, err := r.collect.Collect(t.Context(), acme)
	if err != nil || got.Freed.Bytes != 100 {
		t.Errorf("collected %+v, %v", got, err)
	}
	usage(b, 0)
	r.must("put", putText(b, strings.Repeat("e", 100)))
}

// Whatever two processes put in whatever order, with collections between: when both have written down what they added, the usage is what
// is there, and it never exceeded the quota by more than one of them stored while it did not know of the other.
func TestO9_UsageIsWhatIsThere(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			rt.Fatal(err)
		}
		r := newRig(rt, dir)
		quota := rapid.Int64Range(0, 200).Draw(rt, "quota")
		r.quota(quota)
		both := []*Meter{r.meter(), r.meter()}
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			m := rapid.SampledFrom(both).Draw(rt, "process")
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				r.advance(2 * current)
			case 1:
				s := *r.collect
				s.Meter = m
				r.must("flush", errors.Join(both[0].Flush(context.Background()), both[1].Flush(context.Background())))
				r.dateAll()
				r.advance(grace)
				_, err := s.Collect(context.Background(), acme)
				r.must("collect", err)
			default:
				text := bytes.Repeat([]byte{byte('a' + rapid.IntRange(0, 3).Draw(rt, "letter"))}, rapid.IntRange(0, 60).Draw(rt, "length"))
				if _, _, err := m.Limit().Put(context.Background(), acme, bytes.NewReader(text)); err != nil && fault.CodeOf(err) != fault.OverQuota {
					rt.Fatal(err)
				}
			}
			r.must("flush", m.Flush(context.Background()))
		}
		for _, m := range both {
			r.must("flush", m.Flush(context.Background()))
		}
		got, err := both[0].Usage(context.Background(), acme)
		if there := r.sum(); err != nil || got != there || quota > 0 && there > 2*quota {
			rt.Fatalf("the usage is %d, %d bytes are there, the quota is %d: %v", got, there, quota, err)
		}
	})
}

// BenchmarkPut is what the quota adds to the price of a file: compare it with that of package folder.
func BenchmarkPut(b *testing.B) {
	for name, quota := range map[string]int64{"without": 0, "with": 1 << 40} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, b.TempDir())
			r.quota(quota)
			limited := r.meter().Limit()
			b.ResetTimer()
			for i := range b.N {
				if _, _, err := limited.Put(b.Context(), acme, strings.NewReader(fmt.Sprintf("file %100d", i))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
