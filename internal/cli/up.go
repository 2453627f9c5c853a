package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/config"
	"orrery.example/orrery/internal/oidc"
	"orrery.example/orrery/internal/policy"
)

// serverSettings are what a server can be told, in a file, the environment or flags.
func serverSettings() []config.Setting {
	return append([]config.Setting{
		{Name: "listen", Kind: "text", Default: "127.0.0.1:8420", Summary: "address to listen at"},
		{Name: "store", Kind: "text", Summary: "postgres://… for several servers; the data folder without", Secret: true},
		{Name: "wake", Kind: "text", Summary: "how several servers tell each other of commits: nats://…, valkey://… or postgres://…; the store without", Secret: true},
		{Name: "blobs", Kind: "text", Summary: "s3://HOST/BUCKET[/PREFIX][?region=…]; the data folder without"},
		{Name: "encryption-key", Kind: "text", Summary: "file with the key of what servers keep encrypted in the store, 32 bytes in base64; encryption.key in the data folder without"},
		{Name: "rate", Kind: "number", Default: "200", Summary: "requests a second of one token, 0 for no limit"},
		{Name: "burst", Kind: "number", Default: "0", Summary: "requests of one token at once, 0 for twice the rate"},
		{Name: "drain", Kind: "duration", Default: "30s", Summary: "how long a stop waits for requests and steps under way"},
		{Name: "mail-url", Kind: "text", Summary: "mail server for notifications: smtp://USER:PASSWORD@HOST[:PORT], with STARTTLS, or smtps://…", Secret: true},
		{Name: "mail-from", Kind: "text", Summary: "sender of notifications by mail"},
		{Name: "notify-allow", Kind: "list", Summary: "networks beside the public ones that webhooks may reach, like 10.1.0.0/16"},
		{Name: "stream-heartbeat", Kind: "duration", Default: "15s", Summary: "how long a stream of events may be silent"},
		{Name: "publish", Kind: "list", Summary: "brokers that events are published to: nats://HOST:4222 with JetStream, valkey://HOST:6379 (also redis://…)", Secret: true},
		{Name: "tls-cert", Kind: "text", Summary: "file with the certificate of the server (PEM)"},
		{Name: "tls-key", Kind: "text", Summary: "file with its key (PEM)"},
		{Name: "client-ca", Kind: "text", Summary: "file with the authorities of workers' certificates (PEM)"},
		{Name: "identity-providers", Kind: "text", Summary: "file with the OpenID providers whose logins count (YAML)"},
		{Name: "policy-engines", Kind: "text", Summary: "file with the policy engines that gates may name (YAML)"},
		{Name: "sealed", Kind: "switch", Default: "false", Summary: "switch off what asks or tells others: identity providers, policy engines, notifications, secrets of a Vault server"},
		{Name: "slots", Kind: "number", Default: "0", Summary: "steps at once in this process, 0 for twice the processors"},
		{Name: "allow-unsandboxed", Kind: "switch", Default: "false", Summary: "permit steps that ask for tier t0 where the machine has no sandbox"},
		{Name: "read-path", Kind: "list", Summary: "host paths that every step may read"},
		{Name: "step-path", Kind: "text", Summary: "PATH of steps, the system's folders without"},
		{Name: "blob-grace", Kind: "duration", Default: "24h", Summary: "how long a file stays that nothing names any more; at least 1h, and longer than a backup of the database may be old"},
		{Name: "runsc", Kind: "text", Summary: "gVisor's program, for sandbox tier t3; runsc in PATH without"},
		{Name: "secret-env", Kind: "list", Summary: "environment variables that steps here may be given as secrets"},
		{Name: "secret-dir", Kind: "text", Summary: "folder with secrets for steps here: a file below the folder of its tenant"},
		{Name: "secret-vault", Kind: "text", Summary: "path in the Vault server with secrets for steps here, like secret/data/orrery: an entry below the path of its tenant"},
	}, telemetrySettings()...)
}

// settings reads what a server is told. Flags of the command have the names of the settings.
func (c *cli) settings(cmd *cobra.Command, file string) (config.Values, error) {
	if file == "" {
		file = os.Getenv("ORRERY_CONFIG")
	}
	return config.Load(serverSettings(), config.Sources{File: file, Lookup: os.LookupEnv, Flags: flagsOf(cmd, serverSettings())})
}

func (c *cli) settingFlags(cmd *cobra.Command, file *string) {
	addFlags(cmd, serverSettings())
	cmd.Flags().StringVar(file, "config", "", "file with settings (default: $ORRERY_CONFIG)")
}

