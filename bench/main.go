// Bench measures Orrery and its peers on the same machine in the same pass, and writes a report.
//
//	cd bench && go run . -passes 3
//
// It is a module of its own, so that the peers are no dependencies of the product.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	nats := flag.String("nats", "", "serve NATS from this folder (the bench starts itself so)")
	always := flag.Bool("sync-always", false, "with -nats: sync every write")
	one := flag.Bool("cell", false, "read a task from standard input (the bench starts itself so)")
	from := flag.String("from", "", "measure nothing, take the figures from this FILE.json")
	strict := flag.Bool("strict", false, "fail when something could not be measured")
	var p order
	var names, workloads, to string
	flag.IntVar(&p.Passes, "passes", 3, "how often everything is measured")
	flag.StringVar(&names, "systems", "all", "comma-separated: all, or "+strings.Join(systemNames(), ", ")+"; a * at the end stands for the rest of a name")
	flag.StringVar(&workloads, "workloads", "all", "comma-separated: all, or some of W1 to W8")
	flag.DurationVar(&p.Budget, "budget", 15*time.Minute, "no pass is begun that would not end within this time")
	flag.StringVar(&to, "report", "", "write FILE.md and FILE.json, and the table of the README beside the folder of this module; nothing for standard output")
	flag.IntVar(&p.Sizes.Jobs, "jobs", 10_000, "W1, W8: jobs")
	flag.IntVar(&p.Sizes.Singles, "singles", 1_000, "W1: how many of them are submitted one by one, by 16 clients")
	flag.IntVar(&p.Sizes.Samples, "samples", 100, "W2: how often")
	flag.DurationVar(&p.Sizes.Limit, "sample-time", 6*time.Second, "W2: for how long at most")
	flag.IntVar(&p.Sizes.Fan, "fan", 1000, "W3: steps side by side")
	flag.IntVar(&p.Sizes.Chain, "chain", 500, "W4: steps one after another")
	flag.IntVar(&p.Sizes.Runs, "runs", 100, "W5: runs of ten steps at once")
	flag.IntVar(&p.Sizes.Procs, "processes", 100, "W6: steps that start a process")
	flag.IntVar(&p.Sizes.Filled, "filled", 100_000, "W8: jobs that have ended before")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *nats != "":
		err = serveNATS(*nats, *always)
	case *from != "":
		err = again(*from, to)
	case *one:
		err = runCell(os.Stdin, os.Stdout)
	default:
		if p.Systems, err = choose(names, systemNames()); err == nil {
			p.Workloads, err = choose(workloads, []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8"})
		}
		if err == nil {
			err = measureAll(ctx, p, to, *strict)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAll(ctx context.Context, p order, to string, strict bool) error {
	b := &bench{order: p}
	found, err := b.run(ctx)
	if err != nil {
		return err
	}
	if strict && len(found.Missing) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(found.Missing, "; "))
	}
	return found.show(to)
}

// again writes the report of what was measured before.
func again(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var found measured
	if err := json.Unmarshal(raw, &found); err != nil {
		return err
	}
	return found.show(to)
}

func (m *measured) show(to string) error {
	if to == "" {
		fmt.Print(m.markdown())
		return nil
	}
	return m.write(to)
}

func systemNames() []string {
	var out []string
	for _, s := range systems {
		out = append(out, s.name)
	}
	return out
}

// choose picks from what there is.
func choose(text string, from []string) ([]string, error) {
	if text == "all" {
		return from, nil
	}
	var out []string
	for want := range strings.SplitSeq(text, ",") {
		found := false
		for _, name := range from {
			prefix, wild := strings.CutSuffix(want, "*")
			if name == want || wild && strings.HasPrefix(name, prefix) {
				found = true
				if !slices.Contains(out, name) {
					out = append(out, name)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no %q among %s", want, strings.Join(from, ", "))
		}
	}
	return out, nil
}
