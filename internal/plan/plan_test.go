package plan_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// folder makes a pack of a manifest and other files, given as name and text in turn.
func folder(pack string, more ...string) fstest.MapFS {
	out := fstest.MapFS{"pack.yaml": {Data: []byte(pack)}}
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = &fstest.MapFile{Data: []byte(more[i+1])}
	}
	return out
}

func tryBuild(t testing.TB, fsys fstest.MapFS, inputs map[string]plan.InputValue) (*plan.Built, error) {
	t.Helper()
	src, err := load(fsys, travelling(t, fsys))
	if err != nil {
		return nil, err
	}
	return plan.Build(src, inputs)
}

func mustBuild(t testing.TB, pack string, more ...string) *plan.Built {
	t.Helper()
	b, err := tryBuild(t, folder(pack, more...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ids(p *work.Plan) string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, string(s.ID))
	}
	return strings.Join(out, " ")
}

func TestBuildErrors(t *testing.T) {
	for _, c := range []struct{ pack, where, says, hint string }{
		{"steps: [{id: a, run: x}, {id: a, run: y}]", "1:31", `the id "a" is taken by the step on line 1`, "another id"},
		{"steps: [{id: a, run: x}, {parallel: [{id: a, run: y}]}]", "1:43", `the id "a" is taken`, "also inside of parallel"},
		{"steps: [{id: b, needs: [aa], run: x}, {id: ab, run: x}]", "1:25", `needs "aa", which is not beside it`, ""},
		{"steps: [{id: build, run: x}, {needs: [biuld], run: x}]", "1:39", "not beside it", `did you mean "build"?`},
		{"steps: [{id: p, parallel: [{id: q, run: x}]}, {needs: [q], run: x}]", "1:56", "not beside it", `inside of "p"`},
		{"steps: [{id: a, needs: [a], run: x}]", "1:25", "needs itself", ""},
		{"steps: [{id: a, run: x}]\nfinally: [{needs: [a], run: y}]", "2:20", "not beside it", "after all others anyway"},
		{"steps:\n- {id: a, needs: [c], run: x}\n- {id: b, needs: [a], run: x}\n- {id: c, needs: [b], run: x}\n- {id: d, run: x}", "2:19", "in a circle: a → c → b → a", "needs: [] starts at once"},
		{"steps:\n- id: g\n  pack: {steps: [{id: a, needs: [b], run: x}, {id: b, needs: [a], run: x}]}\n- {id: z, run: x}", "3:34", "in a circle: a → b → a", ""},
		{"steps: [{parallel: [{id: a, run: x}, {id: b, needs: [a], run: x}]}]", "1:54", "do not wait for each other", "outside of it"},
		{"steps: [{run: x, when: steps.nope.status == 'x'}]", "1:24", `no step "nope"`, ""},
		{"steps: [{id: a, run: x, when: steps.a.status == 'x'}]", "1:31", "cannot look at itself", ""},
		{"steps: [{id: a, needs: [], run: x, when: steps.b.status == 'x'}, {id: b, needs: [], run: x}]", "1:42", `"b" is not sure to have ended before "a"`, `add "b" to needs of "a"`},
		{"steps: [{id: a, run: x, when: steps.b.status == 'x'}, {id: b, run: x}]", "1:31", "not sure to have ended", `runs after "a"`},
		{"steps: [{id: p, parallel: [{id: a, run: x}, {id: b, run: x, when: steps.a.status == 'x'}]}]", "1:67", "not sure to have ended", ""},
		{"steps: [{id: p, parallel: [{id: a, run: x, when: steps.p.status == 'x'}]}]", "1:50", `"a" is inside of "p"`, ""},
		{"steps: [{id: p, when: steps.a.status == 'x', parallel: [{id: a, run: x}]}]", "1:23", "has not begun by then", ""},
		{"steps: [{id: m, map: {items: [1], step: {id: c, run: x}}}, {run: x, when: steps.c.status == 'x'}]", "1:75", `no step "c"`, ""},
		{"steps: [{id: g, pack: {steps: [{id: c, run: x}]}}, {run: x, when: steps.c.status == 'x'}]", "1:67", `no step "c"`, ""},
		{"steps: [{id: a, run: x}, {run: {command: [a, '${{ steps.a.outputs.v }}']}}]", "1:51", `no output "v"`, "declare it"},
		{"steps: [{id: a, run: x, outputs: {version: {type: string}}}, {run: {command: [a, '${{ steps.a.outputs.vresion }}']}}]", "1:87", "no output", `did you mean "version"?`},
		{"steps: [{id: a, run: x}, {run: x, when: size(steps.a.results) > 0}]", "1:46", "only a map has results", ""},
		{"steps: [{id: m, map: {items: [1], step: {run: x}}}, {run: x, when: steps.m.outputs.v == 1}]", "1:68", "no output", "results[0].outputs.v"},
		{"steps: [{run: x, when: item == 1}]", "1:24", `nothing is called "item"`, "inside of the step of a map only"},
		{"steps: [{id: a-b, run: x}, {run: x, when: steps.a-b.status == 'x'}]", "1:49", `"a-b" has a dash`, `steps["a-b"].status`},
		{"steps: [{run: x, when: foo}]", "1:24", `nothing is called "foo"`, "text stands in quotes"},
		{"steps: [{map: {items: inputs2, step: {run: x}}}]", "1:23", `nothing is called "inputs2"`, `did you mean "inputs"?`},
		{"steps: [{run: x, artifacts: [{from: b.c, to: d}]}]", "1:37", `no step "b"`, ""},
		{"steps: [{id: b, run: x, outputs: {c: {type: json}}}, {run: x, artifacts: [{from: b.c, to: d}]}]", "1:82", `leaves no file called "c"`, "path/of/the/file"},
		{"steps: [{id: g, gate: {approval: {}}}, {run: x, artifacts: [{from: g.c, to: d}]}]", "1:68", "is a gate and leaves no files", ""},
		{"steps: [{run: {python: main.py}}]", "1:24", `no file "main.py"`, ".packignore"},
		{"sealed: true\nsteps: [{run: x, egress: ['a.b:443']}]", "2:9", "the pack is sealed", ""},
		{"steps: [{pack: ./nope}]", "1:16", `the pack "nope" cannot be read`, "path of a folder"},
		{"steps: [{pack: pack.yaml}]", "1:16", "contains itself: pack.yaml → pack.yaml", ""},
		{"steps: [{pack: loop}]", "3:8", "contains itself: pack.yaml → loop/pack.yaml → loop/again.yaml → loop/pack.yaml", ""},
		{"steps: [{pack: broken}]", "1:10", `no field "rum"`, ""},
		{"steps: [{pack: {path: child}}]", "1:23", `needs the input "n"`, "with:"},
		{"steps: [{pack: {path: child, with: {n: 1, x: 2}, secrets: {}}}]", "1:46", `no input "x"`, ""},
		{"steps: [{pack: {path: child, with: {n: a}}}]", "1:40", `must be an integer`, ""},
		{"steps: [{pack: {path: child, with: {n: 1, s: a}}}]", "1:46", "is a secret", "under secrets:"},
		{"steps: [{pack: {path: child, with: {n: 1, l: ['${{ 1 }}']}}}]", "1:46", "one expression", ""},
		{"inputs: {t: secret}\nsteps: [{pack: {path: child, with: {n: 1}, secrets: {n: t}}}]", "2:57", "no secret input", ""},
		{"steps: [{pack: final}]", "1:16", "has finally steps", "outermost"},
		{"steps: [{run: x}]\noutputs: {a: '${{ steps.b.outputs.c }}'}", "2:19", `no step "b"`, ""},
		{"steps: [{id: b, run: x}]\noutputs: {a: '${{ steps.b.outputs.c }}'}", "2:19", `no output "c"`, ""},
		{"steps: [{run: x}]\noutputs: {a: '${{ item }}'}", "2:19", `nothing is called "item"`, ""},
		{"concurrency: 'a-${{ steps.b.status }}'\nsteps: [{id: b, run: x}]", "1:21", "no step has run yet", "inputs only"},
		{"concurrency: 'a-${{ run.failed }}'\nsteps: [{id: b, run: x}]", "1:21", "has no failed yet", ""},
		{"inputs: {a: string, b: secret}\nsteps: [{run: x}]", "1:10", `the input "a" is missing`, "--input a="},
		{"inputs: {a: string, b: secret}\nsteps: [{run: x}]", "1:21", `the input "b" is missing`, "env:NAME"},
		{"inputs: {a: {default: [1], type: list, schema: s.json}}\nsteps: [{run: x}]", "1:10", "does not follow s.json", ""},
		{"inputs: {a: {default: [1], type: list, schema: remote.json}}\nsteps: [{run: x}]", "1:10", "cannot be used", ""},
	} {
		fsys := folder(c.pack, "loop/pack.yaml", "name: a\n\nsteps: [{pack: again.yaml}]", "loop/again.yaml", "# again\n\nsteps: [{pack: pack.yaml}]", "broken/pack.yaml", "steps: [{rum: x}]",
			"child/pack.yaml", "inputs: {n: integer, l: {type: list, default: []}, s: {type: secret, required: false}}\nsteps: [{run: x}]",
			"final/pack.yaml", "steps: [{run: x}]\nfinally: [{run: x}]", "s.json", `{"items": {"type": "string"}}`, "remote.json", `{"$ref": "https://example.org/x.json"}`)
		if c.says == "contains itself: pack.yaml → loop/pack.yaml → loop/again.yaml → loop/pack.yaml" {
			c.where = "3:16"
		}
		_, err := tryBuild(t, fsys, nil)
		var all manifest.Problems
		if !errors.As(err, &all) || fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", c.pack, err)
			continue
		}
		found := false
		for _, e := range all {
			found = found || strings.Contains(e.Message, c.says) && strings.HasSuffix(e.Where, ":"+c.where) && strings.Contains(e.Hint, c.hint) && e.Snippet != ""
		}
		if !found {
			var b strings.Builder
			for _, e := range all {
				b.WriteString(e.Error() + " [" + e.Hint + "]\n")
			}
			t.Errorf("%q: want %s %q [%s], got\n%s", c.pack, c.where, c.says, c.hint, b.String())
		}
	}
}

