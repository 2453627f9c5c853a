// Package cli is the command line: one file per group of commands.
//
// Results go to standard output, everything said on the way to standard error. With -o json both are for machines: standard
// output ends with one JSON document, and an error is one JSON document on standard error.
package cli

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/policy"
	"orrery.example/orrery/internal/work"
)

// Streams are where a command reads and writes.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// cli is one invocation: its flags and streams.
type cli struct {
	Streams
	data      string
	serverURL string
	tokenFile string
	caFile    string
	context   string
	given     map[string]bool // flags of every command that were given
	tenant    string
	project   string
	identity  string
	output    string
	color     string
	verbose   bool
	quiet     bool
	slots     int
	unsandbox bool
	readPaths []string
	stepPath  string
	runsc     string
	engines   string
	withhold  []string
}

// Main runs one command and returns its exit code.
func Main(args []string, s Streams) int {
	c := &cli{Streams: s}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(context.Background())
	if err != nil {
		c.report(err)
	}
	return fault.Exit(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "orrery",
		Short: "Run work that must be provable",
		Long: `Orrery runs jobs and workflows in a sandbox and proves what happened: who asked for what, who approved it,
exactly what ran, and what came out. Anybody can check that later, offline, with "orrery verify".

Start here:
  orrery init hello            write a first pack
  orrery run hello             run it; no server, no account, no network
  orrery runs list             see what ran
  orrery verify RUN            check its evidence`,
		Version: Version, SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.given = map[string]bool{}
			cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) { c.given[f.Name] = f.Changed })
			return c.formats(cmd)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.New(fault.Invalid, "%v", err).WithHint("%s --help", cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&c.data, "data", envOr("ORRERY_DATA", ""), "data folder (default: $ORRERY_DATA, else ~/.local/share/orrery)")
	f.StringVar(&c.serverURL, "server", "", "work on a server instead of the data folder (default: $ORRERY_SERVER, else the current context)")
	f.StringVar(&c.tokenFile, "token-file", "", "file with the token for the server (default: $ORRERY_TOKEN_FILE, else the context's, else $ORRERY_TOKEN)")
	f.StringVar(&c.caFile, "ca", "", "file with the authorities of the server's certificate (default: $ORRERY_CA, else the system's)")
	f.StringVar(&c.context, "context", envOr("ORRERY_CONTEXT", ""), "which of your servers (default: $ORRERY_CONTEXT, else the current one)")
	f.StringVar(&c.tenant, "tenant", envOr("ORRERY_TENANT", string(work.LocalTenant)), "tenant")
	f.StringVar(&c.project, "project", envOr("ORRERY_PROJECT", ""), "project within the tenant")
	f.StringVar(&c.identity, "as", envOr("ORRERY_IDENTITY", ""), "whose key to sign with (default: $ORRERY_IDENTITY, else your login name)")
	f.StringVarP(&c.output, "output", "o", "", "output format: json, yaml or table (default: what suits the command)")
	f.StringVar(&c.color, "color", "auto", "auto, always or never")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "say more about what goes on")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "print results only")
	root.AddCommand(
		c.initCommand(), c.lintCommand(), c.planCommand(), c.simulateCommand(), c.runCommand(), c.runsCommand(), c.whyCommand(),
		c.decideCommand("approve", "approved"), c.decideCommand("reject", "rejected"), c.deadletterCommand(), c.evidenceCommand(), c.auditCommand(),
		c.queueCommand(), c.tenantCommand(), c.packsCommand(), c.retentionCommand(), c.gcCommand(), c.incidentsCommand(),
		c.verifyCommand(), c.replayCommand(), c.keysCommand(), c.trustCommand(), c.rulesCommand(), c.doctorCommand(), c.debugCommand(), c.schemaCommand(), c.versionCommand(),
		c.upCommand(), c.serveCommand(), c.backupCommand(), c.restoreCommand(), c.workerCommand(), c.configCommand(),
		c.loginCommand(), c.logoutCommand(), c.contextCommand(), c.tokenCommand(), c.userCommand(), c.rolesCommand(), c.notifyCommand(),
	)
	c.completeRuns(root)
	return root
}

