//go:build unix

package sqlite

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
)

// held is a lock that somebody holds, taken in the name of a process.
func held(t *testing.T, pid int) (path string, f *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), lockName)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := fmt.Fprintf(f, `{"pid":%d,"command":"c","since":"s"}`, pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return path, f
}

// The lock of a process that is gone is waited for: what it left behind is going, too.
func TestLockOfTheDead(t *testing.T) {
	t.Parallel()
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	path, f := held(t, gone.Process.Pid)
	taken := make(chan error, 1)
	go func() {
		l, err := acquire(path, "test")
		if err == nil {
			err = l.release()
		}
		taken <- err
	}()
	select {
	case err := <-taken:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(5 * lookAgain):
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

// The lock of a process that lives is refused at once, and that of a dead one in the end.
func TestLockRefused(t *testing.T) {
	t.Parallel()
	path, f := held(t, os.Getpid())
	if orphaned(f) {
		t.Error("a lock of a process that lives is waited for")
	}
	if _, err := acquire(path, "test"); fault.CodeOf(err) != fault.Locked {
		t.Errorf("the answer is %v", err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	path, _ = held(t, gone.Process.Pid)
	if _, err := acquire(path, "test"); fault.CodeOf(err) != fault.Locked {
		t.Errorf("the answer is %v", err)
	}
}
