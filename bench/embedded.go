package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	_ "orrery.example/orrery/internal/heap" // as in the program; peers that are libraries get the same
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// library is a data folder in this process, as "orrery run" has one: store, worker, timers and sealing.
type library struct {
	c      *cell
	folder *app.Folder
	key    keyring.Signer
	ended  int // runs that have been submitted and waited for
}

func embedded(ctx context.Context, c *cell) error {
	for _, workload := range c.Workloads {
		if err := inLibrary(ctx, c, workload); err != nil {
			return err
		}
	}
	return nil
}

// inLibrary runs one workload in a data folder of its own.
func inLibrary(ctx context.Context, c *cell, workload string) error {
	dir := c.path("embedded-" + workload)
	defer os.RemoveAll(dir)
	f, err := app.Open(ctx, app.Options{Dir: dir, Tenant: work.LocalTenant, Slots: 100})
	if err != nil {
		return err
	}
	defer f.Close()
	l := &library{c: c, folder: f}
	if l.key, err = f.Person("bench", keyring.Submit); err != nil {
		return err
	}
	if file := os.Getenv("BENCH_PROFILE"); file != "" {
		out, err := os.Create(file + "-" + workload)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var figures map[string]float64
	switch workload {
	case "W1":
		figures, err = l.jobs(ctx, true)
	case "W2":
		figures, err = l.latency(ctx)
	case "W3":
		figures, err = l.steps(ctx, fanOf(c.Sizes.Fan), 1, c.Sizes.Fan)
	case "W4":
		figures, err = l.steps(ctx, chainOf(c.Sizes.Chain), 1, c.Sizes.Chain)
	case "W5":
		figures, err = l.steps(ctx, chainOf(10), c.Sizes.Runs, 10*c.Sizes.Runs)
	case "W8":
		if err = l.fill(ctx); err == nil {
			figures, err = l.jobs(ctx, false)
		}
	}
	if err != nil {
		return err
	}
	return c.report(workload, figures)
}

// planned is a plan and where its files are.
type planned struct {
	*plan.Built
	files fs.FS
}

// built plans a pack.
func (l *library) built(steps string) (*planned, error) {
	file := filepath.Join(l.c.Dir, "pack.yaml")
	if err := os.WriteFile(file, []byte(manifest("bench", steps)), 0o600); err != nil {
		return nil, err
	}
	p, err := pack.Load(file)
	if err != nil {
		return nil, err
	}
	b, err := control.Plan(p, nil)
	return &planned{b, p.FS}, err
}

func (l *library) submission(b *planned) control.Submission {
	return control.Submission{Tenant: work.LocalTenant, Built: b.Built, Files: b.files, By: l.key}
}

// batch submits runs of one plan, a hundred at a time, each signed.
func (l *library) batch(ctx context.Context, b *planned, n int) error {
	for left := n; left > 0; left -= 100 {
		subs := make([]control.Submission, min(left, 100))
		for i := range subs {
			subs[i] = l.submission(b)
		}
		for _, s := range l.folder.Control.SubmitAll(ctx, subs) {
			if s.Err != nil {
				return s.Err
			}
		}
	}
	l.ended += n
	return nil
}

// working runs fn while the folder works.
func (l *library) working(ctx context.Context, fn func() error) error {
	ctx, stop := context.WithCancel(ctx)
	wait, err := l.folder.Start(ctx)
	if err != nil {
		stop()
		return err
	}
	err = fn()
	stop()
	if e := wait(); err == nil {
		err = e
	}
	return err
}

// sealed waits until every run that was submitted has ended and is in the log.
func (l *library) sealed(ctx context.Context) error {
	return until(ctx, 5*time.Millisecond, func() (bool, error) {
		size, _, err := l.folder.Store.LogSize(ctx, work.LocalTenant)
		return int(size) >= l.ended, err
	})
}

func (l *library) jobs(ctx context.Context, singles bool) (map[string]float64, error) {
	figures := map[string]float64{}
	b, err := l.built(chainOf(1))
	if err != nil {
		return nil, err
	}
	rest := l.c.Sizes.Jobs
	if singles {
		n := min(l.c.Sizes.Singles, rest)
		from := time.Now()
		err := each(n, 16, func(int) error {
			_, err := l.folder.Control.Submit(ctx, l.submission(b))
			return err
		})
		if err != nil {
			return nil, err
		}
		figures["single/s"] = rate(n, time.Since(from))
		l.ended += n
		rest -= n
	}
	who := map[string][]int{"worker": {0}}
	m := measure(who)
	if err := l.batch(ctx, b, rest); err != nil {
		return nil, err
	}
	figures["batch/s"] = rate(rest, m.elapsed())
	submitting := ms(m.used()["worker"]) / float64(rest)
	figures["cpu/submit"] = submitting
	m = measure(who)
	if err := l.working(ctx, func() error { return l.sealed(ctx) }); err != nil {
		return nil, err
	}
	n := float64(l.c.Sizes.Jobs)
	figures["drain/s"] = n / m.elapsed().Seconds()
	figures = m.used().with(figures, l.c.Sizes.Jobs)
	// Both parts one after the other, each job submitted in a batch.
	figures["end-to-end/s"] = 1 / (1/figures["batch/s"] + 1/figures["drain/s"])
	figures["end-to-end cpu"] = submitting + figures["cpu"]
	return figures, nil
}

// fill makes ended runs.
func (l *library) fill(ctx context.Context) error {
	b, err := l.built(chainOf(1))
	if err != nil {
		return err
	}
	return l.working(ctx, func() error {
		if err := l.batch(ctx, b, l.c.Sizes.Filled); err != nil {
			return err
		}
		return l.sealed(ctx)
	})
}

// over waits until a run has ended.
func (l *library) over(ctx context.Context, run work.RunID, wake <-chan struct{}) error {
	for {
		r, err := l.folder.Store.Run(ctx, work.LocalTenant, string(run))
		if err != nil || r.State.Terminal() {
			return err
		}
		select {
		case <-wake:
		case <-time.After(100 * time.Millisecond): // a hint may get lost
		}
	}
}

func (l *library) latency(ctx context.Context) (figures map[string]float64, err error) {
	b, err := l.built(chainOf(1))
	if err != nil {
		return nil, err
	}
	wake := l.folder.Store.Watch(ctx)
	err = l.working(ctx, func() error {
		figures, err = samples(l.c.Sizes.Samples, l.c.Sizes.Limit, func() error {
			run, err := l.folder.Control.Submit(ctx, l.submission(b))
			if err != nil {
				return err
			}
			return l.over(ctx, run.ID, wake)
		})
		return err
	})
	return figures, err
}

// steps measures runs of one plan from their submission to the end of the last.
func (l *library) steps(ctx context.Context, text string, runs, steps int) (map[string]float64, error) {
	b, err := l.built(text)
	if err != nil {
		return nil, err
	}
	wake := l.folder.Store.Watch(ctx)
	var figures map[string]float64
	err = l.working(ctx, func() error {
		m := measure(map[string][]int{"worker": {0}})
		subs := make([]control.Submission, runs)
		for i := range subs {
			subs[i] = l.submission(b)
		}
		made := l.folder.Control.SubmitAll(ctx, subs)
		for _, s := range made {
			if s.Err != nil {
				return s.Err
			}
			if err := l.over(ctx, s.Run.ID, wake); err != nil {
				return err
			}
		}
		took := m.elapsed()
		figures = m.used().with(map[string]float64{"s": took.Seconds(), "ms/step": ms(took) / float64(steps)}, steps)
		return nil
	})
	return figures, err
}
