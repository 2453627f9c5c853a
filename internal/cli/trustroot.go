package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
)

func (c *cli) trustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "trust", Short: "Make, sign and publish the signed trust root that workers and verifiers pin",
		Long: `A signed trust root is a keyring with a number and an end, signed by keys with the usage root. Workers that pin one take the next one from the
server, because only those keys can have made it: so a key that is added or revoked reaches every worker, and the server has no say in it.`,
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.createRootCommand(), c.signRootCommand(), c.showRootCommand(), c.publishRootCommand())
	return cmd
}

// rootState is what the commands say of a signed trust root.
type rootState struct {
	File      string `json:"file"`
	Number    int64  `json:"number"`
	IssuedAt  string `json:"issuedAt"`
	ExpiresAt string `json:"expiresAt"`
	Keys      int    `json:"keys"`
	Threshold int    `json:"threshold"`
	Missing   int    `json:"missing"`         // signatures of its own keys
	Before    int    `json:"missingOfBefore"` // signatures of the keys of the one before
}

func (c *cli) showRoot(file string, raw []byte, prev keyring.Root) error {
	r, err := keyring.ReadRoot(raw)
	if err != nil {
		return err
	}
	own, before, err := keyring.Missing(raw, prev)
	if err != nil {
		return err
	}
	s := rootState{file, r.Number, r.IssuedAt.String(), r.ExpiresAt.String(), len(r.Keyring.Keys), r.Threshold, own, before}
	return c.show(s, func(out io.Writer) error {
		fmt.Fprintf(out, "trust root %d  %d keys  ends %s\n", s.Number, s.Keys, s.ExpiresAt)
		switch {
		case own+before > 0:
			_, err = fmt.Fprintf(out, "signatures missing: %d of its own keys, %d of those of the one before\n", own, before)
		default:
			_, err = fmt.Fprintln(out, "complete")
		}
		return err
	})
}

// readRoot reads a signed trust root; nothing for no name.
func readRoot(file string) ([]byte, keyring.Root, error) {
	if file == "" {
		return nil, keyring.Root{}, nil
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, keyring.Root{}, fault.New(fault.NotFound, "there is no trust root %s", file)
	}
	if err != nil {
		return nil, keyring.Root{}, fault.Wrap(fault.Invalid, err, "trust root")
	}
	raw = bytes.TrimSpace(raw)
	r, err := keyring.ReadRoot(raw)
	return raw, r, err
}

// readRoots reads a signed trust root as it is, and the one that it follows.
func readRoots(file, previous string) ([]byte, keyring.Root, error) {
	raw, _, err := readRoot(file)
	if err != nil {
		return nil, keyring.Root{}, err
	}
	_, prev, err := readRoot(previous)
	return raw, prev, err
}

func (c *cli) createRootCommand() *cobra.Command {
	var previous, from, file string
	var threshold int
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create", Short: "Make the next trust root from a keyring, with a first signature", Args: atMost(0),
		Long: `Create takes the keyring of the data folder, or that of --keyring, for instance what "orrery keys trust-root" writes where the keys are.
It needs as many keys with the usage root as --threshold says. Without --previous it makes number 1.`,
		Example: `  orrery keys generate officer --usage root
  orrery trust create --as officer -f root-1.json
  orrery trust create --as officer --previous root-1.json -f root-2.json`,
		RunE: func(*cobra.Command, []string) error {
			if file == "" {
				return fault.New(fault.Invalid, "the trust root is written to a file").WithHint("name it with -f FILE")
			}
			_, prev, err := readRoot(previous)
			if err != nil {
				return err
			}
			ring, err := c.ring()
			if err != nil {
				return err
			}
			trust, err := ring.Trust()
			if err == nil && from != "" {
				trust, err = readKeyring(from)
			}
			if err != nil {
				return err
			}
			if threshold == 0 {
				threshold = max(1, prev.Threshold)
			}
			now := app.Now()
			key, err := ring.Load(c.person(), keyring.RootKey, now)
			if err != nil {
				return err
			}
			next, err := keyring.NextRoot(prev, trust, threshold, now, now.Add(life))
			if err != nil {
				return err
			}
			e, err := next.Sign(key)
			if err != nil {
				return err
			}
			if err := writeWhole(file, append(e.Encode(), '\n')); err != nil {
				return err
			}
			return c.showRoot(file, e.Encode(), prev)
		},
	}
	f := cmd.Flags()
	f.StringVar(&previous, "previous", "", "the trust root that this one follows")
	f.StringVar(&from, "keyring", "", "file with the keyring (default: that of the data folder)")
	f.IntVar(&threshold, "threshold", 0, "how many keys must sign this one and the next (default: as before, or 1)")
	f.DurationVar(&life, "expires", 90*24*time.Hour, "how long it counts")
	f.StringVarP(&file, "file", "f", "", "where to write it")
	return cmd
}

func readKeyring(file string) (keyring.Trust, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return keyring.Trust{}, fault.Wrap(fault.Invalid, err, "keyring")
	}
	return keyring.ParseTrustFile(raw)
}

func (c *cli) signRootCommand() *cobra.Command {
	var previous string
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Add a signature to a trust root", Args: exactly(1, "a trust root"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, prev, err := readRoots(args[0], previous)
			if err != nil {
				return err
			}
			ring, err := c.ring()
			if err != nil {
				return err
			}
			key, err := ring.Load(c.person(), keyring.RootKey, app.Now())
			if err != nil {
				return err
			}
			e, err := keyring.CosignRoot(raw, key)
			if err != nil {
				return err
			}
			if err := writeWhole(args[0], append(e.Encode(), '\n')); err != nil {
				return err
			}
			return c.showRoot(args[0], e.Encode(), prev)
		},
	}
	cmd.Flags().StringVar(&previous, "previous", "", "the trust root that this one follows, to say what is missing")
	return cmd
}

func (c *cli) showRootCommand() *cobra.Command {
	var previous string
	cmd := &cobra.Command{
		Use: "show FILE", Short: "Say what a signed trust root is, and which signatures it lacks", Args: exactly(1, "a trust root"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, prev, err := readRoots(args[0], previous)
			if err != nil {
				return err
			}
			return c.showRoot(args[0], raw, prev)
		},
	}
	cmd.Flags().StringVar(&previous, "previous", "", "the trust root that this one follows, to say what is missing")
	return cmd
}

func (c *cli) publishRootCommand() *cobra.Command {
	return &cobra.Command{
		Use: "publish FILE", Short: "Give a trust root to the server, which hands it on to workers", Args: exactly(1, "a trust root"),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, _, err := readRoot(args[0])
			if err != nil {
				return err
			}
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			out, err := s.PublishTrustRoot(cmd.Context(), raw)
			if err != nil {
				return err
			}
			return c.show(out, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "trust root %d is published\n", out.Number)
				return err
			})
		},
	}
}
