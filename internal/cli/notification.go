package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	told "orrery.example/orrery/internal/notify"
)

// notifications are those of a server or of a data folder.
type notifications interface {
	Notifications(ctx context.Context) ([]api.Notification, error)
	CreateNotification(ctx context.Context, q api.NotificationRequest) (api.NewNotification, error)
	UpdateNotification(ctx context.Context, id string, q api.NotificationRequest) (api.Notification, error)
	DeleteNotification(ctx context.Context, id string) error
	TestNotification(ctx context.Context, id string) (api.Delivery, error)
	Deliveries(ctx context.Context, id string) ([]api.Delivery, error)
	Redeliver(ctx context.Context, id, delivery string) (api.Delivery, error)
}

// withNotifications runs a command on the notifications that are meant.
func (c *cli) withNotifications(ctx context.Context, do func(notifications) error) error {
	return c.either(ctx, false, func(s *client.Client) error { return do(s) }, func(f *app.Folder) error {
		v, err := c.settings(&cobra.Command{}, "")
		if err != nil {
			return err
		}
		service, err := f.Notifier(app.NotifyOptions{MailURL: v.Text("mail-url"), MailFrom: v.Text("mail-from"), Allow: v.List("notify-allow")})
		if err != nil {
			return err
		}
		return do(&localNotifications{f, service})
	})
}

// localNotifications are those of a data folder that this process holds.
type localNotifications struct {
	f *app.Folder
	s *told.Service
}

// recast copies a value into another type with the same JSON.
func recast[T any](from any, err error) (T, error) {
	var to T
	if err != nil {
		return to, err
	}
	raw, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(raw, &to)
	}
	return to, fault.Wrap(fault.Internal, err, "translate %T", from)
}

func (l *localNotifications) Notifications(ctx context.Context) ([]api.Notification, error) {
	rules, err := l.s.Rules(ctx, l.f.Tenant)
	return recast[[]api.Notification](rules, err)
}

func (l *localNotifications) CreateNotification(ctx context.Context, q api.NotificationRequest) (api.NewNotification, error) {
	rule, err := recast[told.Rule](q, nil)
	if err != nil {
		return api.NewNotification{}, err
	}
	made, secret, err := l.s.Create(ctx, l.f.Tenant, rule)
	out := api.NewNotification{Secret: secret}
	out.Notification, err = recast[api.Notification](made, err)
	return out, err
}

func (l *localNotifications) UpdateNotification(ctx context.Context, id string, q api.NotificationRequest) (api.Notification, error) {
	rule, err := recast[told.Rule](q, nil)
	if err != nil {
		return api.Notification{}, err
	}
	rule, err = l.s.Update(ctx, l.f.Tenant, id, rule)
	return recast[api.Notification](rule, err)
}

func (l *localNotifications) DeleteNotification(ctx context.Context, id string) error {
	return l.s.Delete(ctx, l.f.Tenant, id)
}

// sent makes what is due, so that a command on a folder does what it says before it ends.
func (l *localNotifications) sent(ctx context.Context, d told.Delivery, err error) (api.Delivery, error) {
	if err == nil {
		_, err = l.s.Send(ctx, l.f.Tenant)
	}
	if err != nil {
		return api.Delivery{}, err
	}
	all, err := l.Deliveries(ctx, d.Rule)
	if err != nil {
		return api.Delivery{}, err
	}
	_, id, _ := strings.Cut(d.ID, "/")
	for _, one := range all {
		if one.ID == id {
			return one, nil
		}
	}
	return api.Delivery{}, fault.New(fault.NotFound, "there is no delivery %s", id)
}

func (l *localNotifications) TestNotification(ctx context.Context, id string) (api.Delivery, error) {
	d, err := l.s.Test(ctx, l.f.Tenant, id)
	return l.sent(ctx, d, err)
}

func (l *localNotifications) Deliveries(ctx context.Context, id string) ([]api.Delivery, error) {
	found, err := l.s.Deliveries(ctx, l.f.Tenant, id, "", 0)
	out, err := recast[[]api.Delivery](found, err)
	for i := range out {
		_, out[i].ID, _ = strings.Cut(out[i].ID, "/")
	}
	return out, err
}

func (l *localNotifications) Redeliver(ctx context.Context, id, delivery string) (api.Delivery, error) {
	d, err := l.s.Redeliver(ctx, l.f.Tenant, id, delivery)
	return l.sent(ctx, d, err)
}

func (c *cli) notifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "notify", Short: "Tell webhooks, chats and people of ended runs, approvals and dead letters",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.createNotification(), c.listNotifications(), c.deleteNotification(), c.testNotification(), c.listDeliveries(), c.redeliver(), c.updateNotification())
	return cmd
}

