package linux_test

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/sandboxtest"
)

func processorTime() time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u)
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}

func measure(b *testing.B, once func()) {
	before := processorTime()
	for b.Loop() {
		once()
	}
	b.ReportMetric(float64(processorTime()-before)/float64(time.Millisecond)/float64(b.N), "cpu-ms/op")
}

func BenchmarkBareSpawn(b *testing.B) {
	measure(b, func() {
		p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{Files: make([]*os.File, 3)})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkT2Spawn is what a step costs: its processor time minus BenchmarkBareSpawn's is the price of isolation.
func BenchmarkT2Spawn(b *testing.B) { benchmarkSpawn(b, linux.Config{Shim: sandboxtest.Shim()}) }

// BenchmarkT2SpawnWithoutCgroup is the same under rlimits only.
func BenchmarkT2SpawnWithoutCgroup(b *testing.B) {
	benchmarkSpawn(b, linux.Config{Shim: sandboxtest.Shim(), Disable: []string{linux.LayerCgroup}})
}

func benchmarkSpawn(b *testing.B, config linux.Config) {
	d, err := linux.New(config)
	if err != nil {
		b.Fatal(err)
	}
	spec := sandbox.Spec{Name: "true", Command: []string{"/bin/true"}, Dir: b.TempDir(), Policy: sandbox.Policy{MinTier: sandbox.T2}}
	if _, err := d.Run(context.Background(), spec); err != nil {
		b.Skip(err)
	}
	measure(b, func() {
		if r, err := d.Run(context.Background(), spec); err != nil || r.ExitCode != 0 {
			b.Fatal(r, err)
		}
	})
}
