package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
)

func (c *cli) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Make, list and revoke tokens of a server",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.createToken(), c.listTokens(), c.revokeToken())
	return cmd
}

func (c *cli) createToken() *cobra.Command {
	var q api.TokenRequest
	var life time.Duration
	var file string
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token; its text is shown once", Args: atMost(0),
		Example: "  orrery token create --account ci --scope packs.run --scope packs.read --expires 720h --file ci.token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			if len(q.Scopes) == 0 {
				return fault.New(fault.Invalid, "a token needs scopes").WithHint("add --scope packs.read, for example")
			}
			q.Seconds = int64(life / time.Second)
			made, err := s.CreateToken(cmd.Context(), q)
			if err != nil {
				return err
			}
			if file != "" {
				if err := writePrivate(file, []byte(made.Text+"\n")); err != nil {
					return err
				}
				made.Text = ""
			}
			return c.show(made, func(out io.Writer) error {
				if file != "" {
					_, err := fmt.Fprintf(out, "%s  %s\n", made.ID, file)
					return err
				}
				_, err := fmt.Fprintln(out, made.Text)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Account, "account", "", "whose token (default: your own)")
	f.StringSliceVar(&q.Scopes, "scope", nil, "what it may do (may be repeated)")
	f.StringVar(&q.Note, "note", "", "what it is for")
	f.DurationVar(&life, "expires", 90*24*time.Hour, "how long it counts")
	f.StringVarP(&file, "file", "f", "", "write the text into a file that only you may read, instead of showing it")
	return cmd
}

func (c *cli) listTokens() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List your tokens, or as an administrator those of the tenant", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			tokens, err := s.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(map[string]any{"items": tokens}, func(out io.Writer) error {
				rows := [][]string{{"TOKEN", "ACCOUNT", "SCOPES", "EXPIRES", "STATE", "NOTE"}}
				for _, t := range tokens {
					state := "valid"
					if t.Revoked != "" {
						state = "revoked"
					}
					rows = append(rows, []string{t.ID, t.Account, strings.Join(t.Scopes, " "), t.Expires, state, t.Note})
				}
				return columns(out, rows)
			})
		},
	}
}

func (c *cli) revokeToken() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN", Short: "Revoke a token by its id; it counts from the next request on", Args: exactly(1, "the id of a token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			if err := s.RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			c.say("%s is revoked", args[0])
			return nil
		},
	}
}
