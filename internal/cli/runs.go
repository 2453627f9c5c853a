package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (c *cli) runsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "runs", Short: "List, look at and steer runs",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.listCommand(), c.showCommand(), c.logsCommand(), c.watchCommand(), c.graphCommand(), c.exportCommand(), c.controlCommand("cancel"), c.controlCommand("pause"),
		c.resumeCommand(), c.rerunCommand(), c.retryCommand(), c.bulkCommand())
	return cmd
}

func (c *cli) listCommand() *cobra.Command {
	var states []string
	var labels []string
	var packName, since, before string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List runs, newest first", Args: atMost(0),
		Example: "  orrery runs list --state failed --pack deploy --label env=prod --since 2026-01-02T00:00:00Z",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer f.Close()
			q := store.RunQuery{Pack: packName, Project: c.project, Limit: limit}
			if q.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if q.Since, err = instant("--since", since); err != nil {
				return err
			}
			if q.Before, err = instant("--before", before); err != nil {
				return err
			}
			for _, s := range states {
				if !slices.ContainsFunc(work.States(), func(w work.StateWord) bool { return string(w.State) == s }) {
					return fault.New(fault.Invalid, "there is no state %q", s).WithHint("states of runs are: queued, running, succeeded, failed, timed-out, cancelled")
				}
				q.States = append(q.States, work.State(s))
			}
			runs, err := f.Store.Find(cmd.Context(), f.Tenant, q)
			if err != nil {
				return err
			}
			return c.showRuns(cmd.Context(), f, runs)
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only runs in these states (succeeded, failed, running, …)")
	cmd.Flags().StringVar(&packName, "pack", "", "only runs of this pack")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only runs with this label, KEY=VALUE (may be repeated: all of them)")
	cmd.Flags().StringVar(&since, "since", "", "only runs made at or after this time")
	cmd.Flags().StringVar(&before, "before", "", "only runs made before this time")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return cmd
}

func (c *cli) showRuns(ctx context.Context, f *place, runs []work.Run) error {
	items := make([]RunResult, len(runs))
	for i := range runs {
		var gates []work.Step
		if !runs[i].State.Terminal() {
			var err error
			if gates, err = f.Control.Gates(ctx, runs[i]); err != nil {
				return err
			}
		}
		items[i] = runResult(&runs[i], gates)
	}
	return c.show(map[string]any{"items": items}, func(out io.Writer) error {
		if len(runs) == 0 {
			c.say("No runs match.")
			return nil
		}
		rows := [][]string{{"RUN", "STATE", "PACK", "CREATED", "TOOK", "BY", "WHY"}}
		for i := range runs {
			r := &runs[i]
			took := ""
			if r.Ended != 0 {
				took = duration(r.Ended.Sub(r.Created))
			}
			w := items[i].Status.Word()
			rows = append(rows, []string{
				r.Name, w.Glyph + " " + w.Word, r.Pack.Name + "@" + r.Pack.Version, r.Created.Std().Local().Format("2006-01-02 15:04:05"), took,
				r.Submitter, reasonText(r.Reason),
			})
		}
		return columns(out, rows)
	})
}

// ownReason leaves out what a line about the step says already.
func ownReason(id work.StepID, r work.Reason) string {
	if r.Subject == string(id) {
		r.Subject = ""
	}
	return reasonText(r)
}

func reasonText(r work.Reason) string {
	if r.Code == work.EndedWell || r.Code == "" {
		return ""
	}
	parts := []string{strings.ToLower(strings.ReplaceAll(string(r.Code), "_", " "))}
	if r.Subject != "" {
		parts = append(parts, r.Subject)
	}
	text := strings.Join(parts, " ")
	if r.Message != "" {
		text += ": " + r.Message
	}
	if r.Until != 0 {
		text += ", until " + r.Until.String()
	}
	return text
}

// lookUp opens the folder for looking and finds a run.
func (c *cli) lookUp(ctx context.Context, name string) (*place, work.Run, error) {
	return c.find(ctx, name, true)
}

func (c *cli) find(ctx context.Context, name string, readOnly bool) (*place, work.Run, error) {
	f, err := c.open(ctx, readOnly)
	if err != nil {
		return nil, work.Run{}, err
	}
	run, err := named(ctx, f, name)
	if err != nil {
		f.Close()
		return nil, work.Run{}, err
	}
	return f, run, nil
}

// latest is what one types instead of the name of the newest run.
const latest = "@latest"

