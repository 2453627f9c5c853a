package plan

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// InputValue is a value as it was given: a text, from a command line or a form, or JSON. JSON wins where both are set.
type InputValue struct {
	Text string
	JSON json.RawMessage
}

var (
	secretEnv    = regexp.MustCompile(`^env:[A-Za-z_][A-Za-z0-9_]*$`)
	secretVault  = regexp.MustCompile(`^vault:[A-Za-z0-9_.@:+=~-]+(/[A-Za-z0-9_.@:+=~-]+)+#[^\x00-\x1f\x7f#]{1,256}$`)
	secretFile   = regexp.MustCompile(`^(file|age):/[^\x00-\x1f]+$`)
	numberSpell  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?$`)
	integerSpell = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
)

// inputs resolves every declared input and refuses what is not declared.
func (b *builder) inputs(given map[string]InputValue) {
	m := b.source.Manifest
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if m.Input(name) == nil {
			e := fault.New(fault.Invalid, "the pack has no input %q", name)
			e.Hint = manifest.Choices(name, inputNames(m))
			b.problems.add(e)
		}
	}
	for i := range m.Inputs {
		in := &m.Inputs[i]
		v, ok := given[in.Name]
		switch {
		case ok && in.Type == "secret":
			b.secret(in, v)
		case ok:
			b.value(in, v)
		case in.Default != nil:
			b.plan.Inputs = append(b.plan.Inputs, work.Input{Name: in.Name, Type: in.Type, Value: in.Default})
			b.schema(in, in.Default)
		case in.Required:
			hint := "give it with --input " + in.Name + "=…"
			if in.Type == "secret" {
				hint = "give it with --input " + in.Name + "=env:NAME or --input " + in.Name + "=file:/path (age:/path for a file encrypted with age, vault:path#field for a Vault server)"
			}
			b.problems.add(m.Fault(in.Pos, "the input %q is missing", in.Name).WithHint("%s", hint))
		}
	}
}

func inputNames(m *manifest.Manifest) []string {
	names := make([]string, len(m.Inputs))
	for i := range m.Inputs {
		names[i] = m.Inputs[i].Name
	}
	return names
}

// secret takes the reference to a secret. What was given is not repeated in the message: it may be the secret itself.
func (b *builder) secret(in *manifest.Input, v InputValue) {
	text := v.Text
	if v.JSON != nil && json.Unmarshal(v.JSON, &text) != nil {
		text = ""
	}
	_, file, _ := strings.Cut(text, ":")
	entry, _, _ := strings.Cut(file, "#")
	fromVault := secretVault.MatchString(text) && path.Clean("/"+entry) == "/"+entry
	if !secretEnv.MatchString(text) && (!secretFile.MatchString(text) || path.Clean(file) != file) && !fromVault {
		b.problems.add(b.source.Manifest.Fault(in.Pos, "the input %q is a secret, and what was given is not a reference to one", in.Name).
			WithHint("a plan is kept and shown, so it holds no secrets: give env:NAME for a variable of the worker, file:/path for a file on it, age:/path for one that is encrypted with age, or vault:path#field for an entry of a Vault server"))
		return
	}
	if fromVault && b.plan.Sealed {
		b.problems.add(b.source.Manifest.Fault(in.Pos, "the pack is sealed, and the secret %q would be fetched over the network", in.Name).
			WithHint("give env:NAME, file:/path or age:/path, which need no network"))
		return
	}
	b.plan.Inputs = append(b.plan.Inputs, work.Input{Name: in.Name, Type: in.Type, Secret: text})
}

func (b *builder) value(in *manifest.Input, v InputValue) {
	m := b.source.Manifest
	plain, err := convert(in, v)
	if err == nil {
		err = in.Check(plain)
	}
	if err != nil {
		b.problems.add(m.Fault(in.Pos, "the value of input %q %v", in.Name, err).WithHint("%s", howToGive(in)))
		return
	}
	raw, err := canonical.Marshal(plain)
	if err != nil {
		b.problems.add(m.Fault(in.Pos, "the value of input %q cannot be hashed: %v", in.Name, err))
		return
	}
	if b.schema(in, raw) {
		b.plan.Inputs = append(b.plan.Inputs, work.Input{Name: in.Name, Type: in.Type, Value: raw})
	}
}

func howToGive(in *manifest.Input) string {
	if len(in.Enum) > 0 {
		return ""
	}
	switch in.Type {
	case "list":
		return `a list is given as JSON: ["a", "b"]`
	case "map":
		return `a map is given as JSON: {"a": "b"}`
	case "boolean":
		return "give true or false"
	default:
		return ""
	}
}

// convert reads a given value as the type of the input. The error is the rest of a sentence.
func convert(in *manifest.Input, v InputValue) (any, error) {
	if v.JSON != nil {
		return fromJSON(in, v.JSON)
	}
	switch in.Type {
	case "integer":
		if n, err := strconv.ParseInt(v.Text, 10, 64); err == nil && integerSpell.MatchString(v.Text) {
			return n, nil
		}
	case "number":
		return numeric(v.Text), nil
	case "boolean":
		switch v.Text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	case "list", "map":
		if text := strings.TrimSpace(v.Text); strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") {
			return fromJSON(in, json.RawMessage(text))
		}
	}
	return v.Text, nil
}

// numeric returns a number as an integer where it is one, else as the text it was given as.
func numeric(text string) any {
	if integerSpell.MatchString(text) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n <= canonical.MaxInteger && n >= -canonical.MaxInteger {
			return n
		}
	}
	return text
}

func fromJSON(in *manifest.Input, raw json.RawMessage) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, fault.New(fault.Invalid, "is no JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fault.New(fault.Invalid, "is more than one JSON value")
	}
	return plainNumbers(v, in.Type == "number" || in.Items == "number"), nil
}

// plainNumbers makes integers of numbers that are, and texts of those that have a fraction where that is allowed.
func plainNumbers(v any, fractions bool) any {
	switch v := v.(type) {
	case json.Number:
		if n, ok := numeric(v.String()).(int64); ok {
			return n
		}
		if fractions && numberSpell.MatchString(v.String()) {
			return v.String()
		}
		return v // canonical refuses it with a reason
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i], fractions)
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k], fractions)
		}
	}
	return v
}

// schema holds a value to the JSON Schema that the input names.
func (b *builder) schema(in *manifest.Input, raw []byte) bool {
	if in.Schema == "" {
		return true
	}
	m := b.source.Manifest
	compiled, err := b.compileSchema(path.Join(path.Dir(b.source.Path), in.Schema))
	if err != nil {
		b.problems.add(m.Fault(in.Pos, "the schema of input %q cannot be used: %v", in.Name, err))
		return false
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err == nil {
		err = compiled.Validate(v)
	}
	if err != nil {
		b.problems.add(m.Fault(in.Pos, "the value of input %q does not follow %s: %s", in.Name, in.Schema, schemaReason(err)))
		return false
	}
	return true
}

// noLoader refuses every schema that is not beside the manifest already.
type noLoader struct{}

// Load refuses.
func (noLoader) Load(url string) (any, error) {
	return nil, fault.New(fault.Invalid, "a schema cannot refer to another file (%s)", url)
}

func (b *builder) compileSchema(file string) (*jsonschema.Schema, error) {
	if b.source.FS == nil {
		return nil, fault.New(fault.NotFound, "%s is not there", file)
	}
	data, err := fs.ReadFile(b.source.FS, file)
	if err != nil {
		return nil, err
	}
	if err := b.travels(file, data); err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	const name = "schema:///input.json"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

// schemaReason returns the innermost reasons on one line.
func schemaReason(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) > 1 {
		lines = lines[1:]
	}
	for i := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimSpace(lines[i]), "- ")
	}
	return strings.Join(lines[:min(len(lines), 5)], "; ")
}
