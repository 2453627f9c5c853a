package expression_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
)

func scope() expression.Scope {
	return expression.Scope{
		Inputs: map[string]any{"name": "ada", "count": 3, "float": 2.0, "half": 0.5, "big": json.Number("42"), "on": true,
			"list": []any{"a", "b"}, "empty": []any{}, "map": map[string]any{"z": 1, "a": 2, "m": map[string]any{"x": nil}}},
		Steps: map[string]any{
			"build": map[string]any{"status": "succeeded", "outputs": map[string]any{"version": "1.2", "n": int64(7), "raw": `{"k":[1,2.0]}`}},
			"b-2":   map[string]any{"status": "failed", "outputs": map[string]any{}},
			"shard": map[string]any{"status": "succeeded", "results": []any{
				map[string]any{"status": "succeeded", "outputs": map[string]any{"n": 1.0}}, map[string]any{"status": "failed", "outputs": map[string]any{}}}},
		},
		Vars: map[string]any{"item": map[string]any{"id": "x1"}, "index": int64(4)},
		Run:  map[string]any{"id": "run_1", "failed": false, "status": "running"},
	}
}

func TestEval(t *testing.T) {
	for src, want := range map[string]any{
		`1 + 2`:                      int64(3),
		`inputs.name`:                "ada",
		` inputs.count `:             int64(3),
		`inputs.float`:               int64(2),
		`inputs.float + 1`:           int64(3),
		`inputs.big * 2`:             int64(84),
		`inputs.half * 4.0`:          int64(2),
		`inputs["name"] + "!"`:       "ada!",
		`inputs.list`:                []any{"a", "b"},
		`inputs.list[1]`:             "b",
		`inputs.list + ["c"]`:        []any{"a", "b", "c"},
		`inputs.list.map(x, x + x)`:  []any{"aa", "bb"},
		`inputs.map.map(k, k)`:       []any{"a", "m", "z"},
		`{"b": 1, "a": 2}.map(k, k)`: []any{"a", "b"},
		`{"b": 1, "a": 2, "c": 3, "d": 4}.filter(k, k != "c")`:                       []any{"a", "b", "d"},
		`inputs.map.map(k, k == "m" ? inputs.map[k].map(q, q) : [])`:                 []any{[]any{}, []any{"x"}, []any{}},
		`{"b": [1, {"c": null}]}`:                                                    map[string]any{"b": []any{int64(1), map[string]any{"c": nil}}},
		`inputs.map.m.x == null`:                                                     true,
		`has(inputs.map.q)`:                                                          false,
		`has(inputs.map.a) && inputs.map.a == 2`:                                     true,
		`steps.build.outputs.version == "1.2"`:                                       true,
		`steps["b-2"].status == "failed"`:                                            true,
		`steps.shard.results[0].outputs.n`:                                           int64(1),
		`steps.shard.results.filter(r, r.status == "succeeded").map(r, r.outputs.n)`: []any{int64(1)},
		`steps.shard.results.all(r, r.status != "pending")`:                          true,
		`steps.shard.results.exists(r, r.status in ["failed", "dead"])`:              true,
		`steps.shard.results.exists_one(r, r.status == "failed")`:                    true,
		`json(steps.build.outputs.raw).k[1]`:                                         int64(2),
		`item.id + "-" + string(index)`:                                              "x1-4",
		`index % 2 == 0 ? "even" : "odd"`:                                            "even",
		`item`:                                                                       map[string]any{"id": "x1"},
		`[1, 2].map(item, item * 2)`:                                                 []any{int64(2), int64(4)},
		`run.failed || run.status != "running"`:                                      false,
		`size(inputs.list) + size("é€")`:                                             int64(4),
		`"a,b".split(",")`:                                                           []any{"a", "b"},
		`["a", "b"].join("-") + ["c"].join()`:                                        "a-bc",
		`"aXa".replace("a", "b").lowerAscii()`:                                       "bxb",
		`" é ".trim().upperAscii()`:                                                  "é",
		`"héllo".substring(1, 3) + "xyz".substring(2)`:                               "élz",
		`"héllo".indexOf("l") + "héllo".lastIndexOf("q")`:                            int64(1),
		`pad(7, 3) + pad(-7, 3) + pad(1234, 2)`:                                      "007-0071234",
		`sha256("")`:                                                                 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		`"v1.2".matches("^v[0-9.]+$")`:                                               true,
		`int("12") + int(3.7) + int(true ? 1 : 0)`:                                   int64(16),
		`string(1.5) + string(true) + string(2)`:                                     "1.5true2",
		`"steps.a-b.status" + 'steps.a-b.status' == "x" || inputs.count-1 == 2`:      true,
		`steps.build.outputs.n-inputs.count`:                                         int64(4),
		`null`:                                                                       nil,
		`10u`:                                                                        int64(10),
		`1 < 2.5`:                                                                    true,
		`"b" in inputs.list && "a" in inputs.map`:                                    true,
		`[[1], {"a": 2}].exists(x, x == {"a": 2})`:                                   true,
		`[1, 2].filter(x, !(x in [2])).size() == 1`:                                  true,
	} {
		p, err := expression.Compile(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := p.Eval(scope())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %#v, %v; want %#v", src, got, err, want)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, c := range []struct {
		src, says string
		offset    int
	}{
		{``, "empty", 0}, {`  `, "empty", 0}, {`1 +`, "too early", 3}, {`(1`, "missing ')' at the end", 2}, {`a b`, "extraneous input 'b'", 2},
		{`1 + "a"`, "cannot be applied to (int, string)", 2},
		{`inputs.a == nope(1)`, `no function "nope"`, 12},
		{`now()`, `no function "now"`, 0}, {`timestamp("2020-01-01T00:00:00Z")`, `no function "timestamp"`, 0}, {`duration("1s")`, "no function", 0},
		{`"a".format([1])`, `no function "format"`, 4}, {`b"x"`, "no bytes", 0}, {`type(1)`, "no function", 0}, {`dyn(1)`, "no function", 0},
		{`inputs`, "inputs must be followed", 0}, {`size(steps)`, "steps must be followed", 5}, {`1 + inputs[item]`, "written out, not computed", 4},
		{`steps[inputs.x].outputs`, "written out", 0}, {`steps.a.output.x`, `a step has no "output"`, 0}, {`true && run.foo`, `run has no "foo"`, 8},
		{"1 +\n  @", "token recognition error", 6},
		{`a.b{c: 1}`, "cannot make", 3}, {`&&`, "", 0}, {"\"\n\"", "", 0}, {strings.Repeat("(", 5000), "", -1}, {strings.Repeat("1+", 5000) + "1", "", -1},
		{`'é' + nope(1)`, `no function "nope"`, 6},
		{`'é' != steps.step-1.status`, `"step-1" has a dash`, 13}, {`steps.a-b-c.outputs.x`, `"a-b-c" has a dash`, 6},
		{`"a".matches("(")`, "error parsing regexp", -1},
	} {
		p, err := expression.Compile(c.src)
		var e *expression.Error
		if err == nil || !errors.As(err, &e) || !strings.Contains(e.Message, c.says) {
			t.Errorf("Compile(%.40q) = %v, %v; want it to say %q", c.src, p, err, c.says)
			continue
		}
		if c.offset >= 0 && e.Offset != c.offset {
			t.Errorf("Compile(%.40q): offset %d, want %d (%v)", c.src, e.Offset, c.offset, err)
		}
		if fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q has code %s", c.src, fault.CodeOf(err))
		}
	}
}

