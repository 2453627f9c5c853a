package cli

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/sandbox/linux"
	"orrery.example/orrery/internal/sandbox/linux/image"
)

//go:embed templates
var templates embed.FS

func templateNames() []string {
	entries, _ := templates.ReadDir("templates") // embedded: it is there
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (c *cli) initCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "init [FOLDER]", Short: "Write a first pack into a folder", Args: atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if !slices.Contains(templateNames(), name) {
				return fault.New(fault.Invalid, "there is no template %q", name).WithHint("templates are: %s", strings.Join(templateNames(), ", "))
			}
			written, err := writeTemplate(name, dir)
			if err != nil {
				return err
			}
			return c.show(map[string]any{"files": written}, func(out io.Writer) error {
				for _, f := range written {
					fmt.Fprintln(out, f)
				}
				c.say("next:  orrery run %s", dir)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&name, "template", "hello", "what to begin with: "+strings.Join(templateNames(), ", "))
	return cmd
}

// writeTemplate copies a template and overwrites nothing.
func writeTemplate(name, dir string) ([]string, error) {
	from, err := fs.Sub(templates, path.Join("templates", name))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "template")
	}
	var written []string
	err = fs.WalkDir(from, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(from, file)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fault.Wrap(fault.Invalid, err, "cannot write")
		}
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return fault.New(fault.Conflict, "%s is there already; nothing is overwritten", to).WithHint("name another folder: orrery init FOLDER")
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "cannot write")
		}
		if _, err := f.Write(raw); err != nil {
			f.Close()
			return fault.Wrap(fault.Internal, err, "cannot write")
		}
		written = append(written, to)
		return f.Close()
	})
	return written, err
}

func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema pack", Short: "Print the JSON Schema of pack.yaml", ValidArgs: []string{"pack"}, Args: exactly(1, "what the schema is of: pack"),
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] != "pack" {
				return fault.New(fault.NotFound, "there is no schema of %q", args[0]).WithHint("orrery schema pack")
			}
			if c.output == "yaml" {
				return c.emit(json.RawMessage(manifest.Schema()))
			}
			_, err := c.Out.Write(manifest.Schema())
			return err
		},
	}
}

// Version is the program's version; the build sets it.
var Version = "0.1.0-dev"

// shimName is the digest of the shim as a person reads it.
func shimName(digest string) string {
	if len(digest) > len("sha256:")+12 {
		return digest[len("sha256:"):][:12]
	}
	return digest
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: atMost(0),
		RunE: func(*cobra.Command, []string) error {
			doc := map[string]string{
				"version": Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "shim": linux.ShimDigest(image.Bytes()),
			}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						doc["revision"] = s.Value
					}
				}
			}
			return c.show(doc, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "orrery %s  %s  %s  shim %s\n", Version, doc["go"], doc["platform"], shimName(doc["shim"]))
				return err
			})
		},
	}
}
