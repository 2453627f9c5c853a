package linux

import (
	"os"
	"testing"
	"time"
	"golang.org/x/sys/unix"
	"context"
	"syscall"
	"slices"
)

func cpu() time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u)
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}
func cost(b *testing.B, f func()) {
	t := cpu()
	for b.Loop() { f() }
	b.ReportMetric(float64(cpu()-t)/1e6/float64(b.N), "cpu-ms/op")
}
func BenchmarkCost(b *testing.B) {
	d, _ := New(Config{})
	hello := func(sys *syscall.SysProcAttr, env []string) func() {
		return func() {
			p, err := os.StartProcess("/proc/self/exe", []string{shimName, "hello"}, &os.ProcAttr{Env: env, Files: make([]*os.File, 3), Sys: sys})
			if err != nil { b.Fatal(err) }
			p.Wait()
		}
	}
	b.Run("hello", func(b *testing.B) { cost(b, hello(nil, shimEnv())) })
	b.Run("hello-noenv", func(b *testing.B) { cost(b, hello(nil, []string{})) })
	b.Run("hello-ns", func(b *testing.B) { cost(b, hello(d.isolation(allNamespaces(), 2000000000), shimEnv())) })
	for _, n := range namespaces() {
	b.Run("hello-"+n.layer, func(b *testing.B) { cost(b, hello(d.isolation(n.flag|unix.CLONE_NEWUSER, 2000000000), shimEnv())) })
	}
	b.Run("rehearse-t0", func(b *testing.B) { cost(b, func() { if err := d.rehearse(context.Background(), &order{tier: 0}); err != nil { b.Fatal(err) } }) })
	b.Run("rehearse-t2", func(b *testing.B) { cost(b, func() { if err := d.rehearse(context.Background(), &order{tier: 2, mounts: slices.Clone(d.base), tmpBytes: 1<<20}); err != nil { b.Fatal(err) } }) })
	b.Run("rehearse-t2-ll", func(b *testing.B) { cost(b, func() { if err := d.rehearse(context.Background(), &order{tier: 2, mounts: slices.Clone(d.base), tmpBytes: 1<<20, abi:7, readable: []string{"/"}, writable: []string{"/tmp"}}); err != nil { b.Fatal(err) } }) })
	b.Run("rehearse-t2-ll-sec", func(b *testing.B) { cost(b, func() { if err := d.rehearse(context.Background(), &order{tier: 2, mounts: slices.Clone(d.base), tmpBytes: 1<<20, abi:7, readable: []string{"/"}, writable: []string{"/tmp"}, filter: d.filters[2].Filter}); err != nil { b.Fatal(err) } }) })
}
