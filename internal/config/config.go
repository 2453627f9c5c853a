// Package config reads settings from a file, the environment and flags, and remembers of each where it comes from.
//
// A flag wins over the environment, the environment over the file, the file over the default. What nobody knows is refused: a setting
// with a spelling mistake is not a setting that was made.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/fault"
)

// Setting is one thing that can be set. Its environment variable is ORRERY_ and its name in capitals.
type Setting struct {
	Name    string
	Kind    string // text, number, switch, duration or list
	Default string
	Summary string
	Secret  bool // its value is not shown
}

// Env returns the variable of a setting.
func (s Setting) Env() string {
	return "ORRERY_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Value is a setting with what it is set to, and by what.
type Value struct {
	Setting
	Text   string
	Source string // "default", "file PATH", "environment ORRERY_…" or "flag --…"
}

// Values are all settings.
type Values []Value

// Sources are where settings come from.
type Sources struct {
	File   string                      // "" for none
	Lookup func(string) (string, bool) // of the environment
	Flags  map[string]string           // those that were given
}

// maxFile bounds a file of settings.
const maxFile = 1 << 20

// Load reads every setting. Errors: fault.Invalid for an unknown key or a value that cannot be read, fault.NotFound for a missing file.
func Load(settings []Setting, from Sources) (Values, error) {
	file, err := readFile(from.File)
	if err != nil {
		return nil, err
	}
	var out Values
	for _, s := range settings {
		v := Value{Setting: s, Text: s.Default, Source: "default"}
		if text, ok := file[s.Name]; ok {
			v.Text, v.Source = text, "file "+from.File
			delete(file, s.Name)
		}
		if text, ok := from.Lookup(s.Env()); ok && text != "" {
			v.Text, v.Source = text, "environment "+s.Env()
		}
		if text, ok := from.Flags[s.Name]; ok {
			v.Text, v.Source = text, "flag --"+s.Name
		}
		if err := v.check(); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	for key := range file {
		e := fault.New(fault.Invalid, "there is no setting %q", key).At(from.File)
		if near := nearest(settings, key); near != "" {
			return nil, e.WithHint("did you mean %q?", near)
		}
		return nil, e.WithHint("orrery config lists the settings")
	}
	return out, nil
}

// readFile reads a flat YAML mapping.
func readFile(name string) (map[string]string, error) {
	if name == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no file %s with settings", name)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "settings")
	}
	if len(raw) > maxFile {
		return nil, fault.New(fault.Invalid, "the file %s is larger than %d bytes", name, maxFile)
	}
	var plain map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&plain); err != nil && len(bytes.TrimSpace(raw)) > 0 {
		return nil, fault.New(fault.Invalid, "settings are lines like listen: 127.0.0.1:8420: %v", err).At(name)
	}
	out := map[string]string{}
	for key, v := range plain {
		switch x := v.(type) {
		case []any:
			parts := make([]string, len(x))
			for i := range x {
				parts[i] = fmt.Sprint(x[i])
			}
			out[key] = strings.Join(parts, ",")
		case map[string]any:
			return nil, fault.New(fault.Invalid, "the setting %q has no settings below it", key).At(name)
		case nil:
			out[key] = ""
		default:
			out[key] = fmt.Sprint(x)
		}
	}
	return out, nil
}

// Document reads a YAML file of its own, for what does not fit into a line. Fields that nobody knows are refused. Errors: fault.NotFound,
// fault.Invalid.
func Document(name string, into any) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "there is no file %s with settings", name)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "settings")
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(raw) > maxFile {
		return fault.New(fault.Invalid, "the file %s cannot be read, or is larger than %d bytes", name, maxFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return fault.New(fault.Invalid, "%v", err).At(name)
	}
	return nil
}

func (v Value) check() error {
	var err error
	switch v.Kind {
	case "number":
		_, err = strconv.ParseFloat(v.Text, 64)
	case "switch":
		_, err = strconv.ParseBool(v.Text)
	case "duration":
		_, err = time.ParseDuration(v.Text)
	}
	if err != nil {
		return fault.New(fault.Invalid, "%s is a %s, not %q (%s)", v.Name, v.Kind, v.Text, v.Source)
	}
	return nil
}

// nearest returns the setting whose name differs least, "" when none is near.
func nearest(settings []Setting, key string) string {
	best, least := "", 3
	for _, s := range settings {
		if d := distance(s.Name, key); d < least {
			best, least = s.Name, d
		}
	}
	return best
}

// distance is how many letters must change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func (v Values) text(name string) string {
	i := slices.IndexFunc(v, func(x Value) bool { return x.Name == name })
	if i < 0 {
		return ""
	}
	return v[i].Text
}

// Text returns a setting.
func (v Values) Text(name string) string { return v.text(name) }

// Number returns a number; Load has checked it.
func (v Values) Number(name string) float64 {
	n, _ := strconv.ParseFloat(v.text(name), 64)
	return n
}

// On returns a switch; Load has checked it.
func (v Values) On(name string) bool {
	on, _ := strconv.ParseBool(v.text(name))
	return on
}

// Duration returns a duration; Load has checked it.
func (v Values) Duration(name string) time.Duration {
	d, _ := time.ParseDuration(v.text(name))
	return d
}

// List returns the entries of a list, nil for none.
func (v Values) List(name string) []string {
	var out []string
	for part := range strings.SplitSeq(v.text(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
