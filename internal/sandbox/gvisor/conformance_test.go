package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/gvisor"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/sandboxtest"
	"orrery.example/orrery/internal/testservice"
)

// workerMark is the first argument of a test binary that plays a worker which is going to be killed.
const workerMark = "sandbox-worker"

// builtRunsc names the runsc of a suite that runs as somebody else, who has no cache.
const builtRunsc = "SANDBOX_TEST_RUNSC"

func TestMain(m *testing.M) {
	switch {
	case sandboxtest.IsPayload(os.Args):
		os.Exit(sandboxtest.Payload(os.Args))
	case len(os.Args) > 2 && os.Args[1] == workerMark:
		os.Exit(doomedWorker(os.Args[2:]))
	}
	os.Exit(sandboxtest.Main(m.Run))
}

func runsc(t *testing.T) string {
	t.Helper()
	if program := os.Getenv(builtRunsc); program != "" {
		return program
	}
	return testservice.Runsc(t)
}

func newDriver(program string, walls linux.Config) (*gvisor.Driver, error) {
	w, err := linux.New(walls)
	if err != nil {
		return nil, err
	}
	return gvisor.New(gvisor.Config{Program: program, Disable: walls.Disable}, w), nil
}

// driver returns a driver of all tiers with a real runsc. On a machine where that does not work the tests fail, and say why.
func driver(t *testing.T, program string) *gvisor.Driver {
	t.Helper()
	d, err := newDriver(program, linux.Config{Shim: sandboxtest.Shim()})
	if err != nil {
		t.Fatal(err)
	}
	if found := d.Probe(context.Background()); found.Tier < sandbox.T3 {
		for _, l := range found.Layers {
			t.Logf("%s %t: %s", l.Name, l.Available, l.Detail)
		}
		t.Fatalf("the machine offers %s", found.Label)
	}
	return d
}

func TestTier3(t *testing.T) {
	b := sandboxtest.NewBench(t, driver(t, runsc(t)), sandbox.T3)
	t.Run("conduct", func(t *testing.T) { sandboxtest.Conduct(t, b) })
	t.Run("escape", func(t *testing.T) { sandboxtest.Escape(t, b) })
}

// Lower tiers are what they are without a second kernel.
func TestLowerTiers(t *testing.T) {
	b := sandboxtest.NewBench(t, driver(t, runsc(t)), sandbox.T2)
	spec := b.Step(t)
	spec.Command = []string{"/bin/sh", "-c", "uname -r"}
	r, out := b.Do(t, spec)
	if r.Protections.Tier != sandbox.T2 || strings.Contains(out.String(), "gvisor") {
		t.Errorf("%+v, kernel %s", r.Protections, out)
	}
}

// TestAsOrdinaryUser runs the whole suite again as a user who has no rights at all, because most workers are one.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is the ordinary user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "gvisor-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, suite := filepath.Join(dir, "runsc"), filepath.Join(dir, "suite.test")
	duplicate(t, runsc(t), program)
	duplicate(t, "/proc/self/exe", suite)
	cmd := exec.Command(suite, "-test.run", "^(TestTier3|TestWorkerDeath|TestProtections|TestLeftovers)$", "-test.v", "-test.timeout", "5m")
	cmd.Dir, cmd.Env = tmp, []string{"TMPDIR=" + tmp, "PATH=/usr/bin:/bin", sandboxtest.CarriedShim(), builtRunsc + "=" + program}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "SKIP") || !strings.Contains(string(out), "--- PASS: TestTier3 ") {
		t.Errorf("not everything was run:\n%s", out)
	}
}

