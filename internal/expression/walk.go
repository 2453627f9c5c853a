package expression

import (
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// walker prepares a parsed expression: it collects what the expression looks at, puts free names under one root so that
// the type checker needs no declaration for them, and refuses what the language of packs leaves out of CEL.
type walker struct {
	ast    *ast.AST
	refs   Refs
	bound  []string // names that comprehensions around the current node define
	loops  bool     // the expression has a comprehension, which could compare a value that it multiplied
	nextID int64
	failed *Error
}

func (w *walker) prepare() {
	ast.PreOrderVisit(w.ast.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		w.nextID = max(w.nextID, e.ID())
		w.loops = w.loops || e.Kind() == ast.ComprehensionKind
	}))
	w.walk(w.ast.Expr())
}

func (w *walker) walk(e ast.Expr) {
	if w.failed != nil {
		return
	}
	switch e.Kind() {
	case ast.IdentKind, ast.SelectKind:
		w.path(e)
	case ast.CallKind:
		w.call(e)
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			w.walk(element)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			w.walk(entry.AsMapEntry().Key())
			w.walk(entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		w.fail(e, "an expression cannot make a "+quote(e.AsStruct().TypeName()), `a map is written {"key": value}`)
	case ast.LiteralKind:
		if _, ok := e.AsLiteral().(types.Bytes); ok {
			w.fail(e, "an expression has no bytes", `write a text without the b in front of it`)
		}
	case ast.ComprehensionKind:
		w.comprehension(e.AsComprehension())
	}
}

func (w *walker) comprehension(c ast.ComprehensionExpr) {
	w.walk(c.IterRange())
	if over := c.IterRange(); w.failed == nil && over.Kind() != ast.ListKind {
		f := ast.NewExprFactory()
		inner := w.locate(f.NewUnspecifiedExpr(w.id()), over)
		inner.SetKindCase(over)
		over.SetKindCase(f.NewCall(over.ID(), inOrder, inner))
	}
	w.walk(c.AccuInit())
	outer := w.bound
	w.bound = append(slices.Clone(outer), c.AccuVar(), c.IterVar())
	if c.HasIterVar2() {
		w.bound = append(w.bound, c.IterVar2())
	}
	w.walk(c.LoopCondition())
	w.walk(c.LoopStep())
	w.walk(c.Result())
	w.bound = outer
}

func (w *walker) call(e ast.Expr) {
	c := e.AsCall()
	name := c.FunctionName()
	if name == operators.Index {
		w.path(e)
		return
	}
	if !offered(name) {
		w.fail(e, "there is no function "+quote(name), "there are "+strings.Join(functionNames(), ", "))
		w.failed.Offset = max(0, w.failed.Offset-utf8.RuneCountInString(name)) // CEL's place is the parenthesis
		return
	}
	args := c.Args()
	if c.IsMemberFunction() {
		w.walk(c.Target())
	}
	for _, a := range args {
		w.walk(a)
	}
	if !w.loops || w.failed != nil {
		return
	}
	f := ast.NewExprFactory()
	switch name {
	case operators.Equals:
		e.SetKindCase(f.NewCall(e.ID(), boundedEqual, args...))
	case operators.NotEquals:
		e.SetKindCase(f.NewCall(e.ID(), operators.LogicalNot, w.locate(f.NewCall(w.id(), boundedEqual, args...), e)))
	case operators.In:
		e.SetKindCase(f.NewCall(e.ID(), boundedIn, args...))
	}
}

// path handles a name and everything that is selected from it.
func (w *walker) path(e ast.Expr) {
	var parts []string
	constant := true
	at := e
	var whole []ast.Expr // inner expressions that are no part of the constant path
	for {
		switch {
		case at.Kind() == ast.SelectKind:
			parts = append(parts, at.AsSelect().FieldName())
			at = at.AsSelect().Operand()
			continue
		case at.Kind() == ast.CallKind && at.AsCall().FunctionName() == operators.Index:
			args := at.AsCall().Args()
			if key, ok := literalText(args[1]); ok {
				parts = append(parts, key)
			} else {
				parts, constant = nil, false // what comes behind a computed key is not constant
				whole = append(whole, args[1])
			}
			at = args[0]
			continue
		}
		break
	}
	for _, inner := range whole {
		w.walk(inner)
	}
	if at.Kind() != ast.IdentKind {
		w.walk(at)
		return
	}
	name := strings.TrimPrefix(at.AsIdent(), ".")
	if slices.Contains(w.bound, name) || strings.HasPrefix(name, "@") {
		return
	}
	parts = append(parts, name)
	slices.Reverse(parts)
	if e.Kind() == ast.SelectKind && e.AsSelect().IsTestOnly() && constant && len(parts) > 2 {
		parts = parts[:len(parts)-1] // has(x.y) asks whether y is there
	}
	if err := w.refs.add(Path{Parts: parts, Offset: w.offset(at)}); err != nil {
		w.failed = err
		if !constant && len(parts) == 1 {
			w.failed.Message = name + " must be followed by a name that is written out, not computed"
		}
		return
	}
	if name != "inputs" && name != "steps" && name != "run" {
		f := ast.NewExprFactory()
		root := w.locate(f.NewIdent(w.id(), hidden), at)
		at.SetKindCase(f.NewSelect(at.ID(), root, name))
	}
}

func literalText(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func (w *walker) id() int64 {
	w.nextID++
	return w.nextID
}

// locate gives a new node the position of the one it was made for.
func (w *walker) locate(e, origin ast.Expr) ast.Expr {
	if r, ok := w.ast.SourceInfo().GetOffsetRange(origin.ID()); ok {
		w.ast.SourceInfo().SetOffsetRange(e.ID(), r)
	}
	return e
}

func (w *walker) offset(e ast.Expr) int {
	r, ok := w.ast.SourceInfo().GetOffsetRange(e.ID())
	if !ok {
		return 0
	}
	return max(0, int(r.Start))
}

func (w *walker) fail(e ast.Expr, message, hint string) {
	w.failed = &Error{Offset: w.offset(e), Message: message, Hint: hint}
}
