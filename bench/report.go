package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// figure is the median of several passes, and what they range over.
type figure struct {
	median, low, high float64
	n                 int
}

func (m *measured) figure(system, workload, name string) (figure, bool) {
	var all []float64
	for _, r := range m.Results {
		if v, ok := r.Figures[name]; ok && r.System == system && r.Workload == workload {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return figure{}, false
	}
	slices.Sort(all)
	mid := all[len(all)/2]
	if len(all)%2 == 0 {
		mid = (mid + all[len(all)/2-1]) / 2
	}
	return figure{mid, all[0], all[len(all)-1], len(all)}, true
}

// short writes a number with three digits that count.
func short(v float64) string {
	switch {
	case v >= 1000:
		text := fmt.Sprintf("%.0f", v)
		for at := len(text) - 3; at > 0; at -= 3 {
			text = text[:at] + "," + text[at:]
		}
		return text
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

func (f figure) String() string {
	if f.n < 2 {
		return short(f.median)
	}
	return fmt.Sprintf("%s (%s–%s)", short(f.median), short(f.low), short(f.high))
}

// column is one figure of a table.
type column struct{ title, name string }

var tables = []struct {
	workload, title string
	columns         []column
}{
	{"W1", "W1: jobs that do nothing, submitted, then drained by workers with 100 slots", []column{
		{"one by one /s", "single/s"}, {"in batches /s", "batch/s"}, {"drain /s", "drain/s"}, {"CPU ms/job: worker", "cpu/worker"},
		{"server", "cpu/server"}, {"database", "cpu/database"}, {"**all**", "cpu"}, {"CPU ms/job of submitting in batches", "cpu/submit"},
		{"end to end /s", "end-to-end/s"}, {"end to end CPU ms/job", "end-to-end cpu"},
	}},
	{"W2", "W2: one job on an idle system, from the request until its end is known, ms", []column{{"p50", "p50"}, {"p99", "p99"}, {"samples a pass", "samples"}}},
	{"W3", "W3: one run, many steps side by side", stepColumns},
	{"W4", "W4: one run, steps one after another", stepColumns},
	{"W5", "W5: many runs of ten steps at once", stepColumns},
	{"W6", "W6: steps that start `/bin/true`", []column{
		{"CPU ms bare", "bare cpu"}, {"CPU ms as a step in the default sandbox", "cpu"}, {"difference", "adds"}, {"s bare", "bare s"}, {"s as steps", "s"},
	}},
	{"W7", "W7: a server with nothing to do", []column{{"memory MiB", "rss MiB"}, {"ready after ms", "ready ms"}, {"program MB", "binary MB"}}},
	{"W8", "W8: W1 when many jobs have ended before", []column{{"in batches /s", "batch/s"}, {"drain /s", "drain/s"}, {"CPU ms/job", "cpu"}}},
}

var stepColumns = []column{{"ms/step", "ms/step"}, {"CPU ms/step: worker", "cpu/worker"}, {"server", "cpu/server"}, {"database", "cpu/database"}, {"**all**", "cpu"}}

// markdown is the whole report.
func (m *measured) markdown() string {
	var b strings.Builder
	b.WriteString("# Performance report\n\nWritten by `make bench-peers`; do not edit. ")
	fmt.Fprintf(&b, "%s; in brackets the lowest and the highest. Each pass measured all systems one after another.\n\n", passes(m.Passes))
	b.WriteString(m.machine())
	b.WriteString("\n## Summary\n\n")
	b.WriteString(m.summary())
	b.WriteString("\n## Goals\n\n")
	b.WriteString(m.goals())
	b.WriteString("\n## Systems\n\n| system | what | what an answered submission survives |\n|---|---|---|\n")
	for _, s := range systems {
		if slices.Contains(m.Plan.Systems, s.name) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", s.name, s.what, s.durable)
		}
	}
	for _, t := range tables {
		b.WriteString(m.table(t.workload, t.title, t.columns))
	}
	if len(m.Missing) > 0 {
		b.WriteString("\n## Missing\n\n")
		for _, text := range m.Missing {
			fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(text, "\n", " "))
		}
	}
	return b.String()
}

func (m *measured) machine() string {
	x := m.Machine
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(x.Versions)) {
		if x.Versions[name] != "" {
			versions = append(versions, name+" "+x.Versions[name])
		}
	}
	s := m.Plan.Sizes
	return fmt.Sprintf(`| | |
|---|---|
| when | %s, in %s, commit %s |
| machine | %d processors (%s), %d GiB, %s on %s, Linux %s |
| load (1, 5, 15 min) | before %s, after %s |
| versions | %s |
| sizes | W1 %d jobs, W2 up to %d samples, W3 %d steps, W4 %d steps, W5 %d × 10 steps, W6 %d processes, W8 after %d jobs |

Processor time is that of the processes, user and system; what only asks and waits is left out. The load says how much else the machine had to do:
on a busy one rates are lower bounds, and the ratios and the processor times are what counts.
`, x.When, m.Took, x.Commit, x.Processors, x.Model, x.MemoryGiB, x.System, x.Files, x.Kernel, x.LoadBefore, x.LoadAfter, strings.Join(versions, "; "),
		s.Jobs, s.Samples, s.Fan, s.Chain, s.Runs, s.Procs, s.Filled)
}

// table has one row a system, and a column for every figure that somebody has.
func (m *measured) table(workload, title string, columns []column) string {
	var rows [][]string
	used := make([]bool, len(columns))
	for _, s := range systems {
		row := make([]string, len(columns))
		some := false
		for i, c := range columns {
			row[i] = "–"
			if f, ok := m.figure(s.name, workload, c.name); ok {
				row[i], used[i], some = f.String(), true, true
			}
		}
		if some {
			rows = append(rows, append([]string{s.name}, row...))
		}
	}
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## %s\n\n| system |", title)
	for i, c := range columns {
		if used[i] {
			fmt.Fprintf(&b, " %s |", c.title)
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", count(used)) + "\n")
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |", row[0])
		for i := range columns {
			if used[i] {
				fmt.Fprintf(&b, " %s |", row[i+1])
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func count(of []bool) int {
	n := 0
	for _, x := range of {
		if x {
			n++
		}
	}
	return n
}

// write leaves the report as FILE.md and FILE.json, and puts the summary into the README.
func (m *measured) write(to string) error {
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".json", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(to+".md", []byte(m.markdown()), 0o644); err != nil {
		return err
	}
	readme := filepath.Join(filepath.Dir(to), "..", "..", "README.md")
	text, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), beginMark)
	_, tail, ended := strings.Cut(rest, endMark)
	if !ok || !ended {
		return fmt.Errorf("%s has no place for the table, between %q and %q", readme, beginMark, endMark)
	}
	return os.WriteFile(readme, []byte(head+m.summary()+tail), 0o644)
}

// Marks around the summary, in the report and in the README.
const (
	beginMark = "<!-- performance: written by `make bench-peers`, checked by the tests -->\n"
	endMark   = "<!-- end of performance -->\n"
)
