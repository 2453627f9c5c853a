package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/deadletter"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (c *cli) deadletterCommand() *cobra.Command {
	var r runFlags
	retry := &cobra.Command{
		Use: "retry RUN", Short: "Retry the run of a dead step, keeping the results of what succeeded", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.retry(cmd.Context(), args[0], "", nil, &r) },
	}
	r.addStart(retry)
	c.workFlags(retry)
	return c.grouped("deadletter", "Review steps that used up their attempts, and have them run again",
		c.listLetters(), c.showLetters(), c.noteLetter(), c.acknowledgeLetter(), c.discardLetter(), retry, c.redriveCommand())
}

// letterFlags are the flags that select dead letters.
func letterFlags(cmd *cobra.Command, q *api.LetterQuery) {
	f := cmd.Flags()
	f.StringVar(&q.Pack, "pack", "", "only of runs of this pack")
	f.StringVar(&q.Step, "step", "", "only steps with this id, perhaps with wildcards")
	f.StringVar(&q.Code, "code", "", "only those that ended for this reason, like EXIT_CODE")
	f.StringVar(&q.Since, "since", "", "only those that died at or after this time (2026-01-02T03:04:05.000000Z)")
	f.StringVar(&q.Before, "before", "", "only those that died before this time (2026-01-02T03:04:05.000000Z)")
	f.StringArrayVar(&q.Labels, "label", nil, "only of runs with this label, KEY=VALUE (may be repeated)")
	f.StringVar(&q.State, "state", "", "only those that are open, or acknowledged")
}

// letterQuery reads the flags for a data folder.
func letterQuery(from *api.LetterQuery) (q deadletter.Query, err error) {
	q = deadletter.Query{Pack: from.Pack, Step: from.Step, Code: work.ReasonCode(from.Code), State: deadletter.State(from.State)}
	for _, t := range []struct {
		text string
		to   *work.Time
	}{{from.Since, &q.Since}, {from.Before, &q.Before}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = work.ParseTime(t.text); err != nil {
			return q, fault.New(fault.Invalid, "%v", err)
		}
	}
	for _, l := range from.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return q, fault.New(fault.Invalid, "label %q is not KEY=VALUE", l)
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[key] = value
	}
	return q, nil
}

// letters keeps those of a data folder.
func letters(f *app.Folder) *deadletter.Service {
	return &deadletter.Service{Store: f.Store, Now: app.Now}
}

func (c *cli) listLetters() *cobra.Command {
	var q api.LetterQuery
	cmd := &cobra.Command{
		Use: "list", Short: "List dead steps that nobody has dealt with", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer f.Close()
			var out api.DeadLetterList
			if h, remote := f.home.(*serverHome); remote {
				out, err = h.DeadLetters(cmd.Context(), q)
			} else {
				var query deadletter.Query
				if query, err = letterQuery(&q); err != nil {
					return err
				}
				var found []deadletter.Case
				if found, err = letters(f.folder).List(cmd.Context(), f.Tenant, query); err == nil {
					err = reshape(found, &out.Items)
				}
			}
			if err != nil {
				return err
			}
			out.Items = list(out.Items)
			return c.show(out, func(w io.Writer) error {
				if len(out.Items) == 0 {
					c.say("No dead letters.")
					return nil
				}
				rows := [][]string{{"RUN", "STEP", "ATTEMPTS", "SINCE", "STATE", "WHY"}}
				for i := range out.Items {
					d := &out.Items[i]
					rows = append(rows, []string{d.RunName, d.Step, fmt.Sprint(d.Attempt), d.At, d.State, reasonOf(d)})
				}
				return columns(w, rows)
			})
		},
	}
	letterFlags(cmd, &q)
	return cmd
}

func reasonOf(d *api.DeadLetter) string {
	return reasonText(work.Reason{Code: work.ReasonCode(d.Reason.Code), Subject: d.Reason.Subject, Message: d.Reason.Message})
}

