package linux_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/sandboxtest"
)

// shimLayer is what a probe says about the shim.
func shimLayer(t *testing.T, d *linux.Driver) sandbox.Layer {
	t.Helper()
	for _, l := range d.Probe(context.Background()).Layers {
		if l.Name == linux.LayerShim {
			return l
		}
	}
	t.Fatal("the probe says nothing about the shim")
	return sandbox.Layer{}
}

// TestShim looks at process 1 of a step from inside and outside: the evidence names the shim that it is, and the step cannot read, trace or
// change it.
func TestShim(t *testing.T) {
	executable := sandboxtest.Shim()
	d := tierOrSkip(t, linux.Config{Shim: executable}, sandbox.T2)
	want := linux.ShimDigest(executable)
	if executable == "" {
		want = "this program itself: the build carries no shim"
	}
	if l := shimLayer(t, d); !l.Available || l.Detail != want {
		t.Errorf("the probe says %+v", l)
	}
	b := sandboxtest.NewBench(t, d, sandbox.T2)
	spec := b.Step(t)
	spec.Command = []string{"/bin/sh", "-c", `
		tr '\0' ' ' < /proc/1/cmdline; echo
		for f in /proc/1/exe /proc/1/mem /proc/1/environ /proc/1/fd/4; do
			cat $f >/dev/null 2>&1 && echo "read $f"
			(echo x >>$f) 2>/dev/null && echo "wrote $f"
			(: >$f) 2>/dev/null && echo "cut $f"
		done
		ls /proc/1/fd /proc/self/fd 2>/dev/null | tr '\n' ' '`}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	r, out := b.Do(t, spec)
	// 3 is the folder that ls reads.
	if got := out.String(); got != "orrery-sandbox-shim \n/proc/self/fd: 0 1 2 3 " {
		t.Errorf("the step saw %q", got)
	}
	if said := r.Protections.Layers[linux.LayerShim]; said != want {
		t.Errorf("the evidence says %q", said)
	}
}

// TestShimThatDoesNotStart: where the shim cannot be executed from memory the program itself puts up the same walls, and says so.
func TestShimThatDoesNotStart(t *testing.T) {
	failing, err := os.ReadFile("/bin/false")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config linux.Config
		says   string
	}{
		"not for this machine": {linux.Config{Shim: "no program"}, "does not execute the shim from memory: execution of the shim: exec format error"},
		"ends at once":         {linux.Config{Shim: string(failing)}, "does not start from memory"},
		"withheld":             {linux.Config{Shim: "no program", Disable: []string{linux.LayerShim}}, "withheld"},
	} {
		t.Run(name, func(t *testing.T) {
			d := tierOrSkip(t, c.config, sandbox.T2)
			if l := shimLayer(t, d); l.Available || !strings.Contains(l.Detail, c.says) {
				t.Errorf("the probe says %+v", l)
			}
			dir := t.TempDir()
			r, err := d.Run(context.Background(), sandbox.Spec{Command: []string{"/bin/sh", "-c", "exit 3"}, Dir: dir, Policy: sandbox.Policy{MinTier: sandbox.T2}})
			if err != nil || r.ExitCode != 3 || r.Protections.Tier != sandbox.T2 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}
