package manifest

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/canonical"
)

func inputFields() []string {
	return []string{"name", "type", "items", "default", "required", "description", "enum", "pattern", "min", "max", "minLength", "maxLength", "schema"}
}

// InputTypes returns the types an input can have.
func InputTypes() []string {
	return []string{"string", "integer", "number", "boolean", "list", "map", "secret"}
}

// inputs reads a mapping of name to declaration, or a list of declarations with a name each.
func (r *reader) inputs(m *Manifest, n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		for _, f := range r.fields(n, "inputs") {
			r.checkName(f.key, "an input", inputName, nameRule)
			in := Input{Name: f.name, Pos: Pos{f.key.Line, f.key.Column}}
			r.input(&in, f.value)
			r.declare(m, in)
		}
		return
	}
	for _, e := range r.list(n, "inputs") {
		in := Input{Pos: Pos{e.Line, e.Column}}
		if e.Kind == yaml.ScalarNode {
			in.Name, in.Type, in.Required = r.name(e, "an input", inputName, nameRule), "string", true
		} else {
			r.input(&in, e)
			if in.Name == "" && e.Kind == yaml.MappingNode {
				r.problem(e, "add name:", "this input has no name")
				continue
			}
		}
		r.declare(m, in)
	}
}

func (r *reader) declare(m *Manifest, in Input) {
	if _, twice := m.secret[in.Name]; twice {
		r.report(in.Pos, "keep one of them", "the input %q is declared twice", in.Name)
		return
	}
	m.secret[in.Name] = in.Type == "secret"
	m.Inputs = append(m.Inputs, in)
}

// secrets reads the list of secrets that the long form may have beside its inputs.
func (r *reader) secrets(m *Manifest, n *yaml.Node) {
	for _, e := range r.list(n, "secrets") {
		in := Input{Pos: Pos{e.Line, e.Column}, Type: "secret", Required: true}
		if e.Kind == yaml.ScalarNode {
			in.Name = r.name(e, "a secret", inputName, nameRule)
		} else {
			for _, f := range r.fields(e, "a secret") {
				switch f.name {
				case "name":
					in.Name = r.name(f.value, "a secret", inputName, nameRule)
				case "description":
					in.Description = r.text(f.value, "description")
				case "required":
					in.Required = r.boolean(f.value, "required")
				case "scope":
					r.text(f.value, "scope")
				default:
					r.unknown(f, "a secret", []string{"name", "description", "required", "scope"})
				}
			}
		}
		if in.Name != "" {
			r.declare(m, in)
		}
	}
}

// input reads one declaration: the name of a type, or a mapping.
func (r *reader) input(in *Input, n *yaml.Node) {
	in.Type, in.Required = "string", true
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!null" {
			r.inputType(in, n)
		}
		return
	}
	var required *bool
	var standard, enum *yaml.Node
	fields := r.fields(n, "an input")
	for _, f := range fields {
		if f.name == "type" {
			r.inputType(in, f.value)
		}
	}
	for _, f := range fields {
		switch f.name {
		case "type":
		case "name":
			if in.Name != "" && in.Name != f.value.Value {
				r.problem(f.value, "leave name away", "this input is already called %q", in.Name)
				continue
			}
			in.Name = r.name(f.value, "an input", inputName, nameRule)
		case "items":
			in.Items = r.text(f.value, "items")
			if in.Type != "list" || !slices.Contains([]string{"string", "integer", "number", "boolean", "list", "map"}, in.Items) {
				r.problem(f.value, "items is the type of the elements of a list: string, integer, number, boolean, list or map", "items cannot be %q here", in.Items)
			}
		case "default":
			standard = f.value
		case "enum":
			enum = f.value
		case "required":
			v := r.boolean(f.value, "required")
			required = &v
		case "description":
			in.Description = r.text(f.value, "description")
		case "schema":
			in.Schema = r.relative(f.value, "schema")
		case "pattern", "min", "max", "minLength", "maxLength":
			r.bound(in, f)
		default:
			r.unknown(f, "an input", inputFields())
		}
	}
	if in.Min != "" && in.Max != "" && rat(in.Min).Cmp(rat(in.Max)) > 0 || in.MinLength != nil && in.MaxLength != nil && *in.MinLength > *in.MaxLength {
		r.problem(n, "", "the least value allowed is greater than the most")
	}
	r.allowed(in, enum, standard)
	in.Required = in.Default == nil
	if required != nil {
		in.Required = *required
		if *required && in.Default != nil {
			r.problem(standard, "leave one of them away", "an input that is required has no use for a default")
		}
	}
}

