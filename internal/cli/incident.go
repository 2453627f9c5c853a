package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// incidents are those of a server or of a data folder.
type incidents interface {
	Incidents(ctx context.Context, all bool) ([]api.Incident, error)
	Incident(ctx context.Context, id string) (api.Incident, error)
	EndIncident(ctx context.Context, id, verb, reason string) (api.Incident, error)
	IncidentMode(ctx context.Context) (api.IncidentMode, error)
	TurnIncidentMode(ctx context.Context, long time.Duration, reason, ticket string) (api.IncidentMode, error)
	SetIncidentPolicy(ctx context.Context, p api.IncidentPolicy) (api.IncidentMode, error)
}

// withIncidents runs a command on the incidents that are meant.
func (c *cli) withIncidents(ctx context.Context, look bool, do func(incidents) error) error {
	return c.either(ctx, look, func(s *client.Client) error { return do(s) }, func(f *app.Folder) error {
		return do(&localIncidents{f, f.Incidents(), c.person()})
	})
}

// localIncidents are those of a data folder.
type localIncidents struct {
	f      *app.Folder
	s      *incident.Service
	person string
}

// audited is who does something here and why, which goes into the audit trail with it.
func (l *localIncidents) audited(ctx context.Context, action, subject, reason, ticket string) (context.Context, work.Actor) {
	return store.WithAudit(ctx, &store.Audit{
		Tenant: l.f.Tenant, Action: action, Actor: l.person, Kind: "user", Subject: subject, Reason: reason, Ticket: ticket,
	}), work.Actor{Name: l.person, Reason: reason, Ticket: ticket}
}

func (l *localIncidents) Incidents(ctx context.Context, all bool) ([]api.Incident, error) {
	const page = 500
	out := []incident.Incident{}
	for after := ""; ; {
		found, err := l.s.List(ctx, l.f.Tenant, all, after, page)
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(found) < page {
			return recast[[]api.Incident](out, nil)
		}
		after = found[page-1].ID
	}
}

func (l *localIncidents) Incident(ctx context.Context, id string) (api.Incident, error) {
	i, err := l.s.Incident(ctx, l.f.Tenant, id)
	return recast[api.Incident](i, err)
}

func (l *localIncidents) EndIncident(ctx context.Context, id, verb, reason string) (api.Incident, error) {
	ctx, by := l.audited(ctx, verb+"Incident", id, reason, "")
	end := l.s.Resolve
	if verb == "acknowledge" {
		end = l.s.Acknowledge
	}
	i, err := end(ctx, l.f.Tenant, id, by)
	return recast[api.Incident](i, err)
}

func (l *localIncidents) IncidentMode(ctx context.Context) (api.IncidentMode, error) {
	m, err := l.s.Mode(ctx, l.f.Tenant)
	out, err := recast[api.IncidentMode](m, err)
	if err != nil {
		return out, err
	}
	p, err := l.s.Policy(ctx, l.f.Tenant)
	if err != nil {
		return out, err
	}
	out.Policy = api.IncidentPolicy(p)
	burns, err := l.s.Burns(ctx, l.f.Tenant)
	out.Burn, err = recast[[]api.Burn](burns, err)
	return out, err
}

func (l *localIncidents) TurnIncidentMode(ctx context.Context, long time.Duration, reason, ticket string) (api.IncidentMode, error) {
	audited, by := l.audited(ctx, "turnIncidentMode", "", reason, ticket)
	var err error
	if long > 0 {
		_, err = l.s.TurnOn(audited, l.f.Tenant, long, by)
	} else {
		_, err = l.s.TurnOff(audited, l.f.Tenant, by)
	}
	if err != nil {
		return api.IncidentMode{}, err
	}
	return l.IncidentMode(ctx)
}

func (l *localIncidents) SetIncidentPolicy(ctx context.Context, p api.IncidentPolicy) (api.IncidentMode, error) {
	audited, _ := l.audited(ctx, "setIncidentPolicy", "", "", "")
	if err := l.s.SetPolicy(audited, l.f.Tenant, incident.Policy(p)); err != nil {
		return api.IncidentMode{}, err
	}
	return l.IncidentMode(ctx)
}

func (c *cli) incidentsCommand() *cobra.Command {
	return c.grouped("incidents", "See what needs people, say that you are at it, and steer incident mode",
		c.listIncidents(), c.showIncident(),
		c.endIncident("ack", "acknowledge", "Say that you are at an incident"), c.endIncident("resolve", "resolve", "End an incident"),
		c.incidentMode(), c.incidentPolicy())
}

func (c *cli) listIncidents() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List incidents that are not resolved, oldest first", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withIncidents(cmd.Context(), true, func(in incidents) error {
				items, err := in.Incidents(cmd.Context(), all)
				if err != nil {
					return err
				}
				return c.show(map[string]any{"items": list(items)}, func(out io.Writer) error {
					if len(items) == 0 {
						c.say("No incidents.")
						return nil
					}
					rows := [][]string{{"INCIDENT", "STATE", "CAUSE", "OPENED", "WHAT"}}
					for _, i := range items {
						rows = append(rows, []string{i.ID, i.State, i.Cause, i.Opened, i.Message})
					}
					return columns(out, rows)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "those that are resolved, too")
	return cmd
}

