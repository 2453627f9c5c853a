package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/config"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (c *cli) workerCommand() *cobra.Command {
	var o app.WorkerOptions
	var labels []string
	cmd := &cobra.Command{
		Use: "worker", Short: "Run steps for a server, from anywhere", Args: atMost(0),
		Long: `Worker connects to a server, claims steps and runs them in the sandbox of this machine. It needs outbound connections only.

It runs what somebody has signed for whom it trusts: the keys in --trust, which is a keyring file as "orrery keys trust-root" writes it, or a
signed trust root of "orrery trust", which the worker replaces by the ones that follow it. --trust-server takes the server's word for that
instead. --rules narrows down who may run which packs here.

SIGTERM lets the steps under way end and takes no more; a second one stops at once.`,
		Example: `  orrery worker --server https://orrery.example.org --token-file token --trust keyring.json --slots 8 --label zone=b`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			v, err := config.Load(telemetrySettings(), config.Sources{Lookup: os.LookupEnv, Flags: flagsOf(cmd, telemetrySettings())})
			if err != nil {
				return err
			}
			return c.work(cmd.Context(), o, v, cmd.Root().PersistentFlags().Changed("tenant"))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Server, "server", envOr("ORRERY_SERVER", ""), "address of the server (default: $ORRERY_SERVER)")
	f.StringVar(&o.TokenFile, "token-file", envOr("ORRERY_TOKEN_FILE", ""), "file with a token that has the scope worker (default: $ORRERY_TOKEN_FILE)")
	f.StringVar(&o.CAFile, "ca", "", "file with the authorities of the server's certificate (default: the system's)")
	f.StringVar(&o.JoinFile, "join-file", "", "file with a token that counts once: the worker gets a certificate for it and renews that")
	f.StringVar(&o.CertFile, "cert", "", "file with the worker's own certificate (PEM)")
	f.StringVar(&o.KeyFile, "key", "", "file with its key (PEM)")
	f.StringVar(&o.Name, "name", "", "name of the worker (default: the name of the machine)")
	f.StringArrayVar(&labels, "label", nil, "key=value that steps may ask for (may be repeated)")
	f.StringVar(&o.TrustFile, "trust", "", "file with the keys of those whose runs are taken: a keyring, or a signed trust root")
	f.BoolVar(&o.TrustServer, "trust-server", false, "take the server's word for whose runs are taken")
	f.StringVar(&o.RulesFile, "rules", "", "file that says whose signatures may run which packs here")
	f.IntVar(&c.slots, "slots", 0, "steps at once (default: twice the processors)")
	f.BoolVar(&c.unsandbox, "allow-unsandboxed", false, "permit steps that ask for tier t0 where the machine has no sandbox")
	f.StringArrayVar(&c.readPaths, "read-path", nil, "a host path that every step may read (may be repeated)")
	addFlags(cmd, telemetrySettings())
	f.StringVar(&c.stepPath, "step-path", "", "PATH of steps (default: the system's folders)")
	c.kernelFlag(cmd)
	cmd.AddCommand(
		c.flowCommand(store.FlowWorker, "cordon", "Let a worker take nothing new; what it runs goes on"),
		c.flowCommand(store.FlowWorker, "uncordon", "Let a worker take work again"),
		c.flowCommand(store.FlowWorker, "drain", "Let a worker end what it runs, take nothing new, and leave"))
	return cmd
}

func parseLabels(in []string) (map[string]string, error) {
	out := map[string]string{}
	for _, l := range in {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fault.New(fault.Invalid, "%q is no label", l).WithHint("write it as --label key=value")
		}
		out[k] = v
	}
	return out, nil
}

func (c *cli) work(ctx context.Context, o app.WorkerOptions, v config.Values, tenant bool) error {
	if o.Server == "" {
		return fault.New(fault.Invalid, "orrery worker needs --server").WithHint("orrery worker --server https://host:port --token-file FILE")
	}
	base, err := c.folderOptions(false)
	if err != nil {
		return err
	}
	o.Options, o.Version = base, Version
	if !tenant && os.Getenv("ORRERY_TENANT") == "" {
		o.Tenant = work.Tenant("") // that of the token
	}
	if o.Name == "" {
		if o.Name, err = os.Hostname(); err != nil {
			o.Name = "worker"
		}
	}
	if o.Aside, err = c.telling(ctx, v, &o.Options); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return fault.Wrap(fault.Internal, err, "data folder %s", o.Dir)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process
	context.AfterFunc(ctx, func() { notify("STOPPING=1") })
	return app.RunWorker(ctx, o, func(name string) {
		notify("READY=1")
		if !c.quiet {
			fmt.Fprintf(c.Out, "joined as %s\n", name)
		}
	})
}
