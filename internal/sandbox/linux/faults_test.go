package linux_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/sandboxtest"
)

// TestReplacedWhileBound replaces a file that steps see, as a package manager does, again and again while steps start.
func TestReplacedWhileBound(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2), sandbox.T2)
	dir, err := os.MkdirTemp("", "sandbox-replaced-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, next := filepath.Join(dir, "replaced"), filepath.Join(dir, "next")
	replace := func() error {
		if err := os.WriteFile(next, []byte("whole\n"), 0o644); err != nil {
			return err
		}
		return os.Rename(next, file)
	}
	if err := replace(); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := replace(); err != nil {
				stopped <- err
				return
			}
		}
	}()
	end := func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
	defer end()
	for range 100 {
		spec := b.Step(t)
		spec.Command = []string{"/bin/cat", file}
		spec.Policy.ReadOnly = append(spec.Policy.ReadOnly, file)
		if _, out := b.Do(t, spec); out.String() != "whole\n" {
			t.Fatalf("it read %q", out)
		}
	}
}

// fewFilesMark is the first argument of a test binary that may open few files.
const fewFilesMark = "sandbox-few-files"

// fewFiles runs a step with hardly any files to open, and again with enough.
func fewFiles(dir string) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Println(err)
		return 1
	}
	d, err := linux.New(linux.Config{Shim: sandboxtest.Shim()})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, most := range []uint64{16, limit.Max} {
		limit.Cur = most
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			fmt.Println(err)
			return 1
		}
		r, err := d.Run(context.Background(), sandbox.Spec{Command: []string{"/bin/true"}, Dir: dir, Policy: sandbox.Policy{MinTier: sandbox.T2}})
		fmt.Println(fault.CodeOf(err), r.Cause, err)
	}
	return 0
}

// TestFewFiles: a process that may not open enough files has every layer all the same. It is told what it lacks, and is asked again.
func TestFewFiles(t *testing.T) {
	tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2)
	out, err := exec.Command("/proc/self/exe", fewFilesMark, t.TempDir()).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 2 {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasPrefix(lines[0], "EXHAUSTED ") || !strings.Contains(lines[0], "too many open files") || strings.Contains(lines[0], "lacks the layer") {
		t.Errorf("with few files: %s", lines[0])
	}
	if lines[1] != " exited <nil>" {
		t.Errorf("with enough: %q", lines[1])
	}
}

// TestMappedRoot runs steps below "unshare -r", where root is an ordinary user of the machine under another name.
func TestMappedRoot(t *testing.T) {
	tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2)
	user := os.Geteuid()
	dir, err := os.MkdirTemp("", "sandbox-mapped-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if user == 0 {
		user = 65534
	}
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(dir, "suite.test")
	if err := os.WriteFile(suite, content, 0o755); err != nil {
		t.Fatal(err)
	}
	below := func(outside int, args ...string) (string, error) {
		cmd := exec.Command(suite, args...)
		cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "PATH=/usr/bin:/bin", sandboxtest.CarriedShim()}
		one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: outside, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one, Credential: &syscall.Credential{NoSetGroups: true},
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := below(user, "-test.v", "-test.run", "^(TestTier2|TestWorkerDeath)$")
	if err != nil || strings.Contains(out, "SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
	if os.Geteuid() != 0 {
		return
	}
	// Root who is root outside, too, would be root in the sandbox.
	if out, err = below(0, fewFilesMark, dir); err != nil || !strings.Contains(out, "lacks the layer user-namespace") || !strings.Contains(out, "unshare -r") {
		t.Errorf("%v\n%s", err, out)
	}
}
