package expression

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"

	"orrery.example/orrery/internal/fault"
)

// Error is a mistake in the text of an expression or template. It unwraps to a fault of code Invalid.
type Error struct {
	Source  string
	Offset  int // where in Source, counted in characters from 0
	Message string
	Hint    string
}

// Error returns the message and where in the expression it applies.
func (e *Error) Error() string {
	line, column := e.Position()
	if line > 1 {
		return fmt.Sprintf("expression line %d, column %d: %s", line, column, e.Message)
	}
	return fmt.Sprintf("expression column %d: %s", column, e.Message)
}

// Unwrap gives the error its code and hint.
func (e *Error) Unwrap() error {
	err := fault.New(fault.Invalid, "%s", e.Error())
	err.Hint, err.Snippet = e.Hint, e.Source
	return err
}

// Position returns line and column inside of Source, both from 1.
func (e *Error) Position() (line, column int) {
	line, column = 1, 1
	at := 0
	for _, r := range e.Source {
		if at == e.Offset {
			break
		}
		at++
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return line, column
}

func (e *Error) in(source string) *Error {
	e.Source = source
	return e
}

// shifted moves the error from an expression to the template around it.
func (e *Error) shifted(template string, offset int) *Error {
	return &Error{Source: template, Offset: e.Offset + offset, Message: e.Message, Hint: e.Hint}
}

// firstIssue returns the first thing that the compiler complains about, in words.
func firstIssue(issues *cel.Issues, src string) *Error {
	if issues == nil || issues.Err() == nil {
		return nil
	}
	all := issues.Errors()
	if len(all) == 0 {
		return &Error{Message: issues.Err().Error()}
	}
	first := all[0]
	message := strings.TrimPrefix(first.Message, "Syntax error: ")
	e := &Error{Message: message}
	if at := first.Location; at != nil && at.Line() > 0 {
		lines := strings.SplitAfter(src, "\n")
		before := strings.Join(lines[:min(at.Line()-1, len(lines))], "")
		e.Offset = utf8.RuneCountInString(before) + max(0, at.Column())
	}
	switch {
	case strings.Contains(message, "input '<EOF>'"):
		e.Message = "the expression ends too early"
	case strings.Contains(message, "'<EOF>'"):
		e.Message = strings.ReplaceAll(message, "'<EOF>'", "the end")
	case strings.Contains(message, "found no matching overload"):
		e.Message = readableOverload(message)
		e.Hint = `convert with string(…), int(…) or double(…); a number with a fraction is a text until then`
	case strings.Contains(message, "token recognition error"):
		e.Hint = `texts stand in quotes, and conditions use ==, !=, &&, || and !`
	}
	return e
}

// readableOverload writes "found no matching overload for '_+_' applied to '(int, string)'" for people.
func readableOverload(message string) string {
	_, rest, ok := strings.Cut(message, "'")
	name, rest, ok2 := strings.Cut(rest, "'")
	_, rest, ok3 := strings.Cut(rest, "'")
	types, _, ok4 := strings.Cut(rest, "'")
	if !ok || !ok2 || !ok3 || !ok4 {
		return message
	}
	return fmt.Sprintf("%s cannot be applied to %s", strings.Trim(name, "_@"), types)
}

// wrap says which expression an error of evaluation belongs to.
func (p *Program) wrap(err error) *fault.Error {
	message := err.Error()
	e := fault.New(fault.Invalid, "%s: %s", clip(p.source), message)
	var inner *fault.Error
	if errors.As(err, &inner) {
		e.Hint = inner.Hint
	}
	return e
}

// explain turns an error of the interpreter into one that names what is missing.
func (p *Program) explain(scope Scope, err error) *fault.Error {
	text := err.Error()
	if strings.Contains(text, "cost limit exceeded") {
		return p.wrap(fault.New(fault.Invalid, "it needs more work than one evaluation may do (%d units)", CostLimit)).
			WithHint("move the computation into a step")
	}
	if strings.Contains(text, "no such key") || strings.Contains(text, "no such attribute") || strings.Contains(text, "does not support field selection") {
		for _, path := range p.refs.Paths {
			if _, err := resolve(scope, path.Parts); err != nil {
				return p.wrap(err)
			}
		}
	}
	if strings.HasPrefix(text, "no such overload") {
		return p.wrap(fault.New(fault.Invalid, "the operation does not fit the types of its values (%s)", text)).
			WithHint("convert with string(…), int(…) or double(…); a number with a fraction is a text until then")
	}
	return p.wrap(err)
}

func clip(source string) string {
	const most = 120
	source = strings.Join(strings.Fields(source), " ")
	if utf8.RuneCountInString(source) <= most {
		return source
	}
	return string([]rune(source)[:most]) + "…"
}

func quote(s string) string { return strconv.Quote(s) }
