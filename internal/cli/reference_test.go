package cli

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md")

// TestReference holds docs/reference/cli.md to the commands that there are: go test ./internal/cli -run Reference -update writes it.
func TestReference(t *testing.T) {
	const file = "../../docs/reference/cli.md"
	for _, name := range []string{"ORRERY_DATA", "ORRERY_TENANT", "ORRERY_IDENTITY"} {
		t.Setenv(name, "") // defaults of flags come from them
	}
	var b bytes.Buffer
	b.WriteString("# Commands\n\n<!-- written by: go test ./internal/cli -run Reference -update -->\n\n")
	b.WriteString("Results go to standard output, everything said on the way to standard error. RUN is the name or the id of a run, or\n`@latest` for the newest. ")
	b.WriteString("[Exit codes and output formats](exit-codes.md), [environment](environment.md).\n")
	c := &cli{Streams: Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}}
	root := c.root()
	b.WriteString("\n## Flags of every command\n\n")
	flags(&b, root.PersistentFlags())
	describe(&b, root)
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the commands say; run: go test ./internal/cli -run Reference -update", file)
	}
}

func describe(b *bytes.Buffer, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		if sub.HasSubCommands() && len(sub.Use) == len(sub.Name()) { // a group, which does nothing itself
			describe(b, sub)
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n%s.\n\n", sub.CommandPath(), strings.TrimSuffix(sub.Short, "."))
		fmt.Fprintf(b, "    %s%s\n", strings.TrimSuffix(sub.CommandPath(), sub.Name()), sub.Use)
		if sub.Long != "" {
			fmt.Fprintf(b, "\n%s\n", indentExamples(sub.Long))
		}
		if sub.Example != "" {
			fmt.Fprintf(b, "\nExamples:\n\n%s\n", strings.ReplaceAll("    "+strings.TrimLeft(sub.Example, " "), "\n", "\n  "))
		}
		if sub.LocalNonPersistentFlags().HasAvailableFlags() {
			b.WriteString("\n")
			flags(b, sub.LocalNonPersistentFlags())
		}
		describe(b, sub)
	}
}

// indentExamples keeps what a help text sets apart by two blanks as a block.
func indentExamples(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}

func flags(b *bytes.Buffer, set *pflag.FlagSet) {
	b.WriteString("| Flag | |\n|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		what, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if what != "" {
			name += " " + what
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += " (default " + strings.Trim(f.DefValue, "[]") + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", `\|`))
	})
}
