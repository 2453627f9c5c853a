package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

func (c *cli) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "Make, list, export, trust and revoke keys",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.generateKeyCommand(), c.listKeysCommand(), c.exportKeysCommand(), c.trustKeyCommand(), c.trustRootCommand(), c.revokeKeyCommand())
	return cmd
}

// ring is the keyring of the data folder, without opening the rest of it.
func (c *cli) ring() (*keyring.Folder, error) {
	o, err := c.folderOptions(false)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "data folder %s", o.Dir)
	}
	return keyring.Open(o.Dir), nil
}

// everyUsage names what keys are for.
func everyUsage() string {
	var names []string
	for _, u := range keyring.Usages() {
		names = append(names, string(u))
	}
	return strings.Join(names, ", ")
}

func usages(names []string) ([]keyring.Usage, error) {
	var out []keyring.Usage
	for _, n := range names {
		known := false
		for _, u := range keyring.Usages() {
			known = known || string(u) == n
		}
		if !known {
			return nil, fault.New(fault.Invalid, "%q is no use of a key", n).WithHint("uses are %v", keyring.Usages())
		}
		out = append(out, keyring.Usage(n))
	}
	return out, nil
}

// trusted returns the keyring of the data folder with what it trusts.
func (c *cli) trusted() (*keyring.Folder, keyring.Trust, error) {
	ring, err := c.ring()
	if err != nil {
		return nil, keyring.Trust{}, err
	}
	trust, err := ring.Trust()
	return ring, trust, err
}

// showKey prints a key in one line.
func (c *cli) showKey(k keyring.Key) error {
	return c.show(k, func(out io.Writer) error {
		_, err := fmt.Fprintf(out, "%s  %s  %v\n", k.Name, k.ID, k.Usage)
		return err
	})
}

func (c *cli) generateKeyCommand() *cobra.Command {
	var use []string
	cmd := &cobra.Command{
		Use: "generate NAME", Short: "Make a key for a person and trust it here", Args: exactly(1, "a name"),
		RunE: func(_ *cobra.Command, args []string) error {
			ring, err := c.ring()
			if err != nil {
				return err
			}
			u, err := usages(use)
			if err != nil {
				return err
			}
			algorithm := keyring.Ed25519
			for _, x := range u {
				if x == keyring.Attest {
					algorithm = keyring.ECDSAP256
				}
			}
			key, err := ring.Generate(args[0], algorithm, u, app.Now())
			if err != nil {
				return err
			}
			return c.showKey(key.Key)
		},
	}
	cmd.Flags().StringSliceVar(&use, "usage", []string{"approve", "submit"}, "what it is for: "+everyUsage())
	return cmd
}

func (c *cli) listKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys that are trusted here", Args: atMost(0),
		RunE: func(*cobra.Command, []string) error {
			ring, trust, err := c.trusted()
			if err != nil {
				return err
			}
			held, err := ring.Held()
			if err != nil {
				return err
			}
			private := map[string]bool{}
			for _, k := range held {
				private[k.ID] = true
			}
			return c.show(map[string]any{"items": list(trust.Keys)}, func(out io.Writer) error {
				rows := [][]string{{"NAME", "KEY", "ALGORITHM", "USE", "PRIVATE PART", "STATE"}}
				for _, k := range trust.Keys {
					state := "trusted"
					if k.Revoked != nil {
						state = "revoked: " + string(k.Revoked.Reason)
					} else if k.NotAfter != 0 {
						state = "until " + k.NotAfter.String()
					}
					here := "elsewhere"
					if private[k.ID] {
						here = "here"
					}
					rows = append(rows, []string{k.Name, k.ID[:16], string(k.Algorithm), fmt.Sprint(k.Usage), here, state})
				}
				return columns(out, rows)
			})
		},
	}
}

