package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

func (c *cli) machine() bool { return c.output == "json" || c.output == "yaml" }

// emit writes a document as JSON or YAML.
func (c *cli) emit(v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "output")
	}
	if c.output == "yaml" {
		var plain any
		if err := yaml.Unmarshal(raw, &plain); err != nil { // JSON is YAML: this keeps numbers and names as they are
			return fault.Wrap(fault.Internal, err, "output")
		}
		if raw, err = yaml.Marshal(plain); err != nil {
			return fault.Wrap(fault.Internal, err, "output")
		}
		_, err = c.Out.Write(raw)
		return err
	}
	if _, _, people := terminal(c.Out); !people {
		// One document, one line: what a program reads need not be pretty.
		var line bytes.Buffer
		if err := json.Compact(&line, raw); err != nil {
			return fault.Wrap(fault.Internal, err, "output")
		}
		raw = line.Bytes()
	}
	_, err = fmt.Fprintf(c.Out, "%s\n", raw)
	return err
}

// show writes a document for machines, or calls table for people.
func (c *cli) show(v any, table func(w io.Writer) error) error {
	switch c.output {
	case "json", "yaml":
		return c.emit(v)
	default:
		return table(c.Out)
	}
}

// list is what programs read of several things: "[]" when there are none, not "null".
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// columns aligns rows; the first is the head.
func columns(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// say tells people something on the way; it is no result.
func (c *cli) say(format string, args ...any) {
	if !c.quiet && !c.machine() {
		fmt.Fprintf(c.Err, format+"\n", args...)
	}
}

// report writes an error: what, where, what to do.
func (c *cli) report(err error) {
	var problems manifest.Problems
	if errors.As(err, &problems) && !c.machine() {
		for _, p := range problems {
			c.reportOne(p, p)
		}
		return
	}
	c.reportOne(err, nil)
}

func (c *cli) reportOne(err error, e *fault.Error) {
	if e == nil && !errors.As(err, &e) {
		e = &fault.Error{Code: fault.Internal}
	}
	if c.machine() {
		doc := map[string]any{
			"code": fault.CodeOf(err), "message": err.Error(), "where": e.Where, "hint": e.Hint, "exitCode": fault.Exit(err),
		}
		if problems := problemsOf(err); len(problems) > 1 {
			doc["problems"] = problems
		}
		raw, _ := json.Marshal(map[string]any{"error": doc}) // strings and a number cannot fail
		fmt.Fprintf(c.Err, "%s\n", raw)
		return
	}
	if fault.CodeOf(err) == fault.RunFailed || fault.CodeOf(err) == fault.Pending {
		return // the run's own last lines have said it
	}
	fmt.Fprintf(c.Err, "%s %s\n", c.paint(c.Err, "31;1", "Error:"), err)
	if e.Snippet != "" {
		fmt.Fprintln(c.Err, indent(e.Snippet, "  "))
	}
	if e.Hint != "" {
		fmt.Fprintf(c.Err, "  hint: %s\n", e.Hint)
	}
}

// Problem is one mistake in a pack.
type Problem struct {
	Message string `json:"message"`
	Where   string `json:"where,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// problemsOf lists what is wrong with a pack, one by one.
func problemsOf(err error) []Problem {
	var all manifest.Problems
	var one *fault.Error
	switch {
	case errors.As(err, &all):
	case errors.As(err, &one):
		all = manifest.Problems{one}
	default:
		return []Problem{{Message: err.Error()}}
	}
	out := make([]Problem, len(all))
	for i, p := range all {
		out[i] = Problem{Message: p.Message, Where: p.Where, Hint: p.Hint}
	}
	return out
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by)
}

// terminal reports whether a stream is one, and its size.
func terminal(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return width, height, err == nil && width > 0
}

// paint colours text where the stream and the user want it.
func (c *cli) paint(w io.Writer, code, s string) string {
	on := c.color == "always"
	if c.color == "auto" && os.Getenv("NO_COLOR") == "" {
		_, _, on = terminal(w)
	}
	if !on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func stateColor(s work.State) string {
	switch s {
	case work.Succeeded:
		return "32"
	case work.Failed, work.Dead, work.TimedOut:
		return "31"
	case work.Running:
		return "34"
	case work.Waiting:
		return "33"
	case work.Retrying:
		return "35"
	default:
		return "90"
	}
}

// badge is a state with its glyph.
func (c *cli) badge(w io.Writer, s work.State) string {
	word := s.Word()
	return c.paint(w, stateColor(s), word.Glyph+" "+word.Word)
}