func TestOrder(t *testing.T) {
	for pack, want := range map[string]string{
		"steps: [{run: x}, {run: y}, {run: z}]":                                                                 "step-1 step-2 step-3",
		"steps: [{id: c, needs: [], run: x}, {id: b, needs: [], run: x}, {id: a, needs: [], run: x}]":           "a b c",
		"steps: [{id: c, run: x}, {id: b, needs: [], run: x}, {id: a, run: x}]":                                 "b a c",
		"steps: [{id: z, parallel: [{id: y, run: x}, {id: b, run: x}]}, {id: a, run: x}]":                       "z b y a",
		"steps: [{id: z, map: {items: [1], step: {id: q, run: x}}}, {id: a, run: x}]":                           "z z[*]::q a",
		"steps: [{id: z, pack: {steps: [{id: q, run: x}, {id: b, run: x}]}}, {id: a, run: x}]":                  "z z/q z/b a",
		"finally: [{id: a, run: x}]\nsteps: [{id: z, run: x}]":                                                  "z a",
		"steps: [{id: m, map: {items: [1], step: {id: p, parallel: [{run: x}, {run: y}]}}}, {id: a, run: x}]":   "m m[*]::p m[*]::p-1 m[*]::p-2 a",
		"steps: [{id: m, map: {items: [1], step: {id: g, pack: {steps: [{run: x}]}}}}, {needs: [], run: x}]":    "m m[*]::g m[*]::g/step-1 step-2",
		"steps: [{id: b, run: x}, {id: a, run: x}]\nfinally: [{id: d, run: x}, {id: c, needs: [], run: x}]":     "b a c d",
		"steps: [{id: g, pack: {steps: [{id: g, run: x}]}}, {id: h, pack: {steps: [{id: g, run: x}]}}]":         "g g/g h h/g",
		"steps: [{id: b, run: x}, {id: a, needs: [b, b], run: x}, {id: c, needs: b, run: x}, {id: d, run: x}]":  "b a c d",
		"steps: [{id: b, gate: {approval: {}}}, {id: a, gate.policy: {rules: ['steps.b.status == \"x\"']}}]":    "b a",
		"steps: [{id: t, run: x, needs: []}, {id: s, needs: [], parallel: [{id: u, run: x}]}, {id: v, run: x}]": "s t u v",
	} {
		if got := ids(mustBuild(t, pack).Plan); got != want {
			t.Errorf("%s\n is %s, want %s", pack, got, want)
		}
	}
}

