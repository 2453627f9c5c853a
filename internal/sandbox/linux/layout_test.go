package linux

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

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
	want := []shim.Mount{{Kind: shim.MountReadOnly, Source: real, Target: real, FD: -1}, {Kind: shim.MountLink, Source: real, Target: link, FD: -1}}
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
