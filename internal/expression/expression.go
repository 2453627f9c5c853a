// Package expression evaluates the conditions and templates of a pack: CEL, bounded, and the same on every machine.
//
// An expression sees inputs.NAME, steps.ID.outputs.NAME, run.FIELD and, inside of a map, the names of the element and its
// position. Which steps and inputs it looks at is known without evaluating it. It has no clock, no randomness, no access to
// anything outside; a map is walked in the order of its keys. The work that one evaluation may do is bounded by CostLimit,
// what it may build by MaxValues and MaxText, whatever the values are that it meets.
//
// A value is a string, int64, bool, nil, []any or map[string]any. Numbers with a fraction exist while an expression is
// evaluated only: a result must not have one.
package expression

import (
	"strings"

	"cel.dev/cel-go/cel"

	"orrery.example/orrery/internal/fault"
)

// The bounds of an expression. They are part of what a plan means: raising one may let an expression pass that failed before.
const (
	MaxSource = 8192       // characters of one expression
	CostLimit = 10_000_000 // units of CEL's cost model: about one per operation, and one for ten characters touched
	MaxValues = 1_000_000  // values in one result
	MaxText   = 1 << 20    // bytes of a text that a function or a template builds
)

// Scope is what an expression sees. A nil map is an empty one.
type Scope struct {
	Inputs map[string]any
	Steps  map[string]any // local id -> {"status": …, "outputs": {…}}, and "results": […] of a map
	Vars   map[string]any // the element and position of each map around the step, under their names
	Run    map[string]any // id, name, tenant, planHash, status, failed
}

// Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	source  string
	refs    Refs
	path    []string    // of an expression that only follows a path, which needs no interpreter
	program cel.Program // of any other
}

// Compile reads an expression. A failure is an *Error that knows the position inside of src.
func Compile(src string) (*Program, error) {
	if path, ok := simplePath(src); ok {
		refs, err := refsOfPath(path, strings.Index(src, path[0]))
		if err != nil {
			return nil, err.in(src)
		}
		return &Program{source: src, refs: refs, path: path}, nil
	}
	return compile(src)
}

// compile is Compile for an expression that needs the interpreter.
func compile(src string) (*Program, error) {
	if strings.TrimSpace(src) == "" {
		return nil, (&Error{Message: "the expression is empty"}).in(src)
	}
	if err := dashed(src); err != nil {
		return nil, err.in(src)
	}
	env, err := environment()
	if err != nil {
		return nil, fault.New(fault.Internal, "the language of expressions cannot be set up: %w", err)
	}
	ast, issues := env.Parse(src)
	if err := firstIssue(issues, src); err != nil {
		return nil, err.in(src)
	}
	w := walker{ast: ast.NativeRep()}
	w.prepare()
	if w.failed != nil {
		return nil, w.failed.in(src)
	}
	checked, issues := env.Check(ast)
	if err := firstIssue(issues, src); err != nil {
		return nil, err.in(src)
	}
	program, err := env.Program(checked, cel.CostLimit(CostLimit), cel.CostTracking(prices{}), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, (&Error{Message: err.Error()}).in(src)
	}
	return &Program{source: src, refs: w.refs.sorted(), program: program}, nil
}

// Source returns the text that was compiled.
func (p *Program) Source() string { return p.source }

// Refs returns what the expression looks at. The caller must not change it.
func (p *Program) Refs() Refs { return p.refs }

// Constant reports whether the expression looks at nothing and so always has the same value.
func (p *Program) Constant() bool { return p.refs.Empty() }

// Eval returns the value of the expression. The error is fault.Invalid and says what was missing or did not fit.
func (p *Program) Eval(scope Scope) (any, error) {
	if p.path != nil {
		return p.follow(scope)
	}
	out, _, err := p.program.Eval(activation{scope})
	if err != nil {
		return nil, p.explain(scope, err)
	}
	budget := MaxValues
	v, err := native(out, &budget)
	if err != nil {
		return nil, p.wrap(err)
	}
	return v, nil
}

// Bool evaluates a condition.
func (p *Program) Bool(scope Scope) (bool, error) {
	v, err := p.Eval(scope)
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, p.wrap(fault.New(fault.Invalid, "a condition must be true or false, this is %s", describe(v)))
	}
	return b, nil
}

// List evaluates an expression that yields a list.
func (p *Program) List(scope Scope) ([]any, error) {
	v, err := p.Eval(scope)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, p.wrap(fault.New(fault.Invalid, "a list is needed here, this is %s", describe(v))).
			WithHint("a text that holds a list as JSON is read with json(…)")
	}
	return list, nil
}
