package manifest

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/expression"
)

// template reads a text in which ${{ expressions }} stand for values, and notes what they look at.
func (r *reader) template(n *yaml.Node, what string) string {
	text := r.text(n, what)
	r.templateText(n, text)
	return text
}

func (r *reader) templateText(n *yaml.Node, text string) {
	if !strings.Contains(text, "${{") {
		return
	}
	t, err := remember(&r.templates, text, expression.CompileTemplate)
	if err != nil {
		r.mistake(n, 0, err)
		return
	}
	r.use(n, 0, t.Refs())
}

// remember compiles a text once for each file: generated packs repeat theirs thousands of times.
func remember[T any](known *map[string]T, text string, compile func(string) (T, error)) (T, error) {
	if v, ok := (*known)[text]; ok {
		return v, nil
	}
	v, err := compile(text)
	if err == nil {
		if *known == nil {
			*known = map[string]T{}
		}
		(*known)[text] = v
	}
	return v, err
}

// templatesIn looks at every string inside of a value.
func (r *reader) templatesIn(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		r.templateText(n, n.Value)
		return
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if expression.HasExpression(child.Value) {
				r.problem(child, "write the name out", "a key cannot be an expression")
			}
			continue
		}
		r.templatesIn(child)
	}
}

// bare reads an expression that stands for itself, with or without ${{ }} around it.
func (r *reader) bare(n *yaml.Node, what string) string {
	before := len(r.problems) + r.more
	text := r.text(n, what)
	if len(r.problems)+r.more > before {
		return ""
	}
	skip := 0
	if m := wrapped.FindStringSubmatchIndex(text); m != nil && !expression.HasExpression(text[m[2]:m[3]]) {
		skip = utf8.RuneCountInString(text[:m[2]])
		text = text[m[2]:m[3]]
	}
	source := strings.TrimSpace(text)
	skip += utf8.RuneCountInString(text[:len(text)-len(strings.TrimLeft(text, " \t\r\n"))])
	p, err := remember(&r.programs, source, expression.Compile)
	if err != nil {
		r.mistake(n, skip, err)
		return source
	}
	r.use(n, skip, p.Refs())
	return source
}

// mistake reports an error inside of an expression at its place in the file.
func (r *reader) mistake(n *yaml.Node, skip int, err error) {
	position := scalarPosition{node: n, lines: r.lines, skip: skip}
	var e *expression.Error
	if errors.As(err, &e) {
		r.report(position.at(e.Offset), e.Hint, "%s", e.Message)
		return
	}
	r.report(position.at(0), "", "%v", err)
}

// use notes what a text looks at, and checks the inputs among it, which this file alone decides about.
func (r *reader) use(n *yaml.Node, skip int, refs expression.Refs) {
	if refs.Empty() {
		return
	}
	position := scalarPosition{node: n, lines: r.lines, skip: skip}
	for _, p := range refs.Paths {
		if p.Parts[0] != "inputs" {
			continue
		}
		name := p.Parts[1]
		secret, known := r.secret[name]
		switch {
		case !known:
			r.report(position.at(p.Offset), Choices(name, r.inputNames()), "there is no input %q", name)
		case secret:
			r.report(position.at(p.Offset), "hand it to the step as a variable of its environment: env: {TOKEN: ${{ inputs."+name+" }}}, with nothing around it",
				"the secret input %q has no value that an expression could see", name)
		}
	}
	*r.uses = append(*r.uses, Use{Refs: refs, text: position})
}

func (r *reader) inputNames() []string {
	names := make([]string, 0, len(r.secret))
	for name := range r.secret {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// secretInput returns the name of the secret input that a text stands for, or "".
func (r *reader) secretInput(text string) string {
	m := wholeInput.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	name := m[1] + m[2]
	if !r.secret[name] {
		return ""
	}
	return name
}

// noTemplate refuses expressions in a text that is handed on as it is.
func (r *reader) noTemplate(n *yaml.Node, text, what, hint string) {
	if expression.HasExpression(text) {
		position := scalarPosition{node: n, lines: r.lines}
		r.report(position.at(utf8.RuneCountInString(text[:strings.Index(text, "${{")])), hint, "%s cannot hold ${{ … }}", what)
	}
}
