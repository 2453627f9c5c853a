package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/config"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/journal"
)

// telemetrySettings are what servers and workers can be told about what they tell.
func telemetrySettings() []config.Setting {
	return []config.Setting{
		{Name: "log-format", Kind: "text", Default: "json", Summary: "lines of the log: json or text"},
		{Name: "log-level", Kind: "text", Default: "warn", Summary: "least level of the log: debug (every request), info (every end of a run), warn or error"},
		{Name: "otlp-endpoint", Kind: "text", Summary: "http(s)://HOST:PORT of an OpenTelemetry collector that spans are sent to; nothing is sent without"},
		{Name: "metrics-listen", Kind: "text", Summary: "another address that serves /metrics and /healthz, none without"},
		{Name: "metrics-token-file", Kind: "text", Summary: "file with the token that whoever reads metrics must bring, none without"},
		{Name: "metrics-tenants", Kind: "number", Default: "200", Summary: "how many tenants have labels of their own in metrics"},
		{Name: "pprof-listen", Kind: "text", Summary: "address on the loopback that serves /debug/pprof/, none without"},
	}
}

// telling makes what a process tells about itself, by its settings.
func (c *cli) telling(ctx context.Context, v config.Values, o *app.Options) (app.Aside, error) {
	level := v.Text("log-level")
	if c.verbose && level == "warn" {
		level = "info"
	}
	j, err := journal.New(journal.Options{To: c.Err, Format: v.Text("log-format"), Level: level})
	if err != nil {
		return app.Aside{}, err
	}
	o.Log = j.Log()
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "ORRERY_TOKEN"} {
		if value := os.Getenv(name); value != "" {
			j.Hide(name, []byte(value))
		}
	}
	aside := app.Aside{Metrics: v.Text("metrics-listen"), Profiles: v.Text("pprof-listen")}
	if file := v.Text("metrics-token-file"); file != "" {
		raw, err := os.ReadFile(file)
		if aside.Token = strings.TrimSpace(string(raw)); err != nil || aside.Token == "" {
			return app.Aside{}, fault.New(fault.Invalid, "the file %s has no token for metrics", file)
		}
		j.Hide("metrics-token", []byte(aside.Token))
	}
	o.Telemetry, err = app.NewTelemetry(ctx, app.TelemetryOptions{
		Collector: v.Text("otlp-endpoint"), Metrics: true, Tenants: int(v.Number("metrics-tenants")), Version: Version, Journal: j, Log: o.Log,
	})
	return aside, err
}

// flagsOf are the settings that flags of a command have set.
func flagsOf(cmd *cobra.Command, settings []config.Setting) map[string]string {
	out := map[string]string{}
	for _, s := range settings {
		if f := cmd.Flags().Lookup(s.Name); f != nil && f.Changed {
			out[s.Name] = f.Value.String()
		}
	}
	return out
}

func addFlags(cmd *cobra.Command, settings []config.Setting) {
	f := cmd.Flags()
	for _, s := range settings {
		usage := s.Summary
		if s.Default != "" && s.Default != "0" && s.Default != "false" {
			usage += " (default: " + s.Default + ")"
		}
		f.String(s.Name, "", usage)
		if s.Kind == "switch" {
			f.Lookup(s.Name).NoOptDefVal = "true"
		}
	}
}
