package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/retention"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (c *cli) retentionCommand() *cobra.Command {
	return c.grouped("retention", "Say how long runs stay, hold what must not go, and delete the rest",
		&cobra.Command{
			Use: "show", Short: "Show how long runs stay, and the legal holds", Args: atMost(0),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return c.retained(cmd.Context(), "", nil, func(s *client.Client) (api.Retention, error) { return s.Retention(cmd.Context()) })
			},
		},
		c.setRetention(), c.holdCommand(false), c.holdCommand(true), c.previewCommand(), c.erasedCommand(), c.applyRetention())
}

// retained makes a change in the folder or at a server, and shows what is so then.
func (c *cli) retained(ctx context.Context, action string, here func(context.Context, *app.Folder) error, there func(*client.Client) (api.Retention, error)) error {
	f, err := c.open(ctx, here == nil)
	if err != nil {
		return err
	}
	defer f.Close()
	if h, remote := f.home.(*serverHome); remote {
		now, err := there(h.Client)
		if err != nil {
			return err
		}
		return c.listRetention(now)
	}
	if here != nil {
		ctx = store.WithAudit(ctx, &store.Audit{Tenant: f.Tenant, Action: action, Actor: c.person(), Kind: "user"})
		if err := here(ctx, f.folder); err != nil {
			return err
		}
	}
	keeper := f.folder.Retention()
	p, err := keeper.Policy(ctx, f.Tenant)
	if err != nil {
		return err
	}
	holds, err := keeper.Holds(ctx, f.Tenant)
	if err != nil {
		return err
	}
	var now api.Retention
	if err := reshape(p, &now.RetentionPolicy); err != nil {
		return err
	}
	if err := reshape(holds, &now.Holds); err != nil {
		return err
	}
	return c.listRetention(now)
}

// reshape turns a value into another type with the same JSON.
func reshape(from, to any) error {
	raw, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(raw, to)
	}
	return fault.Wrap(fault.Internal, err, "translate %T", from)
}

func (c *cli) listRetention(r api.Retention) error {
	return c.show(r, func(out io.Writer) error {
		if len(r.Days) == 0 {
			fmt.Fprintln(out, "runs stay for ever")
		}
		for _, state := range slices.Sorted(maps.Keys(r.Days)) {
			fmt.Fprintf(out, "%-10s stay %d days after their end\n", state, r.Days[state])
		}
		if r.Keep > 0 {
			fmt.Fprintf(out, "the newest %d of each pack stay\n", r.Keep)
		}
		for _, h := range r.Holds {
			fmt.Fprintf(out, "held  %s  %s\n", h.On, heldBack(&h.By))
		}
		return nil
	})
}

func (c *cli) setRetention() *cobra.Command {
	var days []string
	var keep int
	cmd := &cobra.Command{
		Use: "set", Short: "Set how long runs stay after their end; what is not named stays for ever", Args: atMost(0),
		Example: "  orrery retention set --days succeeded=30 --days '*=365' --keep 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := api.RetentionPolicy{Days: map[string]int{}, Keep: keep}
			for _, d := range days {
				state, text, ok := strings.Cut(d, "=")
				n, err := strconv.Atoi(text)
				if !ok || err != nil {
					return fault.New(fault.Invalid, "--days %q is not STATE=DAYS", d).WithHint("for example: --days succeeded=30 --days '*=365'")
				}
				p.Days[state] = n
			}
			return c.retained(cmd.Context(), "setRetention", func(ctx context.Context, f *app.Folder) error {
				var mine retention.Policy
				if err := reshape(p, &mine); err != nil {
					return err
				}
				return f.Retention().SetPolicy(ctx, f.Tenant, mine)
			}, func(s *client.Client) (api.Retention, error) { return s.SetRetention(cmd.Context(), p) })
		},
	}
	cmd.Flags().StringArrayVar(&days, "days", nil, "STATE=DAYS, with * for the states that are not named (may be repeated)")
	cmd.Flags().IntVar(&keep, "keep", 0, "the newest of each pack stay whatever their age")
	return cmd
}

