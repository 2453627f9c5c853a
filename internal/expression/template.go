package expression

import (
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
)

// Template is a text with ${{ expression }} in it. It is immutable and safe for concurrent use.
type Template struct {
	source string
	parts  []part
	refs   Refs
}

// part is a piece of text, or an expression.
type part struct {
	text    string
	program *Program
}

// HasExpression reports whether a text holds what a template would evaluate.
func HasExpression(text string) bool {
	for at := 0; ; {
		i := strings.Index(text[at:], opening)
		if i < 0 {
			return false
		}
		if i += at; i == 0 || text[i-1] != '$' {
			return true
		}
		at = i + len(opening)
	}
}

const opening = "${{"

// CompileTemplate reads a template: text in which ${{ expression }} stands for a value and $${{ for the characters ${{.
// A failure is an *Error that knows the position inside of src.
func CompileTemplate(src string) (*Template, error) {
	t := &Template{source: src}
	rest, offset := src, 0
	for {
		i := strings.Index(rest, opening)
		if i < 0 {
			t.text(rest)
			t.refs = t.refs.sorted()
			return t, nil
		}
		if i > 0 && rest[i-1] == '$' {
			t.text(rest[:i-1] + opening)
			offset += utf8.RuneCountInString(rest[:i+len(opening)])
			rest = rest[i+len(opening):]
			continue
		}
		t.text(rest[:i])
		offset += utf8.RuneCountInString(rest[:i])
		inner, ok := enclosed(rest[i+len(opening):])
		if !ok {
			return nil, &Error{Source: src, Offset: offset, Message: "the ${{ that begins here has no }}", Hint: "close it with }}, or write $${{ for the characters themselves"}
		}
		p, err := Compile(inner)
		if err != nil {
			if e, ok := err.(*Error); ok {
				err = e.shifted(src, offset+len(opening))
			}
			return nil, err
		}
		t.parts = append(t.parts, part{program: p})
		refs := p.Refs()
		moved := make([]Path, len(refs.Paths))
		for n, path := range refs.Paths {
			moved[n] = Path{Parts: path.Parts, Offset: path.Offset + offset + len(opening)}
		}
		refs.Paths = moved
		t.refs = t.refs.Union(refs)
		whole := len(opening) + len(inner) + len("}}")
		offset += utf8.RuneCountInString(rest[i : i+whole])
		rest = rest[i+whole:]
	}
}

func (t *Template) text(s string) {
	if s == "" {
		return
	}
	if n := len(t.parts); n > 0 && t.parts[n-1].program == nil {
		t.parts[n-1].text += s
		return
	}
	t.parts = append(t.parts, part{text: s})
}

// enclosed returns what stands before the }} that ends an expression: not one inside of a text or of a map.
func enclosed(s string) (string, bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"', '\'':
			end, ok := literalEnd(s, i)
			if !ok {
				return "", false
			}
			i = end
		case '{':
			depth++
		case '}':
			if depth == 0 {
				if strings.HasPrefix(s[i:], "}}") {
					return s[:i], true
				}
				return "", false
			}
			depth--
		}
	}
	return "", false
}

// literalEnd returns where the text literal that begins at start ends.
func literalEnd(s string, start int) (int, bool) {
	mark := s[start : start+1]
	if triple := strings.Repeat(mark, 3); strings.HasPrefix(s[start:], triple) {
		mark = triple
	}
	raw := start > 0 && (s[start-1] == 'r' || s[start-1] == 'R')
	for i := start + len(mark); i < len(s); i++ {
		if s[i] == '\\' && !raw {
			i++
		} else if strings.HasPrefix(s[i:], mark) {
			return i + len(mark) - 1, true
		}
	}
	return 0, false
}

// Source returns the text that was compiled.
func (t *Template) Source() string { return t.source }

// Refs returns what the expressions of the template look at. The caller must not change it.
func (t *Template) Refs() Refs { return t.refs }

// Constant reports whether the template has no expression at all.
func (t *Template) Constant() bool {
	return len(t.parts) == 0 || len(t.parts) == 1 && t.parts[0].program == nil
}

// Whole returns the expression of a template that is nothing but one, else nil. Such a template keeps the value's type.
func (t *Template) Whole() *Program {
	if len(t.parts) == 1 {
		return t.parts[0].program
	}
	return nil
}

// Eval returns the value of the template: that of its expression if it is nothing but one, else a text.
func (t *Template) Eval(scope Scope) (any, error) {
	if p := t.Whole(); p != nil {
		return p.Eval(scope)
	}
	return t.String(scope)
}

// String returns the value of the template as text. A text stands for itself, every other value for its canonical JSON.
func (t *Template) String(scope Scope) (string, error) {
	if t.Constant() {
		if len(t.parts) == 0 {
			return "", nil
		}
		return t.parts[0].text, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		piece := p.text
		if p.program != nil {
			v, err := p.program.Eval(scope)
			if err != nil {
				return "", err
			}
			if piece, err = Text(v); err != nil {
				return "", p.program.wrap(err)
			}
		}
		if b.Len()+len(piece) > MaxText {
			return "", fault.New(fault.Invalid, "%s: the text would have more than %d bytes", clip(t.source), MaxText).
				WithHint("pass large values as files, through artifacts")
		}
		b.WriteString(piece)
	}
	return b.String(), nil
}

// Text returns a value as text: a text as it is, every other value as canonical JSON.
func Text(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	raw, err := canonical.Marshal(v)
	return string(raw), err
}
