package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// grouped is a command that only holds others.
func (c *cli) grouped(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func (c *cli) queueCommand() *cobra.Command {
	return c.grouped("queue", "See, pause and limit the queues in which steps wait for workers",
		&cobra.Command{
			Use: "list", Short: "List the queues with what waits and runs, and what is held back", Args: atMost(0),
			RunE: func(cmd *cobra.Command, _ []string) error { return c.showFlow(cmd.Context(), false) },
		},
		c.flowCommand(store.FlowQueue, "pause", "Let no step of a queue be claimed; steps that run go on"),
		c.flowCommand(store.FlowQueue, "resume", "Let a paused queue go on"),
		c.limitCommand(store.FlowQueue, "limit QUEUE N", "Let at most N steps of a queue run at once; 0 for no limit"))
}

func (c *cli) tenantCommand() *cobra.Command {
	return c.grouped("tenant", "See, pause and limit all work of a tenant",
		&cobra.Command{
			Use: "show", Short: "Show what is held back in the tenant, its limits, its queues and what it stores", Args: atMost(0),
			RunE: func(cmd *cobra.Command, _ []string) error { return c.showFlow(cmd.Context(), true) },
		},
		c.flowCommand(store.FlowTenant, "pause", "Let no step of the tenant be claimed; steps that run go on"),
		c.flowCommand(store.FlowTenant, "resume", "Let a paused tenant go on"),
		c.limitCommand(store.FlowTenant, "limit N", "Let at most N steps of the tenant run at once; 0 for no limit"),
		c.limitCommand(store.FlowTenant, "weight N", "Give the tenant N parts of the workers that serve several tenants"),
		c.quotaCommand())
}

func (c *cli) packsCommand() *cobra.Command {
	return c.grouped("packs", "Sign packs, publish them at a server, and pause and resume all that is of one",
		c.signPackCommand(), c.verifyPackCommand(), c.publishPackCommand(), c.listPacksCommand(), c.showPackCommand(),
		c.flowCommand(store.FlowPack, "pause", "Let no step of a pack be claimed; steps that run go on"),
		c.flowCommand(store.FlowPack, "resume", "Let a paused pack go on"))
}

// reasoned adds the flags that say why.
func reasoned(cmd *cobra.Command, by *work.Actor) {
	cmd.Flags().StringVar(&by.Reason, "reason", "", "why; it goes into the audit trail and is shown to everybody who asks why something waits")
	cmd.Flags().StringVar(&by.Ticket, "ticket", "", "the ticket that it belongs to")
}

// elevated takes the reason and the ticket that the scope orch:quota demands from the environment, where the flags give none: for automation.
func elevated(scope string, by *work.Actor) {
	for _, prefix := range []string{"ORRERY_ORCH_", "STELLAOPS_ORCH_"} {
		by.Reason = cmp.Or(by.Reason, os.Getenv(prefix+scope+"_REASON"))
		by.Ticket = cmp.Or(by.Ticket, os.Getenv(prefix+scope+"_TICKET"))
	}
}

// flowCommand holds something back or lets it go on.
func (c *cli) flowCommand(kind, verb, short string) *cobra.Command {
	var by work.Actor
	cmd := &cobra.Command{Use: verb, Short: short, Args: atMost(0)}
	if kind != store.FlowTenant {
		cmd.Use, cmd.Args = verb+" "+map[string]string{"queue": "QUEUE", "pack": "PACK", "worker": "WORKER"}[kind], exactly(1, "the name of a "+kind)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if by.Reason == "" {
			return fault.New(fault.Invalid, "whoever holds back work, or lets it go on, says why").WithHint("add --reason")
		}
		change := store.FlowChange{Kind: kind, Verb: verb}
		if len(args) > 0 {
			change.Name = args[0]
		}
		return c.changeFlow(cmd.Context(), change, by)
	}
	reasoned(cmd, &by)
	return cmd
}

func (c *cli) limitCommand(kind, use, short string) *cobra.Command {
	var by work.Actor
	n := 1
	if kind == store.FlowQueue {
		n = 2
	}
	cmd := &cobra.Command{Use: use, Short: short, Args: exactly(n, map[int]string{1: "a number", 2: "a queue and a number"}[n])}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		most, err := strconv.Atoi(args[n-1])
		if err != nil || most < 0 {
			return fault.New(fault.Invalid, "%q is no number", args[n-1]).WithHint("0 means no limit")
		}
		elevated("QUOTA", &by)
		change := store.FlowChange{Kind: kind, Verb: cmd.Name(), N: most}
		if n == 2 {
			change.Name = args[0]
		}
		return c.changeFlow(cmd.Context(), change, by)
	}
	reasoned(cmd, &by)
	return cmd
}

