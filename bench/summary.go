package main

import (
	"fmt"
	"strings"
)

// line is one comparison of the summary: what ours is compared with what of a peer, higher or lower being better.
type line struct {
	what           string
	ours, workload string
	name           string
	lower          bool
	peers          []string
}

var lines = []line{
	{"drain on PostgreSQL over HTTP, jobs/s", "orrery-pg", "W1", "drain/s", false, []string{"river", "river-tuned"}},
	{"the same, CPU ms per job of all processes", "orrery-pg", "W1", "cpu", true, []string{"river", "river-tuned"}},
	{"drain, embedded, jobs/s", "orrery-embedded", "W1", "drain/s", false, []string{"backlite", "asynq-always", "jetstream-always", "temporal-dev"}},
	{"one job after the other by 16 clients, embedded, jobs/s", "orrery-embedded", "W1", "single/s", false, []string{"backlite", "asynq-always", "jetstream-always", "temporal-dev"}},
	{"the same over HTTP on PostgreSQL", "orrery-pg", "W1", "single/s", false, []string{"river"}},
	{"batches over HTTP on PostgreSQL", "orrery-pg", "W1", "batch/s", false, []string{"river"}},
	{"submit to end, embedded, p50 ms", "orrery-embedded", "W2", "p50", true, []string{"backlite", "jetstream-always", "asynq-always", "temporal-dev"}},
	{"submit to end over HTTP on PostgreSQL, p50 ms", "orrery-pg", "W2", "p50", true, []string{"river"}},
	{"steps side by side, `orrery up`, ms/step", "orrery-up", "W3", "ms/step", true, []string{"temporal-dev", "temporal-dev-mem"}},
	{"steps in a chain, `orrery up`, ms/step", "orrery-up", "W4", "ms/step", true, []string{"temporal-dev", "temporal-dev-mem"}},
	{"runs of ten steps at once, `orrery up`, ms/step", "orrery-up", "W5", "ms/step", true, []string{"temporal-dev", "temporal-dev-mem"}},
	{"idle memory of the server, MiB", "orrery-up", "W7", "rss MiB", true, []string{"temporal-dev"}},
	{"ready after, ms", "orrery-up", "W7", "ready ms", true, []string{"temporal-dev"}},
}

