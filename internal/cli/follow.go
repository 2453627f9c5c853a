package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// follower shows a run while it goes on.
type follower struct {
	c     *cli
	f     *place
	from  store.History
	run   work.Run
	graph *engine.Graph
	prog  *progress
	tree  *tree // nil off a terminal
	line  int64
	past  int64 // the last event from before; what happened then was told then
	wait  bool  // also while only people can move it
	keys  string
}

func (c *cli) newFollower(ctx context.Context, f *place, run work.Run, r *runFlags) (*follower, error) {
	raw, err := f.Store.Plan(ctx, run.Tenant, run.PlanHash)
	if err != nil {
		return nil, err
	}
	p, err := plan.Decode(raw)
	if err != nil {
		return nil, err
	}
	g, err := engine.NewGraph(p, run.PlanHash)
	if err != nil {
		return nil, err
	}
	w := &follower{c: c, f: f, from: f.Store, run: run, graph: g, prog: newProgress(), line: run.LogSeq + 1, past: run.Seq, wait: r.wait, keys: "Ctrl-C cancels"}
	if r.created {
		w.line, w.past = 1, 0
	}
	if _, _, ok := terminal(c.Err); ok && !c.machine() && !c.quiet {
		w.tree = &tree{c: c, w: c.Err, plan: p}
	}
	return w, nil
}

// follow shows the run until it ends, or until only people can move it.
func (w *follower) follow(ctx context.Context) (work.Run, error) {
	life, stop := context.WithCancel(ctx)
	defer stop()
	from, every, err := w.f.tail(life, &w.run, 0, w.line-1)
	if err != nil {
		return w.run, err
	}
	w.from = from
	wake := from.Watch(life)
	beat := time.NewTicker(w.f.beat)
	defer beat.Stop()
	idle, hinted, looked := 0, true, time.Time{}
	for {
		moved := false
		if hinted || time.Since(looked) >= every {
			looked = time.Now()
			if moved, err = w.look(ctx); err != nil {
				return w.run, err
			}
		}
		w.draw()
		if w.prog.state.Terminal() {
			return w.finish(ctx)
		}
		// One quiet round more: a gate may have been answered from the inbox at this very moment.
		if idle = idle + 1; moved || !w.prog.idle() {
			idle = 0
		}
		if idle > 1 && !w.wait {
			return w.finish(ctx)
		}
		select {
		case <-ctx.Done():
			return w.finish(context.WithoutCancel(ctx))
		case _, hinted = <-wake:
			if !hinted {
				wake = nil // the store is closed
			}
		case <-beat.C:
			hinted = false
		}
	}
}

// look reads what is new and shows it.
func (w *follower) look(ctx context.Context) (bool, error) {
	const page = 2000
	moved := false
	for {
		events, err := w.from.Events(ctx, w.run.Tenant, w.run.ID, w.prog.seq+1, page)
		if err != nil {
			return moved, err
		}
		said := false
		for i := range events {
			moved = true
			if events[i].Type == work.StepEnded && !said { // what a step has said stands above its end
				said = true
				if err := w.lines(ctx); err != nil {
					return moved, err
				}
			}
			text := w.prog.take(&events[i])
			if text != "" && w.tree == nil && events[i].Seq > w.past {
				w.c.say("%s  %s", events[i].Time.Std().Local().Format("15:04:05.000"), w.badged(&events[i], text))
			}
		}
		if len(events) < page {
			break
		}
	}
	return moved, w.lines(ctx)
}

// draw shows the tree on a terminal.
func (w *follower) draw() {
	if w.tree != nil {
		w.tree.draw(append(w.tree.lines(w.tree.grow(w.prog, w.graph.Parent), 0, app.Now()), w.footer()))
	}
}

func (w *follower) badged(e *work.Event, text string) string {
	state := work.Running
	if s := w.prog.steps[e.Step]; s != nil {
		state = s.state
	}
	return w.c.paint(w.c.Err, stateColor(state), state.Word().Glyph) + " " + text
}

// lines prints the output of steps as it comes.
func (w *follower) lines(ctx context.Context) error {
	const page = 1000
	for !w.c.machine() && !w.c.quiet {
		lines, err := w.from.Lines(ctx, w.run.Tenant, w.run.ID, w.line, page)
		if err != nil || len(lines) == 0 {
			return err
		}
		if w.tree != nil {
			w.tree.clear()
		}
		for i := range lines {
			w.line = lines[i].Seq + 1
			writeLine(w.c, w.c.Out, &lines[i])
		}
		if len(lines) < page {
			return nil
		}
	}
	return nil
}

// writeLine prints one line of output behind the name of its step. Escape sequences of the step do not reach the terminal.
func writeLine(c *cli, out io.Writer, l *work.LogLine) {
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, l.Message)
	mark := "│"
	if l.EventType == "step.stderr" {
		mark = "┃"
	}
	fmt.Fprintf(out, "%s %s\n", c.paint(out, "90", string(l.Step)+" "+mark), text)
}

func (w *follower) footer() string {
	done, all := 0, 0
	for _, s := range w.prog.steps {
		all++
		if s.state.Terminal() {
			done++
		}
	}
	return w.c.paint(w.c.Err, "90", fmt.Sprintf("%s  %d/%d done · %s", w.run.Name, done, all, w.keys))
}

// finish reads the run as it stands now, and what a stream has not brought yet.
func (w *follower) finish(ctx context.Context) (work.Run, error) {
	w.from = w.f.Store
	if _, err := w.look(ctx); err != nil {
		return w.run, err
	}
	w.draw()
	run, err := w.f.Store.Run(ctx, w.run.Tenant, string(w.run.ID))
	if err != nil {
		return w.run, err
	}
	w.run = run
	return run, nil
}

// failedSteps returns the steps that the run failed because of, in the order they ended.
func (w *follower) failedSteps() []*stepProgress {
	var out []*stepProgress
	for _, id := range w.prog.order {
		if s := w.prog.steps[id]; s.state.Failure() && !s.block {
			out = append(out, s)
		}
	}
	return out
}

// outcome is the error that an end of a run is for the exit code.
func outcome(run *work.Run) error {
	switch {
	case !run.State.Terminal():
		return fault.New(fault.Pending, "run %s waits", run.Name)
	case run.State == work.Succeeded:
		return nil
	default:
		return fault.New(fault.RunFailed, "run %s %s", run.Name, run.State)
	}
}
