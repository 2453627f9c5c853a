package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
)

// reader walks the nodes of one file and collects what is wrong with it.
type reader struct {
	file     string
	lines    []string
	problems []problem
	more     int // problems beyond those kept

	defaults defaults        // of the pack, for its run steps
	secret   map[string]bool // declared inputs: whether each is a secret
	uses     *[]Use          // where the uses of what is being read are collected

	programs  map[string]*expression.Program // compiled before in this file
	templates map[string]*expression.Template
}

var yamlLine = regexp.MustCompile(`^yaml: line ([0-9]+): (.*)$`)

// load parses the file and refuses what this package does not want of YAML. It returns nil after a problem that hides the rest.
func (r *reader) load(data []byte) *yaml.Node {
	switch {
	case len(data) > MaxBytes:
		r.report(Pos{}, "move generated lists into inputs or files", "the file has %d bytes, more than the %d allowed", len(data), MaxBytes)
		return nil
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		r.lines = strings.Split(string(data[3:]), "\n")
		r.report(Pos{1, 1}, "save it as UTF-8 without BOM", "the file begins with a byte order mark")
		return nil
	case !utf8.Valid(data):
		line := 1
		for i, l := range bytes.Split(data, []byte("\n")) {
			if !utf8.Valid(l) {
				line = i + 1
				break
			}
		}
		r.report(Pos{line, 1}, "save it as UTF-8", "the file is not UTF-8")
		return nil
	}
	r.lines = strings.Split(string(data), "\n")
	// The parser itself stops at 10,000 levels, in time that grows with the bytes; the tree is held to MaxDepth below.
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		r.report(Pos{}, `the shortest pack is "steps: [{run: echo hello}]"`, "the file is empty")
		return nil
	}
	if err != nil {
		r.syntax(err)
		return nil
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		r.report(Pos{second.Line, max(1, second.Column)}, "keep one pack in one file", "a second document begins here")
		return nil
	}
	nodes := 0
	if !r.gate(&document, 0, &nodes) {
		return nil
	}
	return document.Content[0]
}

func (r *reader) syntax(err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	pos := Pos{}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		pos.Line, _ = strconv.Atoi(m[1])
		pos.Column, message = 1, m[2]
		if pos.Line <= len(r.lines) {
			pos.Column += len(r.lines[pos.Line-1]) - len(strings.TrimLeft(r.lines[pos.Line-1], " "))
		}
	}
	hint := ""
	switch {
	case strings.Contains(message, "exceeded max depth"):
		hint = fmt.Sprintf("at most %d levels are allowed", MaxDepth)
	case strings.Contains(message, "mapping values are not allowed"):
		hint = `put a text that contains ": " in quotes, or check the indentation`
	case strings.Contains(message, "found character that cannot start any token"):
		hint = "YAML is indented with spaces, not tabs; a text that begins with @, ` or % stands in quotes"
	case strings.Contains(message, "did not find expected ',' or"):
		hint = "check for a comma that is missing; inside of [ ] and { } put a text that contains ? : , or brackets in quotes"
	case strings.Contains(message, "did not find expected"):
		hint = "check the indentation of this line and the one before it"
	}
	r.report(pos, hint, "this is no YAML: %s", message)
}

// gate refuses anchors, aliases, merge keys, tags and depth. It returns false when the tree must not be walked.
func (r *reader) gate(n *yaml.Node, depth int, nodes *int) bool {
	if *nodes++; *nodes > MaxNodes {
		r.problem(n, "split the pack", "the file has more than %d values", MaxNodes)
		return false
	}
	if depth > MaxDepth+1 {
		r.problem(n, "", "values lie more than %d levels inside each other", MaxDepth)
		return false
	}
	switch {
	case n.Kind == yaml.AliasNode:
		r.problem(n, "write the value out, or give it as an input", "aliases are not supported (*%s)", n.Value)
		return true
	case n.Anchor != "":
		r.problem(n, "write the value out where it is needed", "anchors are not supported (&%s)", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		r.problem(n, "put texts in quotes instead", "tags are not supported (%s)", n.Tag)
	case n.Tag == "!!merge":
		r.problem(n, "write the fields out; what all run steps share goes into env, retry and sandbox of the pack", "merge keys are not supported (<<)")
	}
	for _, child := range n.Content {
		if !r.gate(child, depth+1, nodes) {
			return false
		}
	}
	return true
}

func (r *reader) problem(n *yaml.Node, hint, format string, args ...any) {
	pos := Pos{}
	if n != nil {
		pos = Pos{n.Line, n.Column}
	}
	r.report(pos, hint, format, args...)
}

func (r *reader) report(pos Pos, hint, format string, args ...any) {
	if len(r.problems) >= MaxProblems {
		r.more++
		return
	}
	e := faultAt(r.file, r.lines, pos, fmt.Sprintf(format, args...))
	e.Hint = hint
	r.problems = append(r.problems, problem{pos, e})
}

// problem is one thing that is wrong, and where.
type problem struct {
	pos Pos
	err *fault.Error
}

func (r *reader) result() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int {
		return cmp.Or(a.pos.Line-b.pos.Line, a.pos.Column-b.pos.Column)
	})
	out := make(Problems, 0, len(r.problems)+1)
	for _, p := range r.problems {
		out = append(out, p.err)
	}
	if r.more > 0 {
		out = append(out, fault.New(fault.Invalid, "%s: and %d problems more", r.file, r.more))
	}
	return out
}

