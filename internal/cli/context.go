package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// contextFile is what somebody has written down about the servers he works with.
type contextFile struct {
	Current  string                `yaml:"current,omitempty"`
	Contexts map[string]connection `yaml:"contexts,omitempty"`
}

// connection is one server, and as whom.
type connection struct {
	Server    string `yaml:"server,omitempty" json:"server"`
	TokenFile string `yaml:"tokenFile,omitempty" json:"tokenFile,omitempty"`
	Tenant    string `yaml:"tenant,omitempty" json:"tenant,omitempty"`
	CA        string `yaml:"ca,omitempty" json:"ca,omitempty"`
	As        string `yaml:"as,omitempty" json:"as,omitempty"` // whose key of this machine signs

	// Of a session, which login --oidc began.
	Provider string    `yaml:"provider,omitempty" json:"provider,omitempty"`
	Expires  time.Time `yaml:"expires,omitempty" json:"expires,omitzero"`
}

// ended says that a session has ended, in good time before a server refuses its token without saying why.
func (c connection) ended() error {
	if c.Expires.IsZero() || time.Now().Before(c.Expires) {
		return nil
	}
	return fault.New(fault.Unauthenticated, "your session at %s ended at %s", c.Server, c.Expires.Local().Format("2006-01-02 15:04")).
		WithHint("orrery login --oidc --server %s --provider %s", c.Server, c.Provider)
}

// configFolder is where contexts and tokens are kept.
func configFolder() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil && os.Getenv("XDG_CONFIG_HOME") == "" {
		return "", fault.New(fault.Invalid, "there is no home folder to keep contexts in").WithHint("set XDG_CONFIG_HOME")
	}
	return filepath.Join(envOr("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "orrery"), nil
}

func contextPath() (string, error) {
	dir, err := configFolder()
	return filepath.Join(dir, "contexts.yaml"), err
}

// readContexts reads the contexts; without a file there are none.
func readContexts() (contextFile, error) {
	var f contextFile
	path, err := contextPath()
	if err != nil {
		return f, nil // nobody keeps contexts who has no home
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fault.Wrap(fault.Invalid, err, "contexts")
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return f, fault.New(fault.Invalid, "%v", err).At(path)
	}
	return f, nil
}

func (f contextFile) write() error {
	path, err := contextPath()
	if err != nil {
		return err
	}
	raw, err := yaml.Marshal(f)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "contexts")
	}
	return writePrivate(path, raw)
}

// writePrivate writes a file that only its owner may read, whole or not at all.
func writePrivate(path string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(fault.Invalid, err, "cannot write")
	}
	tmp := path + ".part"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fault.Wrap(fault.Invalid, err, "cannot write")
	}
	return fault.Wrap(fault.Internal, os.Rename(tmp, path), "cannot write")
}

// sourced is a value with where it comes from.
type sourced struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// connected says which server is meant, each value with its source; Server is empty for the data folder of this machine.
func (c *cli) connected() (connection, []sourced, error) {
	file, err := readContexts()
	if err != nil {
		return connection{}, nil, err
	}
	name, from := file.Current, "current context"
	switch {
	case c.context != "":
		name, from = c.context, "--context or ORRERY_CONTEXT"
	case c.data != "" && c.given["data"]: // somebody who names a folder means it
		name = ""
	}
	var chosen connection
	if name != "" {
		known, ok := file.Contexts[name]
		if !ok {
			return chosen, nil, fault.New(fault.NotFound, "there is no context %q", name).WithHint("orrery context list")
		}
		chosen = known
	}
	var out []sourced
	pick := func(what, flag, env, inContext, fallback string) string {
		v, source := fallback, "default"
		if inContext != "" {
			v, source = inContext, fmt.Sprintf("context %s (%s)", name, from)
		}
		if e := os.Getenv(env); e != "" {
			v, source = e, "environment "+env
		}
		if c.given[what] {
			v, source = flag, "flag --"+what
		}
		out = append(out, sourced{what, v, source})
		return v
	}
	got := connection{
		Server:    pick("server", c.serverURL, "ORRERY_SERVER", chosen.Server, ""),
		TokenFile: pick("token-file", c.tokenFile, "ORRERY_TOKEN_FILE", chosen.TokenFile, ""),
		Tenant:    pick("tenant", c.tenant, "ORRERY_TENANT", chosen.Tenant, string(work.LocalTenant)),
		CA:        pick("ca", c.caFile, "ORRERY_CA", chosen.CA, ""),
		As:        pick("as", c.identity, "ORRERY_IDENTITY", chosen.As, ""),
	}
	if got.TokenFile == chosen.TokenFile && got.Server == chosen.Server {
		got.Provider, got.Expires = chosen.Provider, chosen.Expires
	} else if chosen.As != "" && got.As == chosen.As && !c.given["as"] && os.Getenv("ORRERY_IDENTITY") == "" {
		got.As = "" // another account does not sign with the key of this one
		out[len(out)-1] = sourced{"as", "", "default"}
	}
	if c.data != "" && c.given["data"] && !c.given["server"] && c.context == "" {
		got.Server = "" // the folder that was named, although the environment names a server
		out[0] = sourced{"server", "", "flag --data"}
	}
	return got, out, nil
}

