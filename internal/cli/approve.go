package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/jwt"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// answerFlags are the flags of approve and reject.
type answerFlags struct {
	gate, reason, ticket, planHash string
	leave, token                   bool
	run                            runFlags
}

func (c *cli) decideCommand(verb, decision string) *cobra.Command {
	var a answerFlags
	cmd := &cobra.Command{
		Use:   verb + " RUN",
		Short: map[string]string{"approve": "Approve a gate of a run with your signature, and carry the run on", "reject": "Reject a gate of a run"}[verb],
		Long: `A decision is a signature over the run, the gate and the plan hash, with a reason and the time. If the plan is not the one you
looked at (--plan-hash), the decision is refused. Who submitted the run may not approve it unless the pack says so.
When another process works on the run, the decision is handed to it.`,
		Example: "  orrery " + verb + " amber-heron --reason \"checked the diff\" --as reviewer",
		Args:    exactly(1, "a run"),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.decide(cmd.Context(), args[0], decision, &a) },
	}
	f := cmd.Flags()
	f.StringVar(&a.gate, "gate", "", "which gate, when several wait")
	f.StringVar(&a.reason, "reason", "", "why (required)")
	f.StringVar(&a.ticket, "ticket", "", "a ticket that stands behind it")
	f.StringVar(&a.planHash, "plan-hash", "", "the plan that you looked at; the decision counts for no other")
	f.BoolVar(&a.token, "print-token", false, "decide nothing; print your decision as a token that anybody may hand in within ten minutes")
	f.BoolVar(&a.leave, "no-continue", false, "decide only; do not carry the run on here")
	a.run.addWait(cmd)
	c.workFlags(cmd)
	return cmd
}

