package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (c *cli) watchCommand() *cobra.Command {
	r := runFlags{created: true}
	cmd := &cobra.Command{
		Use: "watch RUN", Short: "Show a run from its beginning and as it goes on, and end with its result", Args: exactly(1, "a run"),
		Long: `Watch shows what "orrery run" shows and changes nothing: the run goes on when it is interrupted. The exit code is the result of the run, 8 when it
waits for people.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, run, err := c.lookUp(ctx, args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			w, err := c.newFollower(ctx, f, run, &r)
			if err != nil {
				return err
			}
			w.keys = "Ctrl-C leaves it"
			if run, err = w.follow(ctx); err != nil {
				return err
			}
			gates, err := f.Control.Gates(ctx, run)
			if err != nil {
				return err
			}
			if !c.machine() {
				c.farewell(ctx, f, w, &run, gates)
			} else if err := c.emit(runResult(&run, gates)); err != nil {
				return err
			}
			return outcome(&run)
		},
	}
	cmd.Flags().BoolVar(&r.wait, "wait", false, "stay while the run waits for people")
	return cmd
}

// lineFilter says which lines of a run are meant.
type lineFilter struct {
	step   string
	failed bool
	bad    map[work.StepID]bool // of every step that something has happened to, whether it failed
}

func (l *lineFilter) meant(line *work.LogLine) bool {
	return (l.step == "" || string(line.Step) == l.step) && (!l.failed || l.bad[line.Step])
}

func (c *cli) logsCommand() *cobra.Command {
	var only lineFilter
	var follow bool
	cmd := &cobra.Command{
		Use: "logs RUN", Short: "Print the output of a run's steps, in order", Args: exactly(1, "a run"),
		Long: `Logs prints what the steps of a run have printed. With --follow it goes on until the run ends, with -o json as one document a line; a lost
connection or a server that is started again costs no line and doubles none.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, run, err := c.lookUp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if err := c.checkFilter(cmd.Context(), f, &run, &only, follow); err != nil {
				return err
			}
			if follow {
				return c.followLines(cmd.Context(), f, &run, &only)
			}
			items := []work.LogLine{}
			err = eachLine(cmd.Context(), f.Store, &run, 1, func(l *work.LogLine) {
				if !only.meant(l) {
					return
				}
				if c.machine() {
					items = append(items, *l)
					return
				}
				writeLine(c, c.Out, l)
			})
			if err != nil || !c.machine() {
				return err
			}
			return c.emit(map[string]any{"items": items})
		},
	}
	cmd.Flags().StringVar(&only.step, "step", "", "only this step")
	cmd.Flags().BoolVar(&only.failed, "failed", false, "only steps that failed")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run ends")
	return cmd
}

// checkFilter refuses what cannot be meant.
func (c *cli) checkFilter(ctx context.Context, f *place, run *work.Run, only *lineFilter, follow bool) error {
	if follow && only.failed {
		return fault.New(fault.Invalid, "--follow cannot know which steps will fail").WithHint("leave --failed out, or --follow")
	}
	if follow && c.output == "yaml" {
		return fault.New(fault.Invalid, "--follow writes one document a line, which YAML is not").WithHint("-o json")
	}
	only.bad = map[work.StepID]bool{}
	if err := f.Control.EachStep(ctx, *run, func(s *work.Step) { only.bad[s.ID] = s.State.Failure() }); err != nil {
		return err
	}
	if _, known := only.bad[work.StepID(only.step)]; only.step == "" || known {
		return nil
	}
	if follow && !run.State.Terminal() {
		built, err := f.Control.Stored(ctx, *run)
		if err != nil {
			return err
		}
		for i := range built.Plan.Steps {
			if built.Plan.Steps[i].ID == work.StepID(only.step).Template() {
				return nil
			}
		}
		return fault.New(fault.NotFound, "the plan of %s has no step %q", run.Name, only.step).WithHint("orrery runs graph %s", run.Name)
	}
	return fault.New(fault.NotFound, "nothing has happened in %s to a step %q", run.Name, only.step).WithHint("orrery runs show %s", run.Name)
}

// followLines prints lines as they come, to the end of the run.
func (c *cli) followLines(ctx context.Context, f *place, run *work.Run, only *lineFilter) error {
	life, stop := context.WithCancel(ctx)
	defer stop()
	from, every, err := f.tail(life, run, 0, 0)
	if err != nil {
		return err
	}
	wake := from.Watch(life)
	look := time.NewTicker(every)
	defer look.Stop()
	event, line, ended := int64(1), int64(1), false
	for {
		// The end first: what is read behind it is all there is.
		if event, ended, err = untilEnd(ctx, from, run, event); err != nil {
			return err
		}
		if ended {
			from = f.Store // also what a stream has not brought yet
		}
		var failed error
		err := eachLine(ctx, from, run, line, func(l *work.LogLine) {
			line = l.Seq + 1
			if failed == nil && only.meant(l) {
				failed = c.printLine(l)
			}
		})
		if err != nil || failed != nil || ended {
			return errors.Join(err, failed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, open := <-wake:
			if !open {
				wake = nil // the store is closed
			}
		case <-look.C:
		}
	}
}

// untilEnd reads the history from an event on and reports where it goes on and whether the run has ended.
func untilEnd(ctx context.Context, from store.History, run *work.Run, next int64) (int64, bool, error) {
	const page = 1000
	for ended := false; ; {
		events, err := from.Events(ctx, run.Tenant, run.ID, next, page)
		if err != nil {
			return next, false, err
		}
		for i := range events {
			next = events[i].Seq + 1
			ended = ended || events[i].Type == work.RunEnded
		}
		if len(events) < page {
			return next, ended, nil
		}
	}
}

// printLine prints one line of output as it comes: for a program one document.
func (c *cli) printLine(l *work.LogLine) error {
	if !c.machine() {
		writeLine(c, c.Out, l)
		return nil
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a line")
	}
	_, err = fmt.Fprintf(c.Out, "%s\n", raw)
	return err
}

func eachLine(ctx context.Context, in store.History, run *work.Run, from int64, fn func(*work.LogLine)) error {
	const page = 1000
	for {
		lines, err := in.Lines(ctx, run.Tenant, run.ID, from, page)
		if err != nil {
			return err
		}
		for i := range lines {
			fn(&lines[i])
			from = lines[i].Seq + 1
		}
		if len(lines) < page {
			return nil
		}
	}
}
