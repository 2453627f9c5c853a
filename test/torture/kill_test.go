package torture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fatal is one way to kill a run under way: at a moment, or when something is seen.
type fatal struct {
	after  time.Duration
	spaces int // kill when so many workspaces have been seen; 0 means after a time
	lines  int // kill when it has printed so many lines; 0 means one of the others
	group  bool
}

func (k fatal) kill(c *exec.Cmd) {
	pid := c.Process.Pid
	if k.group {
		pid = -pid
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself a moment ago
}

// draw chooses a way to kill a run that takes about so long.
func draw(r *rand.Rand, length time.Duration) fatal {
	k := fatal{group: r.IntN(2) == 0}
	switch r.IntN(4) {
	case 0:
		k.spaces = 1 + r.IntN(12)
	case 1:
		k.lines = 1 + r.IntN(20)
	default:
		k.after = time.Duration(r.Int64N(int64(length)))
	}
	return k
}

// killed runs the command and kills it. It returns the result and whether it ended before it was killed.
func (f *folder) killed(k fatal, args []string) (result, bool) {
	f.t.Helper()
	ctx, stop := context.WithTimeout(f.t.Context(), commandLimit)
	defer stop()
	if k.lines == 0 {
		args = append(args, "-o", "json")
	}
	c := f.command(ctx, args...)
	var out, said bytes.Buffer
	c.Stdout = &out
	stderr, err := c.StderrPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	over := make(chan struct{})
	go f.reaper(k, c, over)
	lines := bufio.NewScanner(io.TeeReader(stderr, &said))
	for n := 1; lines.Scan(); n++ {
		if n == k.lines {
			k.kill(c)
		}
	}
	_ = c.Wait() // how it ended is in the state
	close(over)
	if ctx.Err() != nil {
		f.t.Fatalf("the run hangs\n%s", &said)
	}
	r := result{args, c.ProcessState.ExitCode(), out.Bytes(), said.Bytes()}
	return r, r.code >= 0
}

// reaper kills the command at its moment.
func (f *folder) reaper(k fatal, c *exec.Cmd, over chan struct{}) {
	switch {
	case k.spaces > 0:
		seen := map[string]bool{}
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for len(seen) < k.spaces {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			entries, _ := os.ReadDir(filepath.Join(f.dir, "work")) // it may not be there yet
			for _, e := range entries {
				seen[e.Name()] = true
			}
		}
		k.kill(c)
	case k.lines == 0:
		t := time.NewTimer(k.after)
		defer t.Stop()
		select {
		case <-over:
		case <-t.C:
			k.kill(c)
		}
	}
}

// A run that is killed again and again, at any moment, ends as if nothing had happened when the same command is given often
// enough: nothing that succeeded is done twice, and the evidence holds.
func TestKill(t *testing.T) {
	f := newFolder(t)
	began := time.Now()
	f.must(0, append(f.pack("many"), "-o", "json")...)
	length := time.Since(began)
	r := dice(t)
	var kills, lost, late atomic.Int64
	n := rounds(t, 25)
	// A run may take longer or shorter than the first one did, so that too few kills come in time: then there are more rounds.
	for more := 0; more < 4 && !t.Failed() && (kills.Load() < int64(n) || lost.Load() < int64(n)/2); more++ {
		t.Run("rounds", func(t *testing.T) {
			for round := range n {
				r := rand.New(rand.NewPCG(r.Uint64(), 2))
				t.Run(strconv.Itoa(round), func(t *testing.T) {
					t.Parallel()
					k, l, early := newFolder(t).survive(r, length)
					kills.Add(int64(k))
					lost.Add(int64(l))
					if early {
						late.Add(1)
					}
				})
			}
		})
	}
	t.Logf("a run takes %s; %d kills took %d leases, %d runs were over before they were killed", length, kills.Load(), lost.Load(), late.Load())
	if !t.Failed() && (kills.Load() < int64(n) || lost.Load() < int64(n)/2) {
		t.Errorf("void: %d kills took %d leases, too few to tell anything", kills.Load(), lost.Load())
	}
}

// survive kills a run up to four times, lets it end and checks what is left. It returns how often it killed, how many leases that
// took, and whether the run ended by itself before that.
func (f *folder) survive(r *rand.Rand, length time.Duration) (kills, lost int, early bool) {
	f.t.Helper()
	told := 0
	var last result
	for range 1 + r.IntN(4) {
		if last, early = f.killed(draw(r, length), f.pack("many")); early {
			break
		}
		kills++
		if bytes.Contains(last.stdout, []byte("5050")) {
			told++ // it had given its result, so the next command begins anew
		}
		eventually(f.t, "the steps of a killed run are gone", func() bool { return len(survivors(f.mark)) == 0 })
	}
	if !early {
		last = f.must(0, append(f.pack("many"), "-o", "json")...)
	}
	runs := f.runs()
	if len(runs) > 1+told {
		f.t.Errorf("there are %d runs, and %d killed commands had given a result", len(runs), told)
	}
	for _, run := range runs {
		lost += f.whole(run).revoked
	}
	f.clean()
	if f.t.Failed() {
		f.t.Logf("%s", last)
	}
	return kills, lost, early
}

// whole checks a run of the pack "many" that has ended.
func (f *folder) whole(run runDocument) history {
	f.t.Helper()
	if run.Status != "succeeded" || run.Outputs["sum"] != float64(5050) || run.Outputs["count"] != float64(8) {
		f.t.Errorf("the run is %+v", run)
	}
	h := f.proven(run.Run)
	if h.ended != "succeeded" {
		f.t.Errorf("the history ends with %q", h.ended)
	}
	for _, step := range []string{"first", "left", "middle", "right", "again", "slow", "last", "tidy", "fan[7]::one"} {
		if h.succeeded[step] != 1 {
			f.t.Errorf("%s succeeded %d times", step, h.succeeded[step])
		}
	}
	return h
}

// A run whose process is killed after its end and before it could print the result is reported by the same command, which starts
// no second run; the command after that does.
func TestKillBeforeResult(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	choke(t, w)
	c := f.command(t.Context(), append(f.pack("many"), "-o", "json")...)
	c.Stdout = w // whoever prints waits for ever
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run ends", func() bool {
		if _, err := os.Stat(filepath.Join(f.dir, "orrery.db")); err != nil {
			return false
		}
		var list struct{ Items []runDocument }
		seen := f.run("runs", "list", "-o", "json")
		return json.Unmarshal(seen.stdout, &list) == nil && len(list.Items) == 1 && list.Items[0].Status == "succeeded"
	})
	fatal{}.kill(c)
	if err := c.Wait(); err == nil {
		t.Fatal("the command ended although it could not print")
	}
	var first, again, other runDocument
	f.into(f.must(0, append(f.pack("many"), "-o", "json")...), &first)
	if runs := f.runs(); len(runs) != 1 || runs[0].Run != first.Run {
		t.Fatalf("the result is of %s, the runs are %+v", first.Run, runs)
	}
	f.whole(first)
	f.into(f.must(0, append(f.pack("many"), "-o", "json")...), &again)
	if again.Run == first.Run {
		t.Error("a run whose result has been told is told again instead of a new one")
	}
	f.into(f.must(0, append(f.pack("many"), "--new", "-o", "json")...), &other)
	if other.Run == again.Run {
		t.Error("--new started nothing new")
	}
	f.clean()
}

// choke fills a pipe, so that the next write to it waits.
func choke(t *testing.T, w *os.File) {
	t.Helper()
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var full error
	err = raw.Write(func(fd uintptr) bool {
		for full == nil {
			_, full = syscall.Write(int(fd), make([]byte, 4096))
		}
		return true
	})
	if err != nil || !errors.Is(full, syscall.EAGAIN) {
		t.Fatal(err, full)
	}
}