// summary is the table of the README: what is better, and by how much.
func (m *measured) summary() string {
	var b strings.Builder
	b.WriteString(beginMark)
	b.WriteString("| | Orrery | peers at the same work |\n|---|---:|---|\n")
	for _, l := range lines {
		ours, ok := m.figure(l.ours, l.workload, l.name)
		if !ok {
			continue
		}
		var peers []string
		for _, name := range l.peers {
			if f, ok := m.figure(name, l.workload, l.name); ok {
				peers = append(peers, fmt.Sprintf("%s %s (%s)", name, short(f.median), ratio(ours.median, f.median, l.lower)))
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.what, short(ours.median), strings.Join(peers, ", "))
	}
	fmt.Fprintf(&b, "\n%s on %s, %d processors, load %s before and %s after. In brackets: how many times better Orrery is; below 1 it is worse.\n",
		passes(m.Passes), strings.TrimSuffix(m.Machine.When, " UTC"), m.Machine.Processors, first3(m.Machine.LoadBefore), first3(m.Machine.LoadAfter))
	b.WriteString(endMark)
	return b.String()
}

func first3(loads string) string {
	one, _, _ := strings.Cut(loads, " ")
	return one
}

// ratio is how many times better ours is.
func ratio(ours, theirs float64, lower bool) string {
	if lower {
		ours, theirs = theirs, ours
	}
	if theirs == 0 {
		return "–"
	}
	return short(ours/theirs) + "×"
}

// goal is one of our goals as a condition on figures.
type goal struct {
	id, what string
	value    func(*measured) (float64, bool)
	most     bool // the bound is the most, else the least
	bound    float64
}

func of(system, workload, name string) func(*measured) (float64, bool) {
	return func(m *measured) (float64, bool) {
		f, ok := m.figure(system, workload, name)
		return f.median, ok
	}
}

// over divides one figure by another.
func over(a, b func(*measured) (float64, bool)) func(*measured) (float64, bool) {
	return func(m *measured) (float64, bool) {
		x, ok := a(m)
		y, also := b(m)
		if !ok || !also || y == 0 {
			return 0, false
		}
		return x / y, true
	}
}

var goals = []goal{
	{"G1", "embedded, W1 end to end, CPU ms per job", of("orrery-embedded", "W1", "end-to-end cpu"), true, 0.15},
	{"G1", "embedded, W1 end to end, jobs/s", of("orrery-embedded", "W1", "end-to-end/s"), false, 8000},
	{"G1", "embedded, submitted one by one by 16 clients, jobs/s", of("orrery-embedded", "W1", "single/s"), false, 5000},
	{"G2", "PostgreSQL over HTTP: CPU per job, of River tuned", over(of("orrery-pg", "W1", "cpu"), of("river-tuned", "W1", "cpu")), true, 1},
	{"G2", "PostgreSQL over HTTP: drain, of River by default", over(of("orrery-pg", "W1", "drain/s"), of("river", "W1", "drain/s")), false, 5},
	{"G3", "embedded, W2 p50 ms", of("orrery-embedded", "W2", "p50"), true, 3},
	{"G3", "embedded, W2 p99 ms", of("orrery-embedded", "W2", "p99"), true, 20},
	{"G3", "PostgreSQL over HTTP, W2 p50 ms", of("orrery-pg", "W2", "p50"), true, 6},
	{"G3", "PostgreSQL over HTTP, W2 p99 ms", of("orrery-pg", "W2", "p99"), true, 30},
	{"G4", "embedded, W3 s", of("orrery-embedded", "W3", "s"), true, 0.3},
	{"G4", "embedded, W4 ms per step", of("orrery-embedded", "W4", "ms/step"), true, 1},
	{"G4", "embedded, W5 s", of("orrery-embedded", "W5", "s"), true, 0.5},
	{"G5", "W6: a step in the sandbox costs, CPU ms over a bare start", of("orrery-up", "W6", "adds"), true, 3},
	{"G6", "idle memory, MiB", of("orrery-up", "W7", "rss MiB"), true, 60},
	{"G6", "ready after, ms", of("orrery-up", "W7", "ready ms"), true, 300},
	{"G6", "program, MB", of("orrery-up", "W7", "binary MB"), true, 60},
	{"G7", "embedded: CPU per job after many have ended, of that on an empty store", over(of("orrery-embedded", "W8", "cpu"), of("orrery-embedded", "W1", "cpu")), true, 1.1},
	{"G7", "PostgreSQL: CPU per job after many have ended, of that on an empty store", over(of("orrery-pg", "W8", "cpu"), of("orrery-pg", "W1", "cpu")), true, 1.1},
}

func (m *measured) goals() string {
	var b strings.Builder
	b.WriteString("| | goal | bound | measured | |\n|---|---|---:|---:|---|\n")
	for _, g := range goals {
		v, ok := g.value(m)
		if !ok {
			continue
		}
		sign, met := "≥", v >= g.bound
		if g.most {
			sign, met = "≤", v <= g.bound
		}
		word := "**missed**"
		if met {
			word = "met"
		}
		fmt.Fprintf(&b, "| %s | %s | %s %s | %s | %s |\n", g.id, g.what, sign, trimmed(g.bound), short(v), word)
	}
	b.WriteString("\nPlanning and the cost per step of very wide and very long runs (G4), and verification (G8), are measured by `make bench`.\n")
	return b.String()
}

func trimmed(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

func passes(n int) string {
	if n == 1 {
		return "One pass"
	}
	return fmt.Sprintf("Medians of %d passes", n)
}
