package cli

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/fault"
)

func (c *cli) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Export the audit stream: who changed what in the tenant",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var file string
	export := &cobra.Command{
		Use: "export", Short: "Seal the audit stream and write it to one file", Args: atMost(0),
		Long: `The audit stream of a tenant is sealed in the tenant's log, and written to one tar file with its entries, the leaf that stands for them, and the way from
there to the signed head of the log. "orrery verify FILE" checks it anywhere, offline: that no entry was removed, altered or put in.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.open(cmd.Context(), false)
			if err != nil {
				return err
			}
			defer f.Close()
			var out bytes.Buffer
			switch h := f.home.(type) {
			case *serverHome:
				err = h.Audit(cmd.Context(), &out)
			default:
				err = f.folder.Attest.ExportAudit(cmd.Context(), f.Tenant, &out)
			}
			if err != nil {
				return err
			}
			if file == "-" {
				_, err := out.WriteTo(c.Out)
				return fault.Wrap(fault.Internal, err, "cannot write")
			}
			if file == "" {
				file = string(f.Tenant) + ".audit.tar"
			}
			if err := writeWhole(file, out.Bytes()); err != nil {
				return err
			}
			return c.show(map[string]any{"tenant": f.Tenant, "file": file, "bytes": out.Len()}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, file)
				return err
			})
		},
	}
	export.Flags().StringVarP(&file, "file", "f", "", "where to write it; - for standard output (default: TENANT.audit.tar)")
	cmd.AddCommand(export)
	return cmd
}