func TestEvalErrors(t *testing.T) {
	for src, says := range map[string]string{
		`inputs.nme`:                         `inputs has no "nme"`,
		`inputs.nme + "x"`:                   `inputs has no "nme"`,
		`steps.build.outputs.nope == 1`:      `steps.build.outputs has no "nope"`,
		`steps.other.outputs`:                `steps has no "other"`,
		`inputs.name.first`:                  `inputs.name is a text and has no field "first"`,
		`inputs.name.first + "a"`:            `inputs.name is a text`,
		`shard.id`:                           `nothing is called "shard"`,
		`inputs.half`:                        "has a fraction",
		`1.5 + 1.0`:                          "has a fraction",
		`inputs.name + 1`:                    "does not fit the types",
		`inputs.list[7]`:                     "index out of bounds",
		`1 / (inputs.count - 3)`:             "division by zero",
		`9223372036854775807 + inputs.count`: "overflow",
		`{1: 2}`:                             "keys of a map must be texts",
		`json("{")`:                          "json cannot read",
		`json("1 2")`:                        "more follows",
		`[inputs.count].join(",")`:           "join takes a list of texts",
		`"abc".substring(2, 1)`:              "outside of a text",
		`pad(1, 1000)`:                       "width",
		`inputs.list.map(x, inputs.list.map(y, x + y + nope.q))`: `nothing is called "nope"`,
	} {
		p, err := expression.Compile(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := p.Eval(scope())
		if err == nil || !strings.Contains(err.Error(), says) || fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s = %v, %v; want it to say %q", src, got, err, says)
		}
	}
	for src, says := range map[string]string{`1`: "must be true or false", `inputs.name`: "this is a text"} {
		p, _ := expression.Compile(src)
		if _, err := p.Bool(scope()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Bool(%s): %v", src, err)
		}
	}
	p, _ := expression.Compile(`inputs.name`)
	if _, err := p.List(scope()); err == nil || !strings.Contains(err.Error(), "a list is needed") {
		t.Error(err)
	}
	if list, err := mustCompile(t, `inputs.list`).List(scope()); err != nil || len(list) != 2 {
		t.Error(list, err)
	}
	if b, err := mustCompile(t, `inputs.on`).Bool(scope()); err != nil || !b {
		t.Error(b, err)
	}
}

