package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// task is what one child process is asked to do: some workloads on one system.
type task struct {
	System    string   `json:"system"`
	Workloads []string `json:"workloads"`
	Sizes     sizes    `json:"sizes"`
	Dir       string   `json:"dir"`      // an empty folder
	Orrery    string   `json:"orrery"`   // the program
	Temporal  string   `json:"temporal"` // the program of the dev server
	Postgres  server   `json:"postgres"`
}

// server is one that the parent has started.
type server struct {
	URL string `json:"url"`
	PID int    `json:"pid"`
}

// sizes say how much there is of each workload.
type sizes struct {
	Jobs    int           `json:"jobs"`    // W1, W8
	Singles int           `json:"singles"` // of them submitted one by one
	Samples int           `json:"samples"` // W2
	Fan     int           `json:"fan"`     // W3
	Chain   int           `json:"chain"`   // W4
	Runs    int           `json:"runs"`    // W5, of ten steps each
	Procs   int           `json:"procs"`   // W6
	Filled  int           `json:"filled"`  // W8
	Limit   time.Duration `json:"limit"`   // of one W2
}

// result is what one workload gave on one system: figures by name. Those named cpu/WHO are milliseconds of processor time per job or step.
type result struct {
	System   string             `json:"system"`
	Workload string             `json:"workload"`
	Figures  map[string]float64 `json:"figures"`
}

// cell is where a system reports to.
type cell struct {
	task
	out *json.Encoder
}

func (c *cell) wants(workload string) bool { return slices.Contains(c.Workloads, workload) }

func (c *cell) report(workload string, figures map[string]float64) error {
	return c.out.Encode(result{c.System, workload, figures})
}

func (c *cell) path(name string) string { return filepath.Join(c.Dir, name) }

// runCell is the child: it reads its task and writes results, one a line.
func runCell(in io.Reader, out io.Writer) error {
	c := &cell{out: json.NewEncoder(out)}
	if err := json.NewDecoder(in).Decode(&c.task); err != nil {
		return err
	}
	i := slices.IndexFunc(systems, func(s system) bool { return s.name == c.System })
	if i < 0 {
		return fmt.Errorf("there is no system %q", c.System)
	}
	return systems[i].run(context.Background(), c)
}

// each calls fn for 0 to n-1 from some goroutines, and returns the first error.
func each(n, goroutines int, fn func(i int) error) error {
	var mu sync.Mutex
	var first error
	next := 0
	var group sync.WaitGroup
	for range goroutines {
		group.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := first != nil || i >= n
				mu.Unlock()
				if stop {
					return
				}
				if err := fn(i); err != nil {
					mu.Lock()
					first = cmp.Or(first, err)
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	return first
}

// until looks again and again whether something is so.
func until(ctx context.Context, every time.Duration, so func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		done, err := so()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// samples measures something again and again, one after another, at most n times and for as long as limit.
func samples(n int, limit time.Duration, one func() error) (map[string]float64, error) {
	var all []float64
	const warm = 3
	begin := time.Now()
	for i := 0; i < n+warm && (i < warm+5 || time.Since(begin) < limit); i++ {
		from := time.Now()
		if err := one(); err != nil {
			return nil, err
		}
		if i >= warm {
			all = append(all, ms(time.Since(from)))
		}
	}
	slices.Sort(all)
	return map[string]float64{"p50": all[len(all)/2], "p99": all[min(len(all)-1, len(all)*99/100)], "samples": float64(len(all))}, nil
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// rate is how many a second.
func rate(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

// with adds the processor time per thing to figures.
func (u usage) with(figures map[string]float64, per int) map[string]float64 {
	total := 0.0
	for who, d := range u {
		figures["cpu/"+who] = ms(d) / float64(per)
		if who != asker {
			total += ms(d) / float64(per)
		}
	}
	figures["cpu"] = total
	return figures
}

// manifest writes a pack of steps that do nothing.
func manifest(name, steps string) string {
	return "name: " + name + "\nversion: 1.0.0\nsandbox: {tier: t0}\nsteps:\n" + steps
}

func chainOf(n int) string { return strings.Repeat("- run: {uses: noop}\n", n) }

func fanOf(n int) string {
	return fmt.Sprintf("- id: fan\n  map: {range: {start: 0, end: %d, step: 1}, maxItems: %d, step: {id: one, run: {uses: noop}}}\n", n, n)
}

func processesOf(n int) string {
	return fmt.Sprintf("- id: fan\n  map: {range: {start: 0, end: %d, step: 1}, maxItems: %d, step: {id: one, run: {command: [/bin/true]}, sandbox: {tier: t2}}}\n", n, n)
}

func warn(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
