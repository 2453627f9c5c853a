package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
)

func (c *cli) loginCommand() *cobra.Command {
	var name, registerKey string
	cmd := &cobra.Command{
		Use: "login", Short: "Check a token with a server, keep it, and use that server from now on", Args: atMost(0),
		Long: `Login takes a token from --token-file, or reads it from standard input, asks the server whom it stands for, and writes it into a file of
the configuration folder that only you may read. The server becomes the current context.

With --register-key the server trusts the public key of that name, from the data folder of this machine, for your account: what you submit
and approve is signed here from then on, and the server cannot do it for you any more.`,
		Example: "  orrery login --server https://orrery.example.org --tenant acme < token\n  orrery login --register-key ada",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.login(cmd.Context(), name, registerKey) },
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the context (default: the server's host)")
	cmd.Flags().StringVar(&registerKey, "register-key", "", "whose key on this machine the server shall trust")
	return cmd
}

func (c *cli) login(ctx context.Context, name, registerKey string) error {
	to, _, err := c.connected()
	if err != nil {
		return err
	}
	if to.Server == "" {
		return fault.New(fault.Invalid, "login to which server?").WithHint("add --server URL")
	}
	if to.TokenFile == "" {
		c.say("paste the token:")
		token, err := bufio.NewReader(io.LimitReader(c.In, 4096)).ReadString('\n')
		if token = strings.TrimSpace(token); token == "" {
			return fault.New(fault.Unauthenticated, "no token was given: %v", err)
		}
		if name == "" {
			name = hostOf(to.Server)
		}
		dir, err := configFolder()
		if err != nil {
			return err
		}
		to.TokenFile = filepath.Join(dir, "tokens", name)
		if err := writePrivate(to.TokenFile, []byte(token+"\n")); err != nil {
			return err
		}
	}
	if name == "" {
		name = hostOf(to.Server)
	}
	s, err := dial(to)
	if err != nil {
		return err
	}
	defer s.Close()
	me, err := s.Me(ctx)
	if err != nil {
		return err
	}
	if me.Tenant != "" && !c.given["tenant"] && os.Getenv("ORRERY_TENANT") == "" {
		to.Tenant = me.Tenant
	}
	if to.As = ""; registerKey != "" {
		if err := c.registerKey(ctx, to, registerKey); err != nil {
			return err
		}
		to.As = registerKey
	}
	if err := remember(name, to, true); err != nil {
		return err
	}
	return c.show(map[string]any{"context": name, "server": to.Server, "tenant": to.Tenant, "subject": me.Subject, "scopes": me.Scopes}, func(out io.Writer) error {
		_, err := fmt.Fprintf(out, "%s is %s in tenant %s; context %s\n", to.Server, me.Subject, to.Tenant, name)
		return err
	})
}

func hostOf(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	host, _, _ := strings.Cut(rest, "/")
	return notNameRunes.ReplaceAllString(host, "-")
}

// registerKey lets the server trust a key of this machine for the account of the token.
func (c *cli) registerKey(ctx context.Context, to connection, name string) error {
	ring, err := c.ring()
	if err != nil {
		return err
	}
	held, err := ring.Held()
	if err != nil {
		return err
	}
	s, err := dial(to)
	if err != nil {
		return err
	}
	defer s.Close()
	return register(ctx, s, held, name)
}

func register(ctx context.Context, s *client.Client, held []keyring.Key, name string) error {
	me, err := s.Me(ctx)
	if err != nil {
		return err
	}
	// A key is trusted for what its account may do, whatever else it is for on this machine.
	may := map[keyring.Usage]string{keyring.Submit: "packs.run", keyring.Approve: "packs.approve"}
	done := false
	for _, k := range held {
		k.Usage = slices.DeleteFunc(slices.Clone(k.Usage), func(u keyring.Usage) bool {
			return may[u] == "" || !slices.Contains(me.Scopes, may[u]) && !slices.Contains(me.Scopes, "orchestrator:admin")
		})
		if k.Name == name && k.Revoked == nil && len(k.Usage) > 0 {
			if err := s.Register(ctx, k); err != nil {
				return err
			}
			done = true
		}
	}
	if !done {
		return fault.New(fault.NotFound, "there is no key of %s here for what %s may do", name, me.Subject).WithHint("orrery keys generate %s", name)
	}
	return nil
}