func mustCompile(t testing.TB, src string) *expression.Program {
	p, err := expression.Compile(src)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRefs(t *testing.T) {
	for src, want := range map[string]string{
		`1`:                                     `[] [] [] false`,
		`inputs.a`:                              `[a] [] [] false`,
		`inputs["a-b"] + inputs.a.b + inputs.a`: `[a a-b] [] [] false`,
		`steps.x.outputs.y == steps["q-1"].outputs["z"]`:       `[] [q-1 x] [] false`,
		`run.failed && item.x == index`:                        `[] [] [index item] true`,
		`steps.x.results.map(item, item.y + other.z)`:          `[] [x] [other] false`,
		`has(steps.x.outputs.y) ? inputs.list[index] : run.id`: `[list] [x] [index] true`,
		`[1].map(inputs, inputs)`:                              `[] [] [] false`,
	} {
		r := mustCompile(t, src).Refs()
		got := strings.ReplaceAll(strings.Join([]string{str(r.Inputs), str(r.Steps), str(r.Vars), str(r.Run)}, " "), "null", "[]")
		if got != strings.NewReplacer(`"`, "").Replace(want) {
			t.Errorf("Refs(%s) = %s, want %s", src, got, want)
		}
	}
	r := mustCompile(t, `1 == 2 || steps.x.outputs["y"] == inputs.q`).Refs()
	if want := []expression.Path{{Parts: []string{"steps", "x", "outputs", "y"}, Offset: 10}, {Parts: []string{"inputs", "q"}, Offset: 34}}; !reflect.DeepEqual(r.Paths, want) {
		t.Error(r.Paths)
	}
}

func str(v any) string {
	raw, _ := json.Marshal(v)
	return strings.NewReplacer(`"`, "", ",", " ").Replace(string(raw))
}

// TestBounds gives the interpreter what costs others their process.
func TestBounds(t *testing.T) {
	big := strings.Repeat("a", 1<<20)
	many := make([]any, 100_000)
	for i := range many {
		many[i] = int64(i)
	}
	s := expression.Scope{Inputs: map[string]any{"big": big, "many": many}}
	double := strings.Repeat(".map(a, [a, a])", 40)
	for name, src := range map[string]string{
		"nested result":   `[0]` + double,
		"nested equality": `[0]` + double + ` == [0]` + double,
		"nested in":       `[0]` + double + ` in [[0]` + double + `]`,
		"text doubling":   `["x"]` + strings.Repeat(".map(a, a + a)", 60),
		"list doubling":   `[[0]]` + strings.Repeat(".map(a, a + a)", 60) + `.map(a, a.map(b, b))`,
		"replace":         `inputs.big.replace("a", inputs.big)`,
		"join":            `inputs.many.map(x, inputs.big).join("")`,
		"split":           `inputs.many.map(x, inputs.big.split("a"))`,
		"size":            `inputs.many.map(x, size(inputs.big))`,
		"sha256":          `inputs.many.map(x, sha256(inputs.big))`,
		"square":          `inputs.many.map(x, inputs.many.map(y, x + y))`,
		"matches":         `inputs.many.map(x, inputs.big.matches("(a|b|aa|ab)*c"))`,
		"regex size":      `inputs.big.matches("(a{1,30}){1,30}")`,
		"equality":        `inputs.many.map(x, inputs.many) == inputs.many.map(x, inputs.many)`,
		"in list":         `inputs.many.filter(x, x in inputs.many)`,
		"result":          `inputs.many.map(x, inputs.many)`,
	} {
		start := time.Now()
		p, err := expression.Compile(src)
		if err == nil {
			_, err = p.Eval(s)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s took %v (%v)", name, took, err)
		} else {
			t.Logf("%-16s %8v %v", name, took.Round(time.Millisecond), err)
		}
	}
}

func TestLargeListsWork(t *testing.T) {
	many := make([]any, 100_000)
	for i := range many {
		many[i] = map[string]any{"id": int64(i)}
	}
	s := expression.Scope{Inputs: map[string]any{"many": many}}
	list, err := mustCompile(t, `inputs.many.map(x, x.id)`).List(s)
	if err != nil || len(list) != len(many) || list[99_999] != int64(99_999) {
		t.Fatal(len(list), err)
	}
}

func TestTemplate(t *testing.T) {
	for src, want := range map[string]any{
		``:                     "",
		`plain`:                "plain",
		`${{ inputs.count }}`:  int64(3),
		`${{inputs.list}}`:     []any{"a", "b"},
		` ${{ inputs.count }}`: " 3",
		`n=${{ inputs.count }}, ${{ inputs.on }}, ${{ inputs.list }}, ${{ null }}`: `n=3, true, ["a","b"], null`,
		`$${{ inputs.count }}`:        "${{ inputs.count }}",
		`a$${{b}} ${{ inputs.name }}`: "a${{b}} ada",
		`${{ {"a": {"b": 1}}.a.b }}`:  int64(1),
		`${{ "}}" + '}}' }}`:          "}}}}",
		`${{ "a\"}}" }}x`:             `a"}}x`,
		`${{ r"\" }}x`:                `\x`,
		`${{ """a"}}""" }}`:           `a"}}`,
		`$ {{ x }} $x $$ {`:           `$ {{ x }} $x $$ {`,
	} {
		tpl, err := expression.CompileTemplate(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := tpl.Eval(scope())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %#v, %v; want %#v", src, got, err, want)
		}
		if expression.HasExpression(src) == tpl.Constant() {
			t.Errorf("%s: Constant and HasExpression disagree", src)
		}
	}
	for src, c := range map[string]struct {
		says   string
		offset int
	}{
		`x ${{ inputs.a`: {"has no }}", 2}, `é ${{ 1 + }}`: {"too early", 10}, `${{ }}`: {"empty", 3}, `a ${{ 1 }} ${{ nope(1) }}`: {"no function", 15},
		`${{ "a }}`: {"has no }}", 0}, `${{ a } }}`: {"has no }}", 0}, `${{ inputs.a }} ${{ inputs }}`: {"must be followed", 20},
	} {
		_, err := expression.CompileTemplate(src)
		var e *expression.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, c.says) || e.Offset != c.offset || e.Source != src {
			t.Errorf("%s: %#v, want %q at %d", src, err, c.says, c.offset)
		}
	}
	tpl, _ := expression.CompileTemplate(`é${{ inputs.b }}${{ steps.a.outputs.x }}`)
	if r := tpl.Refs(); str(r.Inputs)+str(r.Steps) != "[b][a]" || r.Paths[0].Offset != 5 || r.Paths[1].Offset != 20 {
		t.Errorf("%+v", r)
	}
}