func named(ctx context.Context, f *place, name string) (work.Run, error) {
	if name != latest {
		return f.Store.Run(ctx, f.Tenant, name)
	}
	runs, err := f.Store.Find(ctx, f.Tenant, store.RunQuery{Limit: 1})
	if err == nil && len(runs) == 0 {
		err = fault.New(fault.NotFound, "there is no run yet").WithHint("orrery run FILE")
	}
	if err != nil {
		return work.Run{}, err
	}
	return runs[0], nil
}

// RunDetail is a run with its steps.
type RunDetail struct {
	RunResult
	Submitter string            `json:"submitter"`
	Note      string            `json:"note,omitempty"`
	RetryOf   work.RunID        `json:"retryOf,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Events    int64             `json:"events"`
	Head      work.Digest       `json:"head"`
	Steps     []work.Step       `json:"steps"`
	NotBegun  []work.StepID     `json:"notBegun,omitempty"` // steps of the plan that nothing has happened to
}

func (c *cli) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show RUN", Short: "Show a run with its steps", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, run, err := c.lookUp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			d, err := detail(cmd.Context(), f, run)
			if err != nil {
				return err
			}
			return c.show(d, func(out io.Writer) error { return c.detailTable(out, &run, d) })
		},
	}
}

func detail(ctx context.Context, f *place, run work.Run) (RunDetail, error) {
	gates, err := f.Control.Gates(ctx, run)
	if err != nil {
		return RunDetail{}, err
	}
	d := RunDetail{
		RunResult: runResult(&run, gates), Submitter: run.Submitter, Note: run.Note, RetryOf: run.RetryOf, Labels: run.Labels,
		Events: run.Seq, Head: run.Head, Steps: []work.Step{},
	}
	seen := map[work.StepID]bool{}
	if err := f.Control.EachStep(ctx, run, func(row *work.Step) {
		d.Steps = append(d.Steps, *row)
		seen[row.ID.Template()] = true
	}); err != nil {
		return d, err
	}
	built, err := f.Control.Stored(ctx, run)
	if err != nil {
		return d, err
	}
	place := map[work.StepID]int{}
	for i := range built.Plan.Steps {
		id := built.Plan.Steps[i].ID
		place[id] = i
		if !seen[id] {
			d.NotBegun = append(d.NotBegun, id)
		}
	}
	slices.SortStableFunc(d.Steps, func(a, b work.Step) int { return place[a.ID.Template()] - place[b.ID.Template()] })
	return d, nil
}

func (c *cli) detailTable(out io.Writer, run *work.Run, d RunDetail) error {
	fmt.Fprintf(out, "%s  %s  %s\n", c.badge(out, d.Status), c.paint(out, "1", run.Name), run.ID)
	head := [][]string{
		{"pack", run.Pack.Name + "@" + run.Pack.Version}, {"plan", string(run.PlanHash)}, {"by", run.Submitter},
		{"created", run.Created.String()},
	}
	if run.Ended != 0 {
		head = append(head, []string{"ended", run.Ended.String() + "  (" + duration(run.Ended.Sub(run.Created)) + ")"})
	}
	if text := reasonText(run.Reason); text != "" {
		head = append(head, []string{"reason", text})
	}
	if run.Note != "" {
		head = append(head, []string{"note", run.Note})
	}
	if len(run.Outputs) > 0 {
		head = append(head, []string{"outputs", string(run.Outputs)})
	}
	if err := columns(out, head); err != nil {
		return err
	}
	fmt.Fprintln(out)
	rows := [][]string{{"STEP", "STATE", "TOOK", "ATTEMPT", "WHY"}}
	for i := range d.Steps {
		s := &d.Steps[i]
		took, attempt := "", ""
		if s.Ended != 0 && s.Started != 0 {
			took = duration(s.Ended.Sub(s.Started))
		}
		if s.Attempt > 0 {
			attempt = fmt.Sprint(s.Attempt)
		}
		w := s.State.Word()
		rows = append(rows, []string{string(s.ID), w.Glyph + " " + w.Word, took, attempt, ownReason(s.ID, s.Reason)})
	}
	for _, id := range d.NotBegun {
		word := work.Pending.Word()
		if run.State.Terminal() {
			word = work.Skipped.Word()
		}
		rows = append(rows, []string{string(id), word.Glyph + " " + word.Word, "", "", ""})
	}
	return columns(out, rows)
}

func (c *cli) graphCommand() *cobra.Command {
	return &cobra.Command{
		Use: "graph RUN", Short: "Draw a run's graph with the state of each step (Graphviz with -o dot)", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, run, err := c.lookUp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			built, err := f.Control.Stored(cmd.Context(), run)
			if err != nil {
				return err
			}
			states, err := f.Control.States(cmd.Context(), run)
			if err != nil {
				return err
			}
			return c.graph(built.Plan, states)
		},
	}
}

func (c *cli) graph(p *work.Plan, states map[work.StepID]work.State) error {
	type node struct {
		ID     work.StepID   `json:"id"`
		Kind   work.StepKind `json:"kind"`
		Parent work.StepID   `json:"parent,omitempty"`
		Needs  []work.StepID `json:"needs,omitempty"`
		State  work.State    `json:"state"`
	}
	nodes := make([]node, len(p.Steps))
	for i := range p.Steps {
		s := &p.Steps[i]
		state := states[s.ID]
		if state == "" {
			state = work.Pending
		}
		nodes[i] = node{s.ID, s.Kind, s.Parent, s.Needs, state}
	}
	if c.output == "dot" {
		fmt.Fprintln(c.Out, "digraph run {\n  rankdir=LR; node [shape=box];")
		for _, n := range nodes {
			w := n.State.Word()
			fmt.Fprintf(c.Out, "  %q [label=%q];\n", n.ID, fmt.Sprintf("%s %s", w.Glyph, n.ID))
			if n.Parent != "" {
				fmt.Fprintf(c.Out, "  %q -> %q [style=dotted];\n", n.Parent, n.ID)
			}
			for _, need := range n.Needs {
				fmt.Fprintf(c.Out, "  %q -> %q;\n", need, n.ID)
			}
		}
		fmt.Fprintln(c.Out, "}")
		return nil
	}
	return c.show(map[string]any{"nodes": nodes}, func(out io.Writer) error {
		depth := map[work.StepID]int{}
		for _, n := range nodes {
			if n.Parent != "" {
				depth[n.ID] = depth[n.Parent] + 1
			}
			text := strings.Repeat("  ", depth[n.ID]) + n.State.Word().Glyph + " " + string(n.ID)
			if n.Kind != work.KindRun {
				text += "  (" + string(n.Kind) + ")"
			}
			if len(n.Needs) > 0 {
				text += fmt.Sprintf("  after %s", joinIDs(n.Needs))
			}
			fmt.Fprintln(out, text)
		}
		return nil
	})
}

func joinIDs(ids []work.StepID) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = string(id)
	}
	return strings.Join(parts, ", ")
}

// controlCommand cancels or pauses a run, through its process when one works on it.
func (c *cli) controlCommand(verb string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " RUN", Args: exactly(1, "a run"),
		Short: map[string]string{"cancel": "Stop a run; its finally steps still run", "pause": "Let nothing new of a run start"}[verb],
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			f, run, err := c.find(ctx, args[0], false)
			if fault.CodeOf(err) == fault.Locked {
				return c.order(ctx, args[0], verb, reason)
			}
			if err != nil {
				return err
			}
			defer f.Close()
			if err := f.Control.Control(ctx, run.Tenant, run.ID, verb, work.Actor{Name: c.person(), Reason: reason}); err != nil {
				return err
			}
			if verb == "cancel" {
				return c.driveQuietly(ctx, f, run)
			}
			c.say("%s %sd", run.Name, verb)
			return c.emitNow(ctx, f, run)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it goes into the history")
	c.workFlags(cmd)
	return cmd
}

// driveQuietly lets a cancelled run come to its end: finally steps run, then it is sealed.
func (c *cli) driveQuietly(ctx context.Context, f *place, run work.Run) error {
	err := c.drive(ctx, f, run, &runFlags{})
	if fault.CodeOf(err) == fault.RunFailed {
		return nil // that it is cancelled is what was asked for
	}
	return err
}

// order drops a signed order into the inbox of a folder that another process works on, and waits until it is taken.
func (c *cli) order(ctx context.Context, name, verb, reason string) error {
	f, run, err := c.find(ctx, name, true)
	if err != nil {
		return err
	}
	defer f.Close()
	key, err := f.folder.Person(c.person(), keyring.Submit)
	if err != nil {
		return err
	}
	envelope, err := app.SignOrder(ctx, &run, verb, reason, key)
	if err != nil {
		return err
	}
	file, err := app.Drop(f.folder.Dir, envelope)
	if err != nil {
		return err
	}
	if err := c.awaitInbox(ctx, file); err != nil {
		return err
	}
	c.say("%s: the process that works on it was told to %s", run.Name, verb)
	return c.emitNow(ctx, f, run)
}

// emitNow writes a run as it stands now, when a machine asks.
func (c *cli) emitNow(ctx context.Context, f *place, run work.Run) error {
	if !c.machine() {
		return nil
	}
	run, err := f.Store.Run(ctx, run.Tenant, string(run.ID))
	if err != nil {
		return err
	}
	gates, err := f.Control.Gates(ctx, run)
	if err != nil {
		return err
	}
	return c.emit(runResult(&run, gates))
}