func (c *cli) quotaCommand() *cobra.Command {
	var by work.Actor
	var q store.Quota
	cmd := &cobra.Command{
		Use: "quota", Short: "Set what the tenant may have at most; what is not given is not limited", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			elevated("QUOTA", &by)
			return c.changeFlow(cmd.Context(), store.FlowChange{Kind: store.FlowTenant, Verb: "quota", Quota: q}, by)
		},
	}
	cmd.Flags().IntVar(&q.Runs, "runs", 0, "runs that have not ended")
	cmd.Flags().IntVar(&q.Steps, "steps", 0, "steps that wait for a worker")
	cmd.Flags().Int64Var(&q.Bytes, "bytes", 0, "bytes of stored files")
	reasoned(cmd, &by)
	return cmd
}

// changeFlow makes a change where the flags say, and shows what is so now.
func (c *cli) changeFlow(ctx context.Context, change store.FlowChange, by work.Actor) error {
	f, err := c.open(ctx, false)
	if err != nil {
		return err
	}
	defer f.Close()
	h, remote := f.home.(*serverHome)
	if !remote {
		by.Name = c.person()
		change.Tenant, change.Actor = f.Tenant, by
		ctx = store.WithAudit(ctx, &store.Audit{
			Tenant: f.Tenant, Action: "changeFlow", Actor: by.Name, Kind: "user", Subject: change.Subject(), Reason: by.Reason, Ticket: by.Ticket,
		})
		if _, err := f.folder.Store.ChangeFlow(ctx, change); err != nil {
			return err
		}
		return c.printFlow(ctx, f, change.Kind == store.FlowTenant && change.Verb == "quota")
	}
	var now api.Flow
	switch change.Verb {
	case "limit":
		now, err = h.LimitFlow(ctx, api.FlowLimit{Kind: change.Kind, Name: change.Name, Max: &change.N}, by.Reason, by.Ticket)
	case "weight":
		now, err = h.LimitFlow(ctx, api.FlowLimit{Kind: change.Kind, Weight: &change.N}, by.Reason, by.Ticket)
	case "quota":
		q := api.Quota(change.Quota)
		now, err = h.LimitFlow(ctx, api.FlowLimit{Kind: change.Kind, Quota: &q}, by.Reason, by.Ticket)
	default:
		now, err = h.ControlFlow(ctx, api.FlowControl{Kind: change.Kind, Name: change.Name, Verb: change.Verb, Reason: by.Reason})
	}
	if err != nil {
		return err
	}
	return c.listFlow(now, change.Kind == store.FlowTenant && change.Verb == "quota")
}

func (c *cli) showFlow(ctx context.Context, stored bool) error {
	f, err := c.open(ctx, true)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.printFlow(ctx, f, stored)
}

