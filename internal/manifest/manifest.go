// Package manifest reads what an author wrote: a pack as YAML, checked field by field, with a place in the file for
// everything that is wrong.
//
// The language is YAML without its traps: no anchors, aliases, merge keys, tags or second documents, no key twice, no
// field that is not known, at most 64 levels. Text stays text: where a text is expected, no, 1.10 and 2026-01-01 mean the
// characters that stand there. All problems of a file are reported together, up to MaxProblems.
//
// The result speaks the words of package work as far as one file alone can say them; package plan puts files and inputs
// together. docs/reference/pack.md describes the format for authors, spec/pack.schema.json for editors.
package manifest

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/work"
)

// The bounds of a file.
const (
	MaxBytes    = 64 << 20
	MaxNodes    = 4_000_000
	MaxDepth    = 64
	MaxProblems = 20
	MaxItems    = 1_000_000 // items of one map
)

// Manifest is one file, read and checked on its own.
type Manifest struct {
	File string // as it is called in messages

	Name             string
	Version          string
	Description      string
	License          string
	Tags             []string
	TenantVisibility []string
	Maintainers      []Maintainer
	Annotations      map[string]string

	Inputs  []Input // sorted by name
	Steps   []*Step // in the order of the file
	Finally []*Step
	Outputs []Output // sorted by name

	MaxParallel     int
	ContinueOnError bool
	TimeoutMs       int64
	Concurrency     *work.Concurrency
	Sealed          bool

	lines  []string
	secret map[string]bool // inputs by name: whether it is a secret
	uses   []Use           // expressions that belong to no step
}

// Maintainer is a person who answers for a pack.
type Maintainer struct{ Name, Email string }

// Input is a declared input.
type Input struct {
	Pos         Pos
	Name        string
	Type        string // string, integer, number, boolean, list, map, secret
	Items       string // type of the elements of a list, or ""
	Description string
	Required    bool
	Default     []byte // canonical JSON, or nil
	Enum        [][]byte
	Pattern     *regexp.Regexp // of a string; it must match the whole of it
	Min, Max    string         // of a number, as decimal text, or ""
	MinLength   *int           // characters of a string, elements of a list, entries of a map
	MaxLength   *int
	Schema      string // a file with a JSON Schema for the value, or ""
}

// Output is a named result of the pack.
type Output struct {
	work.RunOutput
	Pos Pos
}

// Step is one step as far as its file alone can say it.
type Step struct {
	Pos        Pos
	Name       string // for people
	Message    string // of a gate, for people
	Needs      []Word
	NeedsGiven bool // needs was written, so the order of the list does not count

	// Spec has the local id, the kind and what belongs to it. Parent, Needs and Finally are for the planner to fill in.
	Spec  work.PlanStep
	Steps []*Step // what a container contains; one for a map

	Path    string // of a sub-pack: where its manifest is, relative to this one
	PathPos Pos
	With    map[string]Value // of a sub-pack: what its inputs are set to
	Secrets map[string]Word  // of a sub-pack: its secret inputs -> secret inputs of this pack
	Uses    []Use            // everything in the step that looks at inputs, steps or items
	Files   []Word           // files of the pack that the step runs
}

// Word is a text and where it stands.
type Word struct {
	Text string
	Pos  Pos
}

// Value is canonical JSON whose strings may be templates, and where it stands.
type Value struct {
	JSON []byte
	Pos  Pos
}

// Use is one place where an expression is evaluated or an artifact is taken.
type Use struct {
	Refs     expression.Refs
	Inside   bool           // it sees the steps inside of the container, not those beside it
	Early    bool           // it is evaluated before the run begins
	Artifact work.StepID    // the local id of a step whose Output is placed into the workspace, or ""
	Output   string         // of Artifact
	text     scalarPosition // where the text stands
}

// Pos returns where a character of the text stands in the file.
func (u Use) Pos(offset int) Pos { return u.text.at(offset) }

// Parse reads a manifest. The name is its path, for messages and for the pack's name where the file gives none. The error
// is Problems, which unwraps to its faults.
func Parse(name string, data []byte) (*Manifest, error) {
	r := &reader{file: name}
	root := r.load(data)
	if root == nil {
		return nil, r.result()
	}
	m := &Manifest{File: name, Name: defaultName(name), Version: "0.0.0", secret: map[string]bool{}}
	m.lines = r.lines
	r.envelope(m, root)
	if err := r.result(); err != nil {
		return nil, err
	}
	return m, nil
}

// Uses returns the expressions of the pack that belong to no step.
func (m *Manifest) Uses() []Use { return m.uses }

// Input returns the declared input of that name, or nil.
func (m *Manifest) Input(name string) *Input {
	for i := range m.Inputs {
		if m.Inputs[i].Name == name {
			return &m.Inputs[i]
		}
	}
	return nil
}

// defaultName is the name of the folder of a pack.yaml, or of any other file without its ending.
func defaultName(file string) string {
	file = strings.ReplaceAll(file, `\`, "/")
	base := path.Base(file)
	stem := strings.TrimSuffix(strings.TrimSuffix(base, ".yml"), ".yaml")
	if stem == "pack" || stem == "workflow" {
		stem = path.Base(path.Dir(file))
	}
	stem = strings.Trim(notInName.ReplaceAllString(strings.ToLower(stem), "-"), "-._")
	if stem == "" {
		return "pack"
	}
	return stem[:min(len(stem), 64)]
}

var (
	notInName      = regexp.MustCompile(`[^a-z0-9._-]+`)
	packName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?$`)
	packVersion    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`)
	stepName       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$`)
	inputName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)
	variableName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	labelName      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?$`)
	decimal        = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	fraction       = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?$`)
	hostName       = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	wholeInput     = regexp.MustCompile(`^\$\{\{\s*inputs(?:\.([A-Za-z_][A-Za-z0-9_]*)|\[\s*["']([A-Za-z_][A-Za-z0-9_-]*)["']\s*\])\s*\}\}$`)
	wrapped        = regexp.MustCompile(`(?s)^\s*\$\{\{(.*)\}\}\s*$`)
	durationPart   = regexp.MustCompile(`^([0-9]+)(ms|d|h|m|s)`)
	isoDuration    = regexp.MustCompile(`^P(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?$`)
	size           = regexp.MustCompile(`^([0-9]+)(Ki|Mi|Gi|Ti|k|K|M|G|T|KB|MB|GB)?$`)
	retryableClass = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)
)

// scalarPosition knows where the characters of a scalar stand.
type scalarPosition struct {
	node  *yaml.Node
	lines []string
	skip  int // characters of the node before the text in question
}