func duplicate(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestProtections reads what the evidence will say about a step.
func TestProtections(t *testing.T) {
	b := sandboxtest.NewBench(t, driver(t, runsc(t)), sandbox.T3)
	spec := b.Step(t)
	spec.Command = []string{"/bin/sh", "-c", "uname -r; exit 4"}
	r, out := b.Do(t, spec)
	if r.ExitCode != 4 || !strings.HasSuffix(out.String(), "-gvisor\n") {
		t.Errorf("%+v: %s", r, out)
	}
	p := r.Protections
	label := "t3"
	if p.Layers[linux.LayerCgroup] == "" {
		label = "t3-nolimits"
	}
	if p.Tier != sandbox.T3 || p.Label != label {
		t.Errorf("%d %s, not %s", p.Tier, p.Label, label)
	}
	for _, name := range []string{linux.LayerUser, linux.LayerMount, linux.LayerPID, linux.LayerNetwork, linux.LayerIPC, linux.LayerUTS, linux.LayerCgroupSpace, linux.LayerRoot, linux.LayerSeccomp, linux.LayerRlimits, "memory", "disk", "user"} {
		if p.Layers[name] == "" {
			t.Errorf("nothing about %s", name)
		}
	}
	if _, ok := p.Layers[linux.LayerLandlock]; ok {
		t.Error("Landlock is of another kernel")
	}
	said := p.Layers[linux.LayerGVisor]
	for _, part := range []string{"runsc v0.0.0-2", " sha256:", "platform systrap", "kernel 4."} {
		if !strings.Contains(said, part) {
			t.Errorf("%q does not say %q", said, part)
		}
	}
	if p.Layers["network"] != "none" || p.Layers["processes"] != "the second kernel" {
		t.Errorf("%v", p.Layers)
	}
}

// TestRefused gives the driver everything that is not a second kernel: steps of tier 3 are refused, by the name of the layer, and nothing runs.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	name := func(n string) string { return filepath.Join(dir, n) }
	impostor := exec.Command("go", "build", "-o", name("impostor"), "./testdata/impostor")
	impostor.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := impostor.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for n, text := range map[string]string{"failing": "#!/bin/sh\nexit 3\n", "silent": "#!/bin/sh\n", "script": "#!/bin/sh\necho runsc version 9\n"} {
		if err := os.WriteFile(name(n), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	duplicate(t, runsc(t), name("cut"))
	if err := os.Truncate(name("cut"), 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, because string }{
		{name("absent"), "no such file or directory"},
		{"no-such-runsc-in-path", "executable file not found"},
		{name("failing"), "exit status 3"},
		{name("silent"), "which version"},
		{name("script"), "does not start a container"},
		{name("cut"), "--version"},
		{name("impostor"), "the host's own kernel"},
	} {
		t.Run(filepath.Base(c.program), func(t *testing.T) {
			d, err := newDriver(c.program, linux.Config{Shim: sandboxtest.Shim()})
			if err != nil {
				t.Fatal(err)
			}
			refused(t, d, linux.LayerGVisor, c.because)
			if found := d.Probe(context.Background()); found.Tier != sandbox.T2 {
				t.Errorf("the machine offers %s", found.Label)
			}
		})
	}
	for _, layer := range []string{linux.LayerGVisor, linux.LayerUser, linux.LayerSeccomp, linux.LayerRoot} {
		t.Run("without "+layer, func(t *testing.T) {
			d, err := newDriver(runsc(t), linux.Config{Shim: sandboxtest.Shim(), Disable: []string{layer}})
			if err != nil {
				t.Fatal(err)
			}
			refused(t, d, layer, "withheld")
		})
	}
}

func refused(t *testing.T, d sandbox.Driver, layer, because string) {
	t.Helper()
	dir := t.TempDir()
	_, err := d.Run(context.Background(), sandbox.Spec{Command: []string{"/bin/sh", "-c", "touch ran"}, Dir: dir, Policy: sandbox.Policy{MinTier: sandbox.T3}})
	if fault.CodeOf(err) != fault.SandboxUnavailable || !strings.Contains(err.Error(), "lacks the layer "+layer) || !strings.Contains(err.Error(), because) {
		t.Errorf("got %v, want a refusal for %s because of %q", err, layer, because)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("something ran: %v", entries)
	}
}

// TestReplaced puts something else in the place of a program that was proved: it must be proved again.
func TestReplaced(t *testing.T) {
	program := filepath.Join(t.TempDir(), "runsc")
	duplicate(t, runsc(t), program)
	d := driver(t, program)
	before := layer(t, d).Detail
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	duplicate(t, "/bin/true", program)
	refused(t, d, linux.LayerGVisor, "which version")
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	duplicate(t, runsc(t), program)
	// A refusal is kept for an hour; a new driver asks again.
	if after := layer(t, driver(t, program)).Detail; after != before {
		t.Errorf("%s, then %s", before, after)
	}
}

func layer(t *testing.T, d sandbox.Driver) sandbox.Layer {
	t.Helper()
	all := d.Probe(context.Background()).Layers
	i := slices.IndexFunc(all, func(l sandbox.Layer) bool { return l.Name == linux.LayerGVisor })
	if i < 0 {
		t.Fatalf("%v", all)
	}
	return all[i]
}

// doomedWorker runs a step that never ends.
func doomedWorker(args []string) int {
	d, err := newDriver(args[1], linux.Config{Shim: sandboxtest.Shim()})
	if err == nil {
		_, err = d.Run(context.Background(), sandbox.Spec{
			Command: []string{args[0], "sandbox-payload", "stubborn"}, Dir: args[2], Stdout: os.Stdout,
			Policy: sandbox.Policy{MinTier: sandbox.T3, ReadOnly: []string{filepath.Dir(args[0])}},
		})
	}
	fmt.Println(err)
	return 1
}

// TestWorkerDeath kills a worker the hard way: nothing of its step, and nothing of the second kernel, may outlive it.
func TestWorkerDeath(t *testing.T) {
	b := sandboxtest.NewBench(t, driver(t, runsc(t)), sandbox.T3)
	token := fmt.Sprintf("runsc-doomed-%d", os.Getpid())
	program := filepath.Join(t.TempDir(), token)
	if err := os.Link(runsc(t), program); err != nil {
		duplicate(t, runsc(t), program)
	}
	step := b.Step(t)
	sandboxtest.WorkerDeath(t, exec.Command("/proc/self/exe", workerMark, step.Command[0], program, step.Dir), "/kernel/"+token)
}

func TestLeftovers(t *testing.T) {
	sandboxtest.NewBench(t, driver(t, runsc(t)), sandbox.T3).Leftovers(t, "link") // its pipes are in its own kernel
}
