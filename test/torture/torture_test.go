// Package torture treats the real program badly and looks at what it leaves: it kills it, stops it, fills its disk, takes away
// its files, changes its database, and tampers with its evidence.
//
// The tests run the built binary and look at it from outside only: exit codes, what it prints, the evidence, /proc, the files.
// The everyday run takes minutes on two processors. ORRERY_TORTURE=N multiplies the number of rounds by N; a failing round
// prints its seed, and ORRERY_TORTURE_SEED repeats its choices (not the interleaving of the processes).
package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "orrery.example/orrery/internal/cli" // so that results of another program are not taken from the cache
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	// Some tests wait for most of their time, until a lease is over or a receiver is asked again, so more of them than processors go on at
	// once, unless somebody says otherwise.
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", "4")
	}
	dir, err := os.MkdirTemp("", "orrery-torture-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "orrery")
	build := exec.Command("../../scripts/build.sh", binary) // as users get it
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "the program does not build:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// rounds is how often something random is repeated: n in the everyday run, more when asked for.
func rounds(t *testing.T, n int) int {
	if factor, err := strconv.Atoi(os.Getenv("ORRERY_TORTURE")); err == nil && factor > 1 {
		return n * factor
	}
	if testing.Short() {
		return max(1, n/5)
	}
	return n
}

// dice returns a source of choices for one test, and says how to get the same again.
func dice(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("ORRERY_TORTURE_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with ORRERY_TORTURE_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

// folder is a data folder with the means to run commands on it.
type folder struct {
	t    *testing.T
	dir  string
	mark string // in the environment of every step of its runs
	env  []string
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	return &folder{t: t, dir: filepath.Join(t.TempDir(), "data"), mark: fmt.Sprintf("mark-%d-%d", os.Getpid(), rand.Uint64())}
}

// commandLimit ends a command that hangs, and patience is how long a condition may take to come true; nothing that is well comes near, also on
// a machine that has much else to do.
const commandLimit, patience = 5 * time.Minute, 2 * time.Minute

// result is how a command ended.
type result struct {
	args   []string
	code   int // -1 when it was killed
	stdout []byte
	stderr []byte
}

func (r result) String() string {
	return fmt.Sprintf("orrery %s: exit %d\n%s\n%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command prepares a command in a process group of its own.
func (f *folder) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = append(os.Environ(), "ORRERY_DATA="+f.dir, "ORRERY_IDENTITY=submitter", "NO_COLOR=1")
	c.Env = append(c.Env, f.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = 5 * time.Second
	return c
}

// run runs a command to its end.
func (f *folder) run(args ...string) result {
	f.t.Helper()
	ctx, stop := context.WithTimeout(f.t.Context(), commandLimit)
	defer stop()
	c := f.command(ctx, args...)
	var out, err bytes.Buffer
	c.Stdout, c.Stderr = &out, &err
	e := c.Run()
	if ctx.Err() != nil {
		f.t.Fatalf("orrery %s hangs\n%s\n%s", strings.Join(args, " "), &out, &err)
	}
	var exit *exec.ExitError
	if e != nil && !errors.As(e, &exit) {
		f.t.Fatal(e)
	}
	return result{args, c.ProcessState.ExitCode(), out.Bytes(), err.Bytes()}
}

// must runs a command that has to end with a code.
func (f *folder) must(code int, args ...string) result {
	f.t.Helper()
	r := f.run(args...)
	if r.code != code {
		f.t.Fatalf("want exit %d\n%s", code, r)
	}
	return r
}

// into reads the JSON document that a command printed.
func (f *folder) into(r result, doc any) {
	f.t.Helper()
	if err := json.Unmarshal(r.stdout, doc); err != nil {
		f.t.Fatalf("no JSON: %v\n%s", err, r)
	}
}

// runDocument is what commands print about a run.
type runDocument struct {
	Run     string         `json:"run"`
	Name    string         `json:"name"`
	Status  string         `json:"status"`
	Outputs map[string]any `json:"outputs"`
	Waiting []string       `json:"waiting"`
}

// runs lists the runs of the folder.
func (f *folder) runs() []runDocument {
	f.t.Helper()
	var list struct{ Items []runDocument }
	f.into(f.must(0, "runs", "list", "-o", "json"), &list)
	return list.Items
}

// pack is the folder of a pack with the flag that marks its processes.
func (f *folder) pack(name string) []string {
	return []string{"run", filepath.Join("testdata", name), "-i", "mark=" + f.mark}
}

// survivors returns the processes that have a text in their environment or command line.
func survivors(mark string) []int {
	var found []int
	entries, _ := os.ReadDir("/proc") // without /proc there is nothing to be found, and the tests that look say so
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, file := range []string{"environ", "cmdline"} {
			raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), file))
			if err == nil && bytes.Contains(raw, []byte(mark)) {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}

// eventually waits until a condition that the machine brings about holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-end:
			t.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// clean checks that nothing of a folder's runs is left: no process, no workspace.
func (f *folder) clean() {
	f.t.Helper()
	eventually(f.t, "the processes of steps are gone", func() bool { return len(survivors(f.mark)) == 0 })
	left, err := os.ReadDir(filepath.Join(f.dir, "work"))
	if err != nil {
		f.t.Fatal(err)
	}
	if len(left) > 0 {
		f.t.Errorf("%d workspaces are left over, the first is %s", len(left), left[0].Name())
	}
}
