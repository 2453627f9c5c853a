package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/signin"
	"orrery.example/orrery/internal/work"
)

// loginFlags are the flags of login.
type loginFlags struct {
	name, registerKey string
	oidc, device      bool
	provider          string
	port              int
}

func (c *cli) loginCommand() *cobra.Command {
	var l loginFlags
	cmd := &cobra.Command{
		Use: "login", Short: "Log in to a server, and use that server from now on", Args: atMost(0),
		Long: `Login takes a token from --token-file, or reads it from standard input, asks the server whom it stands for, and writes it into a file of
the configuration folder that only you may read. The server becomes the current context.

With --oidc you log in at an identity provider that the server trusts: in the browser of this machine, or where there is none (or with
--device) by a code that you enter on any other. What is kept is a session of some hours, not the provider's tokens.

With --register-key the server trusts the public key of that name, from the data folder of this machine, for your account: what you submit
and approve is signed here from then on, and the server cannot do it for you any more.`,
		Example: "  orrery login --server https://orrery.example.org --tenant acme < token\n  orrery login --oidc --server https://orrery.example.org\n  orrery login --register-key ada",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.login(cmd.Context(), &l) },
	}
	f := cmd.Flags()
	f.StringVar(&l.name, "name", "", "name of the context (default: the server's host)")
	f.StringVar(&l.registerKey, "register-key", "", "whose key on this machine the server shall trust")
	f.BoolVar(&l.oidc, "oidc", false, "log in at an identity provider")
	f.BoolVar(&l.device, "device", false, "log in at an identity provider with a browser on another machine")
	f.StringVar(&l.provider, "provider", "", "which identity provider, when the server trusts several")
	f.IntVar(&l.port, "redirect-port", 0, "where the browser comes back to, for providers that want to know (default: any)")
	return cmd
}

func (c *cli) login(ctx context.Context, l *loginFlags) error {
	to, _, err := c.connected()
	if err != nil {
		return err
	}
	if to.Server == "" {
		return fault.New(fault.Invalid, "login to which server?").WithHint("add --server URL")
	}
	if l.name == "" {
		l.name = hostOf(to.Server)
	}
	switch {
	case l.oidc || l.device || l.provider != "":
		err = c.loginOIDC(ctx, &to, l)
	case to.TokenFile == "":
		err = c.loginToken(&to, l.name)
	}
	if err != nil {
		return err
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
	if to.As = ""; l.registerKey != "" {
		if err := c.registerKey(ctx, to, l.registerKey); err != nil {
			return err
		}
		to.As = l.registerKey
	}
	if err := remember(l.name, to, true); err != nil {
		return err
	}
	reply := map[string]any{"context": l.name, "server": to.Server, "tenant": to.Tenant, "subject": me.Subject, "scopes": me.Scopes}
	if !to.Expires.IsZero() {
		reply["provider"], reply["expires"] = to.Provider, to.Expires
	}
	return c.show(reply, func(out io.Writer) error {
		until := ""
		if !to.Expires.IsZero() {
			until = " until " + to.Expires.Local().Format("2006-01-02 15:04")
		}
		_, err := fmt.Fprintf(out, "%s is %s in tenant %s%s; context %s\n", to.Server, me.Subject, to.Tenant, until, l.name)
		return err
	})
}

// loginToken keeps a token that somebody pastes.
func (c *cli) loginToken(to *connection, name string) error {
	c.say("paste the token:")
	token, err := bufio.NewReader(io.LimitReader(c.In, 4096)).ReadString('\n')
	if token = strings.TrimSpace(token); token == "" {
		return fault.New(fault.Unauthenticated, "no token was given: %v", err)
	}
	to.Provider, to.Expires = "", time.Time{}
	return keepToken(to, name, token)
}

// keepToken writes a token where only its owner may read it.
func keepToken(to *connection, name, token string) error {
	if !contextName.MatchString(name) {
		return fault.New(fault.Invalid, "a context is named with letters, digits, dots, dashes and underscores")
	}
	dir, err := configFolder()
	if err != nil {
		return err
	}
	to.TokenFile = filepath.Join(dir, "tokens", name)
	return writePrivate(to.TokenFile, []byte(token+"\n"))
}

// loginOIDC logs in at an identity provider and has the server make a session of that.
func (c *cli) loginOIDC(ctx context.Context, to *connection, l *loginFlags) error {
	stranger, err := client.New(client.Config{URL: to.Server, CAFile: to.CA})
	if err != nil {
		return err
	}
	defer stranger.Close()
	options, err := stranger.LoginOptions(ctx)
	if err != nil {
		return err
	}
	p, err := chosen(options, l.provider)
	if err != nil {
		return err
	}
	q := signin.Request{
		Issuer: p.Issuer, ClientID: p.ClientID, Scopes: p.Scopes, CAFile: to.CA, Port: l.port, Say: c.say, Open: browser(), Device: l.device,
	}
	q.Device = q.Device || q.Open == nil && l.port == 0
	id, err := signin.Login(ctx, q)
	if err != nil {
		return err
	}
	person, err := client.New(client.Config{URL: to.Server, CAFile: to.CA, Token: id})
	if err != nil {
		return err
	}
	defer person.Close()
	me, err := person.Me(ctx)
	if err != nil {
		return err
	}
	person.Tenant = work.Tenant(me.Tenant)
	made, err := person.CreateToken(ctx, api.TokenRequest{Scopes: me.Scopes, Note: "login with " + p.Name, Seconds: p.Seconds})
	if err != nil {
		return err
	}
	until, err := work.ParseTime(made.Expires)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "the answer of the server")
	}
	to.Provider, to.Expires = p.Name, until.Std()
	return keepToken(to, l.name, made.Text)
}