func (r *reader) inputType(in *Input, n *yaml.Node) {
	t := r.text(n, "type")
	switch t {
	case "int":
		t = "integer"
	case "bool":
		t = "boolean"
	case "array":
		t = "list"
	case "object":
		t = "map"
	}
	if !slices.Contains(InputTypes(), t) {
		r.problem(n, Choices(t, InputTypes()), "an input cannot have the type %q", t)
		return
	}
	in.Type = t
}

// bound reads one of the limits of a value.
func (r *reader) bound(in *Input, f field) {
	fits := map[string][]string{
		"pattern": {"string"}, "min": {"integer", "number"}, "max": {"integer", "number"},
		"minLength": {"string", "list", "map"}, "maxLength": {"string", "list", "map"},
	}
	if !slices.Contains(fits[f.name], in.Type) {
		r.problem(f.key, "", "%s says nothing about an input of type %s", f.name, in.Type)
		return
	}
	switch f.name {
	case "pattern":
		p, err := regexp.Compile(`^(?:` + r.text(f.value, "pattern") + `)$`)
		if err != nil {
			r.problem(f.value, "patterns are written as in RE2", "the pattern cannot be read: %v", err)
			return
		}
		in.Pattern = p
	case "minLength", "maxLength":
		v := int(r.integer(f.value, f.name, 0, 1<<24))
		if f.name == "minLength" {
			in.MinLength = &v
		} else {
			in.MaxLength = &v
		}
	default:
		text := r.text(f.value, f.name)
		if !fraction.MatchString(text) || in.Type == "integer" && !decimal.MatchString(text) || len(text) > 64 {
			r.problem(f.value, "", "%s cannot be %q", f.name, text)
			return
		}
		if f.name == "min" {
			in.Min = text
		} else {
			in.Max = text
		}
	}
}

// allowed reads enum and default, once everything else is known that they are held to.
func (r *reader) allowed(in *Input, enum, standard *yaml.Node) {
	if in.Type == "secret" {
		for _, n := range []*yaml.Node{enum, standard} {
			if n != nil {
				r.problem(n, "give it when the pack is run, as env:NAME or file:/path", "a secret has no value in the file")
			}
		}
		return
	}
	if enum != nil {
		var values [][]byte
		for _, e := range r.list(enum, "enum") {
			if v := r.given(in, e); v != nil {
				values = append(values, v)
			}
		}
		in.Enum = values
		if enum.Kind == yaml.SequenceNode && len(enum.Content) == 0 {
			r.problem(enum, "", "enum allows no value at all")
		}
	}
	if standard != nil {
		in.Default = r.given(in, standard)
	}
}

// given converts a value in the file to the input's type and checks it; nil after a problem.
func (r *reader) given(in *Input, n *yaml.Node) []byte {
	var v any
	if n.Kind == yaml.ScalarNode && (in.Type == "string" || in.Type == "number") {
		before := len(r.problems) + r.more
		v = r.text(n, "the value")
		if len(r.problems)+r.more > before {
			return nil
		}
	} else {
		before := len(r.problems) + r.more
		v = r.value(n, "the value")
		if len(r.problems)+r.more > before {
			return nil
		}
	}
	if s, ok := v.(string); ok && in.Type == "number" && decimal.MatchString(s) {
		if i := rat(s); i.IsInt() && i.Num().IsInt64() {
			v = i.Num().Int64()
		}
	}
	if err := in.Check(v); err != nil {
		r.problem(n, "", "the value of input %q %v", in.Name, err)
		return nil
	}
	raw, err := canonical.Marshal(v)
	if err != nil {
		r.problem(n, "", "%v", err)
		return nil
	}
	return raw
}

