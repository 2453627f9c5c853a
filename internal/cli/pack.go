package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/work"
)

// refOf names a pack by what is in it.
func refOf(p *pack.Pack) work.PackRef {
	src := p.Source()
	return work.PackRef{Name: src.Manifest.Name, Version: src.Manifest.Version, Digest: src.Digest}
}

// loadPack reads a pack that is whole and has no mistakes.
func loadPack(path string) (*pack.Pack, error) {
	p, err := pack.Load(path)
	if err != nil {
		return nil, err
	}
	return p, control.Lint(p)
}

// signPack makes the statement of the person whose key signs here.
func (c *cli) signPack(cmd *cobra.Command, ring *keyring.Folder, ref work.PackRef, note string) ([]byte, error) {
	key, err := ring.Load(c.person(), keyring.Publish, app.Now())
	if err != nil {
		return nil, err
	}
	e, err := evidence.SignPack(cmd.Context(), evidence.PackStatement{Pack: ref, SignedAt: app.Now(), Note: note}, key)
	return e.Encode(), err
}

func (c *cli) signPackCommand() *cobra.Command {
	var file, note string
	cmd := &cobra.Command{
		Use: "sign PATH", Short: "Sign a pack as its author", Args: exactly(1, "the file or folder of a pack"),
		Long: `Sign states with a key of yours that has the usage publish that the pack, with every file in it, is yours. The statement is a file of its own,
which travels beside the pack. It names no server and no tenant.`,
		Example: "  orrery keys generate ada --usage publish\n  orrery packs sign examples/backup --as ada -f backup.signature.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPack(args[0])
			if err != nil {
				return err
			}
			ring, err := c.ring()
			if err != nil {
				return err
			}
			ref := refOf(p)
			raw, err := c.signPack(cmd, ring, ref, note)
			if err != nil {
				return err
			}
			if file == "" {
				file = ref.Name + "-" + ref.Version + ".signature.json"
			}
			if err := writeWhole(file, append(raw, '\n')); err != nil {
				return err
			}
			return c.show(map[string]any{"file": file, "pack": ref, "author": c.person()}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s@%s  %s  signed by %s: %s\n", ref.Name, ref.Version, ref.Digest.Short(), c.person(), file)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write the statement (default: NAME-VERSION.signature.json)")
	cmd.Flags().StringVar(&note, "note", "", "what the author wants to say")
	return cmd
}

func (c *cli) verifyPackCommand() *cobra.Command {
	var signature, trustFile string
	cmd := &cobra.Command{
		Use: "verify PATH", Short: "Check who has signed a pack, offline", Args: exactly(1, "the file or folder of a pack"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPack(args[0])
			if err != nil {
				return err
			}
			trust, err := c.trustRoot(cmd.Context(), trustFile, false)
			if err != nil {
				return err
			}
			raw, err := readSignature(signature)
			if err != nil {
				return err
			}
			e, err := dsse.Decode(raw)
			if err != nil {
				return err
			}
			said, _, err := evidence.VerifyPack(e, trust, app.Now())
			if err != nil {
				return err
			}
			if ref := refOf(p); said.Pack != ref {
				return fault.New(fault.Unverified, "%s signed %s@%s with the digest %s, and this is %s@%s with %s", said.Author, said.Pack.Name, said.Pack.Version,
					said.Pack.Digest.Short(), ref.Name, ref.Version, ref.Digest.Short())
			}
			return c.show(said, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s@%s  %s  signed by %s at %s\n", said.Pack.Name, said.Pack.Version, said.Pack.Digest.Short(), said.Author, said.SignedAt)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&signature, "signature", "", "the statement of the author")
	cmd.Flags().StringVar(&trustFile, "trust", "", "trust root: a keyring.json or a signed trust root (default: the keyring of the data folder)")
	return cmd
}

func readSignature(file string) ([]byte, error) {
	if file == "" {
		return nil, fault.New(fault.Invalid, "which statement?").WithHint("name it with --signature FILE")
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the statement: %v", err)
	}
	return []byte(strings.TrimSpace(string(raw))), nil
}

func (c *cli) publishPackCommand() *cobra.Command {
	var signature string
	cmd := &cobra.Command{
		Use: "publish PATH", Short: "Upload a pack to the server, with the signature of its author", Args: exactly(1, "the file or folder of a pack"),
		Long: `Publish uploads a pack. With a key on this machine that has the usage publish it is signed, too; --signature takes what its author signed elsewhere.
A version that was published stays as it is: other content needs another version.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPack(args[0])
			if err != nil {
				return err
			}
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			ref := refOf(p)
			signed, err := c.signatureOf(cmd, ref, signature)
			if err != nil {
				return err
			}
			if _, err := s.Upload(cmd.Context(), p, ref.Digest); err != nil {
				return err
			}
			out := struct {
				Pack   work.PackRef `json:"pack"`
				Author string       `json:"author,omitempty"`
			}{Pack: ref}
			if signed != nil {
				made, err := s.SignPack(cmd.Context(), ref.Digest, signed)
				if err != nil {
					return err
				}
				out.Author = made.Author
			}
			return c.show(out, func(w io.Writer) error {
				by := "not signed"
				if out.Author != "" {
					by = "signed by " + out.Author
				}
				_, err := fmt.Fprintf(w, "%s@%s  %s  %s\n", ref.Name, ref.Version, ref.Digest, by)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&signature, "signature", "", "the statement of the author, when it was made elsewhere")
	return cmd
}

// signatureOf is the statement in a file, or one that is made now when somebody here can; nil for none.
func (c *cli) signatureOf(cmd *cobra.Command, ref work.PackRef, file string) ([]byte, error) {
	if file != "" {
		return readSignature(file)
	}
	ring, err := c.ring()
	if err != nil {
		return nil, err
	}
	raw, err := c.signPack(cmd, ring, ref, "")
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil
	}
	return raw, err
}

func (c *cli) listPacksCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the packs at the server", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			packs, err := s.Packs(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(map[string]any{"items": list(packs)}, func(out io.Writer) error {
				lines := [][]string{{"PACK", "DIGEST", "BY", "UPLOADED"}}
				for _, p := range packs {
					lines = append(lines, []string{p.Name + "@" + p.Version, work.Digest(p.Digest).Short(), p.By, p.Uploaded})
				}
				return columns(out, lines)
			})
		},
	}
}

func (c *cli) showPackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show PACK", Short: "Show a pack at the server, and who has signed it", Args: exactly(1, "name@version or a digest"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := s.Pack(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			signed, err := s.PackSignatures(cmd.Context(), p.Digest)
			if err != nil {
				return err
			}
			doc := struct {
				api.Pack
				Signatures []api.PackSignature `json:"signatures"`
			}{p, list(signed)}
			return c.show(doc, func(out io.Writer) error {
				fmt.Fprintf(out, "%s@%s  %s\nuploaded by %s at %s, %d files\n", p.Name, p.Version, p.Digest, p.By, p.Uploaded, len(p.Files))
				for _, s := range signed {
					fmt.Fprintf(out, "signed by %s at %s  %s\n", s.Author, s.SignedAt, s.Note)
				}
				return nil
			})
		},
	}
}
