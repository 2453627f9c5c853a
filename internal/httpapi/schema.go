package httpapi

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// schemas collects the JSON Schemas of wire types.
type schemas struct{ defs map[string]any }

func newSchemas() *schemas { return &schemas{defs: map[string]any{}} }

// of returns the schema of a value's type; a struct becomes a definition and a reference to it.
func (s *schemas) of(v any) map[string]any { return s.schema(reflect.TypeOf(v)) }

func (s *schemas) schema(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return map[string]any{} // any JSON
	case reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	}
	if t.Kind() != reflect.Pointer && (t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())) {
		return map[string]any{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.schema(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice, reflect.Array:
		return map[string]any{"type": "array", "items": s.schema(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.schema(t.Elem())}
	case reflect.Struct:
		return s.object(t)
	case reflect.Interface:
		return map[string]any{}
	default:
		return map[string]any{"type": "integer"}
	}
}

func (s *schemas) object(t reflect.Type) map[string]any {
	name := t.Name()
	if name == "" {
		def := map[string]any{}
		s.fields(t, def)
		return def
	}
	ref := map[string]any{"$ref": "#/components/schemas/" + name}
	if s.defs[name] != nil {
		return ref
	}
	def := map[string]any{}
	s.defs[name] = def // before its fields: a type may contain itself
	s.fields(t, def)
	return ref
}

func (s *schemas) fields(t reflect.Type, def map[string]any) {
	properties, required := map[string]any{}, []string{}
	s.collect(t, properties, &required)
	def["type"], def["properties"] = "object", properties
	if len(required) > 0 {
		def["required"] = required
	}
}

func (s *schemas) collect(t reflect.Type, properties map[string]any, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			s.collect(f.Type, properties, required)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		properties[tag] = s.schema(f.Type)
		if !strings.Contains(options, "omit") {
			*required = append(*required, tag)
		}
	}
}
