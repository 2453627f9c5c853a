package cli

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

func (c *cli) evidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "evidence", Short: "Export the evidence of runs",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var file string
	export := &cobra.Command{
		Use: "export RUN", Short: "Write the evidence of an ended run to one file", Args: exactly(1, "a run"),
		Long: `The evidence of a run is one tar file with signed statements, the plan, the history, approvals, transcripts and the digests of outputs.
docs/reference/evidence.md describes every file in it. "orrery verify FILE" checks it anywhere, offline.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, run, err := c.export(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if file == "-" {
				_, err := c.Out.Write(raw)
				return err
			}
			if file == "" {
				file = string(run.ID) + ".evidence.tar"
			}
			if err := writeWhole(file, raw); err != nil {
				return err
			}
			return c.show(map[string]any{"run": run.ID, "file": file, "bytes": len(raw)}, func(out io.Writer) error {
				_, err := fmt.Fprintln(out, file)
				return err
			})
		},
	}
	export.Flags().StringVarP(&file, "file", "f", "", "where to write it; - for standard output (default: RUNID.evidence.tar)")
	cmd.AddCommand(export)
	return cmd
}

// writeWhole writes a file so that it is there whole or not at all.
func writeWhole(name string, raw []byte) error {
	tmp := name + ".part"
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		return fault.Wrap(fault.Invalid, err, "cannot write")
	}
	return fault.Wrap(fault.Internal, os.Rename(tmp, name), "cannot write")
}

// export returns the evidence of a run.
func (c *cli) export(ctx context.Context, name string) ([]byte, work.Run, error) {
	f, run, err := c.find(ctx, name, false)
	if fault.CodeOf(err) == fault.Locked || fault.Passing(err) {
		f, run, err = c.find(ctx, name, true) // another process has the folder, or nobody can write to it
	}
	if err != nil {
		return nil, run, err
	}
	defer f.Close()
	var out bytes.Buffer
	if err := f.Export(ctx, run, &out); err != nil {
		if !run.State.Terminal() {
			return nil, run, fault.New(fault.Conflict, "run %s has not ended; evidence is made at the end", run.Name).WithHint("orrery why %s", run.Name)
		}
		return nil, run, err
	}
	return out.Bytes(), run, nil
}

func (c *cli) verifyCommand() *cobra.Command {
	var (
		trustFile, run, tenant, planHash string
		signed                           bool
	)
	cmd := &cobra.Command{
		Use:   "verify FILE|RUN",
		Short: "Check the evidence of a run, offline",
		Long: `Verify examines an evidence file, or the evidence of a run in the data folder, under the trust root that you name with --trust
(default: the keyring of the data folder). It prints one line per check and ends with one word:

  VALID        exit 0    everything holds
  INVALID      exit 9    something does not hold
  INCOMPLETE   exit 10   something needed for a judgement is missing
  UNTRUSTED    exit 11   signed, but by nobody the trust root knows`,
		Args: exactly(1, "an evidence file or a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			raw, asked, err := c.evidenceOf(ctx, args[0])
			if err != nil {
				return err
			}
			trust, err := c.trustRoot(ctx, trustFile, asked != nil)
			if err != nil {
				return err
			}
			if run == "" && asked != nil {
				run = string(asked.ID)
			}
			o := verify.Options{Run: work.RunID(run), PlanHash: work.Digest(planHash), Now: app.Now(), SignedResults: signed}
			if cmd.Flags().Changed("expect-tenant") {
				o.Tenant = work.Tenant(tenant)
			}
			report := verify.Bundle(bytes.NewReader(raw), trust, o)
			if asked != nil {
				sameRun(report, args[0])
			}
			return c.showReport(report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&trustFile, "trust", "", "trust root: a keyring.json or a signed trust root (default: the keyring of the data folder)")
	f.StringVar(&run, "expect-run", "", "the evidence must be of this run id")
	f.StringVar(&tenant, "expect-tenant", "", "the evidence must be of this tenant")
	f.StringVar(&planHash, "expect-plan", "", "the evidence must be of this plan hash")
	f.BoolVar(&signed, "signed-results", false, "every result must be signed by the worker that reported it")
	return cmd
}

// sameRun refuses evidence, however good, that is not of the run that was asked for by its name. Which run has a name is what the data
// folder says, and the evidence is to be believed rather than that.
func sameRun(r *verify.Report, asked string) {
	if asked == latest || asked == r.Name || asked == string(r.Run) || r.Verdict != verify.Valid {
		return
	}
	r.Verdict = verify.Invalid
	r.Checks = append(r.Checks, verify.Check{
		Name: "the run asked for", Result: verify.Fail, Detail: fmt.Sprintf("asked for %s, and this is the evidence of %s", asked, r.Name),
	})
}

func (c *cli) showReport(r *verify.Report) error {
	marks := map[verify.Result][2]string{
		verify.Pass: {"32", "✓"}, verify.Fail: {"31", "✗"}, verify.Missing: {"33", "?"}, verify.Untrusted: {"33", "!"},
	}
	err := c.show(r, func(out io.Writer) error {
		for _, check := range r.Checks {
			m := marks[check.Result]
			fmt.Fprintf(out, "%s %-30s %s\n", c.paint(out, m[0], m[1]), check.Name, check.Detail)
		}
		if r.Run != "" {
			fmt.Fprintf(out, "\nrun %s (%s)  tenant %s  plan %s  %s\n", r.Name, r.Run, r.Tenant, r.PlanHash.Short(), r.Status)
		}
		_, err := fmt.Fprintln(out, r.Verdict)
		return err
	})
	if err != nil {
		return err
	}
	verdict := r.Err()
	var known *fault.Error
	if errors.As(verdict, &known) && fault.CodeOf(verdict) == fault.Untrusted {
		return known.WithHint("name the producer's keyring, got over a way you trust: orrery verify --trust KEYRING FILE")
	}
	return verdict
}

// evidenceOf reads an evidence file, or exports that of a run, which it returns, too.
func (c *cli) evidenceOf(ctx context.Context, what string) ([]byte, *work.Run, error) {
	info, err := os.Stat(what)
	if err == nil && !info.IsDir() {
		raw, err := os.ReadFile(what)
		return raw, nil, fault.Wrap(fault.Invalid, err, "evidence")
	}
	raw, run, err := c.export(ctx, what)
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil, fault.New(fault.NotFound, "%s is neither a file nor a run here", what).WithHint("orrery runs list")
	}
	return raw, &run, err
}

// trustRoot reads the trust root that is named. Without one it is that of the place where the run was found.
func (c *cli) trustRoot(ctx context.Context, file string, found bool) (keyring.Trust, error) {
	if s, err := c.server(); file == "" && found && s != nil || err != nil {
		if err != nil {
			return keyring.Trust{}, err
		}
		defer s.Close()
		return s.Trust(ctx)
	}
	if file == "" {
		o, err := c.folderOptions(true)
		if err != nil {
			return keyring.Trust{}, err
		}
		return keyring.Open(o.Dir).Trust()
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return keyring.Trust{}, fault.New(fault.NotFound, "there is no trust root %s", file).WithHint("orrery keys trust-root -f %s, where the run was made", file)
	}
	if err != nil {
		return keyring.Trust{}, fault.Wrap(fault.Invalid, err, "trust root")
	}
	return keyring.ParseTrustFile(raw)
}

func (c *cli) replayCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "replay FILE|RUN",
		Short: "Run the scheduler again over a run's history and compare every decision",
		Long: `Replay takes the plan and what came from outside (claims, reports, decisions, timers) out of the evidence, lets the scheduler decide
again, and compares every event byte for byte. It runs no step. The exit code is 0 when all is identical and 9 at the first divergence.`,
		Args: exactly(1, "an evidence file or a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, _, err := c.evidenceOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			plan, events, err := history(raw)
			if err != nil {
				return err
			}
			result, err := replay.Scheduler(plan, events)
			if err != nil {
				return err
			}
			return c.showReplay(&result)
		},
	}
}

func (c *cli) showReplay(r *replay.Result) error {
	doc := map[string]any{"identical": r.Identical(), "events": r.Events, "stimuli": r.Stimuli}
	if r.Divergence != nil {
		doc["divergence"] = map[string]any{
			"seq": r.Divergence.Seq, "message": r.Divergence.Message, "expected": r.Divergence.Expected, "got": r.Divergence.Got,
		}
	}
	err := c.show(doc, func(out io.Writer) error {
		if r.Divergence != nil {
			fmt.Fprintf(out, "DIVERGED after %s\n%s\n", work.Count(r.Events, "identical event"), r.Divergence)
			return nil
		}
		_, err := fmt.Fprintf(out, "IDENTICAL  %s, %d of them from outside\n", work.Count(r.Events, "event"), r.Stimuli)
		return err
	})
	if err == nil && r.Divergence != nil {
		err = fault.New(fault.Unverified, "the scheduler decides otherwise at event %d", r.Divergence.Seq)
	}
	return err
}

// history takes the plan and the events out of an evidence file. Whether they are genuine is what verify says.
func history(raw []byte) (plan []byte, events []work.Event, err error) {
	const largest = 1 << 30
	r := tar.NewReader(bytes.NewReader(raw))
	var timeline []byte
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, fault.New(fault.Invalid, "this is not an evidence file: %v", err)
		}
		if h.Name != evidence.PlanFile && h.Name != evidence.TimelineFile {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(r, largest))
		if err != nil {
			return nil, nil, fault.New(fault.Invalid, "this is not an evidence file: %v", err)
		}
		if h.Name == evidence.PlanFile {
			plan = data
		} else {
			timeline = data
		}
	}
	if plan == nil || timeline == nil {
		return nil, nil, fault.New(fault.Incomplete, "the evidence has no %s or no %s", evidence.PlanFile, evidence.TimelineFile)
	}
	lines := bufio.NewScanner(bytes.NewReader(timeline))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e work.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, nil, fault.New(fault.Invalid, "%s, line %d: %v", evidence.TimelineFile, len(events)+1, err)
		}
		events = append(events, e)
	}
	return plan, events, lines.Err()
}
