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

// workerMark is the first argument of a test binary that plays a worker which is going to be killed.
const workerMark = "sandbox-worker"

func TestMain(m *testing.M) {
	switch {
	case sandboxtest.IsPayload(os.Args):
		os.Exit(sandboxtest.Payload(os.Args))
	case len(os.Args) > 2 && os.Args[1] == workerMark:
		os.Exit(doomedWorker(os.Args[2:]))
	case len(os.Args) > 2 && os.Args[1] == fewFilesMark:
		os.Exit(fewFiles(os.Args[2]))
	}
	os.Exit(sandboxtest.Main(m.Run))
}

// tierOrSkip returns a driver when the machine proved the tier. What is missing is said by the layer's own detail; on a machine
// that names nothing missing, the tests fail rather than skip.
func tierOrSkip(t *testing.T, config linux.Config, tier sandbox.Tier) *linux.Driver {
	t.Helper()
	d, err := linux.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if found := d.Probe(context.Background()); found.Tier < tier {
		for _, l := range found.Layers {
			if !l.Available {
				t.Logf("missing: %s: %s", l.Name, l.Detail)
			}
		}
		t.Skipf("this machine has no tier %d", tier)
	}
	return d
}

func TestTier2(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2), sandbox.T2)
	t.Run("conduct", func(t *testing.T) { sandboxtest.Conduct(t, b) })
	t.Run("escape", func(t *testing.T) { sandboxtest.Escape(t, b) })
}

func TestTier2WithoutCgroups(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim(), Disable: []string{linux.LayerCgroup}}, sandbox.T2), sandbox.T2)
	sandboxtest.Escape(t, b)
	if r, _ := b.Do(t, b.Step(t, "exit", "0")); r.Protections.Label != "t2-nolimits" {
		t.Errorf("label %q", r.Protections.Label)
	}
}

func TestTier1(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim(), Disable: []string{linux.LayerUser}}, sandbox.T1), sandbox.T1)
	t.Run("conduct", func(t *testing.T) { sandboxtest.Conduct(t, b) })
	t.Run("escape", func(t *testing.T) { sandboxtest.Escape(t, b) })
}

func TestTier0(t *testing.T) {
	d := tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim(), AllowUnsandboxed: true, Disable: []string{linux.LayerUser, linux.LayerSeccomp}}, sandbox.T0)
	b := sandboxtest.NewBench(t, d, sandbox.T0)
	sandboxtest.Conduct(t, b)
	if r, _ := b.Do(t, b.Step(t, "exit", "0")); r.Protections.Tier != sandbox.T0 || r.Protections.Label != "t0" {
		t.Errorf("protections %+v", r.Protections)
	}
}

// TestAsOrdinaryUser runs the whole suite again as a user who has no rights at all, because most workers are one.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is the ordinary user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "sandbox-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "suite.test")
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, shim := range map[string]string{"carried": sandboxtest.CarriedShim(), "own": sandboxtest.OwnProgram} {
		t.Run(name, func(t *testing.T) {
			suite := exec.Command(binary, "-test.run", wholeSuite, "-test.v", "-test.timeout", "5m")
			suite.Dir, suite.Env = tmp, []string{"TMPDIR=" + tmp, "PATH=/usr/bin:/bin", shim}
			suite.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			runAgain(t, suite)
		})
	}
}

// wholeSuite are the tests of what every worker promises, whoever it is and whatever its shim.
const wholeSuite = "^(TestTier.*|TestWorkerDeath|TestWithheldLayers|TestLeftovers|TestManyAtOnce|TestShim)$"

// TestOwnProgram runs the whole suite again with the program as its own shim, as a build without one does.
func TestOwnProgram(t *testing.T) {
	suite := exec.Command("/proc/self/exe", "-test.run", wholeSuite, "-test.v", "-test.timeout", "5m")
	suite.Env = append(os.Environ(), sandboxtest.OwnProgram)
	runAgain(t, suite)
}

func runAgain(t *testing.T, suite *exec.Cmd) {
	t.Helper()
	out, err := suite.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, "SKIP") || strings.Contains(line, "missing:") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// TestWithheldLayers takes every layer away in turn: what needs it must be refused by its name, and nothing may run weaker.