func rat(text string) *big.Rat {
	v, ok := new(big.Rat).SetString(text)
	if !ok {
		return new(big.Rat)
	}
	return v
}

// checkName is name for the key of a mapping.
func (r *reader) checkName(key *yaml.Node, what string, pattern *regexp.Regexp, rule string) {
	if !pattern.MatchString(key.Value) {
		r.problem(key, rule, "%s cannot be called %q", what, key.Value)
	}
}

// Check says what keeps a plain value from being this input, as the rest of a sentence, or nil.
func (in *Input) Check(v any) error {
	if err := checkType(in.Type, v); err != nil {
		return err
	}
	length := -1
	switch v := v.(type) {
	case string:
		if in.Type == "string" {
			length = len([]rune(v))
			if in.Pattern != nil && !in.Pattern.MatchString(v) {
				return fmt.Errorf("does not match the pattern %s", in.Pattern)
			}
		}
	case []any:
		length = len(v)
		for i, e := range v {
			if in.Items == "" {
				break
			}
			if err := checkType(in.Items, e); err != nil {
				return fmt.Errorf("has an element (number %d) that %w", i, err)
			}
		}
	case map[string]any:
		length = len(v)
	}
	if length >= 0 && in.MinLength != nil && length < *in.MinLength {
		return fmt.Errorf("has a length of %d, less than %d", length, *in.MinLength)
	}
	if length >= 0 && in.MaxLength != nil && length > *in.MaxLength {
		return fmt.Errorf("has a length of %d, more than %d", length, *in.MaxLength)
	}
	if in.Type == "integer" || in.Type == "number" {
		n := rat(fmt.Sprint(v))
		if in.Min != "" && n.Cmp(rat(in.Min)) < 0 {
			return fmt.Errorf("is less than %s", in.Min)
		}
		if in.Max != "" && n.Cmp(rat(in.Max)) > 0 {
			return fmt.Errorf("is more than %s", in.Max)
		}
	}
	return in.checkEnum(v)
}

func (in *Input) checkEnum(v any) error {
	if len(in.Enum) == 0 {
		return nil
	}
	raw, err := canonical.Marshal(v)
	if err != nil {
		return err
	}
	for _, e := range in.Enum {
		if string(e) == string(raw) {
			return nil
		}
	}
	all := ""
	for i, e := range in.Enum {
		if i > 0 {
			all += ", "
		}
		all += string(e)
	}
	return fmt.Errorf("is not one of %s", all)
}

// checkType says what keeps a value from having a type. A number with a fraction is a text of digits and a dot.
func checkType(t string, v any) error {
	ok := false
	switch t {
	case "string":
		_, ok = v.(string)
	case "integer":
		var n int64
		n, ok = v.(int64)
		ok = ok && n <= canonical.MaxInteger && n >= -canonical.MaxInteger
	case "number":
		switch v := v.(type) {
		case int64:
			ok = true
		case string:
			ok = fraction.MatchString(v) && len(v) <= 64
		}
	case "boolean":
		_, ok = v.(bool)
	case "list":
		_, ok = v.([]any)
	case "map":
		_, ok = v.(map[string]any)
	}
	if !ok {
		article := "a"
		if t == "integer" {
			article = "an"
		}
		return fmt.Errorf("must be %s %s, not %s", article, t, shown(v))
	}
	return nil
}

func shown(v any) string {
	raw, err := canonical.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	return short(string(raw))
}