// formats refuses an output that no command has, before anything is done.
func (c *cli) formats(cmd *cobra.Command) error {
	switch c.output {
	case "", "json", "yaml", "table":
	default:
		if c.output != "dot" || cmd.Name() != "graph" {
			return fault.New(fault.Invalid, "there is no output format %q", c.output).WithHint("use -o json, -o yaml or -o table")
		}
	}
	if wait, detach := cmd.Flags().Lookup("wait"), cmd.Flags().Lookup("detach"); wait != nil && detach != nil && wait.Changed && detach.Changed {
		return fault.New(fault.Invalid, "--wait stays and --detach goes").WithHint("give one of them; a detached run waits for people by itself")
	}
	switch c.color {
	case "auto", "always", "never":
		return nil
	default:
		return fault.New(fault.Invalid, "there is no --color %q", c.color).WithHint("use auto, always or never")
	}
}

// unknown says which command was probably meant.
func unknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	e := fault.New(fault.Invalid, "unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return e.WithHint("did you mean: %s %s", cmd.CommandPath(), near[0])
	}
	return e.WithHint("%s --help", cmd.CommandPath())
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func (c *cli) folderOptions(readOnly bool) (app.Options, error) {
	dir := c.data
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return app.Options{}, fault.New(fault.Invalid, "there is no home folder to keep data in").WithHint("name a folder with --data or ORRERY_DATA")
		}
		dir = filepath.Join(envOr("XDG_DATA_HOME", filepath.Join(home, ".local", "share")), "orrery")
	}
	if !tenantName.MatchString(c.tenant) {
		return app.Options{}, fault.New(fault.Invalid, "%q is no name of a tenant", c.tenant).WithHint("lower-case letters, digits and dashes, beginning with a letter or digit, at most 63")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return app.Options{}, fault.Wrap(fault.Invalid, err, "data folder %s", dir)
	}
	log := slog.New(slog.DiscardHandler)
	if !c.machine() && !c.quiet {
		log = slog.New(newTroubles(c.Err))
	}
	if c.verbose {
		log = slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var engines []policy.Engine
	if !readOnly {
		if engines, err = policyEngines(cmp.Or(c.engines, os.Getenv("ORRERY_POLICY_ENGINES"))); err != nil {
			return app.Options{}, err
		}
	}
	return app.Options{
		Dir: abs, Tenant: work.Tenant(c.tenant), ReadOnly: readOnly, Slots: c.slots, AllowUnsandboxed: c.unsandbox,
		ReadPaths: c.readPaths, StepPath: c.stepPath, Runsc: c.runsc, Withhold: c.withhold, Engines: engines, Log: log,
	}, nil
}

var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

var notNameRunes = regexp.MustCompile(`[^A-Za-z0-9._@-]+`)

// person is whose key is used: --as, or the login name.
func (c *cli) person() string {
	if c.identity != "" {
		return c.identity
	}
	name := envOr("USER", envOr("LOGNAME", ""))
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if name = notNameRunes.ReplaceAllString(name, "-"); name == "" {
		name = "operator"
	}
	return name
}

func surplus(cmd *cobra.Command, arg string) error {
	return fault.New(fault.Invalid, "%s does not take %q", cmd.CommandPath(), arg).WithHint("%s --help", cmd.CommandPath())
}

// atMost refuses more arguments than a command takes.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return surplus(cmd, args[n])
	}
}

// exactly refuses a wrong number of arguments with a message that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		if len(args) > n {
			return surplus(cmd, args[n])
		}
		return fault.New(fault.Invalid, "%s needs %s", cmd.CommandPath(), what).WithHint("%s --help", cmd.CommandPath())
	}
}