// chosen is the provider that is meant: the named one, or the only one.
func chosen(options api.LoginOptions, name string) (api.LoginProvider, error) {
	var names []string
	for _, p := range options.Providers {
		if p.Name == name || name == "" && len(options.Providers) == 1 {
			return p, nil
		}
		names = append(names, p.Name)
	}
	switch {
	case len(names) == 0:
		return api.LoginProvider{}, fault.New(fault.Invalid, "the server trusts no identity provider").WithHint("log in with a token: orrery login")
	case name == "":
		return api.LoginProvider{}, fault.New(fault.Invalid, "the server trusts several identity providers: %s", strings.Join(names, ", ")).WithHint("name one with --provider")
	default:
		return api.LoginProvider{}, fault.New(fault.NotFound, "the server trusts no identity provider %q", name).WithHint("it trusts %s", strings.Join(names, ", "))
	}
}

// browser returns how to show a page, nil where nobody would see it.
func browser() func(string) error {
	program := os.Getenv("BROWSER")
	switch {
	case program != "":
	case runtime.GOOS == "darwin":
		program = "open"
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		program = "xdg-open"
	default:
		return nil
	}
	return func(url string) error {
		cmd := exec.Command(program, url)
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() { _ = cmd.Wait() }() // what it does is between it and the person
		return nil
	}
}

func (c *cli) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session at a server and forget it", Args: atMost(0),
		Long: `Logout forgets the current context, or that of --context, with its token. A session that login --oidc began ends at the server, too.
A token that was given to login counts on: orrery token revoke ends it.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.logout(cmd.Context()) },
	}
}

func (c *cli) logout(ctx context.Context) error {
	file, err := readContexts()
	if err != nil {
		return err
	}
	name := file.Current
	if c.context != "" {
		name = c.context
	}
	to, known := file.Contexts[name]
	if !known {
		return fault.New(fault.NotFound, "nobody is logged in").WithHint("orrery context list")
	}
	if to.Provider != "" && to.ended() == nil {
		if err := endSession(ctx, to); err != nil {
			c.say("the server could not be told (%v); the session counts until %s", err, to.Expires.Local().Format("2006-01-02 15:04"))
		}
	}
	dir, err := configFolder()
	if err != nil {
		return err
	}
	if filepath.Dir(to.TokenFile) == filepath.Join(dir, "tokens") { // what login wrote, not what somebody keeps elsewhere
		if err := os.Remove(to.TokenFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Invalid, err, "the token cannot be removed")
		}
	}
	delete(file.Contexts, name)
	if file.Current == name {
		file.Current = ""
	}
	if err := file.write(); err != nil {
		return err
	}
	c.say("logged out of %s", to.Server)
	return nil
}

// endSession revokes the token of a session.
func endSession(ctx context.Context, to connection) error {
	s, err := dial(to)
	if err != nil {
		return err
	}
	defer s.Close()
	me, err := s.Me(ctx)
	if err != nil {
		return err
	}
	return s.RevokeToken(ctx, me.TokenID)
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
	may := map[keyring.Usage]string{keyring.Submit: "packs.run", keyring.Approve: "packs.approve", keyring.Publish: "packs.write"}
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