// ofRun changes or looks at the dead letters of a run, in the folder or at a server, and shows them.
func (c *cli) ofRun(ctx context.Context, name, action, reason string, here func(context.Context, *deadletter.Service, work.Run) error,
	there func(*client.Client, work.RunID) (api.DeadLetterList, error),
) error {
	f, run, err := c.find(ctx, name, action == "")
	if err != nil {
		return err
	}
	defer f.Close()
	var out api.DeadLetterList
	if h, remote := f.home.(*serverHome); remote {
		out, err = there(h.Client, run.ID)
	} else {
		service := letters(f.folder)
		if here != nil {
			audited := store.WithAudit(ctx, &store.Audit{Tenant: f.Tenant, Action: action, Actor: c.person(), Kind: "user", Reason: reason})
			if err := here(audited, service, run); err != nil {
				return err
			}
		}
		var found []deadletter.Case
		if found, err = service.Show(ctx, run); err == nil {
			err = reshape(found, &out.Items)
		}
	}
	if err != nil {
		return err
	}
	out.Items = list(out.Items)
	return c.show(out, func(w io.Writer) error {
		if len(out.Items) == 0 {
			c.say("No dead letters.")
		}
		for i := range out.Items {
			d := &out.Items[i]
			fmt.Fprintf(w, "%s  %s  %s\n  %d attempt(s), dead since %s: %s\n", d.RunName, d.Step, d.State, d.Attempt, d.At, reasonOf(d))
			if d.By != nil {
				fmt.Fprintf(w, "  %s by %s at %s", d.State, d.By.Name, d.By.At)
				if d.By.Reason != "" {
					fmt.Fprintf(w, ": %s", d.By.Reason)
				}
				fmt.Fprintln(w)
			}
			if d.Again != "" {
				fmt.Fprintf(w, "  runs again as %s\n", d.Again)
			}
			for _, n := range d.Notes {
				fmt.Fprintf(w, "  %s, %s: %s\n", n.At, n.By, n.Text)
			}
		}
		return nil
	})
}

func (c *cli) showLetters() *cobra.Command {
	return &cobra.Command{
		Use: "show RUN", Short: "Show the dead steps of a run with what people said of them", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ofRun(cmd.Context(), args[0], "", "", nil, func(s *client.Client, run work.RunID) (api.DeadLetterList, error) {
				return s.DeadLetter(cmd.Context(), run)
			})
		},
	}
}