// TestPathsAgree holds the short cut for plain paths to what the interpreter says.
func TestPathsAgree(t *testing.T) {
	names := []string{"inputs", "steps", "run", "item", "index", "name", "map", "m", "x", "build", "outputs", "status", "n", "id", "list", "count", "half"}
	rapid.Check(t, func(t *rapid.T) {
		src := strings.Join(rapid.SliceOfN(rapid.SampledFrom(names), 1, 5).Draw(t, "path"), ".")
		fast, fastErr := expression.Compile(src)
		slow, slowErr := expression.Compile("(" + src + ")")
		if (fastErr == nil) != (slowErr == nil) {
			t.Fatalf("%s: %v and %v", src, fastErr, slowErr)
		}
		if fastErr != nil {
			return
		}
		a, errA := fast.Eval(scope())
		b, errB := slow.Eval(scope())
		if (errA == nil) != (errB == nil) || !reflect.DeepEqual(a, b) {
			t.Fatalf("%s: %v, %v and %v, %v", src, a, errA, b, errB)
		}
		ra, rb := fast.Refs(), slow.Refs()
		if !reflect.DeepEqual(ra.Inputs, rb.Inputs) || !reflect.DeepEqual(ra.Steps, rb.Steps) || !reflect.DeepEqual(ra.Vars, rb.Vars) || ra.Run != rb.Run {
			t.Fatalf("%s: %+v and %+v", src, ra, rb)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{`${{ inputs.name + "x" }}`, `a $${{ ${{ steps["b-2"].status }}`, `${{ inputs.list.map(x, x + x)[0] }}`, `${{ {"a": 1}.a }} ${{ pad(index, 3) }}`, `${{ json("[1]")[0] == 1 ? "}}" : r'\' }}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		tpl, err := expression.CompileTemplate(src)
		if err != nil {
			var e *expression.Error
			if !errors.As(err, &e) {
				t.Fatalf("%q: %v is no *Error", src, err)
			}
			e.Position()
			return
		}
		a, errA := tpl.Eval(scope())
		b, errB := tpl.Eval(scope())
		if !reflect.DeepEqual(a, b) || (errA == nil) != (errB == nil) {
			t.Fatalf("%q is not deterministic: %v, %v and %v, %v", src, a, errA, b, errB)
		}
		if errA == nil {
			if _, err := json.Marshal(a); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkPath(b *testing.B) { benchmark(b, `steps.build.outputs.version`) }
func BenchmarkCompare(b *testing.B) {
	benchmark(b, `steps.build.outputs.version == "1.2" && inputs.count > 2`)
}

func benchmark(b *testing.B, src string) {
	s := scope()
	b.Run("Compile", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mustCompile(b, src)
		}
	})
	p := mustCompile(b, src)
	b.Run("Eval", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Eval(s); err != nil {
				b.Fatal(err)
			}
		}
	})
}
