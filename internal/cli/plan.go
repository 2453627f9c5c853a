package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// buildPlan reads a pack and plans it with the inputs that the flags give.
func (c *cli) buildPlan(path string, r *runFlags) (*pack.Pack, *plan.Built, error) {
	return c.buildPlanOver(path, r, nil)
}

// buildPlanOver takes inputs that are not given from an earlier plan.
func (c *cli) buildPlanOver(path string, r *runFlags, earlier *work.Plan) (*pack.Pack, *plan.Built, error) {
	p, err := pack.Load(path)
	if err != nil {
		return nil, nil, err
	}
	inputs := map[string]plan.InputValue{}
	if earlier != nil {
		for _, in := range earlier.Inputs {
			if in.Secret != "" {
				inputs[in.Name] = plan.InputValue{Text: in.Secret}
			} else {
				inputs[in.Name] = plan.InputValue{JSON: in.Value}
			}
		}
	}
	if err := readInputs(r, inputs); err != nil {
		return nil, nil, err
	}
	built, err := control.Plan(p, inputs)
	return p, built, err
}

func readInputs(r *runFlags, into map[string]plan.InputValue) error {
	if r.file != "" {
		raw, err := os.ReadFile(r.file)
		if errors.Is(err, fs.ErrNotExist) {
			return fault.New(fault.NotFound, "there is no file %s with inputs", r.file)
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "inputs")
		}
		values, err := parseInputs(raw)
		if err != nil {
			return fault.New(fault.Invalid, "%s: %v", r.file, err).WithHint("it holds one object: names and values, as JSON or YAML")
		}
		for k, v := range values {
			into[k] = plan.InputValue{JSON: v}
		}
	}
	for _, text := range r.inputs {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fault.New(fault.Invalid, "input %q is not NAME=VALUE", text).WithHint("for example: --input name=value")
		}
		into[name] = plan.InputValue{Text: value}
	}
	return nil
}

func parseInputs(raw []byte) (map[string]json.RawMessage, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err == nil {
		return values, nil
	}
	var plain map[string]any
	if err := yaml.Unmarshal(raw, &plain); err != nil {
		return nil, err
	}
	values = make(map[string]json.RawMessage, len(plain))
	for k, v := range plain {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		values[k] = text
	}
	return values, nil
}

func (c *cli) lintCommand() *cobra.Command {
	return &cobra.Command{
		Use: "lint FILE...", Short: "Check packs and say what is wrong, where, and what to do",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Invalid, "orrery lint needs files or folders of packs")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			type verdict struct {
				File     string    `json:"file"`
				Valid    bool      `json:"valid"`
				Problems []Problem `json:"problems,omitempty"`
			}
			var last error
			verdicts := make([]verdict, len(args))
			for i, path := range args {
				p, err := pack.Load(path)
				if err == nil {
					err = control.Lint(p)
				}
				verdicts[i] = verdict{File: path, Valid: err == nil}
				if err == nil {
					c.say("%s: fine", path)
					continue
				}
				verdicts[i].Problems = problemsOf(err)
				if last != nil && !c.machine() {
					c.report(last)
				}
				last = err
			}
			if c.machine() {
				if err := c.emit(map[string]any{"items": verdicts}); err != nil {
					return err
				}
			}
			return last
		},
	}
}

func (c *cli) planCommand() *cobra.Command {
	var r runFlags
	var canonical bool
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what would run, and the hash that approvals are bound to",
		Long: `Plan resolves a pack with its inputs into a graph. Its canonical JSON (RFC 8785) hashes to the planHash: --canonical writes
exactly the bytes whose SHA-256 that is.`,
		Args: exactly(1, "the file or folder of a pack"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, built, err := c.buildPlan(args[0], &r)
			if err != nil {
				return err
			}
			if canonical {
				_, err := c.Out.Write(built.Canonical)
				return err
			}
			return c.showPlan(built)
		},
	}
	r.add(cmd)
	cmd.Flags().BoolVar(&canonical, "canonical", false, "write the canonical bytes of the plan and nothing else")
	cmd.AddCommand(c.planDiffCommand())
	return cmd
}

func (c *cli) showPlan(b *plan.Built) error {
	doc := struct {
		PlanHash work.Digest `json:"planHash"`
		*work.Plan
	}{b.Hash, b.Plan}
	return c.show(doc, func(out io.Writer) error {
		fmt.Fprintf(out, "%s@%s  %s\n%s\n\n", b.Plan.Pack.Name, b.Plan.Pack.Version, b.Hash, planSummary(b.Plan))
		for i := range b.Plan.Steps {
			fmt.Fprintln(out, planLine(b, &b.Plan.Steps[i]))
		}
		return nil
	})
}