func (c *cli) noteLetter() *cobra.Command {
	var step string
	cmd := &cobra.Command{
		Use: "note RUN TEXT", Short: "Add a note to the dead steps of a run", Args: exactly(2, "a run and what is to be noted"),
		Example: `  orrery deadletter note amber-heron "the table was locked, see OPS-17"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ofRun(cmd.Context(), args[0], "noteDeadLetter", "", func(ctx context.Context, s *deadletter.Service, run work.Run) error {
				return s.Note(ctx, run, work.StepID(step), c.person(), args[1])
			}, func(s *client.Client, run work.RunID) (api.DeadLetterList, error) {
				return s.NoteDeadLetter(cmd.Context(), run, api.LetterNoteRequest{Step: step, Text: args[1]})
			})
		},
	}
	cmd.Flags().StringVar(&step, "step", "", "one dead step of the run (default: all of them)")
	return cmd
}

func (c *cli) acknowledgeLetter() *cobra.Command {
	var q api.LetterRequest
	cmd := &cobra.Command{
		Use: "acknowledge RUN", Short: "Say that you look after the dead steps of a run", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ofRun(cmd.Context(), args[0], "acknowledgeDeadLetter", q.Reason, func(ctx context.Context, s *deadletter.Service, run work.Run) error {
				return s.Acknowledge(ctx, run, work.StepID(q.Step), work.Actor{Name: c.person(), Reason: q.Reason})
			}, func(s *client.Client, run work.RunID) (api.DeadLetterList, error) {
				return s.AcknowledgeDeadLetter(cmd.Context(), run, q)
			})
		},
	}
	cmd.Flags().StringVar(&q.Step, "step", "", "one dead step of the run (default: all of them)")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "what you are about to do")
	return cmd
}

func (c *cli) discardLetter() *cobra.Command {
	var q api.LetterRequest
	cmd := &cobra.Command{
		Use: "discard RUN", Short: "Deal with the dead steps of a run for good: nobody needs them", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ofRun(cmd.Context(), args[0], "resolveDeadLetter", q.Reason, func(ctx context.Context, s *deadletter.Service, run work.Run) error {
				return s.Discard(ctx, run, work.StepID(q.Step), work.Actor{Name: c.person(), Reason: q.Reason})
			}, func(s *client.Client, run work.RunID) (api.DeadLetterList, error) {
				if err := s.DiscardDeadLetter(cmd.Context(), run, q); err != nil {
					return api.DeadLetterList{}, err
				}
				return s.DeadLetter(cmd.Context(), run)
			})
		},
	}
	cmd.Flags().StringVar(&q.Step, "step", "", "one dead step of the run (default: all of them)")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; demanded")
	return cmd
}

func (c *cli) redriveCommand() *cobra.Command {
	var q api.RedriveRequest
	cmd := &cobra.Command{
		Use: "redrive", Short: "Retry the runs of all dead steps that a query selects, oldest first", Args: atMost(0),
		Long: `Redrive makes one new run for each run with a dead step that is selected; it carries over what succeeded. What was redriven once is not
redriven again, whoever asks: a command that was interrupted is given again.`,
		Example: "  orrery deadletter redrive --pack nightly --code EXIT_CODE --dry-run\n  orrery deadletter redrive --label env=prod --since 2026-03-01T00:00:00.000000Z --reason \"the database is back\"",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), q.DryRun)
			if err != nil {
				return err
			}
			defer f.Close()
			if h, remote := f.home.(*serverHome); remote {
				return c.redriveThere(cmd.Context(), h, q)
			}
			return c.redriveHere(cmd.Context(), f, q)
		},
	}
	letterFlags(cmd, &q.LetterQuery)
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "how many runs at most")
	cmd.Flags().BoolVar(&q.DryRun, "dry-run", false, "only say which")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; it goes into the new runs and the audit trail")
	c.workFlags(cmd)
	return cmd
}

// atOnce is how many runs one request to a server retries.
const atOnce = 20

// redriveThere asks a server again and again, each time for a few.
func (c *cli) redriveThere(ctx context.Context, h *serverHome, q api.RedriveRequest) error {
	all := api.RedriveReply{DryRun: q.DryRun}
	for want := q.Limit; want > 0; {
		if q.Limit = min(want, atOnce); q.DryRun {
			q.Limit = min(want, 100)
		}
		part, err := h.Redrive(ctx, q)
		if err != nil {
			return err
		}
		all.Items, all.Left = append(all.Items, part.Items...), part.Left
		if want -= len(part.Items); q.DryRun || part.Left == 0 || allFailed(part.Items) {
			break
		}
	}
	return c.listRedriven(all)
}

// allFailed reports whether the same would come again.
func allFailed(items []api.Redriven) bool {
	for i := range items {
		if items[i].Error == nil {
			return false
		}
	}
	return true
}

// redriveHere retries runs of a data folder and works on them.
func (c *cli) redriveHere(ctx context.Context, f *place, q api.RedriveRequest) error {
	query, err := letterQuery(&q.LetterQuery)
	if err != nil {
		return err
	}
	if q.Limit < 1 {
		return fault.New(fault.Invalid, "--limit is at least 1")
	}
	service := letters(f.folder)
	planned, left, err := service.Plan(ctx, f.Tenant, query, q.Limit)
	if err != nil {
		return err
	}
	var ended error
	if !q.DryRun {
		audited := store.WithAudit(ctx, &store.Audit{Tenant: f.Tenant, Action: "redriveDeadLetters", Actor: c.person(), Kind: "user", Reason: q.Reason})
		err = service.Redrive(audited, planned, work.Actor{Name: c.person(), Reason: q.Reason}, func(ctx context.Context, run work.Run) (work.Run, error) {
			sub, err := c.submission(&runFlags{note: q.Reason, token: deadletter.Token(run.ID)})
			if err != nil {
				return work.Run{}, err
			}
			sub.Labels, sub.Project = run.Labels, run.Project
			made, _, err := f.Retry(ctx, run, nil, sub, nil)
			return made, err
		})
		if err != nil {
			return err
		}
		ended = c.workOff(ctx, f, planned)
	}
	out := api.RedriveReply{Left: left, DryRun: q.DryRun}
	for i := range planned {
		p := &planned[i]
		r := api.Redriven{Run: string(p.Run.ID), RunName: p.Run.Name, Again: string(p.Again.ID), AgainName: p.Again.Name}
		for _, s := range p.Steps {
			r.Steps = append(r.Steps, string(s))
		}
		if p.Err != nil {
			r.Error = &api.Error{Code: string(fault.CodeOf(p.Err)), Message: p.Err.Error()}
		}
		out.Items = append(out.Items, r)
	}
	if err := c.listRedriven(out); err != nil {
		return err
	}
	return ended
}

// workOff works on what was redriven, one run after the other, and returns the first end that is not well.
func (c *cli) workOff(ctx context.Context, f *place, planned []deadletter.Outcome) error {
	quiet := *c
	quiet.quiet, quiet.Out, quiet.output = true, io.Discard, ""
	var first error
	for i := range planned {
		if planned[i].Err != nil {
			if first == nil {
				first = planned[i].Err
			}
			continue
		}
		if err := quiet.drive(ctx, f, planned[i].Again, &runFlags{created: true}); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (c *cli) listRedriven(r api.RedriveReply) error {
	r.Items = list(r.Items)
	return c.show(r, func(w io.Writer) error {
		if len(r.Items) == 0 {
			c.say("No dead letters.")
			return nil
		}
		rows := [][]string{{"RUN", "STEPS", "RUNS AGAIN AS", "ERROR"}}
		for i := range r.Items {
			x := &r.Items[i]
			text := ""
			if x.Error != nil {
				text = x.Error.Message
			}
			rows = append(rows, []string{x.RunName, strings.Join(x.Steps, " "), x.AgainName, text})
		}
		if err := columns(w, rows); err != nil {
			return err
		}
		if r.Left > 0 {
			fmt.Fprintf(w, "%d more run(s): give the command again\n", r.Left)
		}
		return nil
	})
}
