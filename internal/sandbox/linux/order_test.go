package linux

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"orrery.example/orrery/internal/fault"
)

func sampleOrder() *order {
	return &order{
		tier: 2, rehearse: true, argv: []string{"sh", "-c", "a\nb"}, env: []string{"A=", "B=ü"}, dir: WorkPath,
		mounts:   []mount{{kind: mountLink, source: "usr/bin", target: "/bin", fd: -1}, {kind: mountReadOnly, source: "/usr", target: "/usr", fd: 7}},
		tmpBytes: 1 << 30, abi: 7, readable: []string{"/"}, writable: []string{WorkPath, "/tmp"}, filter: []byte{1, 0, 255}, uid: -1,
		limits: []limit{{1, 2}, {3, 1 << 40}}, proxied: true,
	}
}

func TestOrderSurvivesItsEncoding(t *testing.T) {
	want := sampleOrder()
	got, err := decodeOrder(want.encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

// Every shortened order is refused, not read as a smaller one.
func TestOrderCutShort(t *testing.T) {
	b := sampleOrder().encode()
	for n := range b {
		if _, err := decodeOrder(b[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken for an order", n, len(b))
		}
	}
}

func FuzzOrder(f *testing.F) {
	f.Add(sampleOrder().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOrder(b)
		if err != nil {
			return
		}
		again, err := decodeOrder(o.encode())
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Errorf("%v: %+v, %+v", err, o, again)
		}
	})
}

func TestExposeKeepsBothNamesOfALinkedPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	got, err := expose(nil, []string{link, real, filepath.Join(real, ".")})
	want := []mount{{kind: mountReadOnly, source: real, target: real, fd: -1}, {kind: mountLink, source: real, target: link, fd: -1}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %+v", err, got)
	}
}

func TestExposeRefusesTheSandboxsOwnPaths(t *testing.T) {
	for _, p := range []string{"/", "/proc", "/proc/self", "/dev", "/dev/null", "/sys", "relative", "/no/such/path"} {
		if _, err := expose(nil, []string{p}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestEachStepGetsAnIDOfItsOwn(t *testing.T) {
	p := newIDPool(1000, 3)
	seen := map[int]bool{}
	for range 3 {
		id, err := p.take()
		if err != nil || seen[id] || id < 1000 || id > 1002 {
			t.Fatal(id, err)
		}
		seen[id] = true
	}
	if _, err := p.take(); fault.CodeOf(err) != fault.Exhausted {
		t.Errorf("a fourth of three: %v", err)
	}
	p.give(1001)
	if id, err := p.take(); id != 1001 || err != nil {
		t.Error(id, err)
	}
}

func TestProxyVariablesReplaceTheStepsOwn(t *testing.T) {
	env := withProxy([]string{"HTTPS_PROXY=http://elsewhere:1", "A=1"})
	if slices.Contains(env, "HTTPS_PROXY=http://elsewhere:1") || !slices.Contains(env, "HTTPS_PROXY=http://127.0.0.1:3128") || !slices.Contains(env, "A=1") {
		t.Errorf("%q", env)
	}
}
