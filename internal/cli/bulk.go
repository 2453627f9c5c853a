package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// bulkCommand acts on every run that a query selects. Without --yes it shows which those are and changes nothing.
func (c *cli) bulkCommand() *cobra.Command {
	var q runQuery
	var r runFlags
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "bulk cancel|retry",
		Short: "Cancel or retry every run that a query selects, after a preview",
		Long: `Bulk acts on all runs that match, oldest first. Without --yes it only shows which they are. Retry takes runs that failed, timed out
or were cancelled and that no other run has retried; cancel takes runs that have not ended.`,
		Example: "  orrery runs bulk retry --state failed --pack nightly\n  orrery runs bulk cancel --pack nightly --reason \"wrong table\" --yes",
		Args:    exactly(1, "what to do: cancel or retry"), ValidArgs: []string{"cancel", "retry"},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, err := c.open(ctx, !yes)
			if err != nil {
				return err
			}
			defer f.Close()
			runs, err := c.selected(ctx, f, args[0], &q)
			if err != nil {
				return err
			}
			if !yes {
				c.say("%s would be affected; add --yes to do it", work.Count(len(runs), "run"))
				return c.showRuns(ctx, f, runs)
			}
			return c.bulk(ctx, f, args[0], runs, reason, &r)
		},
	}
	q.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().StringVar(&reason, "reason", "", "why; it goes into the history")
	c.workFlags(cmd)
	return cmd
}

// runQuery are the flags that select runs.
type runQuery struct {
	states []string
	pack   string
	limit  int
}

func (q *runQuery) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&q.states, "state", nil, "only runs in these states")
	cmd.Flags().StringVar(&q.pack, "pack", "", "only runs of this pack")
	cmd.Flags().IntVar(&q.limit, "limit", 100, "how many at most")
}

// selected returns the runs that the query selects and the verb applies to, oldest first.
func (c *cli) selected(ctx context.Context, f *place, verb string, q *runQuery) ([]work.Run, error) {
	if verb != "cancel" && verb != "retry" {
		return nil, fault.New(fault.Invalid, "runs can be cancelled or retried together, not %q", verb).WithHint("orrery runs bulk --help")
	}
	query := store.RunQuery{Pack: q.pack, Limit: q.limit}
	for _, s := range q.states {
		query.States = append(query.States, work.State(s))
	}
	found, err := f.Store.Find(ctx, f.Tenant, query)
	if err != nil {
		return nil, err
	}
	retried := map[work.RunID]bool{}
	for i := range found {
		retried[found[i].RetryOf] = true
	}
	var runs []work.Run
	for i := len(found) - 1; i >= 0; i-- {
		run := found[i]
		if verb == "cancel" && !run.State.Terminal() || verb == "retry" && run.State.Failure() && !retried[run.ID] {
			runs = append(runs, run)
		}
	}
	return runs, nil
}

// bulk does one after the other and tells what became of each. A run that fails again does not keep the rest from their turn.
func (c *cli) bulk(ctx context.Context, f *place, verb string, runs []work.Run, reason string, r *runFlags) error {
	type outcome struct {
		Run    string     `json:"run"`
		By     string     `json:"by,omitempty"` // the run that retries it
		Status work.State `json:"status"`
		Error  string     `json:"error,omitempty"`
	}
	results := make([]outcome, 0, len(runs))
	var first error
	for i := range runs {
		after, err := c.bulkOne(ctx, f, verb, runs[i], reason, r)
		o := outcome{Run: runs[i].Name, Status: after.State}
		if after.ID != runs[i].ID {
			o.By = after.Name
		}
		if err != nil {
			o.Error = err.Error()
			if first == nil {
				first = err
			}
		}
		results = append(results, o)
	}
	if err := c.show(map[string]any{"items": results}, func(out io.Writer) error {
		rows := [][]string{{"RUN", "BY", "STATE", "ERROR"}}
		for _, o := range results {
			rows = append(rows, []string{o.Run, o.By, o.Status.Word().Glyph + " " + o.Status.Word().Word, o.Error})
		}
		return columns(out, rows)
	}); err != nil {
		return err
	}
	return first
}

func (c *cli) bulkOne(ctx context.Context, f *place, verb string, run work.Run, reason string, r *runFlags) (work.Run, error) {
	quiet := *c
	quiet.quiet, quiet.Out, quiet.output = true, io.Discard, ""
	if verb == "cancel" {
		actor := work.Actor{Name: c.person(), Reason: reason}
		if err := f.Control.Control(ctx, run.Tenant, run.ID, "cancel", actor); err != nil {
			return run, err
		}
		err := quiet.driveQuietly(ctx, f, run)
		return c.now(ctx, f, run), err
	}
	sub, err := c.submission(r)
	if err != nil {
		return run, err
	}
	sub.Note = reason
	again, _, err := f.Retry(ctx, run, nil, sub, nil)
	if err != nil {
		return run, err
	}
	err = quiet.drive(ctx, f, again, &runFlags{created: true})
	return c.now(ctx, f, again), err
}

// now returns the run as it stands, or as it was when it cannot be read.
func (c *cli) now(ctx context.Context, f *place, run work.Run) work.Run {
	if fresh, err := f.Store.Run(ctx, run.Tenant, string(run.ID)); err == nil {
		return fresh
	}
	return run
}