// TestVisible lists what an expression may look at.
func TestVisible(t *testing.T) {
	for _, pack := range []string{
		"steps: [{id: a, run: x}, {id: b, run: x}, {run: x, when: steps.a.status == 'x'}]",
		"steps: [{id: p, parallel: [{id: a, run: x}]}, {run: x, when: steps.a.status == 'x' && steps.p.status == 'x'}]",
		"steps: [{id: a, run: x}, {parallel: [{run: x, when: steps.a.status == 'x'}]}]",
		"steps: [{id: a, run: x}, {map: {items: [1], step: {run: x, when: steps.a.status == 'x' && item == index}}}]",
		"steps: [{id: a, run: x}, {pack: {steps: [{run: x, when: steps.a.status == 'x'}]}}]",
		"steps: [{id: a, run: x, outputs: {l: {type: json}}}, {map: {items: steps.a.outputs.l, step: {map: {items: item.x, as: inner, step: {run: x, when: inner == item}}}}}]",
		"steps: [{id: a, needs: [], run: x}, {id: b, needs: [], run: x}]\nfinally: [{id: f, run: x, when: steps.a.status == steps.b.status}, {run: x, when: steps.f.status == 'x'}]",
		"steps: [{id: a, run: x}, {pack: {steps: [{id: a, run: x}, {run: x, when: steps.a.status == 'x'}]}}]",
		"steps: [{id: m, map: {items: [1], step: {id: g, pack: {steps: [{id: a, run: x}, {run: x, when: steps.a.status == item}]}}}}]",
		"steps: [{id: m, map: {items: [1], step: {run: x, outputs: {f: f}}}}, {run: x, artifacts: [{from: m.f, to: all/}]}]",
		"steps: [{run: {uses: noop}, id: n}, {run: x, when: steps.n.outputs.anything == 1}]",
	} {
		if _, err := tryBuild(t, folder(pack), nil); err != nil {
			t.Errorf("%s\n%v", pack, err)
		}
	}
}