func (c *cli) exportKeysCommand() *cobra.Command {
	var use string
	cmd := &cobra.Command{
		Use:   "export [NAME]",
		Short: "Print public keys as PEM",
		Long:  "Export prints the public keys that are trusted here, all of them or those of one name or use, as PEM.",
		Args:  atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, trust, err := c.trusted()
			if err != nil {
				return err
			}
			var chosen []keyring.Key
			for _, k := range trust.Keys {
				if (len(args) == 0 || k.Name == args[0]) && (use == "" || k.May(keyring.Usage(use))) {
					chosen = append(chosen, k)
				}
			}
			if len(chosen) == 0 {
				return fault.New(fault.NotFound, "no key here is meant").WithHint("orrery keys list")
			}
			return c.show(map[string]any{"items": chosen}, func(out io.Writer) error {
				for _, k := range chosen {
					fmt.Fprint(out, strings.TrimRight(k.Public, "\n")+"\n")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&use, "usage", "", "only keys for this use")
	return cmd
}

func (c *cli) trustKeyCommand() *cobra.Command {
	var use []string
	var from string
	cmd := &cobra.Command{
		Use: "trust NAME FILE", Short: "Trust somebody's public key (PEM)", Args: exactly(2, "a name and a PEM file"),
		RunE: func(_ *cobra.Command, args []string) error {
			ring, err := c.ring()
			if err != nil {
				return err
			}
			u, err := usages(use)
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(args[1])
			if err != nil {
				return fault.Wrap(fault.NotFound, err, "public key")
			}
			begin := app.Now()
			if from != "" {
				at, err := time.Parse(time.RFC3339, from)
				if err != nil {
					return fault.New(fault.Invalid, "%q is no time", from).WithHint("write it like 2026-01-31T12:00:00Z")
				}
				begin = work.At(at)
			}
			key, err := ring.Import(args[0], raw, u, begin)
			if err != nil {
				return err
			}
			return c.showKey(key)
		},
	}
	cmd.Flags().StringSliceVar(&use, "usage", []string{"approve"}, "what it is trusted for: "+everyUsage())
	cmd.Flags().StringVar(&from, "from", "", "from when on, for what was signed before today (RFC 3339; default: now)")
	return cmd
}

func (c *cli) trustRootCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "trust-root", Short: "Write the trust root that verifiers elsewhere pin", Args: atMost(0),
		RunE: func(*cobra.Command, []string) error {
			_, trust, err := c.trusted()
			if err != nil {
				return err
			}
			raw, err := trust.Encode()
			if err != nil {
				return err
			}
			if file == "" || file == "-" {
				if c.output == "yaml" {
					return c.emit(json.RawMessage(raw))
				}
				_, err := fmt.Fprintf(c.Out, "%s\n", raw)
				return err
			}
			if err := writeWhole(file, append(raw, '\n')); err != nil {
				return err
			}
			return c.show(map[string]any{"file": file, "keys": len(trust.Keys)}, func(out io.Writer) error {
				_, err := fmt.Fprintln(out, file)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write it (default: standard output)")
	return cmd
}

func (c *cli) revokeKeyCommand() *cobra.Command {
	var compromised bool
	var note string
	cmd := &cobra.Command{
		Use: "revoke KEY", Short: "End the trust in a key, by its id or the start of it", Args: exactly(1, "a key id"),
		RunE: func(_ *cobra.Command, args []string) error {
			ring, trust, err := c.trusted()
			if err != nil {
				return err
			}
			var found []keyring.Key
			for _, k := range trust.Keys {
				if strings.HasPrefix(k.ID, args[0]) {
					found = append(found, k)
				}
			}
			if len(args[0]) < 8 || len(found) != 1 {
				return fault.New(fault.NotFound, "%d keys begin with %q", len(found), args[0]).WithHint("give at least 8 digits of the id; orrery keys list")
			}
			reason := keyring.Superseded
			if compromised {
				reason = keyring.Compromised
			}
			revocation := keyring.Revocation{At: app.Now(), Reason: reason, Note: note}
			if err := ring.Revoke(found[0].ID, revocation); err != nil {
				return err
			}
			found[0].Revoked = &revocation
			return c.show(found[0], func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s of %s is revoked: %s\n", found[0].ID[:16], found[0].Name, reason)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&compromised, "compromised", false, "somebody else may have the key: what it signed counts only where the time is proved otherwise")
	cmd.Flags().StringVar(&note, "note", "", "why")
	return cmd
}