func ruleFlags(cmd *cobra.Command, q *api.NotificationRequest) {
	f := cmd.Flags()
	f.StringVar(&q.Name, "name", "", "what it is called")
	f.StringVar(&q.Channel, "channel", "webhook", "webhook, chat or mail")
	f.StringVar(&q.URL, "url", "", "of a webhook or a chat")
	f.StringSliceVar(&q.To, "to", nil, "receivers of mail (may be repeated)")
	f.StringSliceVar(&q.Events, "event", nil, "run.ended, approval.needed, dead-letter (default: all)")
	f.StringSliceVar(&q.States, "state", nil, "how a run must have ended (default: failed, timed-out)")
	f.StringSliceVar(&q.Packs, "pack", nil, "only runs of this pack (may be repeated)")
	f.BoolVar(&q.Disabled, "disabled", false, "send nothing for now")
}

func (c *cli) createNotification() *cobra.Command {
	var q api.NotificationRequest
	cmd := &cobra.Command{
		Use: "create", Short: "Make a notification; the secret of a webhook is shown once", Args: atMost(0),
		Example: "  orrery notify create --name on-call --url https://example.org/hooks/orrery --event run.ended --state failed",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				made, err := n.CreateNotification(cmd.Context(), q)
				if err != nil {
					return err
				}
				return c.show(made, func(out io.Writer) error {
					fmt.Fprintf(out, "%s\n", made.ID)
					if made.Secret != "" {
						fmt.Fprintf(out, "secret %s\n", made.Secret)
					}
					return nil
				})
			})
		},
	}
	ruleFlags(cmd, &q)
	return cmd
}

func (c *cli) updateNotification() *cobra.Command {
	var q api.NotificationRequest
	cmd := &cobra.Command{
		Use: "update ID", Short: "Replace a notification; its channel and its secret stay", Args: exactly(1, "a notification"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				made, err := n.UpdateNotification(cmd.Context(), args[0], q)
				if err != nil {
					return err
				}
				return c.show(made, func(out io.Writer) error { _, err := fmt.Fprintln(out, made.ID); return err })
			})
		},
	}
	ruleFlags(cmd, &q)
	return cmd
}

func (c *cli) listNotifications() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List who is told of what", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				all, err := n.Notifications(cmd.Context())
				if err != nil {
					return err
				}
				return c.show(map[string]any{"items": all}, func(out io.Writer) error {
					rows := [][]string{{"ID", "NAME", "CHANNEL", "TO", "EVENTS", "STATES"}}
					for _, r := range all {
						to := r.URL + strings.Join(r.To, ",")
						if r.Disabled {
							to = "(disabled) " + to
						}
						rows = append(rows, []string{r.ID, r.Name, r.Channel, to, strings.Join(r.Events, ","), strings.Join(r.States, ",")})
					}
					return columns(out, rows)
				})
			})
		},
	}
}

func (c *cli) deleteNotification() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Delete a notification", Args: exactly(1, "a notification"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				if err := n.DeleteNotification(cmd.Context(), args[0]); err != nil {
					return err
				}
				return c.show(map[string]string{"id": args[0]}, func(out io.Writer) error { _, err := fmt.Fprintln(out, args[0]); return err })
			})
		},
	}
}

func (c *cli) showDelivery(d api.Delivery) error {
	return c.show(d, func(out io.Writer) error { return columns(out, [][]string{deliveryRow(&d)}) })
}

func deliveryRow(d *api.Delivery) []string {
	last := ""
	if n := len(d.Attempts); n > 0 {
		last = strings.TrimSpace(strconv.Itoa(d.Attempts[n-1].Status) + " " + d.Attempts[n-1].Error)
	}
	return []string{d.ID, d.Type, d.State, d.Created, strconv.Itoa(d.Tries), last}
}

func (c *cli) testNotification() *cobra.Command {
	return &cobra.Command{
		Use: "test ID", Short: "Send a message to try a notification", Args: exactly(1, "a notification"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				d, err := n.TestNotification(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.showDelivery(d)
			})
		},
	}
}

func (c *cli) redeliver() *cobra.Command {
	return &cobra.Command{
		Use: "redeliver ID DELIVERY", Short: "Send the message of a delivery again", Args: exactly(2, "a notification and a delivery"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				d, err := n.Redeliver(cmd.Context(), args[0], args[1])
				if err != nil {
					return err
				}
				return c.showDelivery(d)
			})
		},
	}
}

func (c *cli) listDeliveries() *cobra.Command {
	return &cobra.Command{
		Use: "deliveries ID", Short: "List what was sent, and what became of it", Args: exactly(1, "a notification"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNotifications(cmd.Context(), func(n notifications) error {
				all, err := n.Deliveries(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.show(map[string]any{"items": all}, func(out io.Writer) error {
					rows := [][]string{{"ID", "EVENT", "STATE", "CREATED", "TRIES", "LAST"}}
					for i := range all {
						rows = append(rows, deliveryRow(&all[i]))
					}
					return columns(out, rows)
				})
			})
		},
	}
}