func TestInputs(t *testing.T) {
	pack := "inputs: {s: {required: false, pattern: '[a-z]*'}, i: {type: integer, required: false, max: 9}, n: {type: number, required: false}, b: {type: boolean, required: false}, l: {type: list, items: string, required: false}, m: {type: map, required: false}, t: {type: secret, required: false}, e: {type: integer, enum: [1, 2], required: false}}\nsteps: [{run: x}]"
	text := func(s string) plan.InputValue { return plan.InputValue{Text: s} }
	raw := func(s string) plan.InputValue { return plan.InputValue{JSON: []byte(s)} }
	for _, c := range []struct {
		name  string
		value plan.InputValue
		want  string // canonical value, or ! and what is said
	}{
		{"s", text("abc"), `"abc"`}, {"s", text(""), `""`}, {"s", text("ABC"), "!does not match"}, {"s", raw("5"), "!must be a string, not 5"},
		{"i", text("7"), "7"}, {"i", text("-7"), "-7"}, {"i", text("07"), "!must be an integer"}, {"i", text("7.0"), "!must be an integer"}, {"i", text("10"), "!is more than 9"}, {"i", raw("7"), "7"}, {"i", raw("7.5"), "!must be an integer"},
		{"n", text("1.50"), `"1.50"`}, {"n", text("3"), "3"}, {"n", raw("1.5"), `"1.5"`}, {"n", raw("1e3"), "!must be a number"}, {"n", text("x"), "!must be a number"},
		{"b", text("true"), "true"}, {"b", text("yes"), "!must be a boolean"}, {"b", raw("false"), "false"},
		{"l", text(`["a"]`), `["a"]`}, {"l", text(`a,b`), "!must be a list"}, {"l", raw(`["a",1]`), "!number 1"}, {"l", text(`["a"`), "!is no JSON"},
		{"m", text(`{"b":1,"a":{}}`), `{"a":{},"b":1}`}, {"m", raw(`{"a":1.5}`), "!fraction"}, {"m", raw(`[]`), "!must be a map"},
		{"t", text("env:A_B"), "=env:A_B"}, {"t", text("file:/a/b"), "=file:/a/b"}, {"t", raw(`"env:X"`), "=env:X"}, {"t", text("hunter2"), "!not a reference"}, {"t", text("file:a"), "!not a reference"}, {"t", text("file:/a/../b"), "!not a reference"},
		{"t", text("vault:secret/data/a#b"), "=vault:secret/data/a#b"}, {"t", text("vault:kv/a"), "!not a reference"}, {"t", text("vault:kv/../sys#a"), "!not a reference"}, {"t", text("vault:a#b"), "!not a reference"}, {"t", text("vault:/kv/a#b"), "!not a reference"}, {"t", text("vault:kv/a?x#b"), "!not a reference"},
		{"e", text("2"), "2"}, {"e", text("3"), "!is not one of 1, 2"}, {"x", text("2"), `!no input "x"`},
	} {
		b, err := tryBuild(t, folder(pack), map[string]plan.InputValue{c.name: c.value})
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s=%+v: %v, want %q", c.name, c.value, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s=%+v: %v", c.name, c.value, err)
			continue
		}
		if got := b.Plan.Inputs[0]; len(b.Plan.Inputs) != 1 || string(got.Value) != c.want && "="+got.Secret != c.want {
			t.Errorf("%s=%+v is %s", c.name, c.value, got.Value)
		}
	}
	_, err := tryBuild(t, folder(pack), map[string]plan.InputValue{"i": text("x"), "b": text("y"), "zz": text("1")})
	var all manifest.Problems
	if !errors.As(err, &all) || len(all) != 3 {
		t.Errorf("not all problems are reported: %v", err)
	}
}

