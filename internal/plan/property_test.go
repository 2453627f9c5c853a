package plan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// draw makes up a pack as a JSON value. Ids are unique; every step needs only steps before it in its list.
type draw struct {
	t *rapid.T
	n int
}

func (d *draw) pack() map[string]any {
	return map[string]any{"name": "random", "inputs": map[string]any{"a": map[string]any{"default": "x"}, "n": map[string]any{"type": "integer", "default": 3}},
		"steps": d.steps(3, 1, 5), "finally": d.steps(1, 0, 2), "maxParallel": rapid.IntRange(1, 9).Draw(d.t, "maxParallel"), "env": map[string]any{"E": "${{ inputs.a }}", "D": "d"}}
}

func (d *draw) steps(depth, least, most int) []any {
	count := rapid.IntRange(least, most).Draw(d.t, "steps")
	out := []any{}
	var before []string
	for range count {
		s := d.step(depth)
		if rapid.Bool().Draw(d.t, "explicit") {
			needs := []any{}
			for _, id := range before {
				if rapid.Bool().Draw(d.t, "need") {
					needs = append(needs, id)
				}
			}
			s["needs"] = needs
		}
		before = append(before, s["id"].(string))
		out = append(out, s)
	}
	return out
}

func (d *draw) step(depth int) map[string]any {
	d.n++
	letter := rapid.SampledFrom([]string{"a", "k", "z", "A", "_"}).Draw(d.t, "letter")
	s := map[string]any{"id": fmt.Sprintf("%s%d", letter, d.n), "name": "shown"}
	kind := 0
	if depth > 0 {
		kind = rapid.IntRange(0, 5).Draw(d.t, "kind")
	}
	switch kind {
	case 1:
		block := d.steps(depth-1, 1, 3)
		for _, b := range block {
			delete(b.(map[string]any), "needs")
		}
		s["parallel"] = map[string]any{"steps": block, "maxParallel": 2}
	case 2:
		s["map"] = map[string]any{"items": []any{1, "b", map[string]any{"y": 1, "x": 2}}, "step": d.step(depth - 1)}
	case 3:
		s["pack"] = map[string]any{"steps": d.steps(depth-1, 1, 3)}
	case 4:
		s["gate"] = map[string]any{"approval": map[string]any{"required": rapid.IntRange(1, 3).Draw(d.t, "required"), "approvers": []any{"c", "b", "a"}}}
	case 5:
		s["gate"] = map[string]any{"policy": map[string]any{"rules": []any{map[string]any{"id": "r", "require": "inputs.n > 2"}}}}
	default:
		s["run"] = map[string]any{"command": []any{"echo", "${{ inputs.a }}", rapid.StringMatching(`[a-z "\\é😀]{0,6}`).Draw(d.t, "arg")}}
		s["env"] = map[string]any{"B": "2", "A": "1", "N": "${{ inputs.n }}"}
		s["outputs"] = map[string]any{"o": "out/*", "v": map[string]any{"type": "json"}}
		s["retry"] = map[string]any{"max": rapid.IntRange(1, 4).Draw(d.t, "max")}
		s["egress"] = []any{"b.example.org:443", "a.example.org:1"}
	}
	return s
}

// shuffled writes a JSON value with its keys in a random order and white space at random: the same YAML to a reader.
func shuffled(r *rand.Rand, v any) string {
	space := func() string { return strings.Repeat([]string{" ", "\n", "  "}[r.Intn(3)], r.Intn(3)) }
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Collect(maps.Keys(v))
		slices.Sort(keys)
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		parts := make([]string, len(keys))
		for i, k := range keys {
			parts[i] = space() + shuffled(r, k) + ": " + space() + shuffled(r, v[k]) + space()
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = space() + shuffled(r, e) + space()
		}
		return "[" + strings.Join(parts, ",") + "]"
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(raw)
	}
}

func buildText(t interface{ Fatalf(string, ...any) }, text string) *plan.Built {
	m, err := manifest.Parse("pack.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	b, err := plan.Build(plan.Source{Manifest: m, Path: "pack.yaml", Digest: canonical.Digest(nil)}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return b
}

func TestRandomPacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t: t}
		pack := d.pack()
		seed := rapid.Int64().Draw(t, "seed")
		a := buildText(t, shuffled(rand.New(rand.NewSource(seed)), pack))
		b := buildText(t, shuffled(rand.New(rand.NewSource(seed+1)), pack))
		if a.Hash != b.Hash {
			t.Fatalf("the order of keys or white space changes the plan:\n%s\n%s", a.Canonical, b.Canonical)
		}
		ordered(t, a.Plan)
		decoded, err := plan.Decode(a.Canonical)
		if err != nil {
			t.Fatal(err)
		}
		if changes := plan.Diff(a.Plan, decoded); len(changes) > 0 {
			t.Fatalf("%v", changes)
		}
		if len(plan.Simulate(a.Plan)) != len(a.Plan.Steps) {
			t.Fatal("the preview leaves steps out")
		}
		mutate(t, a)
	})
}