func (c *cli) upCommand() *cobra.Command {
	return c.serverCommand("up", "Start everything in one process: API, scheduler and a worker, over the data folder", true,
		`Up turns the data folder into a service. When it is ready it prints its address; on a fresh folder it also makes the first
administrator and prints his token, which lies in the file admin-token of the folder, too. SIGTERM lets what is under way end.`)
}

func (c *cli) serveCommand() *cobra.Command {
	return c.serverCommand("server", "Start the API and the scheduler without a worker, over the data folder", false,
		"Server is like up, but runs no steps itself: workers connect to it.")
}

func (c *cli) serverCommand(use, short string, work bool, long string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: atMost(0), Example: "  orrery " + use + " --data /var/lib/orrery --listen 127.0.0.1:8420",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := c.settings(cmd, file)
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), v, work)
		},
	}
	c.settingFlags(cmd, &file)
	return cmd
}

func (c *cli) serve(ctx context.Context, v config.Values, work bool) error {
	o, err := c.folderOptions(false)
	if err != nil {
		return err
	}
	aside, err := c.telling(ctx, v, &o)
	if err != nil {
		return err
	}
	o.Store, o.Blobs, o.EncryptionKey, o.Wake = v.Text("store"), v.Text("blobs"), v.Text("encryption-key"), v.Text("wake")
	o.Slots, o.AllowUnsandboxed, o.ReadPaths, o.StepPath = int(v.Number("slots")), v.On("allow-unsandboxed"), v.List("read-path"), v.Text("step-path")
	o.Runsc = v.Text("runsc")
	var trusted struct {
		Providers []oidc.Issuer `yaml:"providers"`
	}
	if file := v.Text("identity-providers"); file != "" {
		if err := config.Document(file, &trusted); err != nil {
			return err
		}
	}
	if o.Engines, err = policyEngines(v.Text("policy-engines")); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := app.OpenServer(ctx, app.ServerOptions{
		Options: o, Listen: v.Text("listen"), Work: work, Rate: v.Number("rate"), Burst: int(v.Number("burst")), Drain: v.Duration("drain"),
		CertFile: v.Text("tls-cert"), KeyFile: v.Text("tls-key"), ClientCA: v.Text("client-ca"), Version: Version,
		Sealed: v.On("sealed"), Providers: trusted.Providers, Heartbeat: v.Duration("stream-heartbeat"), Publish: v.List("publish"),
		Notify:    app.NotifyOptions{MailURL: v.Text("mail-url"), MailFrom: v.Text("mail-from"), Allow: v.List("notify-allow")},
		BlobGrace: v.Duration("blob-grace"),
		SecretEnv: v.List("secret-env"), SecretDir: v.Text("secret-dir"), SecretVault: v.Text("secret-vault"),
		Aside: aside, Inspect: func(ctx context.Context) map[string]any {
			return map[string]any{"config": settingRows(v), "doctor": c.findings(ctx, o)}
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	context.AfterFunc(ctx, func() { notify("STOPPING=1") })
	return s.Serve(ctx, func(url string) {
		notify("READY=1")
		if c.machine() {
			_ = c.emit(map[string]string{"url": url, "adminToken": s.Admin}) // nobody reads: the server serves on
			return
		}
		if s.Admin != "" {
			fmt.Fprintf(c.Out, "admin token %s\n", s.Admin)
		}
		fmt.Fprintf(c.Out, "ready at %s\n", url)
	})
}

// settingRow is a setting as it is shown.
type settingRow struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Env    string `json:"env"`
	Use    string `json:"use"`
}

// settingRows shows settings without what is secret.
func settingRows(v config.Values) []settingRow {
	rows := make([]settingRow, len(v))
	for i, x := range v {
		if x.Secret && x.Text != "" {
			x.Text = "(set)"
		}
		rows[i] = settingRow{x.Name, x.Text, x.Source, x.Env(), x.Summary}
	}
	return rows
}

// policyEngines reads the file with policy engines; without one there are none.
func policyEngines(file string) ([]policy.Engine, error) {
	var known struct {
		Engines []policy.Engine `yaml:"engines"`
	}
	if file == "" {
		return nil, nil
	}
	err := config.Document(file, &known)
	return known.Engines, err
}

func (c *cli) configCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "config", Short: "Show every setting of a server with its value and where that comes from", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := c.settings(cmd, file)
			if err != nil {
				return err
			}
			rows := settingRows(v)
			return c.show(map[string]any{"items": rows}, func(out io.Writer) error {
				lines := [][]string{{"SETTING", "VALUE", "FROM", "WHAT"}}
				for _, r := range rows {
					lines = append(lines, []string{r.Name, r.Value, r.Source, r.Use})
				}
				return columns(out, lines)
			})
		},
	}
	c.settingFlags(cmd, &file)
	return cmd
}
