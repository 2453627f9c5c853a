package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
)

func (c *cli) gcCommand() *cobra.Command {
	var dry bool
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove files that nothing names any more; a server does so by itself, twice a day", Args: atMost(0),
		Long: `Files are outputs of steps, files of packs and evidence. One goes when two looks have found that no run, no pack, no result that
may be used again and no kept evidence names it, with the grace between the looks, and nobody has stored it or asked for it meanwhile.
So the first gc after a deletion of runs removes nothing yet: it notes what the next one may remove.`,
		Example: "  orrery gc --dry-run\n  orrery gc --grace 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if grace < 0 {
				return fault.New(fault.Invalid, "--grace is not negative")
			}
			f, err := c.open(cmd.Context(), dry)
			if err != nil {
				return err
			}
			defer f.Close()
			var out api.Collection
			if h, remote := f.home.(*serverHome); remote {
				if cmd.Flags().Changed("grace") {
					return fault.New(fault.Invalid, "a server has a grace of its own").WithHint("orrery up --blob-grace %s", grace)
				}
				out, err = h.Collect(cmd.Context(), api.CollectRequest{DryRun: dry})
			} else {
				out, err = c.collectHere(cmd.Context(), f, grace, dry)
			}
			if err != nil {
				return err
			}
			return c.show(out, func(w io.Writer) error { return listCollection(w, &out) })
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	cmd.Flags().DurationVar(&grace, "grace", collect.DefaultGrace, "how long a file stays that nothing names")
	return cmd
}

// collectHere collects in the data folder.
func (c *cli) collectHere(ctx context.Context, f *place, grace time.Duration, dry bool) (out api.Collection, err error) {
	collector := f.folder.Collector(grace)
	var found collect.Result
	if dry {
		found, err = collector.Preview(ctx, f.Tenant)
	} else {
		audited := store.WithAudit(ctx, &store.Audit{Tenant: f.Tenant, Action: "collectBlobs", Actor: c.person(), Kind: "user"})
		found, err = collector.Collect(audited, f.Tenant)
	}
	if err != nil {
		return out, err
	}
	err = reshape(found, &out)
	out.DryRun = dry
	return out, err
}

func listCollection(w io.Writer, r *api.Collection) error {
	verb := "removed"
	if r.DryRun {
		verb = "would go"
	}
	if r.Held != "" {
		fmt.Fprintf(w, "nothing goes at the moment: %s\n", r.Held)
	}
	return columns(w, [][]string{
		{verb, fmt.Sprint(r.Freed.Blobs), "file(s)", fmt.Sprint(r.Freed.Bytes), "bytes"},
		{"waiting", fmt.Sprint(r.Waiting.Blobs), "file(s)", fmt.Sprint(r.Waiting.Bytes), "bytes"},
		{"kept", fmt.Sprint(r.Kept.Blobs), "file(s)", fmt.Sprint(r.Kept.Bytes), "bytes"},
	})
}
