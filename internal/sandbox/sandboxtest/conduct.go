package sandboxtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
)

// Conduct checks what every tier owes a step and its caller: streams, exit codes, limits, endings.
func Conduct(t *testing.T, b *Bench) {
	t.Run("streams keep their order", func(t *testing.T) {
		spec, errs := b.Step(t, "both"), &Output{}
		spec.Stderr = errs
		_, out := b.Do(t, spec)
		if out.String() != "out 0\nout 1\nout 2\n" || errs.String() != "err 0\nerr 1\nerr 2\n" {
			t.Errorf("stdout %q, stderr %q", out, errs)
		}
	})
	t.Run("input reaches the step", func(t *testing.T) {
		spec := b.Step(t, "cat")
		spec.Stdin = strings.NewReader("some input")
		if _, out := b.Do(t, spec); out.String() != "some input" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("without input it is empty", func(t *testing.T) { b.wantOutput(t, "", "cat") })
	for _, code := range []int{0, 1, 2, 125, 126, 127, 255} {
		t.Run(fmt.Sprint("exit ", code), func(t *testing.T) {
			r, _ := b.Do(t, b.Step(t, "exit", fmt.Sprint(code)))
			wantEnd(t, r, sandbox.Exited, code)
		})
	}
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGHUP} {
		t.Run("ended by "+unix.SignalName(sig), func(t *testing.T) {
			r, _ := b.Do(t, b.Step(t, "raise", fmt.Sprint(int(sig))))
			wantEnd(t, r, sandbox.Signaled, 128+int(sig))
		})
	}
	t.Run("environment is only what was given", func(t *testing.T) {
		t.Setenv("ORRERY_HOST_SECRET", "hunter2")
		spec := b.Step(t, "env")
		spec.Env = []string{"A=1", "B=two words"}
		_, out := b.Do(t, spec)
		got := slices.DeleteFunc(out.Lines(), func(l string) bool { return strings.HasPrefix(l, "TMPDIR=") })
		if !slices.Equal(got, spec.Env) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("commands that are not there are the plan's fault", func(t *testing.T) {
		for _, name := range []string{"no-such-program", "/no/such/program", "/etc"} {
			spec := b.Step(t)
			spec.Command = []string{name}
			wantCode(t, b, spec, "INVALID")
		}
	})
	t.Run("impossible specs", func(t *testing.T) { b.impossible(t) })
	t.Run("endings", func(t *testing.T) { b.endings(t) })
	t.Run("limits", func(t *testing.T) { b.limits(t) })
}

func (b *Bench) impossible(t *testing.T) {
	for name, change := range map[string]func(*sandbox.Spec){
		"no command":       func(s *sandbox.Spec) { s.Command = nil },
		"relative folder":  func(s *sandbox.Spec) { s.Dir = "work" },
		"folder is a file": func(s *sandbox.Spec) { s.Dir = b.payload },
		"environment":      func(s *sandbox.Spec) { s.Env = []string{"novalue"} },
		"zero byte":        func(s *sandbox.Spec) { s.Env = []string{"A=\x00"} },
		"negative limit":   func(s *sandbox.Spec) { s.Policy.Limits.Processes = -1 },
		"relative path":    func(s *sandbox.Spec) { s.Policy.ReadOnly = []string{"etc"} },
		"missing path":     func(s *sandbox.Spec) { s.Policy.ReadOnly = []string{"/no/such/path"} },
		"the whole host":   func(s *sandbox.Spec) { s.Policy.ReadOnly = []string{"/"} },
		"host processes":   func(s *sandbox.Spec) { s.Policy.ReadOnly = []string{"/proc/1"} },
		"tier":             func(s *sandbox.Spec) { s.Policy.MinTier = 9 },
		"port":             func(s *sandbox.Spec) { s.Policy.Egress = []sandbox.Endpoint{{Host: "a", Port: 70000}} },
		"hard link outside": func(s *sandbox.Spec) {
			outside := filepath.Join(filepath.Dir(s.Dir), filepath.Base(s.Dir)+"-outside")
			if os.WriteFile(outside, nil, 0o600) != nil || os.Link(outside, filepath.Join(s.Dir, "in")) != nil {
				t.Fatal("cannot make a hard link")
			}
			t.Cleanup(func() { os.Remove(outside) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := b.Step(t, "exit", "0")
			change(&spec)
			wantCode(t, b, spec, "INVALID")
		})
	}
}

func (b *Bench) endings(t *testing.T) {
	t.Run("wall time", func(t *testing.T) {
		spec := b.Step(t, "stubborn")
		spec.Policy.Limits.Wall = 300 * time.Millisecond
		r, _ := b.Do(t, spec)
		wantEnd(t, r, sandbox.TimedOut, 137)
	})
	t.Run("cancel is polite", func(t *testing.T) {
		r, out := b.cancelled(t, b.Step(t, "polite"))
		wantEnd(t, r, sandbox.Cancelled, 7)
		if !strings.Contains(out.String(), "goodbye") {
			t.Errorf("the step had no chance to say goodbye: %q", out)
		}
	})
	t.Run("cancel ends the deaf", func(t *testing.T) {
		spec := b.Step(t, "stubborn")
		spec.Policy.Limits.Grace = 50 * time.Millisecond
		r, _ := b.cancelled(t, spec)
		wantEnd(t, r, sandbox.Cancelled, 137)
	})
	t.Run("cancelled before the start", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := b.Driver.Run(ctx, b.Step(t, "exit", "0")); err == nil {
			t.Error("it ran")
		}
	})
	t.Run("daemons die with the step", func(t *testing.T) {
		token := fmt.Sprintf("token-%d-%d", os.Getpid(), time.Now().UnixNano())
		r, _ := b.Do(t, b.Step(t, "daemon", token))
		wantEnd(t, r, sandbox.Exited, 0)
		if left := Processes(token); len(left) > 0 {
			t.Errorf("processes %v are still there", left)
		}
	})
}

// Processes finds the processes of this machine that have token in their command line.
func Processes(token string) []int {
	var found []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		var pid int
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), token) {
			fmt.Sscanf(l, "/proc/%d/", &pid)
			found = append(found, pid)
		}
	}
	return found
}

