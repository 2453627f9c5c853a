package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
)

func (c *cli) exportCommand() *cobra.Command {
	var kinds []string
	var file string
	cmd := &cobra.Command{
		Use: "export RUN", Short: "Write the output, spans and figures of a run as lines of JSON, by time", Args: exactly(1, "a run"),
		Example: "  orrery runs export @latest --kind span,metric -f run.ndjson",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, run, err := c.lookUp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			var out bytes.Buffer
			if err := control.Export(cmd.Context(), f.Store, &run, kinds, &out); err != nil {
				return err
			}
			if file != "" {
				if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
					return fault.Wrap(fault.Invalid, err, "write %s", file)
				}
				lines := bytes.Count(out.Bytes(), []byte("\n"))
				return c.show(map[string]any{"run": run.ID, "file": file, "records": lines}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s  %d records\n", file, lines)
					return err
				})
			}
			if !c.machine() {
				_, err = out.WriteTo(c.Out)
				return err
			}
			items := []json.RawMessage{}
			for line := range bytes.Lines(out.Bytes()) {
				items = append(items, bytes.TrimSpace(line))
			}
			return c.emit(map[string]any{"items": items})
		},
	}
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds: log, span, metric")
	cmd.Flags().StringVarP(&file, "file", "f", "", "write to a file")
	return cmd
}

func (c *cli) debugCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "debug", Short: "Collect what helps to find out what is wrong",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.debugBundleCommand())
	return cmd
}

func (c *cli) debugBundleCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "bundle", Short: "Write version, settings, checks, counts, metrics, goroutines and the last lines of the log into one archive, without secrets", Args: atMost(0),
		Long: `Bundle writes an archive (tar, gzip) to send to whoever helps. Of a server (--server, or the current context) it holds what that process knows of
itself; that takes an administrator of the installation. Of a data folder it holds what can be seen from outside of the process that works on it.

Secret settings are left out, and whatever has the form of a token, a password in an address or a private key is taken out of every file. Names of
tenants, packs and machines stay: look into it before you send it on.`,
		Example: "  orrery debug bundle -f debug.tar.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out bytes.Buffer
			if err := c.debugBundle(cmd.Context(), cmd, &out); err != nil {
				return err
			}
			if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
				return fault.Wrap(fault.Invalid, err, "write %s", file)
			}
			return c.show(map[string]any{"file": file}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, file)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "orrery-debug.tar.gz", "where to write it")
	return cmd
}

func (c *cli) debugBundle(ctx context.Context, cmd *cobra.Command, w io.Writer) error {
	server, err := c.server()
	if err != nil {
		return err
	}
	if server != nil {
		defer server.Close()
		return server.DebugBundle(ctx, w)
	}
	o, err := c.folderOptions(true)
	if err != nil {
		return err
	}
	v, err := c.settings(cmd, "")
	if err != nil {
		return err
	}
	documents := map[string]any{"config": settingRows(v), "doctor": c.findings(ctx, o)}
	f, err := app.Open(ctx, o)
	if fault.CodeOf(err) == fault.NotFound {
		return app.Bundle(ctx, w, Version, nil, nil, documents)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return app.Bundle(ctx, w, Version, f, nil, documents)
}
