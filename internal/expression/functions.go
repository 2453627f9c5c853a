package expression

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// textFunction is a function on texts. They are our own because those of CEL's library put no bound on what they build.
type textFunction struct {
	name   string
	member bool // called as text.name(…)
	types  []*cel.Type
	result *cel.Type
	call   func(args []ref.Val) ref.Val
}

func textFunctions() []textFunction {
	text, number, list := cel.StringType, cel.IntType, cel.ListType(cel.StringType)
	return []textFunction{
		{"split", true, []*cel.Type{text, text}, list, split},
		{"join", true, []*cel.Type{cel.ListType(cel.DynType), text}, text, join},
		{"join", true, []*cel.Type{cel.ListType(cel.DynType)}, text, join},
		{"replace", true, []*cel.Type{text, text, text}, text, replace},
		{"lowerAscii", true, []*cel.Type{text}, text, ascii('A', 'Z', 'a'-'A')},
		{"upperAscii", true, []*cel.Type{text}, text, ascii('a', 'z', 'A'-'a')},
		{"trim", true, []*cel.Type{text}, text, func(a []ref.Val) ref.Val { return types.String(strings.TrimSpace(string(a[0].(types.String)))) }},
		{"substring", true, []*cel.Type{text, number}, text, substring},
		{"substring", true, []*cel.Type{text, number, number}, text, substring},
		{"indexOf", true, []*cel.Type{text, text}, number, position(strings.Index)},
		{"lastIndexOf", true, []*cel.Type{text, text}, number, position(strings.LastIndex)},
		{"pad", false, []*cel.Type{number, number}, text, pad},
		{"json", false, []*cel.Type{text}, cel.DynType, parseJSON},
		{"sha256", false, []*cel.Type{text}, text, digest},
	}
}

func functions() []cel.EnvOption {
	var options []cel.EnvOption
	for i, t := range textFunctions() {
		overload := cel.Overload
		if t.member {
			overload = cel.MemberOverload
		}
		binding := cel.FunctionBinding(func(args ...ref.Val) ref.Val { return t.call(args) })
		switch len(t.types) {
		case 1:
			binding = cel.UnaryBinding(func(a ref.Val) ref.Val { return t.call([]ref.Val{a}) })
		case 2:
			binding = cel.BinaryBinding(func(a, b ref.Val) ref.Val { return t.call([]ref.Val{a, b}) })
		}
		options = append(options, cel.Function(t.name, overload(fmt.Sprintf("%s%s_%d", ownOverload, t.name, i), t.types, t.result, binding)))
	}
	return options
}

func split(args []ref.Val) ref.Val {
	return types.NewStringList(types.DefaultTypeAdapter, strings.Split(string(args[0].(types.String)), string(args[1].(types.String))))
}

func join(args []ref.Val) ref.Val {
	separator := ""
	if len(args) > 1 {
		separator = string(args[1].(types.String))
	}
	var b strings.Builder
	for it := args[0].(traits.Lister).Iterator(); it.HasNext() == types.True; {
		e := it.Next()
		s, ok := e.(types.String)
		if !ok {
			return types.NewErr("join takes a list of texts, here is one of type %s", e.Type().TypeName())
		}
		if b.Len()+len(s)+len(separator) > MaxText {
			return tooLong()
		}
		if b.Len() > 0 {
			b.WriteString(separator)
		}
		b.WriteString(string(s))
	}
	return types.String(b.String())
}

func replace(args []ref.Val) ref.Val {
	s, from, to := string(args[0].(types.String)), string(args[1].(types.String)), string(args[2].(types.String))
	if grown := len(s) + strings.Count(s, from)*(len(to)-len(from)); grown > MaxText {
		return tooLong()
	}
	return types.String(strings.ReplaceAll(s, from, to))
}

// ascii shifts the bytes between first and last and leaves all others, so that no table of Unicode decides what comes out.
func ascii(first, last byte, shift int) func([]ref.Val) ref.Val {
	return func(args []ref.Val) ref.Val {
		b := []byte(string(args[0].(types.String)))
		for i, c := range b {
			if first <= c && c <= last {
				b[i] = byte(int(c) + shift)
			}
		}
		return types.String(b)
	}
}

func substring(args []ref.Val) ref.Val {
	runes := []rune(string(args[0].(types.String)))
	from, to := int64(args[1].(types.Int)), int64(len(runes))
	if len(args) > 2 {
		to = int64(args[2].(types.Int))
	}
	if from < 0 || to > int64(len(runes)) || from > to {
		return types.NewErr("substring(%d, %d) lies outside of a text of %d characters", from, to, len(runes))
	}
	return types.String(runes[from:to])
}

// position counts in characters, like substring does.
func position(find func(s, sub string) int) func([]ref.Val) ref.Val {
	return func(args []ref.Val) ref.Val {
		s := string(args[0].(types.String))
		at := find(s, string(args[1].(types.String)))
		if at < 0 {
			return types.Int(-1)
		}
		return types.Int(utf8.RuneCountInString(s[:at]))
	}
}

// pad writes a number with at least as many digits, zeros in front: pad(7, 3) is "007".
func pad(args []ref.Val) ref.Val {
	n, width := int64(args[0].(types.Int)), int64(args[1].(types.Int))
	if width < 0 || width > 64 {
		return types.NewErr("pad takes a width from 0 to 64, not %d", width)
	}
	if n < 0 {
		return types.String(fmt.Sprintf("%0*d", width+1, n))
	}
	return types.String(fmt.Sprintf("%0*d", width, n))
}

func parseJSON(args []ref.Val) ref.Val {
	decoder := json.NewDecoder(bytes.NewReader([]byte(string(args[0].(types.String)))))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return types.NewErr("json cannot read the text: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return types.NewErr("json cannot read the text: more follows after the first value")
	}
	return adapter{types.DefaultTypeAdapter}.NativeToValue(v)
}

func digest(args []ref.Val) ref.Val {
	sum := sha256.Sum256([]byte(string(args[0].(types.String))))
	return types.String(hex.EncodeToString(sum[:]))
}

func tooLong() ref.Val {
	return types.NewErr("the text would have more than %d bytes", MaxText)
}