// field is one key of a mapping and its value.
type field struct {
	key   *yaml.Node
	name  string
	value *yaml.Node
}

// fields returns the fields of a mapping, each key once; nil after a problem.
func (r *reader) fields(n *yaml.Node, what string) []field {
	if n.Kind != yaml.MappingNode {
		r.problem(n, "", "%s must be a mapping (name: value), not %s", what, kindOf(n))
		return nil
	}
	out := make([]field, 0, len(n.Content)/2)
	var seen map[string]bool
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			r.problem(key, "", "a key must be a plain text, not %s", kindOf(key))
			continue
		}
		double := false
		if len(out) < 16 {
			for _, f := range out {
				double = double || f.name == key.Value
			}
		} else {
			if seen == nil {
				seen = make(map[string]bool, len(n.Content)/2)
				for _, f := range out {
					seen[f.name] = true
				}
			}
			double = seen[key.Value]
			seen[key.Value] = true
		}
		if double {
			r.problem(key, "keep one of them", "the key %q stands twice", key.Value)
			continue
		}
		out = append(out, field{key, key.Value, n.Content[i+1]})
	}
	return out
}

// unknown reports a field that a mapping does not have.
func (r *reader) unknown(f field, what string, known []string) {
	r.problem(f.key, Choices(f.name, known), "%s has no field %q", what, f.name)
}

// list returns the elements of a sequence; nil after a problem.
func (r *reader) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.problem(n, "", "%s must be a list, not %s", what, kindOf(n))
		return nil
	}
	return n.Content
}

// text returns the characters of a scalar as they were written, whatever type YAML gives them.
func (r *reader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode {
		r.problem(n, "", "%s must be a text, not %s", what, kindOf(n))
		return ""
	}
	if n.Tag == "!!null" {
		r.problem(n, `an empty text is written ""`, "%s is empty", what)
		return ""
	}
	return n.Value
}

// texts returns a list of texts; a single text counts as a list of one.
func (r *reader) texts(n *yaml.Node, what string) []string {
	if n.Kind == yaml.ScalarNode {
		return []string{r.text(n, what)}
	}
	elements := r.list(n, what)
	out := make([]string, 0, len(elements))
	for _, e := range elements {
		out = append(out, r.text(e, "an entry of "+what))
	}
	return out
}

func (r *reader) boolean(n *yaml.Node, what string) bool {
	if n.Kind == yaml.ScalarNode && n.Style == 0 {
		switch n.Value {
		case "true":
			return true
		case "false":
			return false
		}
	}
	r.problem(n, "write true or false, without quotes", "%s must be true or false, not %s", what, kindOf(n))
	return false
}

// integer returns a whole number between least and most.
func (r *reader) integer(n *yaml.Node, what string, least, most int64) int64 {
	if n.Kind != yaml.ScalarNode || n.Style != 0 || !decimal.MatchString(n.Value) {
		r.problem(n, "", "%s must be a whole number, not %s", what, kindOf(n))
		return least
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || v < least || v > most {
		r.problem(n, "", "%s must be between %d and %d, not %s", what, least, most, n.Value)
		return least
	}
	return v
}

// name returns a text that follows a pattern.
func (r *reader) name(n *yaml.Node, what string, pattern *regexp.Regexp, rule string) string {
	before := len(r.problems) + r.more
	s := r.text(n, what)
	if len(r.problems)+r.more == before && !pattern.MatchString(s) {
		r.problem(n, rule, "%s cannot be %q", what, s)
	}
	return s
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "empty"
	case n.Style != 0:
		return "the text " + strconv.Quote(short(n.Value))
	default:
		return strconv.Quote(short(n.Value))
	}
}

func short(s string) string {
	if utf8.RuneCountInString(s) > 40 {
		return string([]rune(s)[:40]) + "…"
	}
	return s
}