func (c *cli) showIncident() *cobra.Command {
	return &cobra.Command{
		Use: "show INCIDENT", Short: "Show an incident", Args: exactly(1, "the id of an incident"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIncidents(cmd.Context(), true, func(in incidents) error {
				i, err := in.Incident(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.incident(i)
			})
		},
	}
}

func (c *cli) incident(i api.Incident) error {
	return c.show(i, func(out io.Writer) error {
		rows := [][]string{{"incident", i.ID}, {"state", i.State}, {"cause", i.Cause}, {"what", i.Message}, {"opened", i.Opened}, {"seen", i.Seen}, {"closes", i.Closes}}
		for _, by := range []struct {
			what string
			who  *api.Actor
		}{{"acknowledged", i.Acknowledged}, {"resolved", i.Resolved}} {
			if by.who != nil {
				rows = append(rows, []string{by.what, heldBack(by.who)})
			}
		}
		return columns(out, rows)
	})
}

func (c *cli) endIncident(use, verb, short string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: use + " INCIDENT", Short: short, Args: exactly(1, "the id of an incident"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIncidents(cmd.Context(), false, func(in incidents) error {
				i, err := in.EndIncident(cmd.Context(), args[0], verb, reason)
				if err != nil {
					return err
				}
				return c.incident(i)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it goes into the audit trail")
	return cmd
}

func (c *cli) incidentMode() *cobra.Command {
	var by work.Actor
	var long time.Duration
	cmd := &cobra.Command{
		Use: "mode [on|off]", Short: "Show, turn on or turn off incident mode", Args: atMost(1),
		Long: `While incident mode is on, servers log everything and nothing of the tenant is deleted. It goes on and off by itself with the burn of the error
budget; whoever turns it on says for how long.`,
		Example:   "  orrery incidents mode on --for 2h --reason \"payments fail\" --ticket OPS-17",
		ValidArgs: []string{"on", "off"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withIncidents(cmd.Context(), len(args) == 0, func(in incidents) error {
				var m api.IncidentMode
				var err error
				switch {
				case len(args) == 0:
					m, err = in.IncidentMode(cmd.Context())
				case args[0] == "on" && long < time.Minute:
					err = fault.New(fault.Invalid, "incident mode stays on for a minute at least, not %s", long).WithHint("--for 2h")
				case args[0] == "on":
					m, err = in.TurnIncidentMode(cmd.Context(), long, by.Reason, by.Ticket)
				case args[0] == "off":
					m, err = in.TurnIncidentMode(cmd.Context(), 0, by.Reason, by.Ticket)
				default:
					err = unknown(cmd, args)
				}
				if err != nil {
					return err
				}
				return c.mode(m)
			})
		},
	}
	cmd.Flags().DurationVar(&long, "for", time.Hour, "how long it stays on, up to 168h")
	reasoned(cmd, &by)
	return cmd
}

func (c *cli) mode(m api.IncidentMode) error {
	return c.show(m, func(out io.Writer) error {
		state := "incident mode is off"
		if m.On {
			state = "incident mode is on"
		}
		if m.By != nil {
			state += ", " + heldBack(m.By)
		}
		fmt.Fprintln(out, state)
		if m.Until != "" {
			fmt.Fprintf(out, "until   %s\n", m.Until)
		}
		if m.Kept != "" {
			fmt.Fprintf(out, "nothing is deleted until %s\n", m.Kept)
		}
		p := m.Policy
		fmt.Fprintf(out, "policy  on at a burn of %v, off below %v for %d min, objective %v, %d dead letters of a class, kept for %d h\n",
			p.Threshold, p.Reset, p.Cooldown, p.Objective, p.DeadLetters, p.Retain)
		rows := [][]string{{"WINDOW", "BURN", "RUNS", "FAILED"}}
		for _, b := range m.Burn {
			rows = append(rows, []string{b.Window, fmt.Sprintf("%.1f", b.Burn), fmt.Sprint(b.Ended), fmt.Sprint(b.Failed)})
		}
		return columns(out, rows)
	})
}

func (c *cli) incidentPolicy() *cobra.Command {
	var p api.IncidentPolicy
	cmd := &cobra.Command{
		Use: "policy", Short: "Change when incident mode goes on and off by itself, and what it keeps", Args: atMost(0),
		Long: "Policy changes what its flags name and leaves the rest as it is.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withIncidents(cmd.Context(), false, func(in incidents) error {
				m, err := in.IncidentMode(cmd.Context())
				if err != nil {
					return err
				}
				next, given := m.Policy, cmd.Flags().Changed
				if given("objective") {
					next.Objective = p.Objective
				}
				if given("threshold") {
					next.Threshold = p.Threshold
				}
				if given("reset") {
					next.Reset = p.Reset
				}
				for _, f := range []struct {
					name     string
					from, to *int
				}{{"cooldown", &p.Cooldown, &next.Cooldown}, {"retain", &p.Retain, &next.Retain}, {"dead-letters", &p.DeadLetters, &next.DeadLetters}} {
					if given(f.name) {
						*f.to = *f.from
					}
				}
				if m, err = in.SetIncidentPolicy(cmd.Context(), next); err != nil {
					return err
				}
				return c.mode(m)
			})
		},
	}
	f := cmd.Flags()
	f.Float64Var(&p.Objective, "objective", 0, "share of runs that do not fail, like 0.99")
	f.Float64Var(&p.Threshold, "threshold", 0, "the burn over an hour that turns incident mode on")
	f.Float64Var(&p.Reset, "reset", 0, "the burn below which it goes off after the cooldown")
	f.IntVar(&p.Cooldown, "cooldown", 0, "minutes that a cause is gone before its incident is resolved")
	f.IntVar(&p.Retain, "retain", 0, "hours that nothing is deleted after incident mode")
	f.IntVar(&p.DeadLetters, "dead-letters", 0, "dead letters of one class that open an incident")
	return cmd
}
