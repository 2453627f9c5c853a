package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
)

func (c *cli) backupCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "backup", Short: "Write the whole data folder to one file, also while a server works on it", Args: atMost(0),
		Long: `Backup copies the store as it is at one moment, and every file beside it: artifacts, packs, evidence, keys, encryption.key.
The file holds private keys; only you can read it. A server keeps answering meanwhile. Run it on the server's machine: keys do
not leave a server over the network.`,
		Example: "  orrery backup --data /var/lib/orrery -f orrery-backup.tar",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return fault.New(fault.Invalid, "a backup needs a file").WithHint("orrery backup -f FILE")
			}
			dir, err := c.localFolder()
			if err != nil {
				return err
			}
			to, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fault.New(fault.Invalid, "the backup: %v", err)
			}
			err = app.Backup(cmd.Context(), to, dir, Version)
			if err = errors.Join(err, to.Sync()); err != nil {
				return errors.Join(err, to.Close(), os.Remove(file)) // half a backup is none
			}
			info, err := to.Stat()
			if err = errors.Join(err, to.Close()); err != nil {
				return fault.Wrap(fault.Internal, err, "the backup")
			}
			made := map[string]any{"file": file, "bytes": info.Size()}
			return c.show(made, func(out io.Writer) error {
				_, err := fmt.Fprintln(out, file)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to write, which must not exist")
	return cmd
}

func (c *cli) restoreCommand() *cobra.Command {
	var store string
	var raise bool
	cmd := &cobra.Command{
		Use: "restore [FILE]", Short: "Make a data folder out of a backup; workers of before can report nothing to it", Args: atMost(1),
		Long: `Restore fills a folder that is empty or not there yet. Leases that were given out before are refused from then on: a worker
that went on after the moment of the backup cannot mix its results into what runs again.

A PostgreSQL is restored with its own tools, with every server stopped. Say that it was, before the first server starts:
orrery restore --raise-incarnation --store postgres://…`,
		Example: "  orrery restore orrery-backup.tar --data /var/lib/orrery\n  orrery restore --raise-incarnation --store postgres://orrery@db/orrery",
		RunE: func(cmd *cobra.Command, args []string) error {
			if raise || len(args) == 0 {
				if !raise || len(args) > 0 || store == "" {
					return fault.New(fault.Invalid, "a backup is restored from a FILE").WithHint("of a PostgreSQL: orrery restore --raise-incarnation --store postgres://…")
				}
				n, err := app.RaiseIncarnation(cmd.Context(), store)
				if err != nil {
					return err
				}
				return c.show(map[string]any{"incarnation": n}, func(out io.Writer) error {
					_, err := fmt.Fprintf(out, "incarnation %d\n", n)
					return err
				})
			}
			dir, err := c.localFolder()
			if err != nil {
				return err
			}
			from, err := os.Open(args[0])
			if err != nil {
				return fault.New(fault.NotFound, "the backup: %v", err)
			}
			defer from.Close()
			info, err := app.Restore(cmd.Context(), from, dir)
			if err != nil {
				return err
			}
			return c.show(map[string]any{"folder": dir, "made": info.Made, "version": info.Version}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s is as it was at %s\n", dir, info.Made.Format("2006-01-02 15:04:05Z07:00"))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&raise, "raise-incarnation", false, "refuse the leases of before in a PostgreSQL that was restored")
	cmd.Flags().StringVar(&store, "store", os.Getenv("ORRERY_STORE"), "postgres://… (default: $ORRERY_STORE)")
	return cmd
}

// localFolder is the data folder on this machine, for what is not done over the network.
func (c *cli) localFolder() (string, error) {
	server, err := c.server()
	if err != nil {
		return "", err
	}
	if server != nil {
		return "", fault.New(fault.Invalid, "this works on the data folder, on the machine that has it").WithHint("name the folder with --data")
	}
	o, err := c.folderOptions(true)
	return o.Dir, err
}