func planLine(b *plan.Built, s *work.PlanStep) string {
	depth := 0
	for p := s.Parent; p != ""; depth++ {
		next := work.StepID("")
		for i := range b.Plan.Steps {
			if b.Plan.Steps[i].ID == p {
				next = b.Plan.Steps[i].Parent
				break
			}
		}
		p = next
	}
	text := strings.Repeat("  ", depth) + string(s.ID)
	if s.Kind != work.KindRun {
		text += "  (" + string(s.Kind) + ")"
	}
	if len(s.Needs) > 0 {
		text += "  after " + joinIDs(s.Needs)
	}
	if s.When != "" {
		text += "  when " + s.When
	}
	if s.Finally {
		text += "  finally"
	}
	if d := b.Display[s.ID]; d.Name != "" {
		text += "  — " + d.Name
	}
	return text
}

// planSummary says in one line what a plan holds.
func planSummary(p *work.Plan) string {
	steps, maps, gates, endpoints := 0, 0, 0, map[work.Egress]bool{}
	for i := range p.Steps {
		switch s := &p.Steps[i]; s.Kind {
		case work.KindRun:
			steps++
			for _, e := range s.Run.Sandbox.Egress {
				endpoints[e] = true
			}
		case work.KindMap:
			maps++
		case work.KindApproval, work.KindPolicy:
			gates++
		}
	}
	return fmt.Sprintf("%s · %s · %s · %s", work.Count(steps, "step"), work.Count(maps, "map"), work.Count(gates, "gate"), work.Count(len(endpoints), "endpoint"))
}

func (c *cli) planDiffCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Say in words what is different between two plans",
		Long:  "Each side is a pack, a file with a canonical plan, or a run.",
		Args:  exactly(2, "two sides to compare"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var plans [2]*work.Plan
			for i, side := range args {
				p, err := c.sideOfDiff(cmd, side, &r)
				if err != nil {
					return err
				}
				plans[i] = p
			}
			changes := plan.Diff(plans[0], plans[1])
			return c.show(map[string]any{"changes": list(changes)}, func(out io.Writer) error {
				c.printDiff(out, plans[0], plans[1])
				return nil
			})
		},
	}
	r.add(cmd)
	return cmd
}

func (c *cli) sideOfDiff(cmd *cobra.Command, side string, r *runFlags) (*work.Plan, error) {
	info, err := os.Stat(side)
	if err != nil {
		f, run, err := c.lookUp(cmd.Context(), side)
		if err != nil {
			return nil, fault.New(fault.NotFound, "%s is neither a file, a folder nor a run", side)
		}
		defer f.Close()
		built, err := f.Control.Stored(cmd.Context(), run)
		if err != nil {
			return nil, err
		}
		return built.Plan, nil
	}
	if !info.IsDir() && strings.HasSuffix(side, ".json") {
		raw, err := os.ReadFile(side)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "plan")
		}
		return plan.Decode(raw)
	}
	_, built, err := c.buildPlan(side, r)
	if err != nil {
		return nil, err
	}
	return built.Plan, nil
}

func (c *cli) printDiff(out io.Writer, before, after *work.Plan) {
	changes := plan.Diff(before, after)
	if len(changes) == 0 {
		fmt.Fprintln(out, "the plans are the same")
	}
	for _, ch := range changes {
		fmt.Fprintln(out, ch.Text)
	}
}

func (c *cli) simulateCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use: "simulate FILE", Short: "Show what each step would do, and what must happen first, without running anything",
		Args: exactly(1, "the file or folder of a pack"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, built, err := c.buildPlan(args[0], &r)
			if err != nil {
				return err
			}
			previews := plan.Simulate(built.Plan)
			return c.show(map[string]any{"planHash": built.Hash, "steps": list(previews)}, func(out io.Writer) error {
				return simulation(out, built, previews)
			})
		},
	}
	r.add(cmd)
	return cmd
}

func simulation(out io.Writer, b *plan.Built, previews []plan.Preview) error {
	fmt.Fprintf(out, "%s@%s  %s\n\n", b.Plan.Pack.Name, b.Plan.Pack.Version, b.Hash)
	rows := [][]string{{"STEP", "KIND", "OUTLOOK", "AFTER GATES", "REACHES", "SECRETS"}}
	for _, p := range previews {
		outlook := string(p.Outlook)
		if p.Reason != "" {
			outlook += ": " + p.Reason
		}
		rows = append(rows, []string{
			string(p.Step), string(p.Kind), outlook, joinIDs(p.Gates), strings.Join(p.Egress, " "), strings.Join(p.Secrets, " "),
		})
	}
	return columns(out, rows)
}
