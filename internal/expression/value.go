package expression

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"orrery.example/orrery/internal/fault"
)

// hidden is the root under which free names are looked up. It cannot be written in an expression.
const hidden = "@vars"

// activation shows a Scope to the interpreter.
type activation struct{ scope Scope }

// ResolveName returns a root.
func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case "inputs":
		return present(a.scope.Inputs), true
	case "steps":
		return present(a.scope.Steps), true
	case "run":
		return present(a.scope.Run), true
	case hidden:
		return present(a.scope.Vars), true
	default:
		return nil, false
	}
}

// Parent returns nil: there is nothing outside of the scope.
func (a activation) Parent() interpreter.Activation { return nil }

func present(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// follow evaluates an expression that is only a path.
func (p *Program) follow(scope Scope) (any, error) {
	v, err := resolve(scope, p.path)
	if err != nil {
		return nil, p.wrap(err)
	}
	budget := MaxValues
	plain, err := normal(v, &budget)
	if err != nil {
		return nil, p.wrap(err)
	}
	return plain, nil
}

// resolve follows a path from its root. The error names the first part that is missing and what is there instead.
func resolve(scope Scope, path []string) (any, error) {
	var at any
	rest := path[1:]
	switch path[0] {
	case "inputs":
		at = present(scope.Inputs)
	case "steps":
		at = present(scope.Steps)
	case "run":
		at = present(scope.Run)
	default:
		at, rest = present(scope.Vars), path
	}
	done := len(path) - len(rest)
	for i, part := range rest {
		where := strings.Join(path[:done+i], ".")
		m, ok := at.(map[string]any)
		if !ok {
			return nil, fault.New(fault.Invalid, "%s is %s and has no field %q", where, describe(at), part)
		}
		next, ok := m[part]
		if !ok {
			return nil, missing(where, part, m)
		}
		at = next
	}
	return at, nil
}

func missing(where, part string, in map[string]any) error {
	if where == "" {
		return fault.New(fault.Invalid, "nothing is called %q here", part).
			WithHint("an expression begins with inputs, steps, run or, inside of a map, with the name of the element")
	}
	err := fault.New(fault.Invalid, "%s has no %q", where, part)
	if len(in) == 0 {
		return err.WithHint("%s is empty", where)
	}
	names := slices.Sorted(maps.Keys(in))
	if len(names) > 12 {
		names = append(names[:12], "…")
	}
	return err.WithHint("%s has: %s", where, strings.Join(names, ", "))
}

// adapter turns Go values into values of the interpreter: integral numbers become integers however JSON was decoded.
type adapter struct{ types.Adapter }

// NativeToValue converts one value; the elements of lists and maps are converted when they are looked at.
func (a adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case map[string]any:
		return types.NewStringInterfaceMap(a, v)
	case []any:
		return types.NewDynamicList(a, v)
	case float64:
		if n, ok := integral(v); ok {
			return types.Int(n)
		}
		return types.Double(v)
	case json.Number:
		return number(v)
	default:
		return a.Adapter.NativeToValue(v)
	}
}

func integral(f float64) (int64, bool) {
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

func number(n json.Number) ref.Val {
	if i, err := n.Int64(); err == nil {
		return types.Int(i)
	}
	f, err := n.Float64()
	if err != nil {
		return types.NewErr("the number %s is out of range", n)
	}
	return types.Double(f)
}

// ordered is a map whose keys come in order, so that no result and no error depends on chance.
type ordered struct{ traits.Mapper }

// Iterator walks the keys: texts by their bytes, before them whatever else a map may have as a key.
func (m ordered) Iterator() traits.Iterator {
	var keys []ref.Val
	for it := m.Mapper.Iterator(); it.HasNext() == types.True; {
		keys = append(keys, it.Next())
	}
	slices.SortFunc(keys, func(a, b ref.Val) int {
		if c := strings.Compare(a.Type().TypeName(), b.Type().TypeName()); c != 0 {
			return c
		}
		if comparer, ok := a.(traits.Comparer); ok {
			if c, ok := comparer.Compare(b).(types.Int); ok {
				return int(c)
			}
		}
		return 0
	})
	return types.NewRefValList(types.DefaultTypeAdapter, keys).Iterator()
}

// native turns a result into a plain value and counts down budget for every value in it.
func native(v ref.Val, budget *int) (any, error) {
	if *budget--; *budget < 0 {
		return nil, tooMany()
	}
	switch v := v.(type) {
	case types.String:
		return string(v), nil
	case types.Int:
		return int64(v), nil
	case types.Bool:
		return bool(v), nil
	case types.Null:
		return nil, nil
	case types.Double:
		return whole(float64(v))
	case types.Uint:
		if v > math.MaxInt64 {
			return nil, fault.New(fault.Invalid, "the number %d is out of range", uint64(v))
		}
		return int64(v), nil
	case traits.Mapper:
		return nativeMap(v, budget)
	case traits.Lister:
		n, ok := v.Size().(types.Int)
		if !ok || int64(n) > int64(*budget) {
			return nil, tooMany()
		}
		list := make([]any, 0, n)
		for it := v.Iterator(); it.HasNext() == types.True; {
			e, err := native(it.Next(), budget)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		return list, nil
	case *types.Err:
		return nil, fault.New(fault.Invalid, "%s", v.Error())
	default:
		return nil, fault.New(fault.Invalid, "a value of type %s cannot leave an expression", v.Type().TypeName()).
			WithHint("convert it with string(…)")
	}
}

func nativeMap(m traits.Mapper, budget *int) (any, error) {
	out := make(map[string]any)
	for it := (ordered{m}).Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, fault.New(fault.Invalid, "the keys of a map must be texts, here is one of type %s", key.Type().TypeName())
		}
		e, err := native(m.Get(key), budget)
		if err != nil {
			return nil, err
		}
		out[string(name)] = e
	}
	return out, nil
}

// normal is native for a value that never was inside of the interpreter.
func normal(v any, budget *int) (any, error) {
	if *budget--; *budget < 0 {
		return nil, tooMany()
	}
	switch v := v.(type) {
	case nil, string, bool, int64:
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		return whole(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			e, err := normal(v[i], budget)
			if err != nil {
				return nil, err
			}
			list[i] = e
		}
		return list, nil
	case map[string]any:
		m := make(map[string]any, len(v))
		for k := range v {
			e, err := normal(v[k], budget)
			if err != nil {
				return nil, err
			}
			m[k] = e
		}
		return m, nil
	default:
		return native(adapter{types.DefaultTypeAdapter}.NativeToValue(v), budget)
	}
}

func whole(f float64) (any, error) {
	if n, ok := integral(f); ok {
		return n, nil
	}
	return nil, fault.New(fault.Invalid, "the result %v has a fraction", f).WithHint("round it with int(…), or make it a text with string(…)")
}

func tooMany() error {
	return fault.New(fault.Invalid, "the result has more than %d values", MaxValues).WithHint("build large lists in a step")
}

// describe says what a value is, for messages.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "a text"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	case int, int64, float64, json.Number:
		return "a number"
	default:
		return fmt.Sprintf("a %T", v)
	}
}