// ordered checks the order of a plan against its definition.
func ordered(t *rapid.T, p *work.Plan) {
	at := map[work.StepID]int{}
	last := map[work.StepID]int{} // of a step and everything inside of it
	for i, s := range p.Steps {
		if _, twice := at[s.ID]; twice {
			t.Fatalf("%s stands twice", s.ID)
		}
		at[s.ID], last[s.ID] = i, i
		for up := s.Parent; up != ""; up = p.Steps[at[up]].Parent {
			last[up] = i
		}
	}
	finally := false
	for i, s := range p.Steps {
		if s.Parent != "" && at[s.Parent] >= i {
			t.Fatalf("%s stands before what it is inside of", s.ID)
		}
		for _, need := range s.Needs {
			if j, ok := last[need]; !ok || j >= i {
				t.Fatalf("%s stands before what it needs, or what is inside of that: %s", s.ID, need)
			}
		}
		if finally && !s.Finally {
			t.Fatalf("%s stands behind the finally steps", s.ID)
		}
		finally = finally || s.Finally
		if !slices.IsSorted(s.Needs) {
			t.Fatalf("the needs of %s are not sorted", s.ID)
		}
	}
}

// mutate changes one place of the plan and looks for the change in the hash, in the decoded form and in the diff.
func mutate(t *rapid.T, b *plan.Built) {
	var doc any
	decoder := json.NewDecoder(strings.NewReader(string(b.Canonical)))
	decoder.UseNumber()
	if err := decoder.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	var places []func() string
	collect(doc, "", &places)
	where := places[rapid.IntRange(0, len(places)-1).Draw(t, "place")]()
	raw, err := canonical.MarshalUpTo(doc, plan.MaxBytes)
	if err != nil {
		t.Fatal(err)
	}
	if canonical.Digest(raw) == b.Hash {
		t.Fatalf("the hash does not see a change at %s", where)
	}
	changed, err := plan.Decode(raw)
	if err != nil {
		return // no plan any more, such as one with another version
	}
	if len(plan.Diff(b.Plan, changed)) == 0 || len(plan.Diff(changed, b.Plan)) == 0 {
		t.Fatalf("the diff does not see a change at %s", where)
	}
}

// collect lists ways to change every leaf of a document.
func collect(v any, path string, places *[]func() string) {
	leaf := func(old any, set func(any)) {
		*places = append(*places, func() string {
			switch old := old.(type) {
			case string:
				set(old + "x")
			case bool:
				set(!old)
			case json.Number:
				n, err := old.Int64()
				if err != nil {
					panic(err)
				}
				set(n + 1)
			default:
				set("x")
			}
			return path
		})
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			switch v[k].(type) {
			case map[string]any, []any:
				collect(v[k], path+"."+k, places)
			default:
				leaf(v[k], func(fresh any) { v[k] = fresh })
			}
		}
	case []any:
		for i := range v {
			switch v[i].(type) {
			case map[string]any, []any:
				collect(v[i], fmt.Sprintf("%s[%d]", path, i), places)
			default:
				leaf(v[i], func(fresh any) { v[i] = fresh })
			}
		}
	}
}

func FuzzBuild(f *testing.F) {
	for _, pattern := range []string{vectors + "/plan/*/pack.yaml", "../manifest/testdata/good/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, "x")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		m, err := manifest.Parse("pack.yaml", data)
		if err != nil {
			return
		}
		inputs := map[string]plan.InputValue{}
		for _, in := range m.Inputs {
			if in.Required {
				inputs[in.Name] = plan.InputValue{Text: value}
				if in.Type == "secret" {
					inputs[in.Name] = plan.InputValue{Text: "env:X"}
				}
			}
		}
		src := plan.Source{Manifest: m, Path: "pack.yaml", Digest: canonical.Digest(data)}
		b, err := plan.Build(src, inputs)
		if err != nil {
			var all manifest.Problems
			if !errors.As(err, &all) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		decoded, err := plan.Decode(b.Canonical)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := plan.Build(src, inputs); err != nil || again.Hash != b.Hash {
			t.Fatalf("planning twice gives %v and %v (%v)", b.Hash, again, err)
		}
		if !reflect.DeepEqual(plan.Simulate(decoded), plan.Simulate(b.Plan)) {
			t.Fatal("the preview depends on more than the plan")
		}
		if _, err := plan.StepDigests(decoded); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob(vectors + "/plan/*/plan.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := plan.Decode(raw)
		if err != nil {
			return
		}
		again, err := plan.Encode(p)
		if err != nil || string(again) != string(raw) {
			t.Fatalf("%s is accepted and written as %s (%v)", raw, again, err)
		}
		plan.Simulate(p)
		plan.Diff(p, p)
	})
}