// cancelled runs a step and cancels it as soon as it says that it is ready.
func (b *Bench) cancelled(t *testing.T, spec sandbox.Spec) (sandbox.Result, *Output) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &Output{}
	spec.Stdout = out
	ready := out.Said("ready")
	go func() {
		<-ready
		cancel()
	}()
	r, err := b.Driver.Run(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r, out
}

func (b *Bench) limits(t *testing.T) {
	t.Run("output", func(t *testing.T) {
		spec := b.Step(t, "line", "3000000")
		spec.Policy.Limits.OutputBytes = 1 << 20
		r, out := b.Do(t, spec)
		wantEnd(t, r, sandbox.Exited, 0)
		if len(out.String()) != 1<<20 || r.OutputDropped != 3000000-1<<20 {
			t.Errorf("kept %d, dropped %d", len(out.String()), r.OutputDropped)
		}
	})
	t.Run("one very long line", func(t *testing.T) {
		if _, out := b.Do(t, b.Step(t, "line", "8000000")); len(out.String()) != 8000000 {
			t.Errorf("got %d bytes", len(out.String()))
		}
	})
	t.Run("disk", func(t *testing.T) {
		spec := b.Step(t, "disk", "64")
		spec.Policy.Limits.DiskBytes = 16 << 20
		r, _ := b.Do(t, spec)
		if r.Cause != sandbox.OverLimit || r.Limit != "disk" {
			t.Errorf("ended with %s %q", r.Cause, r.Limit)
		}
	})
	t.Run("cpu", func(t *testing.T) {
		spec := b.Step(t, "spin")
		spec.Policy.Limits.CPU = time.Second
		r, _ := b.Do(t, spec)
		if r.Cause != sandbox.OverLimit || r.Limit != "cpu" {
			t.Errorf("ended with %s %q", r.Cause, r.Limit)
		}
	})
	t.Run("file size", func(t *testing.T) {
		spec := b.Step(t, "file", "4000000")
		spec.Policy.Limits.FileBytes = 1 << 20
		r, out := b.Do(t, spec)
		if info, err := os.Stat(filepath.Join(spec.Dir, "big")); err != nil || info.Size() > 1<<20 {
			t.Errorf("%v %v, %s %q, said %q", info.Size(), err, r.Cause, r.Limit, out)
		}
	})
}

func wantCode(t *testing.T, b *Bench, spec sandbox.Spec, code string) {
	t.Helper()
	r, err := b.Driver.Run(context.Background(), spec)
	if got := codeOf(err); got != code {
		t.Errorf("%q: got error code %q (%v) and cause %q, want %q", spec.Command, got, err, r.Cause, code)
	}
}
