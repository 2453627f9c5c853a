package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
)

func (c *cli) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "user", Short: "Make, list and change the accounts of a tenant on a server",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.createUser(), c.listUsers(), c.disableUser(true), c.disableUser(false), c.createTenant())
	return cmd
}

func (c *cli) createUser() *cobra.Command {
	var q api.AccountRequest
	var outside api.External
	var service bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an account", Args: exactly(1, "a name"),
		Example: "  orrery user create ada --role operator --role approver\n  orrery user create ci --service --role operator",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			if q.Name, q.Kind = args[0], "user"; service {
				q.Kind = "service"
			}
			if outside != (api.External{}) {
				q.External = &outside
			}
			made, err := s.CreateAccount(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.show(made, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s  %s  %s\n", made.Name, made.Kind, strings.Join(made.Roles, " "))
				return err
			})
		},
	}
	cmd.Flags().StringSliceVar(&q.Roles, "role", nil, "viewer, operator, publisher, approver, quota-manager, worker or admin (may be repeated)")
	cmd.Flags().StringSliceVar(&q.Scopes, "scope", nil, "a right beside those of the roles (may be repeated)")
	cmd.Flags().StringVar(&outside.Issuer, "issuer", "", "identity provider whose logins count as this account, with --subject")
	cmd.Flags().StringVar(&outside.Subject, "subject", "", "who the person is there (claim sub)")
	cmd.Flags().BoolVar(&service, "service", false, "it is a program, not a person")
	return cmd
}

func (c *cli) listUsers() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List accounts", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			accounts, err := s.Accounts(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(map[string]any{"items": accounts}, func(out io.Writer) error {
				rows := [][]string{{"ACCOUNT", "KIND", "ROLES", "SCOPES", "STATE"}}
				for _, a := range accounts {
					state := "active"
					if a.Disabled {
						state = "disabled"
					}
					rows = append(rows, []string{a.Name, a.Kind, strings.Join(a.Roles, " "), strings.Join(a.Scopes, " "), state})
				}
				return columns(out, rows)
			})
		},
	}
}

// disableUser ends or restores what all tokens of an account count for.
func (c *cli) disableUser(disable bool) *cobra.Command {
	verb := map[bool]string{true: "disable", false: "enable"}[disable]
	return &cobra.Command{
		Use: verb + " NAME", Args: exactly(1, "the name of an account"),
		Short: map[bool]string{true: "Let no token of an account count any more", false: "Let the tokens of an account count again"}[disable],
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			a, err := s.Account(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = s.ChangeAccount(cmd.Context(), a.Name, api.AccountRequest{Roles: a.Roles, Scopes: a.Scopes, Disabled: disable})
			if err == nil {
				c.say("%s is %sd", a.Name, verb)
			}
			return err
		},
	}
}

func (c *cli) createTenant() *cobra.Command {
	var title string
	cmd := &cobra.Command{
		Use: "create-tenant NAME", Short: "Make a tenant, as an administrator of the installation", Args: exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			t, err := s.CreateTenant(cmd.Context(), api.TenantRequest{Name: args[0], Title: title})
			if err != nil {
				return err
			}
			return c.show(t, func(out io.Writer) error {
				_, err := fmt.Fprintln(out, t.Name)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&title, "title", "", "what it is")
	return cmd
}

// RoleResult is a role, or a scope with the names that it also goes by.
type RoleResult struct {
	Name   string              `json:"name"`
	Scopes []access.Scope      `json:"scopes"`
	Also   map[string][]string `json:"also,omitempty"` // by scope, names that give it, perhaps among others
}

func (c *cli) rolesCommand() *cobra.Command {
	return c.grouped("roles", "See what the roles of accounts may do",
		&cobra.Command{
			Use: "list", Short: "List the roles with their scopes", Args: atMost(0),
			RunE: func(*cobra.Command, []string) error {
				items := []RoleResult{}
				rows := [][]string{{"ROLE", "SCOPES"}}
				for _, r := range access.Roles() {
					items = append(items, RoleResult{Name: r.Name, Scopes: r.Scopes})
					rows = append(rows, []string{r.Name, scopeText(r.Scopes)})
				}
				return c.show(map[string]any{"items": items}, func(out io.Writer) error { return columns(out, rows) })
			},
		},
		&cobra.Command{
			Use: "show ROLE", Short: "Show the scopes of a role, what they demand, and the other names that tokens may have them by", Args: exactly(1, "a role"),
			RunE: func(_ *cobra.Command, args []string) error {
				scopes, err := access.ParseRoles(args)
				if err != nil {
					return err
				}
				role := RoleResult{Name: args[0], Scopes: scopes, Also: map[string][]string{}}
				rows := [][]string{{"SCOPE", "ALSO", "DEMANDS"}}
				for _, s := range scopes {
					for _, a := range access.Aliases() {
						if slices.Contains(a.Scopes, s) {
							role.Also[string(s)] = append(role.Also[string(s)], a.Names...)
						}
					}
					demands := ""
					if access.NeedsTicket(s) {
						demands = "a reason and a ticket"
					}
					rows = append(rows, []string{string(s), strings.Join(role.Also[string(s)], " "), demands})
				}
				return c.show(role, func(out io.Writer) error { return columns(out, rows) })
			},
		})
}

func scopeText(scopes []access.Scope) string {
	out := make([]string, len(scopes))
	for i, s := range scopes {
		out[i] = string(s)
	}
	return strings.Join(out, " ")
}
