package cli

import (
	"context"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/work"
)

// resumeCommand carries on a run that was interrupted, paused or waits.
func (c *cli) resumeCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use: "resume RUN", Short: "Carry on a run that was interrupted or paused", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, run, err := c.find(ctx, args[0], false)
			if err != nil {
				return err
			}
			defer f.Close()
			if run.Paused != nil && !run.State.Terminal() {
				if err := f.Control.Control(ctx, run.Tenant, run.ID, "resume", work.Actor{Name: c.person()}); err != nil {
					return err
				}
			}
			return c.drive(ctx, f, run, &r)
		},
	}
	r.addWait(cmd)
	c.workFlags(cmd)
	return cmd
}

func (c *cli) rerunCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use: "rerun RUN", Short: "Run the same plan again from the start", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, run, err := c.find(ctx, args[0], false)
			if err != nil {
				return err
			}
			defer f.Close()
			sub, err := c.submission(&r)
			if err != nil {
				return err
			}
			again, err := f.Rerun(ctx, run, sub)
			if err != nil {
				return err
			}
			r.created = true
			c.say("run    %s   same plan as %s", again.Name, run.Name)
			return c.drive(ctx, f, again, &r)
		},
	}
	r.addStart(cmd)
	c.workFlags(cmd)
	return cmd
}

func (c *cli) retryCommand() *cobra.Command {
	var r runFlags
	var from []string
	var path string
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "Run again what did not succeed, keeping the results of what did",
		Long: `Retry makes a new run that carries over every result that still holds. Without more it runs the same plan and
repeats what failed or did not start. With --from it repeats the named steps, and all that builds on them. With --pack,
--input or --inputs the plan may change: steps that say something else, or build on one that does, run again, and gates are asked again.`,
		Example: "  orrery runs retry amber-heron\n  orrery runs retry amber-heron --from 'shard[3]::*'\n  orrery runs retry amber-heron --pack . --input size=20",
		Args:    exactly(1, "a run"),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.retry(cmd.Context(), args[0], path, from, &r) },
	}
	cmd.Flags().StringArrayVar(&from, "from", nil, "a step to repeat with all that builds on it; may have wildcards (may be repeated)")
	cmd.Flags().StringVar(&path, "pack", "", "take the pack from here, as it is now")
	r.add(cmd)
	r.addStart(cmd)
	c.workFlags(cmd)
	return cmd
}

// retry makes a run that carries over what still holds of another, and drives it. A path names the pack when the plan may change.
func (c *cli) retry(ctx context.Context, name, path string, from []string, r *runFlags) error {
	f, run, err := c.find(ctx, name, false)
	if err != nil {
		return err
	}
	defer f.Close()
	sub, err := c.submission(r)
	if err != nil {
		return err
	}
	p, err := c.changePlan(ctx, f, run, &sub, path, r)
	if err != nil {
		return err
	}
	again, carry, err := f.Retry(ctx, run, p, sub, from)
	if err != nil {
		return err
	}
	r.created = true
	c.say("run    %s   carries %s of %s, runs again: %s", again.Name, work.Count(len(carry.Carried), "result"), run.Name, joinIDs(carry.Again))
	return c.drive(ctx, f, again, r)
}

// changePlan replaces the plan of a retry when the pack or inputs are given anew, says what is different, and returns the pack.
func (c *cli) changePlan(ctx context.Context, f *place, run work.Run, sub *control.Submission, path string, r *runFlags) (*pack.Pack, error) {
	if path == "" {
		if len(r.inputs) > 0 || r.file != "" {
			return nil, fault.New(fault.Invalid, "changed inputs need the pack").WithHint("add --pack FOLDER")
		}
		return nil, nil
	}
	before, err := f.Control.Stored(ctx, run)
	if err != nil {
		return nil, err
	}
	p, built, err := c.buildPlanOver(path, r, before.Plan)
	if err != nil {
		return nil, err
	}
	sub.Built = built
	if built.Hash != run.PlanHash {
		c.printDiff(c.Err, before.Plan, built.Plan)
	}
	return p, nil
}