func TestDisplayStaysOutside(t *testing.T) {
	src := func(name, message string) plan.Source {
		m, err := manifest.Parse("pack.yaml", []byte("steps: [{id: a, name: "+name+", gate: {approval: {message: "+message+"}}}]"))
		if err != nil {
			t.Fatal(err)
		}
		return plan.Source{Manifest: m, Path: "pack.yaml", Digest: canonical.Digest(nil)}
	}
	a, errA := plan.Build(src("one", "two"), nil)
	b, errB := plan.Build(src("three", "four"), nil)
	if errA != nil || errB != nil || a.Hash != b.Hash || a.Display["a"] != (plan.Text{Name: "one", Message: "two"}) {
		t.Error(errA, errB, a.Display)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := string(mustBuild(t, "steps: [{run: x}]").Canonical)
	if _, err := plan.Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"space": good + " ", "newline": good + "\n", "unknown field": strings.Replace(good, `{"files"`, `{"extra":1,"files"`, 1), "default written out": strings.Replace(good, `"kind":"run"`, `"kind":"run","needs":[]`, 1),
		"other case": strings.Replace(good, `"kind"`, `"Kind"`, 1), "version": strings.Replace(good, "orrery.plan/v1", "orrery.plan/v2", 1), "twice": strings.Replace(good, `"kind":"run"`, `"kind":"run","kind":"run"`, 1),
		"fraction": strings.Replace(good, "10000", "10000.0", 1), "escape": strings.Replace(good, `"script":"x"`, `"script":"\u0078"`, 1), "empty": "", "null": "null", "list": "[]",
	} {
		if text == good {
			t.Errorf("%s changes nothing", name)
		}
		if _, err := plan.Decode([]byte(text)); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChangedSubPackIsNoticed(t *testing.T) {
	fsys := folder("steps: [{pack: sub}]", "sub/pack.yaml", "steps: [{run: x}]")
	files := travelling(t, fsys)
	fsys["sub/pack.yaml"].Data = []byte("steps: [{run: evil}]")
	src, err := load(fsys, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Build(src, nil); err == nil || !strings.Contains(err.Error(), "changed while") {
		t.Error(err)
	}
	if err := plan.Check(plan.Source{Manifest: src.Manifest, Path: "pack.yaml", FS: fsys}); err == nil || !strings.Contains(err.Error(), "not among the files") {
		t.Error(err)
	}
}

func TestNestingIsBounded(t *testing.T) {
	more := []string{}
	for i := range 12 {
		more = append(more, "p"+string(rune('a'+i))+".yaml", "steps: [{pack: p"+string(rune('b'+i))+".yaml}]")
	}
	_, err := tryBuild(t, folder("steps: [{pack: pa.yaml}]", more...), nil)
	if err == nil || !strings.Contains(err.Error(), "more than 8 levels") {
		t.Error(err)
	}
}

func TestIgnore(t *testing.T) {
	i, err := plan.ParseIgnore([]byte("# comment\n*.log\n/build\nnode_modules/\ndocs/*.md\n!docs/keep.md\na/**/z\nlast/**\n\\#odd\nq?r  \n[xy].c\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"a.log": true, "x/y/a.log": true, "a.logs": false, "build": true, "build/x": true, "x/build": false, "node_modules/a/b": true, "x/node_modules/a": true, "node_modules": false,
		"docs/a.md": true, "docs/x/a.md": false, "docs/keep.md": false, "a/z": true, "a/b/c/z": true, "b/a/z": false, "last/a/b": true, "last": false, "#odd": true, "qqr": true, "x.c": true, "d/y.c": true, "z.c": false,
		".git/config": true, "sub/.git/x": true, ".gitignore": false, "pack.yaml": false,
	} {
		if got := i.Match(name, false); got != want {
			t.Errorf("%s is ignored: %v", name, got)
		}
	}
	if !i.Match("node_modules", true) || i.Match("src", true) {
		t.Error("folders")
	}
	if got := i.Select([]string{"b", "a.log", "a"}); !reflect.DeepEqual(got, []string{"a", "b"}) {
		t.Error(got)
	}
	for _, bad := range []string{"[", "a//b", "../x", "/", "!"} {
		if _, err := plan.ParseIgnore([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// What an author wrote into .packignore is understood or refused, and asked about any name it answers.
func FuzzParseIgnore(f *testing.F) {
	f.Add([]byte("*.log\n!keep.log\nbuild/\n**/x?[ab]\n# note\n\\#name\n"), "build/a.log")
	f.Add([]byte("[\n"), "a")
	f.Add([]byte("**/**/**/**/**/**/**/**/a\n"), "a/a/a/a/a/a/a/a/a/a/a/a/b")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		rules, err := plan.ParseIgnore(text)
		if err != nil {
			if fault.CodeOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		first := rules.Match(name, false)
		if again := rules.Match(name, false); first != again {
			t.Fatal("asked twice it gives two answers")
		}
		rules.Match(name, true)
		rules.Select([]string{name, "a/" + name})
	})
}
