package expression

import (
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Names of the functions that the walker puts into an expression with a comprehension: in the place of ==, != and in,
// because a comprehension can multiply a value, and around what it ranges over, because CEL gives the keys of a map no order.
const (
	boundedEqual = "@equal"
	boundedIn    = "@in_list"
	inOrder      = "@in_order"
)

// ownOverload begins the name of every overload that this package defines for authors.
const ownOverload = "pack_"

// regexSize bounds the compiled form of a pattern, so that matching stays linear with a small factor.
const regexSize = 512

// environment sets the language up once, like a compiled regular expression: it is immutable and depends on nothing.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	roots := cel.MapType(cel.StringType, cel.DynType)
	options := []cel.EnvOption{
		cel.CustomTypeAdapter(adapter{types.DefaultTypeAdapter}),
		cel.Variable("inputs", roots), cel.Variable("steps", roots), cel.Variable("run", roots), cel.Variable(hidden, roots),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(MaxSource),
		cel.ParserRecursionLimit(100),
		cel.ExpressionNodeLimit(10_000),
		cel.RegexProgramSizeLimit(regexSize),
		cel.ClearMacros(), cel.Macros(cel.StandardMacros...),
		cel.Function(boundedEqual, cel.Overload("bounded_equal", []*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(equal))),
		cel.Function(boundedIn, cel.Overload("bounded_in", []*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(in))),
		cel.Function(inOrder, cel.Overload("in_order", []*cel.Type{cel.TypeParamType("T")}, cel.TypeParamType("T"), cel.UnaryBinding(order))),
	}
	return cel.NewEnv(append(options, functions()...)...)
})

// standard lists the functions that are taken over from CEL. What depends on a time zone database or on a type that no
// value of a pack has is left out.
func standard() []string {
	return []string{"bool", "contains", "double", "endsWith", "int", "matches", "size", "startsWith", "string"}
}

// functionNames lists every function that an author can call, sorted.
func functionNames() []string {
	names := append(standard(), "has", "all", "exists", "exists_one", "map", "filter")
	for _, t := range textFunctions() {
		names = append(names, t.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// offered reports whether an expression may call the function; an operator is one too.
func offered(name string) bool {
	switch name {
	case operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Equals, operators.NotEquals,
		operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals, operators.Add, operators.Subtract,
		operators.Multiply, operators.Divide, operators.Modulo, operators.Negate, operators.Index, operators.In,
		operators.NotStrictlyFalse:
		return true
	}
	return slices.Contains(functionNames(), name)
}

// maxCompared bounds how many pairs of values one comparison looks at.
const maxCompared = 10_000

// equal is == with a bound: a list that a comprehension nested into itself has few values but no end of places.
func equal(a, b ref.Val) ref.Val {
	left := maxCompared
	return compareDeep(a, b, &left)
}

func compareDeep(a, b ref.Val, left *int) ref.Val {
	if *left--; *left < 0 {
		return types.NewErr("the values are too large to be compared (more than %d parts)", maxCompared)
	}
	switch x := a.(type) {
	case traits.Mapper:
		y, ok := b.(traits.Mapper)
		if !ok || x.Size() != y.Size() {
			return types.False
		}
		for it := (ordered{x}).Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			other, found := y.Find(key)
			if !found {
				return types.False
			}
			if same := compareDeep(x.Get(key), other, left); same != types.True {
				return same
			}
		}
		return types.True
	case traits.Lister:
		y, ok := b.(traits.Lister)
		if !ok || x.Size() != y.Size() {
			return types.False
		}
		for i, j := x.Iterator(), y.Iterator(); i.HasNext() == types.True; {
			if same := compareDeep(i.Next(), j.Next(), left); same != types.True {
				return same
			}
		}
		return types.True
	default:
		return types.Equal(a, b)
	}
}

// in is the operator of that name, with the same bound on what lies inside of the elements.
func in(element, container ref.Val) ref.Val {
	switch c := container.(type) {
	case traits.Mapper:
		_, found := c.Find(element)
		return types.Bool(found)
	case traits.Lister:
		left := maxCompared
		for it := c.Iterator(); it.HasNext() == types.True; {
			e := it.Next()
			if scalar(e) {
				left++ // the elements themselves are paid for by their number
			}
			if same := compareDeep(e, element, &left); same != types.False {
				return same
			}
		}
		return types.False
	default:
		return types.MaybeNoSuchOverloadErr(container)
	}
}

func order(v ref.Val) ref.Val {
	if m, ok := v.(traits.Mapper); ok {
		return ordered{m}
	}
	return v
}

func scalar(v ref.Val) bool {
	switch v.(type) {
	case traits.Mapper, traits.Lister:
		return false
	default:
		return true
	}
}

// prices says what calls cost where CEL's own model takes them for free: everything that touches a whole text or list.
type prices struct{}

// CallCost returns the cost of one call, or nil where CEL's model is right.
func (prices) CallCost(function, overload string, args []ref.Val, result ref.Val) *uint64 {
	cost := uint64(1)
	switch function {
	case boundedEqual:
		if !scalar(args[0]) && !scalar(args[1]) {
			cost = maxCompared / 10
		}
	case boundedIn:
		if list, ok := args[1].(traits.Lister); ok {
			cost += length(list) / 2
			if !scalar(args[0]) {
				cost += maxCompared / 10
			}
		}
	case "size", "int", "double", "string", "bool":
		cost += length(args[0]) / 10
	default:
		if !strings.HasPrefix(overload, ownOverload) {
			return nil
		}
		for _, a := range append(args[:len(args):len(args)], result) {
			cost += length(a) / 4
		}
	}
	return &cost
}

// length is the number of bytes of a text or of elements of a list. The size of a list costs nothing to ask for.
func length(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v))
	case traits.Lister:
		n, _ := v.Size().(types.Int)
		return uint64(max(0, n))
	default:
		return 0
	}
}
