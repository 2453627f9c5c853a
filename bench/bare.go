package main

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// bare runs /bin/true without anything around it, as many at once as there are processors: what a process costs at least.
func bare(n int) (map[string]float64, error) {
	children := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
			panic(err) // cannot fail for oneself
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin, from := used(0)+children(), time.Now()
	if err := each(n, runtime.NumCPU(), func(int) error { return exec.Command("/bin/true").Run() }); err != nil {
		return nil, err
	}
	return map[string]float64{
		"bare s": time.Since(from).Seconds(), "bare cpu": ms(used(0)+children()-begin) / float64(n),
	}, nil
}
