package sandboxtest

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox/workspace"
)

// WorkerDeath kills a worker the hard way while it runs the step "stubborn": none of the processes with a text in their command line, which are
// those of the step, may outlive it.
func WorkerDeath(t *testing.T, worker *exec.Cmd, mark string) {
	t.Helper()
	out := &Output{}
	ready := out.Said("ready")
	worker.Stdout = out
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = worker.Wait() // it is killed
		close(ended)
	}()
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("the worker ended early: %s", out)
	}
	var watched []int
	for _, pid := range Processes(mark) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil && pid != worker.Process.Pid {
			defer unix.Close(fd)
			watched = append(watched, fd)
		}
	}
	if len(watched) == 0 {
		t.Fatal("the step's processes are not to be found")
	}
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	for _, fd := range watched {
		if !over(fd, time.Minute) {
			t.Error("a process of the step outlived the worker")
		}
	}
}

// over reports whether a process ends within a time: then its pidfd is readable.
func over(pidfd int, limit time.Duration) bool {
	for until := time.Now().Add(limit); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(until))/time.Millisecond))
		if !errors.Is(err, unix.EINTR) { // a signal, such as that of the worker's end, is no answer
			return n == 1 && err == nil
		}
	}
}

// Leftovers collects and removes what a hostile step has left, such as closed folders of another user. What is named special is no file or
// folder, and no output.
func (b *Bench) Leftovers(t *testing.T, special ...string) {
	t.Helper()
	spec := b.Step(t, "outputs")
	r, out := b.Do(t, spec)
	if r.ExitCode != 0 || out.String() != "ok\n" {
		t.Fatalf("%+v %q", r, out)
	}
	found, err := workspace.Collect(spec.Dir, []string{"dist/**", "nothing"}, workspace.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if len(found.Files) != 1 || found.Files[0].Path != "dist/deep/a.txt" || len(found.Unmatched) != 1 {
		t.Errorf("%+v", found)
	}
	for _, pattern := range special {
		if _, err := workspace.Collect(spec.Dir, []string{pattern}, workspace.Limits{}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	if err := workspace.Remove(spec.Dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(spec.Dir); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