func (c *cli) holdCommand(release bool) *cobra.Command {
	var by work.Actor
	use, short := "hold WHAT", "Put a legal hold on run/ID, pack/NAME or label/KEY=VALUE: it is not deleted"
	if release {
		use, short = "release WHAT", "Take a legal hold away"
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: exactly(1, "what is held: run/ID, pack/NAME or label/KEY=VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if by.Reason == "" {
				return fault.New(fault.Invalid, "whoever sets or releases a legal hold says why").WithHint("add --reason")
			}
			return c.retained(cmd.Context(), "holdRetention", func(ctx context.Context, f *app.Folder) error {
				entry := store.AuditOf(ctx)
				entry.Reason, entry.Ticket = by.Reason, by.Ticket
				if release {
					return f.Retention().Release(ctx, f.Tenant, args[0])
				}
				by.Name = c.person()
				return f.Retention().SetHold(ctx, f.Tenant, retention.Hold{On: args[0], By: by})
			}, func(s *client.Client) (api.Retention, error) {
				return s.Hold(cmd.Context(), api.HoldRequest{On: args[0], Release: release, Reason: by.Reason})
			})
		},
	}
	reasoned(cmd, &by)
	return cmd
}

func (c *cli) previewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "preview", Short: "List the runs that the policy lets go, and what is held of them", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer f.Close()
			out := api.ExpiredRuns{Items: []api.ExpiredRun{}}
			if h, remote := f.home.(*serverHome); remote {
				if out, err = h.Expired(cmd.Context()); err != nil {
					return err
				}
			} else {
				found, err := f.folder.Retention().Candidates(cmd.Context(), f.Tenant, 500)
				if err != nil {
					return err
				}
				for _, x := range found {
					out.Items = append(out.Items, api.ExpiredRun{
						Run: string(x.Run.ID), Name: x.Run.Name, Pack: x.Run.Pack.Name, State: string(x.Run.State), Ended: x.Run.Ended.String(), Held: x.Held,
					})
				}
			}
			return c.show(out, func(w io.Writer) error {
				rows := [][]string{{"RUN", "STATE", "PACK", "ENDED", "HELD"}}
				for _, r := range out.Items {
					rows = append(rows, []string{r.Name, r.State, r.Pack, r.Ended, r.Held})
				}
				return columns(w, rows)
			})
		},
	}
}

func (c *cli) erasedCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "erased [RUN]", Short: "List runs that were deleted, or write the evidence of one", Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := c.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer f.Close()
			var out api.ErasedRuns
			if h, remote := f.home.(*serverHome); remote {
				if len(args) > 0 {
					return fault.New(fault.Invalid, "the evidence of a run that was deleted is written on the server's machine")
				}
				out, err = h.Erased(cmd.Context())
			} else {
				var erased []store.Erased
				if erased, err = f.folder.Retention().Erased(cmd.Context(), f.Tenant); err == nil {
					err = reshape(erased, &out.Items)
				}
			}
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return writeErased(cmd.Context(), f, out, args[0], file)
			}
			return c.show(out, func(w io.Writer) error {
				rows := [][]string{{"RUN", "STATE", "PACK", "ENDED", "DELETED", "EVIDENCE"}}
				for _, r := range out.Items {
					rows = append(rows, []string{r.Name, r.State, r.Pack.Name, r.Ended, r.Begun, r.Evidence})
				}
				return columns(w, rows)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write the evidence (default: RUN.evidence.tar)")
	return cmd
}

// writeErased writes the evidence of a run that was deleted.
func writeErased(ctx context.Context, f *place, all api.ErasedRuns, name, file string) error {
	i := slices.IndexFunc(all.Items, func(r api.ErasedRun) bool { return r.Run == name || r.Name == name })
	if i < 0 {
		return fault.New(fault.NotFound, "no run %s was deleted", name).WithHint("orrery retention erased")
	}
	in, _, err := f.folder.Blobs.Open(ctx, f.Tenant, work.Digest(all.Items[i].Evidence))
	if err != nil {
		return err
	}
	defer in.Close()
	if file == "" {
		file = all.Items[i].Name + ".evidence.tar"
	}
	to, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fault.New(fault.Invalid, "%v", err)
	}
	if _, err := io.Copy(to, in); err != nil {
		to.Close()
		return fault.Wrap(fault.Internal, err, "write %s", file)
	}
	return fault.Wrap(fault.Internal, to.Close(), "write %s", file)
}

func (c *cli) applyRetention() *cobra.Command {
	return &cobra.Command{
		Use: "apply", Short: "Delete what the policy lets go now; a server does so by itself every hour", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			defer f.Close()
			if f.folder == nil {
				return fault.New(fault.Invalid, "a server deletes by itself, every hour")
			}
			n, err := f.folder.Retention().Sweep(cmd.Context(), f.Tenant, work.Actor{Name: c.person(), Reason: "the policy of the tenant"}, 10_000)
			if err != nil {
				return err
			}
			return c.show(map[string]int{"deleted": n}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%d run(s) deleted\n", n)
				return err
			})
		},
	}
}