func (c *cli) decide(ctx context.Context, name, decision string, a *answerFlags) error {
	if a.reason == "" {
		return fault.New(fault.Invalid, "a decision needs a reason").WithHint("add --reason \"why\"")
	}
	f, run, err := c.find(ctx, name, false)
	elsewhere := fault.CodeOf(err) == fault.Locked
	if elsewhere {
		f, run, err = c.find(ctx, name, true)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	gate, err := c.gate(ctx, f, &run, a.gate)
	if err != nil {
		return err
	}
	answer := control.Answer{
		Tenant: f.Tenant, Run: run, Gate: gate, PlanHash: work.Digest(a.planHash), Decision: decision, Reason: a.reason, Ticket: a.ticket,
	}
	if a.token {
		return c.printToken(answer)
	}
	if elsewhere {
		return c.decideElsewhere(ctx, f, answer, a)
	}
	by, err := f.Answer(ctx, answer)
	if err != nil {
		return err
	}
	c.say("%s %s by %s", gate, decision, by)
	if a.leave {
		return c.emitNow(ctx, f, run)
	}
	return c.drive(ctx, f, run, &a.run)
}

// printToken prints a decision, signed with a key of this machine.
func (c *cli) printToken(a control.Answer) error {
	o, err := c.folderOptions(true)
	if err != nil {
		return err
	}
	key, err := keyring.Open(o.Dir).Load(c.person(), keyring.Approve, app.Now())
	if err != nil {
		return err
	}
	public, err := key.Key.Verifier()
	if err != nil {
		return err
	}
	if a.PlanHash == "" {
		a.PlanHash = a.Run.PlanHash
	}
	now := app.Now().Std().Unix()
	token, err := jwt.Sign(jwt.Approval{
		Run: a.Run.ID, Gate: a.Gate, PlanHash: a.PlanHash, Decision: a.Decision, Reason: a.Reason, Ticket: a.Ticket, Tenant: a.Tenant,
		Approver: key.Name(), ID: rand.Text(), Issued: now, Expires: now + jwt.MaxLife,
	}, public, key.SignToken)
	if err != nil {
		return err
	}
	return c.show(map[string]string{"token": token}, func(out io.Writer) error {
		_, err := fmt.Fprintln(out, token)
		return err
	})
}

// decideElsewhere signs a decision and hands it to the process that holds the data folder.
func (c *cli) decideElsewhere(ctx context.Context, f *place, answer control.Answer, a *answerFlags) error {
	key, err := f.folder.Person(c.person(), keyring.Approve)
	if err != nil {
		return err
	}
	answer.By = key
	envelope, err := f.Control.Sign(ctx, answer)
	if err != nil {
		return err
	}
	file, err := app.Drop(f.folder.Dir, envelope)
	if err != nil {
		return err
	}
	attended, err := c.handOver(ctx, file)
	if err != nil {
		return err
	}
	if !attended && !a.leave {
		return c.carryOn(ctx, string(answer.Run.ID), &a.run)
	}
	c.say("%s %s by %s; the run goes on where it is being worked on", answer.Gate, answer.Decision, key.Name())
	return c.emitNow(ctx, f, answer.Run)
}

// gate finds the gate that is meant: the named one, or the only one that waits.
func (c *cli) gate(ctx context.Context, f *place, run *work.Run, name string) (work.StepID, error) {
	gates, err := f.Control.Gates(ctx, *run)
	if err != nil {
		return "", err
	}
	if name != "" {
		return work.StepID(name), nil
	}
	switch len(gates) {
	case 0:
		return "", fault.New(fault.Conflict, "no gate of %s waits for a decision", run.Name).WithHint("orrery why %s", run.Name)
	case 1:
		return gates[0].ID, nil
	default:
		ids := make([]work.StepID, len(gates))
		for i := range gates {
			ids[i] = gates[i].ID
		}
		return "", fault.New(fault.Invalid, "several gates of %s wait: %s", run.Name, joinIDs(ids)).WithHint("name one with --gate")
	}
}

// carryOn works on a run unless somebody else has begun to.
func (c *cli) carryOn(ctx context.Context, name string, r *runFlags) error {
	f, run, err := c.find(ctx, name, false)
	if fault.CodeOf(err) == fault.Locked {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return c.drive(ctx, f, run, r)
}

// awaitInbox waits until a document in the inbox has been taken, and returns its refusal.
func (c *cli) awaitInbox(ctx context.Context, file string) error {
	_, err := c.handOver(ctx, file)
	return err
}

// handOver waits until a document in the inbox has been taken, and returns its refusal. The process that held the folder may end
// without having looked there; then this one takes the document, and attended is false.
func (c *cli) handOver(ctx context.Context, file string) (attended bool, err error) {
	limit, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for attended = true; ; {
		if refusal, done := app.Outcome(file); done {
			return attended, refusal
		}
		select {
		case <-limit.Done():
			return attended, fault.New(fault.Unavailable, "the process that holds the data folder has not taken it yet; it lies in the inbox").
				WithHint("it counts as soon as that process or the next one looks there")
		case <-look.C:
		}
		f, err := c.openFolder(ctx, false)
		if fault.CodeOf(err) == fault.Locked {
			continue
		}
		if err != nil {
			return attended, err
		}
		attended = false
		f.Collect(ctx)
		if err := f.Close(); err != nil {
			return attended, err
		}
	}
}

func (c *cli) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why RUN", Short: "Say why a run waits, or why it ended as it did", Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, run, err := c.lookUp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			w, err := f.Why(cmd.Context(), run)
			if err != nil {
				return err
			}
			return c.show(w, func(out io.Writer) error {
				fmt.Fprintf(out, "%s  %s  %s\n", c.badge(out, w.State), w.Name, reasonText(w.Reason))
				for _, list := range [][]control.Blocker{w.BlockedBy, w.Failed} {
					for _, b := range list {
						fmt.Fprintf(out, "  %s  %s  %s\n", c.badge(out, b.State), b.Step, ownReason(b.Step, b.Reason))
						if b.Next != "" {
							fmt.Fprintf(out, "      %s\n", b.Next)
						}
					}
				}
				return nil
			})
		},
	}
}