// server returns a client for the server that is meant, nil for the data folder of this machine.
func (c *cli) server() (*client.Client, error) {
	to, _, err := c.connected()
	if err != nil || to.Server == "" {
		return nil, err
	}
	c.identity = to.As
	return dial(to)
}

// remote is server for commands that only a server has.
func (c *cli) remote() (*client.Client, error) {
	s, err := c.server()
	if err == nil && s == nil {
		err = fault.New(fault.Invalid, "this needs a server").WithHint("name one with --server, or: orrery login --server URL")
	}
	return s, err
}

func dial(to connection) (*client.Client, error) {
	if err := to.ended(); err != nil {
		return nil, err
	}
	token := os.Getenv("ORRERY_TOKEN")
	if to.TokenFile != "" {
		raw, err := os.ReadFile(to.TokenFile)
		if err != nil {
			return nil, fault.New(fault.Unauthenticated, "the token in %s cannot be read", to.TokenFile).WithHint("orrery login")
		}
		token = strings.TrimSpace(string(raw))
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fault.New(fault.Unauthenticated, "what is in %s is no token", to.TokenFile)
	}
	if token == "" {
		return nil, fault.New(fault.Unauthenticated, "there is no token for %s", to.Server).WithHint("give --token-file, or: orrery login --server %s", to.Server)
	}
	return client.New(client.Config{URL: to.Server, Token: token, Tenant: work.Tenant(to.Tenant), CAFile: to.CA, Trace: traceOfEnvironment()})
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (c *cli) contextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "context", Short: "Choose among servers and the data folder of this machine",
		Long: `A context names a server, a tenant and a token. Commands use the current one; --context, ORRERY_CONTEXT, --server or --data choose
for one command. Without a current context commands work on the data folder of this machine.`,
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.listContexts(), c.useContext(), c.addContext(), c.showContext())
	return cmd
}

func (c *cli) listContexts() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List contexts", Args: atMost(0),
		RunE: func(*cobra.Command, []string) error {
			f, err := readContexts()
			if err != nil {
				return err
			}
			type item struct {
				Name    string `json:"name"`
				Current bool   `json:"current"`
				connection
			}
			items := []item{}
			for _, name := range slices.Sorted(maps.Keys(f.Contexts)) {
				items = append(items, item{name, name == f.Current, f.Contexts[name]})
			}
			return c.show(map[string]any{"items": items}, func(out io.Writer) error {
				rows := [][]string{{"", "CONTEXT", "SERVER", "TENANT"}}
				for _, i := range items {
					mark := ""
					if i.Current {
						mark = "*"
					}
					rows = append(rows, []string{mark, i.Name, i.Server, i.Tenant})
				}
				return columns(out, rows)
			})
		},
	}
}

func (c *cli) useContext() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one; - for none", Args: exactly(1, "the name of a context"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readContexts()
			if err != nil {
				return err
			}
			if f.Current = args[0]; args[0] == "-" {
				f.Current = ""
			} else if _, ok := f.Contexts[args[0]]; !ok {
				return fault.New(fault.NotFound, "there is no context %q", args[0]).WithHint("orrery context list")
			}
			return f.write()
		},
	}
}

func (c *cli) addContext() *cobra.Command {
	return &cobra.Command{
		Use: "add NAME", Short: "Write down the server, tenant and token that the flags name", Args: exactly(1, "a name"),
		Example: "  orrery context add prod --server https://orrery.example.org --tenant acme --token-file ~/acme.token",
		RunE: func(_ *cobra.Command, args []string) error {
			to, _, err := c.connected()
			if err != nil {
				return err
			}
			if to.Server == "" {
				return fault.New(fault.Invalid, "a context names a server").WithHint("add --server URL")
			}
			return remember(args[0], to, false)
		},
	}
}

// remember writes a context down.
func remember(name string, to connection, use bool) error {
	if !contextName.MatchString(name) {
		return fault.New(fault.Invalid, "a context is named with letters, digits, dots, dashes and underscores")
	}
	for _, file := range []*string{&to.TokenFile, &to.CA} {
		if *file != "" {
			abs, err := filepath.Abs(*file)
			if err != nil {
				return fault.Wrap(fault.Invalid, err, "%s", *file)
			}
			*file = abs
		}
	}
	f, err := readContexts()
	if err != nil {
		return err
	}
	if f.Contexts == nil {
		f.Contexts = map[string]connection{}
	}
	f.Contexts[name] = to
	if use {
		f.Current = name
	}
	return f.write()
}

func (c *cli) showContext() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show which server commands use now, and what says so", Args: atMost(0),
		RunE: func(*cobra.Command, []string) error {
			_, values, err := c.connected()
			if err != nil {
				return err
			}
			return c.show(map[string]any{"items": values}, func(out io.Writer) error {
				rows := [][]string{{"WHAT", "VALUE", "FROM"}}
				for _, v := range values {
					rows = append(rows, []string{v.Name, v.Value, v.Source})
				}
				return columns(out, rows)
			})
		},
	}
}
