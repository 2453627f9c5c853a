package stream

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// words reads package work: the types of events with the name of their data, and the JSON fields of every struct.
func words(t *testing.T) (events map[string]string, fields map[string][]string) {
	t.Helper()
	events, fields = map[string]string{}, map[string][]string{}
	files, err := filepath.Glob("../work/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.ValueSpec:
				if kind, ok := x.Type.(*ast.Ident); ok && kind.Name == "EventType" {
					value, err := strconv.Unquote(x.Values[0].(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					events[value], _, _ = strings.Cut(strings.TrimSpace(x.Comment.Text()), ":")
				}
			case *ast.TypeSpec:
				if s, ok := x.Type.(*ast.StructType); ok {
					fields[x.Name.Name] = tags(s)
				}
			}
			return true
		})
	}
	return events, fields
}

func tags(s *ast.StructType) (out []string) {
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			continue
		}
		name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
		if name != "" && name != "-" {
			out = append(out, "`"+name+"`")
		}
	}
	return out
}

// The reference has every type of event with the fields of its data, no others, and every field of a frame.
func TestReferenceOfEvents(t *testing.T) {
	raw, err := os.ReadFile("../../docs/reference/events.md")
	if err != nil {
		t.Fatal(err)
	}
	events, fields := words(t)
	said := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(line, "|")
		if len(cells) == 5 && strings.HasPrefix(cells[1], " `") {
			said[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[3])
		}
	}
	for kind, data := range events {
		want := strings.Join(fields[data], ", ")
		if data == "none" {
			want = "–"
		} else if want == "" {
			t.Errorf("%s: the comment names no data: %q", kind, data)
		}
		if said[kind] != want {
			t.Errorf("%s has the data %s, the reference says %q", kind, want, said[kind])
		}
		delete(said, kind)
	}
	for kind := range said {
		t.Errorf("the reference has %s, which does not exist", kind)
	}
	if len(events) < 26 {
		t.Errorf("only %d types were found", len(events))
	}
	frame := reflect.TypeFor[Frame]()
	for i := range frame.NumField() {
		name, _, _ := strings.Cut(frame.Field(i).Tag.Get("json"), ",")
		if !strings.Contains(string(raw), "`"+name+"`") {
			t.Errorf("the reference lacks the field %s of a frame", name)
		}
	}
	for _, kind := range []string{Opened, Resync, Closing, Ended} {
		if !strings.Contains(string(raw), "| `"+kind+"` |") {
			t.Errorf("the reference lacks %s", kind)
		}
	}
}