func (c *cli) printFlow(ctx context.Context, f *place, stored bool) error {
	if h, remote := f.home.(*serverHome); remote {
		now, err := h.Client.Flow(ctx)
		if err != nil {
			return err
		}
		return c.listFlow(now, stored)
	}
	flow, err := f.folder.Store.Flow(ctx, f.Tenant)
	if err != nil {
		return err
	}
	depths, err := f.folder.Store.Depths(ctx, f.Tenant)
	if err != nil {
		return err
	}
	var now api.Flow
	if now.StoredBytes, err = f.folder.Meter.Usage(ctx, f.Tenant); err != nil {
		return err
	}
	for _, part := range []struct{ from, to any }{{flow, &now}, {depths, &now.Depths}} {
		raw, err := json.Marshal(part.from)
		if err == nil {
			err = json.Unmarshal(raw, part.to)
		}
		if err != nil {
			return fault.Wrap(fault.Internal, err, "the flow")
		}
	}
	return c.listFlow(now, stored)
}

// listFlow shows every queue in which something stands or that is held back, and then everything else that is.
func (c *cli) listFlow(f api.Flow, stored bool) error {
	return c.show(f, func(out io.Writer) error {
		rows := [][]string{{"QUEUE", "READY", "RUNNING", "LIMIT", "SINCE", "HELD BACK"}}
		seen := map[string]bool{}
		for _, d := range f.Depths {
			seen[d.Queue] = true
			rows = append(rows, []string{d.Queue, fmt.Sprint(d.Ready), fmt.Sprint(d.Running), orNone(f.Queues[d.Queue].Max), d.Oldest, heldBack(f.Queues[d.Queue].Paused)})
		}
		for _, name := range slices.Sorted(maps.Keys(f.Queues)) {
			if !seen[name] {
				rows = append(rows, []string{name, "0", "0", orNone(f.Queues[name].Max), "", heldBack(f.Queues[name].Paused)})
			}
		}
		if err := columns(out, rows); err != nil {
			return err
		}
		if f.Paused != nil {
			fmt.Fprintf(out, "tenant  %s\n", heldBack(f.Paused))
		}
		if f.Max > 0 {
			fmt.Fprintf(out, "tenant  at most %d steps at once\n", f.Max)
		}
		if f.Weight > 1 {
			fmt.Fprintf(out, "tenant  %d parts of shared workers\n", f.Weight)
		}
		if q := f.Quota; q != nil {
			fmt.Fprintf(out, "quota   runs %s, waiting steps %s, bytes %s\n", orNone(q.Runs), orNone(q.Steps), orNone(int(q.Bytes)))
		}
		if stored {
			fmt.Fprintf(out, "files   %d bytes stored\n", f.StoredBytes)
		}
		for _, name := range slices.Sorted(maps.Keys(f.Packs)) {
			fmt.Fprintf(out, "pack    %s  %s\n", name, heldBack(f.Packs[name].Paused))
		}
		for _, name := range slices.Sorted(maps.Keys(f.Workers)) {
			text := heldBack(f.Workers[name].Paused)
			if f.Workers[name].Drain {
				text += ", it is to leave"
			}
			fmt.Fprintf(out, "worker  %s  %s\n", name, text)
		}
		return nil
	})
}

func orNone(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func heldBack(by *api.Actor) string {
	if by == nil {
		return ""
	}
	text := "by " + by.Name + " since " + by.At
	if by.Reason != "" {
		text += ": " + by.Reason
	}
	return text
}

// Why says why a run stands where it stands: a server knows more than can be asked of it piece by piece.
func (p *place) Why(ctx context.Context, run work.Run) (control.Why, error) {
	h, remote := p.home.(*serverHome)
	if !remote {
		return p.Control.Why(ctx, run)
	}
	var out control.Why
	w, err := h.Client.Why(ctx, run.ID)
	if err != nil {
		return out, err
	}
	raw, err := json.Marshal(w)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, fault.Wrap(fault.Internal, err, "why")
}

// instant reads the time of a flag, 0 for none.
func instant(flag, text string) (work.Time, error) {
	if text == "" {
		return 0, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, fault.New(fault.Invalid, "%s %q is no time", flag, text).WithHint("write it like 2026-01-02T03:04:05Z, or with an offset like +02:00")
	}
	return work.At(at), nil
}
