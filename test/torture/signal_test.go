package torture

import (
	"bytes"
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// live is a command that goes on.
type live struct {
	f    *folder
	cmd  *exec.Cmd
	out  bytes.Buffer
	err  bytes.Buffer
	done chan struct{}
}

// start starts a command and leaves it running.
func (f *folder) start(args ...string) *live {
	f.t.Helper()
	ctx, stop := context.WithTimeout(context.WithoutCancel(f.t.Context()), commandLimit)
	l := &live{f: f, cmd: f.command(ctx, args...), done: make(chan struct{})}
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.err
	if err := l.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		defer stop()
		_ = l.cmd.Wait() // how it ended is in the state
		close(l.done)
	}()
	f.t.Cleanup(func() { fatal{group: true}.kill(l.cmd); <-l.done })
	return l
}

// end waits until the command has ended.
func (l *live) end() result {
	l.f.t.Helper()
	<-l.done
	return result{l.cmd.Args[1:], l.cmd.ProcessState.ExitCode(), l.out.Bytes(), l.err.Bytes()}
}

// shows waits until a command prints a text.
func (f *folder) shows(text string, args ...string) {
	f.t.Helper()
	eventually(f.t, text, func() bool { return bytes.Contains(f.run(args...).stdout, []byte(text)) })
}

// working waits until the step "long" of the pack "slow" is at it.
func (f *folder) working() {
	f.t.Helper()
	eventually(f.t, "the long step works", func() bool { return len(f.payloads("sleep")) == 1 })
}

// wakeUp ends the sleep of the long step before its time.
func (f *folder) wakeUp() {
	f.t.Helper()
	for _, pid := range f.payloads("sleep") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Ctrl-C cancels a run: the step under way is stopped, what comes at the end is done, the exit code says so, and the evidence is valid and says
// the same. (TERM leaves the run to be resumed: B7_terminated.txtar.)
func TestSignal(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	l := f.start(append(f.pack("slow"), "-o", "json")...)
	f.working()
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := l.end()
	var run runDocument
	f.into(r, &run)
	if r.code != 130 || run.Status != "cancelled" {
		t.Fatalf("%s", r)
	}
	h := f.proven(run.Run)
	if h.ended != "cancelled" || h.succeeded["tidy"] != 1 || h.succeeded["long"]+h.succeeded["after"] != 0 {
		t.Errorf("the history is %+v", h)
	}
	f.clean()
}

// A second signal ends the process at once and its steps with it; the run is carried on by the same command and ends as cancelled,
// since that was asked for and acknowledged.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	l := f.start("run", "testdata/stubborn", "-i", "mark="+f.mark)
	f.working()
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	f.shows(`CANCELLED`, "why", f.only().Name, "-o", "json")
	// Two signals of one keystroke count once, so somebody impatient is heard.
	eventually(t, "another signal ends it", func() bool {
		_ = l.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		select {
		case <-l.done:
			return true
		default:
			return false
		}
	})
	if r := l.end(); r.code != 130 {
		t.Errorf("%s", r)
	}
	eventually(t, "its steps are gone", func() bool { return len(survivors(f.mark)) == 0 })
	f.must(3, "run", "testdata/stubborn", "-i", "mark="+f.mark, "-o", "json")
	h := f.proven(f.only().Run)
	if h.ended != "cancelled" || h.succeeded["tidy"] != 1 {
		t.Errorf("the history is %+v", h)
	}
	f.clean()
}

// A process that is stopped for longer than its leases last goes on as if nothing had happened, or does the step again: never both.
func TestStopped(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	l := f.start(append(f.pack("slow"), "-i", "seconds=20", "-o", "json")...)
	f.working()
	if err := l.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const longerThanALease = 32 * time.Second
	select {
	case <-time.After(longerThanALease):
	case <-l.done:
		t.Fatal("a stopped process ended")
	}
	f.must(0, "runs", "list") // others may look meanwhile
	if err := l.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := l.end(); r.code != 0 {
		t.Fatalf("%s", r)
	}
	if h := f.proven(f.only().Run); h.ended != "succeeded" || h.succeeded["long"] != 1 {
		t.Errorf("the history is %+v", h)
	}
	f.clean()
}

// only returns the one run of a folder.
func (f *folder) only() runDocument {
	f.t.Helper()
	runs := f.runs()
	if len(runs) != 1 {
		f.t.Fatalf("the runs are %+v", runs)
	}
	return runs[0]
}