func TestWithheldLayers(t *testing.T) {
	tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2)
	shared := map[string]bool{linux.LayerLandlock: true, linux.LayerSeccomp: true, linux.LayerRlimits: true}
	for _, layer := range []string{linux.LayerUser, linux.LayerMount, linux.LayerPID, linux.LayerNetwork, linux.LayerIPC, linux.LayerUTS,
		linux.LayerCgroupSpace, linux.LayerRoot, linux.LayerLandlock, linux.LayerSeccomp, linux.LayerRlimits} {
		t.Run(layer, func(t *testing.T) {
			d, err := linux.New(linux.Config{Shim: sandboxtest.Shim(), Disable: []string{layer}})
			if err != nil {
				t.Fatal(err)
			}
			refused := []sandbox.Policy{{MinTier: sandbox.T2}, {MinTier: sandbox.T3}, {MinTier: sandbox.T1, Egress: []sandbox.Endpoint{{Host: "a.example", Port: 443}}}}
			if shared[layer] {
				refused = append(refused, sandbox.Policy{MinTier: sandbox.T1}, sandbox.Policy{MinTier: sandbox.T0})
			}
			dir := t.TempDir()
			for _, p := range refused {
				_, err := d.Run(context.Background(), sandbox.Spec{Command: []string{"/bin/sh", "-c", "touch ran"}, Dir: dir, Policy: p})
				if fault.CodeOf(err) != fault.SandboxUnavailable {
					t.Errorf("%+v: got %v", p, err)
				} else if name := layer; !(p.MinTier == sandbox.T3 && layer == linux.LayerLandlock) && !strings.Contains(err.Error(), name) {
					t.Errorf("%+v: the refusal does not name %s: %v", p, name, err)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("something ran: %v", entries)
			}
		})
	}
	if _, err := linux.New(linux.Config{Shim: sandboxtest.Shim(), Disable: []string{"no-such-layer"}}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a misspelt layer: %v", err)
	}
}

// doomedWorker runs a step that never ends.
func doomedWorker(args []string) int {
	d, err := linux.New(linux.Config{Shim: sandboxtest.Shim()})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = d.Run(context.Background(), sandbox.Spec{
		Command: []string{args[0], "sandbox-payload", "stubborn", args[1]}, Dir: args[2], Stdout: os.Stdout,
		Policy: sandbox.Policy{MinTier: sandbox.T2, ReadOnly: []string{filepath.Dir(args[0])}},
	})
	fmt.Println(err)
	return 1
}

// TestWorkerDeath: nothing of a step outlives its worker.
func TestWorkerDeath(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2), sandbox.T2)
	token := fmt.Sprintf("doomed-%d", os.Getpid())
	step := b.Step(t)
	sandboxtest.WorkerDeath(t, exec.Command("/proc/self/exe", workerMark, step.Command[0], token, step.Dir), "stubborn\x00"+token)
}

func TestLeftovers(t *testing.T) {
	sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2), sandbox.T2).Leftovers(t, "link", "pipe")
}

// TestManyAtOnce starts more steps than there are processors: none may get another's streams, user or folder.
func TestManyAtOnce(t *testing.T) {
	b := sandboxtest.NewBench(t, tierOrSkip(t, linux.Config{Shim: sandboxtest.Shim()}, sandbox.T2), sandbox.T2)
	t.Run("steps", func(t *testing.T) {
		for i := range 64 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				spec := b.Step(t)
				spec.Command = []string{"/bin/sh", "-c", "echo $N > f; cat f; exit $N"}
				spec.Env = []string{fmt.Sprint("N=", i), "PATH=/usr/bin:/bin"}
				r, out := b.Do(t, spec)
				kept, err := os.ReadFile(filepath.Join(spec.Dir, "f"))
				if want := fmt.Sprintln(i); r.ExitCode != i || out.String() != want || string(kept) != want || err != nil {
					t.Errorf("exit %d, said %q, left %q (%v)", r.ExitCode, out, kept, err)
				}
			})
		}
	})
}
