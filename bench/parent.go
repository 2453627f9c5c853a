package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"orrery.example/orrery/internal/testservice"
)

// order is what is to be measured.
type order struct {
	Passes    int           `json:"passes"`
	Systems   []string      `json:"systems"`
	Workloads []string      `json:"workloads"`
	Sizes     sizes         `json:"sizes"`
	Budget    time.Duration `json:"budget"`
}

// measured is what came out.
type measured struct {
	Plan    order    `json:"plan"`
	Machine machine  `json:"machine"`
	Results []result `json:"results"` // of all passes, in the order in which they were measured
	Passes  int      `json:"passes"`  // whole ones
	Missing []string `json:"missing"` // what could not be measured, and why
	Took    string   `json:"took"`
}

// bench is the parent: it builds, starts what systems share, and runs every cell in a process of its own.
type bench struct {
	order
	dir      string
	orrery   string
	temporal string
	postgres *testservice.Postgres
	database string
	out      measured
}

// run measures everything, pass by pass: each pass goes over all systems, so that what disturbs the machine meets all of them.
func (b *bench) run(ctx context.Context) (*measured, error) {
	begin := time.Now()
	b.out.Plan = b.order
	var err error
	if b.dir, err = os.MkdirTemp("", "orrery-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	if b.postgres != nil {
		defer b.postgres.Close()
	}
	b.out.Machine = about(b.orrery)
	var longest time.Duration
	for pass := range b.order.Passes {
		if pass > 0 && time.Since(begin)+longest > b.Budget {
			b.missing("pass %d: it would not end within the %s of the budget", pass+1, b.Budget)
			break
		}
		from := time.Now()
		for i := range systems {
			if slices.Contains(b.Systems, systems[i].name) {
				b.cell(ctx, &systems[i], pass)
			}
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
		}
		longest = max(longest, time.Since(from))
		b.out.Passes++
		fmt.Fprintf(os.Stderr, "pass %d took %s\n", pass+1, time.Since(from).Round(time.Second))
	}
	b.out.Machine.LoadAfter = load()
	b.out.Took = time.Since(begin).Round(time.Second).String()
	return &b.out, nil
}

func (b *bench) missing(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(b.out.Missing, text) {
		b.out.Missing = append(b.out.Missing, text)
		warn("missing: %s", text)
	}
}

// cell measures one system in one pass. What fails is missing in the report, and the rest goes on.
func (b *bench) cell(ctx context.Context, s *system, pass int) {
	t := task{System: s.name, Sizes: b.Sizes, Orrery: b.orrery, Temporal: b.temporal, Dir: filepath.Join(b.dir, s.name)}
	for _, w := range s.workloads {
		// What takes long and hardly varies is measured once.
		if slices.Contains(b.Workloads, w) && (pass == 0 || w != "W8") {
			t.Workloads = append(t.Workloads, w)
		}
	}
	if len(t.Workloads) == 0 {
		return
	}
	switch {
	case s.needs == "postgres" && b.postgres == nil:
		return
	case s.needs == "temporal" && b.temporal == "":
		return
	case s.needs == "postgres":
		t.Postgres = server{URL: b.database, PID: b.postgres.PID()}
	case s.needs == "redis-server":
		if _, err := exec.LookPath("redis-server"); err != nil {
			b.missing("%s: there is no redis-server (apt-get install redis-server)", s.name)
			return
		}
	}
	from := time.Now()
	found, err := b.child(ctx, t)
	for _, r := range found {
		b.out.Results = append(b.out.Results, r)
	}
	if err != nil {
		b.missing("%s: %v", s.name, err)
	}
	fmt.Fprintf(os.Stderr, "%-18s %6.1f s  %s\n", s.name, time.Since(from).Seconds(), summary(found))
	_ = os.RemoveAll(t.Dir)
}

// child runs a cell in a process of its own, so that nothing of one system is in the memory of another.
func (b *bench) child(ctx context.Context, t task) ([]result, error) {
	if err := os.MkdirAll(t.Dir, 0o755); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, self, "-cell")
	cmd.WaitDelay = time.Second
	var out, trouble bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &trouble
	failed := cmd.Run()
	var found []result
	lines := json.NewDecoder(&out)
	for {
		var r result
		if err := lines.Decode(&r); err != nil {
			if !errors.Is(err, io.EOF) {
				failed = cmp.Or(failed, err)
			}
			break
		}
		found = append(found, r)
	}
	if failed != nil {
		text := strings.TrimSpace(trouble.String())
		if at := strings.LastIndexByte(text, '\n'); at >= 0 {
			text = text[at+1:]
		}
		failed = fmt.Errorf("%w: %s", failed, text)
	}
	return found, failed
}

func summary(found []result) string {
	var parts []string
	for _, r := range found {
		for _, name := range []string{"drain/s", "p50", "s"} {
			if v, ok := r.Figures[name]; ok {
				parts = append(parts, fmt.Sprintf("%s %s=%.4g", r.Workload, name, v))
			}
		}
	}
	return strings.Join(parts, "  ")
}

// prepare builds the programs and starts PostgreSQL.
func (b *bench) prepare(ctx context.Context) error {
	needs := map[string]bool{}
	for _, s := range systems {
		if slices.Contains(b.Systems, s.name) {
			needs[s.needs] = true
		}
	}
	root, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	b.orrery = filepath.Join(b.dir, "orrery")
	if err := build(ctx, filepath.Dir(root), "./scripts/build.sh", b.orrery, "-ldflags", "-s -w"); err != nil {
		return err
	}
	if needs["temporal"] {
		b.temporal = filepath.Join(b.dir, "temporal")
		from := time.Now()
		if err := build(ctx, filepath.Join(root, "temporal"), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.temporal, "github.com/temporalio/cli/cmd/temporal"); err != nil {
			b.temporal = ""
			b.missing("temporal: its dev server could not be built: %v", err)
		}
		warn("the dev server of Temporal was built in %s", time.Since(from).Round(time.Second))
	}
	if !needs["postgres"] {
		return nil
	}
	if b.postgres, err = testservice.StartPostgres(testservice.PostgresOptions{Durable: true}); err != nil {
		b.missing("PostgreSQL: %v", err)
		return nil
	}
	b.database, err = b.postgres.Database(ctx)
	return err
}

func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "orrery.example/orrery/bench").Output()
	if err != nil {
		return "", fmt.Errorf("run this in the folder bench of the repository: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build makes a program as a release is made.
func build(ctx context.Context, dir, command string, args ...string) error {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // without what is meant for the bench alone
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", command, strings.Join(args, " "), err, out)
	}
	return nil
}
