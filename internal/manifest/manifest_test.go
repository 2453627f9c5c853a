package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

func parse(t testing.TB, text string) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("dir/pack.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

func TestLongForm(t *testing.T) {
	data, err := os.ReadFile("testdata/good/long.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, string(data))
	if m.Name != "full.example" || m.Version != "1.10" || m.Annotations["team"] != "no" || m.Maintainers[1].Name != "Grace" || m.TenantVisibility[0] != "private" {
		t.Errorf("%+v", m)
	}
	in := func(name string) string { return string(m.Input(name).Default) }
	if in("count") != "3" || in("rate") != `"1.50"` || in("verbose") != "false" || in("hosts") != `["a","b"]` || m.Input("labels").Required || !m.Input("plain").Required || m.Input("token").Type != "secret" {
		t.Errorf("%+v", m.Inputs)
	}
	build := m.Steps[0].Spec.Run
	if build.Env["PORT"] != "8080" || build.Env["SWITCH"] != "no" || build.Secrets["TOKEN"] != "token" || build.Dir != "src" || build.TimeoutMs != 300_000 || build.GraceMs != 2000 {
		t.Errorf("%+v", build)
	}
	want := work.SandboxSpec{MinTier: "t1", ReadOnly: []string{"/opt/a", "/opt/tools"}, CPUMs: 30_000, MemoryBytes: 1 << 30, Processes: 64, FileBytes: 64 << 10, DiskBytes: 1e9, OutputBytes: 1024,
		Egress: []work.Egress{{Host: "10.0.0.1", Port: 80}, {Host: "::1", Port: 8080}, {Host: "proxy.golang.org", Port: 443}}}
	if !reflect.DeepEqual(build.Sandbox, want) {
		t.Errorf("%+v, want %+v", build.Sandbox, want)
	}
	if r := build.Retry; !reflect.DeepEqual(r, work.RetrySpec{MaxAttempts: 5, BackoffMs: 100, FactorMilli: 1500, MaxBackoffMs: 10_000, OnExit: []int{1, 75}, OnClass: []string{"timeout"}}) {
		t.Errorf("%+v", r)
	}
	block := m.Steps[1]
	if block.Steps[0].Spec.ID != "checks-1" || block.Steps[1].Spec.Run.Script != "print(\"hello\")\n" {
		t.Errorf("%+v", block.Steps)
	}
	if r := block.Steps[0].Spec.Run.Retry; r.MaxAttempts != 3 || r.BackoffMs != 5000 || r.FactorMilli != 1000 || r.Jitter {
		t.Errorf("failure.retries became %+v", r)
	}
	if s := m.Steps[2].Spec.Map; s.Item != "host" || s.Index != "nr" || s.Expression != "inputs.hosts" || s.MaxItems != 100_000 {
		t.Errorf("%+v", s)
	}
	if s := m.Steps[4].Spec.Map; string(s.Static[1]) != `{"a":["b",null,true]}` {
		t.Errorf("%s", s.Static)
	}
	if a := m.Steps[5].Spec.Approval; a.Required != 2 || a.TTLMs != 4*3600*1000 || !reflect.DeepEqual(a.Approvers, []string{"ada", "grace"}) || m.Steps[5].Message != "Release?" {
		t.Errorf("%+v", a)
	}
	if p := m.Steps[6].Spec.Policy; p.FailAction != "continue" || p.Rules[1].ID != "rule-2" || p.Rules[1].Require != "inputs.count < 5" {
		t.Errorf("%+v", p)
	}
	if o := m.Outputs; o[1].Value != "${{ steps.build.outputs.version }}" || o[0].Name != "text" {
		t.Errorf("%+v", o)
	}
	if s := m.Steps[10]; s.Secrets["key"].Text != "token" || s.Secrets["other"].Text != "token" || string(s.With["b"].JSON) != "[1,2]" || s.Path != "sub" {
		t.Errorf("%+v", s)
	}
}

func TestShortForm(t *testing.T) {
	m := parse(t, "steps: [{run: echo hello}]")
	s := m.Steps[0]
	want := &work.RunSpec{Runner: "shell", Script: "echo hello", Sandbox: work.SandboxSpec{MinTier: "t2"}, TimeoutMs: 3_600_000, GraceMs: 10_000, Retry: work.RetrySpec{MaxAttempts: 1}}
	if m.Name != "dir" || m.Version != "0.0.0" || s.Spec.ID != "step-1" || s.NeedsGiven || !reflect.DeepEqual(s.Spec.Run, want) {
		t.Errorf("%+v", s.Spec.Run)
	}
	for file, name := range map[string]string{"pack.yaml": "pack", "Hello World.yaml": "hello-world", "/a/B_c/pack.yml": "b_c", "workflow.yaml": "pack", "../x/workflow.yaml": "x", "..yaml": "pack", "-": "pack"} {
		if m, err := manifest.Parse(file, []byte("steps: [{run: x}]")); err != nil || m.Name != name {
			t.Errorf("%s is called %v, want %s (%v)", file, m, name, err)
		}
	}
}

func TestExpressionsInPlace(t *testing.T) {
	m := parse(t, "inputs: {a: {default: x}}\nsteps:\n- run: echo\n  env:\n    ONE: \"é${{ inputs.a }}\"\n    TWO: |\n      line\n      é ${{ steps.x.outputs.y }}\n  when: \"${{ true || inputs.a == 'q' }}\"\n")
	var got []string
	for _, u := range m.Steps[0].Uses {
		for _, p := range u.Refs.Paths {
			pos := u.Pos(p.Offset)
			got = append(got, fmt.Sprintf("%s %d:%d", strings.Join(p.Parts, "."), pos.Line, pos.Column))
		}
	}
	if want := []string{"inputs.a 9:22", "inputs.a 5:16", "steps.x.outputs.y 8:13"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// bad are manifests with one mistake: where it is found, what is said, and whether the schema must find it too.
func bad() []struct {
	text, where, says string
	schema            bool
} {
	return []struct {
		text, where, says string
		schema            bool
	}{
		{"", "", "the file is empty", false},
		{"\xef\xbb\xbfsteps: []", "1:1", "byte order mark", false},
		{"steps:\n- run: \"\xff\"", "2:1", "not UTF-8", false},
		{"steps: [{run: x}]\n---\nsteps: []", "2:1", "second document", false},
		{"steps: [{run: &a x}, {run: *a}]", "1:15", "anchors are not supported", false},
		{"steps: [{run: *a}]", "", "unknown anchor", false},
		{"a: &a {x: 1}\nb: {<<: *a}\nsteps: [{run: x}]", "1:4", "anchors", false},
		{"steps: [{run: !!str x}]", "1:15", "tags are not supported", false},
		{"steps: [{run: !exec x}]", "1:15", "tags are not supported", false},
		{"steps:\n- run: x\n  run: y", "3:3", `"run" stands twice`, false},
		{"steps: [{run: x}]\n? [a]\n: b", "2:3", "a key must be a plain text", false},
		{"steps:\n\t- run: x", "2:1", "this is no YAML", false},
		{"steps:\n- run: echo a: b", "2:1", "this is no YAML", false},
		{strings.Repeat("[", 50_000), "", "exceeded max depth", false},
		{"steps: " + strings.Repeat("[", 80) + strings.Repeat("]", 80), "1:72", "64 levels", false},
		{"[]", "1:1", "a pack must be a mapping", true},
		{"steps", "1:1", "a pack must be a mapping", true},
		{"name: a", "1:1", "no steps", true},
		{"steps: []", "1:8", "has no steps", true},
		{"step: [{run: x}]", "1:1", `no field "step"`, true},
		{"steps: {run: x}", "1:8", "must be a list", true},
		{"steps: [echo]", "1:9", "not only a text", true},
		{"steps: [{}]", "1:9", "does nothing", true},
		{"steps: [{runn: x}]", "1:10", `no field "runn"`, true},
		{"steps: [{run: x, map: {}}]", "1:18", "one thing, either run or map", true},
		{"steps: [{id: 'a b', run: x}]", "1:14", `cannot be "a b"`, true},
		{"steps: [{id: a/b, run: x}]", "1:14", `cannot be "a/b"`, true},
		{"steps: [{run: }]", "1:15", "run is empty", true},
		{"steps: [{run: ''}]", "1:15", "run is empty", true},
		{"steps: [{run: {}}]", "1:15", "nothing to run", true},
		{"steps: [{run: {shell: x, python: y}}]", "1:26", "either shell or python", true},
		{"steps: [{run: {shel: x}}]", "1:16", `no field "shel"`, true},
		{"steps: [{run: {command: make}}]", "1:25", "command must be a list", true},
		{"steps: [{run: {command: []}}]", "1:25", "the command is empty", true},
		{"steps: [{run: {command: [a], args: [b]}}]", "1:30", "only shell and python have args", true},
		{"steps: [{run: {shell: a, with: {b: c}}}]", "1:26", "only uses has with", true},
		{"steps: [{run: {uses: htpp}}]", "1:22", `no built-in "htpp"`, true},
		{"steps: [{run: {uses: Acme/convert}}]", "1:22", `no built-in "Acme/convert"`, true},
		{"steps: [{run: {uses: acme/convert/x}}]", "1:22", `no built-in "acme/convert/x"`, true},
		{"steps: [{run: {uses: http}}]", "1:15", "http needs url", false},
		{"steps: [{run: {uses: bundle.ingest, with: {path: a}}}]", "1:15", "needs path and checksumSha256", false},
		{"steps: [{run: {uses: http, with: {ulr: x}}}]", "1:35", `no field "ulr"`, false},
		{"steps: [{run: {uses: http, with: {url: 'https://a.b/'}}}]", "1:15", "without being allowed", false},
		{"steps: [{run: {shell: x, env: {}}}]", "1:26", `no field "env"`, true},
		{"steps: [{run: x, dir: y}]", "1:18", `no field "dir"`, true},
		{"steps: [{run: {shell: x, dir: ../y}}]", "1:31", "leaves its folder", true},
		{"steps: [{run: {shell: x, dir: /y}}]", "1:31", "must not be absolute", true},
		{"steps: [{run: {python: ../a.py}}]", "1:24", "leaves its folder", false},
		{"steps: [{parallel: [{run: x}], env: {}}]", "1:32", "only a run step has env", true},
		{"steps: [{run: 'echo ${{ inputs.a }}'}]", "1:21", "the text of a script cannot hold", false},
		{"steps: [{run: {python: 'print(${{ 1 }})'}}]", "1:31", "the text of a script cannot hold", false},
		{"steps: [{run: x, env: {A: '${{ inputs.a }}'}}]", "1:32", `no input "a"`, false},
		{"steps: [{run: x, env: {A: '${{ 1 + }}'}}]", "1:36", "ends too early", false},
		{"inputs: {t: secret}\nsteps: [{run: x, env: {A: 'x${{ inputs.t }}'}}]", "2:33", "the secret input", false},
		{"inputs: {t: secret}\nsteps: [{run: {command: [a, '${{ inputs.t }}']}}]", "2:34", "the secret input", false},
		{"inputs: {t: secret}\nsteps: [{when: inputs.t == 'a', run: x}]", "2:16", "the secret input", false},
		{"steps: [{run: x, env: {'1A': b}}]", "1:24", `cannot be called "1A"`, true},
		{"steps: [{run: x, env: {ORRERY_X: b}}]", "1:24", "set by the worker", true},
		{"steps: [{run: x, env: {A: [b]}}]", "1:27", "must be a text, not a list", true},
		{"steps: [{run: x, env: {A: }}]", "1:27", "is empty", true},
		{"steps: [{run: x, timeout: 5}]", "1:27", "needs a unit", true},
		{"steps: [{run: x, timeout: 1.5h}]", "1:27", `cannot be "1.5h"`, true},
		{"steps: [{run: x, timeout: 5s1h}]", "1:27", `cannot be "5s1h"`, true},
		{"steps: [{run: x, timeout: 99999d}]", "1:27", "ten years", false},
		{"steps: [{run: x, timeout: 99999999999999999999d}]", "1:27", "ten years", false},
		{"steps: [{run: x, timeout: 0s}]", "1:27", `cannot be "0s"`, false},
		{"steps: [{run: x, retry: 0}]", "1:25", "between 1 and 100", true},
		{"steps: [{run: x, retry: {max: '3'}}]", "1:31", "must be a whole number", true},
		{"steps: [{run: x, retry: {factor: 0.5}}]", "1:34", "factor cannot be", true},
		{"steps: [{run: x, retry: {on: {exit: [0]}}}]", "1:38", "between 1 and 255", true},
		{"steps: [{run: x, sandbox: {tier: t9}}]", "1:34", `no tier "t9"`, true},
		{"steps: [{run: x, sandbox: {memory: 5x}}]", "1:36", `cannot be "5x"`, true},
		{"steps: [{run: x, sandbox: {readOnly: [opt]}}]", "1:39", "no clean absolute path", true},
		{"steps: [{run: x, sandbox: {readOnly: [/a/../b]}}]", "1:39", "no clean absolute path", false},
		{"steps: [{run: x, sandbox: {}, resources: {}}]", "1:15", "both sandbox and resources", false},
		{"steps: [{run: x, egress: ['*.a.b:443']}]", "1:27", "no endpoint", true},
		{"steps: [{run: x, egress: [a.b]}]", "1:27", "has no port", true},
		{"steps: [{run: x, egress: ['https://a.b']}]", "1:27", "not an address", true},
		{"steps: [{run: x, egress: ['a.b:0']}]", "1:27", "no endpoint", true},
		{"steps: [{run: x, egress: ['a.b:65536']}]", "1:27", "no endpoint", false},
		{"steps: [{run: x, outputs: {a: /b}}]", "1:31", "must not be absolute", true},
		{"steps: [{run: x, outputs: {a: string}}]", "1:31", "not clear whether", false},
		{"steps: [{run: x, outputs: {a: {type: float}}}]", "1:38", `cannot have the type "float"`, true},
		{"steps: [{run: x, outputs: {a: {path: b, type: json}}}]", "1:31", "both a path and", false},
		{"steps: [{run: x, outputs: [{path: b}]}]", "1:28", "has no name", true},
		{"steps: [{run: x, outputs: [{name: b, path: c}, {name: b, path: d}]}]", "1:27", "declared twice", false},
		{"steps: [{run: x, artifacts: [{from: a}]}]", "1:30", "needs from and to", true},
		{"steps: [{run: x, artifacts: [{from: a, to: b}]}]", "1:37", "names no output", true},
		{"steps: [{run: x, artifacts: [{from: a.b, to: ../c}]}]", "1:46", "leaves its folder", true},
		{"steps: [{run: x, cache: 'yes'}]", "1:25", "must be true or false", true},
		{"steps: [{run: x, continueOnError: yes}]", "1:35", "must be true or false", true},
		{"steps: [{run: x, concurrency: {max: 2}}]", "1:31", "needs a key", true},
		{"steps: [{run: x, priority: 1001}]", "1:28", "between -1000 and 1000", true},
		{"steps: [{run: x, needs: [[a]]}]", "1:26", "must be a text", true},
		{"steps: [{run: x, when: 'nope(1)'}]", "1:25", `no function "nope"`, false},
		{"steps: [{run: x, when: }]", "1:24", "when is empty", true},
		{"steps: [{parallel: {}}]", "1:20", "has no steps", true},
		{"steps: [{map: {step: {run: x}}}]", "1:15", "has no items", true},
		{"steps: [{map: {items: [1]}}]", "1:15", "has no step", true},
		{"steps: [{map: {items: [1], range: {end: 1}, step: {run: x}}}]", "1:28", "either items or range", true},
		{"steps: [{map: {items: ['${{ inputs.a }}'], step: {run: x}}}]", "1:25", "an item cannot hold", false},
		{"steps: [{map: {items: [1.5], step: {run: x}}}]", "1:24", "cannot be hashed", false},
		{"steps: [{map: {items: [0644], step: {run: x}}}]", "1:24", "readers do not agree", false},
		{"steps: [{map: {items: [9007199254740993], step: {run: x}}}]", "1:24", "readers do not agree", false},
		{"steps: [{map: {range: {start: 1}, step: {run: x}}}]", "1:23", "no end", true},
		{"steps: [{map: {range: {end: 5, step: 0}, step: {run: x}}}]", "1:23", "steps of 0", true},
		{"steps: [{map: {range: {end: 0}, step: {run: x}}}]", "1:23", "is empty", false},
		{"steps: [{map: {range: {end: 20000}, step: {run: x}}}]", "1:15", "more than the 10000", false},
		{"steps: [{map: {items: [1, 2], maxItems: 1, step: {run: x}}}]", "1:23", "more than the 1", false},
		{"steps: [{map: {items: [1], as: inputs, step: {run: x}}}]", "1:32", "a meaning of its own", true},
		{"steps: [{map: {items: [1], as: a, index: a, step: {run: x}}}]", "1:15", "cannot both be called", false},
		{"steps: [{gate: {}}]", "1:16", "neither approval nor policy", true},
		{"steps: [{gate: {approval: {required: 2, approvers: [a]}}}]", "1:27", "only 1 may give one", false},
		{"steps: [{gate: {approval: {id: x}}}]", "1:32", `no approval "x"`, false},
		{"steps: [{gate: {policy: {rules: []}}}]", "1:25", "has no rules", true},
		{"steps: [{gate: {policy: {rules: [{id: a}]}}}]", "1:34", "requires nothing", true},
		{"steps: [{gate: {policy: {engine: opa}}}]", "1:25", "names no decision", true},
		{"steps: [{gate: {policy: {path: a/b}}}]", "1:25", "names no engine", true},
		{"steps: [{gate: {policy: {engine: opa, path: ../v1/policies}}}]", "1:45", "no path of a decision", true},
		{"steps: [{gate: {policy: {engine: opa, path: a, rules: ['true']}}}]", "1:25", "has rules and a policy engine", true},
		{"steps: [{gate: {policy: {engine: opa, path: a, onUnavailable: pass}}}]", "1:63", `cannot be "pass"`, true},
		{"steps: [{gate: {policy: {engine: opa, path: a, parameters: {x: '${{ inputs.y }}'}}}}]", "1:69", "no input", false},
		{"steps: [{gate: {policy: {rules: ['true'], failAction: stop}}}]", "1:55", `cannot be "stop"`, true},
		{"steps: [{gate: {policy: {rules: [{id: a, require: 'true'}, {id: a, require: 'true'}]}}}]", "1:25", "two rules", false},
		{"steps: [{pack: {}}]", "1:16", "needs one of path and steps", true},
		{"steps: [{pack: {path: ../x}}]", "1:23", "leaves its folder", true},
		{"steps: [{pack: {steps: [{run: x}], with: {a: b}}}]", "1:36", "no inputs of its own", true},
		{"steps: [{pack: {path: a, outputs: {b: c}}}]", "1:26", "are its own", true},
		{"steps: [{pack: {path: a, secrets: {b: c}}}]", "1:39", "no secret input", false},
		{"inputs: {a: strin}\nsteps: [{run: x}]", "1:13", `cannot have the type "strin"`, true},
		{"inputs: {'a b': string}\nsteps: [{run: x}]", "1:10", "cannot be called", true},
		{"inputs: {a: {type: integer, default: x}}\nsteps: [{run: x}]", "1:38", "must be an integer", false},
		{"inputs: {a: {enum: [x], default: y}}\nsteps: [{run: x}]", "1:34", "is not one of", false},
		{"inputs: {a: {pattern: '('}}\nsteps: [{run: x}]", "1:23", "cannot be read", false},
		{"inputs: {a: {pattern: 'x', default: xy}}\nsteps: [{run: x}]", "1:37", "does not match", false},
		{"inputs: {a: {type: boolean, min: 1}}\nsteps: [{run: x}]", "1:29", "says nothing about", false},
		{"inputs: {a: {type: integer, min: 5, max: 1}}\nsteps: [{run: x}]", "1:13", "greater than the most", false},
		{"inputs: {a: {type: secret, default: x}}\nsteps: [{run: x}]", "1:37", "a secret has no value", false},
		{"inputs: {a: {required: true, default: x}}\nsteps: [{run: x}]", "1:39", "no use for a default", false},
		{"inputs: {a: {deflaut: x}}\nsteps: [{run: x}]", "1:14", `no field "deflaut"`, true},
		{"inputs: [{name: a}, {name: a}]\nsteps: [{run: x}]", "1:21", "declared twice", false},
		{"inputs: [{type: string}]\nsteps: [{run: x}]", "1:10", "has no name", true},
		{"name: Hello\nsteps: [{run: x}]", "1:7", "cannot be", true},
		{"version: 'a b'\nsteps: [{run: x}]", "1:10", "cannot be", true},
		{"apiVersion: v2\nkind: TaskPack\nspec: {steps: [{run: x}]}", "1:13", "apiVersion cannot be", true},
		{"apiVersion: orrery/v1\nkind: Job\nspec: {steps: [{run: x}]}", "2:7", "kind cannot be", true},
		{"kind: TaskPack\nspec: {steps: [{run: x}]}", "1:1", "belong together", true},
		{"apiVersion: orrery/v1\nkind: TaskPack\nsteps: [{run: x}]\nspec: {steps: [{run: x}]}", "3:1", `no field "steps" at the top`, true},
		{"apiVersion: orrery/v1\nkind: TaskPack\nmetadata: {}", "1:1", "no spec", true},
		{"retry: 2\nfailure: {retries: {maxAttempts: 2}}\nsteps: [{run: x}]", "2:11", "says twice", false},
		{"maxParallel: 0\nsteps: [{run: x}]", "1:14", "between 1 and", true},
		{"outputs: [{name: a}]\nsteps: [{run: x}]", "1:11", "needs a name and one of", true},
		{"timeout: PT\nsteps: [{run: x}]", "1:10", `cannot be "PT"`, false},
	}
}

func TestBad(t *testing.T) {
	check := compileSchema(t)
	for _, c := range bad() {
		_, err := manifest.Parse("pack.yaml", []byte(c.text))
		var all manifest.Problems
		if !errors.As(err, &all) || fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%.60q: %v", c.text, err)
			continue
		}
		found := false
		for _, e := range all {
			found = found || strings.Contains(e.Message, c.says) && (c.where == "" || e.Where == "pack.yaml:"+c.where)
			if e.Where != "" && strings.Count(e.Where, ":") == 2 && e.Snippet == "" && !strings.Contains(e.Message, "UTF-8") {
				t.Errorf("%.60q: no snippet with %v", c.text, e)
			}
		}
		if !found {
			t.Errorf("%.60q: want %s %q, got:\n%v", c.text, c.where, c.says, err)
		}
		if invalid := check(c.text) != nil; c.schema && !invalid {
			t.Errorf("%.60q: the schema accepts it", c.text)
		}
	}
}

func TestProblemsAreBounded(t *testing.T) {
	_, err := manifest.Parse("pack.yaml", []byte("steps:\n"+strings.Repeat("- {run: x, a: b}\n", 100)))
	var all manifest.Problems
	if !errors.As(err, &all) || len(all) != manifest.MaxProblems+1 || !strings.Contains(err.Error(), "and 80 problems more") {
		t.Error(err)
	}
}

func TestHostileFilesAreRefusedFast(t *testing.T) {
	for name, text := range map[string]string{
		"brackets": strings.Repeat("[", 1<<20), "dashes": strings.Repeat("- ", 1<<20) + "a", "braces": strings.Repeat("{a: ", 1<<20),
		"aliases": "a: &a [x]\nb: [" + strings.Repeat("*a,", 100_000) + "]", "questions": strings.Repeat("? ", 1<<20),
		"deep": strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "keys": "steps: [{" + strings.Repeat("a: b, ", 100_000) + "}]",
	} {
		start := time.Now()
		if _, err := manifest.Parse("pack.yaml", []byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// compileSchema returns the published schema as a check of YAML text.
func compileSchema(t testing.TB) func(text string) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(manifest.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("pack.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("pack.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			return err
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		v, err = jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		return s.Validate(v)
	}
}

// TestSchema holds the schema to the parser: what is accepted here and anywhere in the repository is accepted there.
func TestSchema(t *testing.T) {
	check := compileSchema(t)
	published, err := os.ReadFile("../../spec/pack.schema.json")
	if err != nil || !bytes.Equal(published, manifest.Schema()) {
		t.Errorf("spec/pack.schema.json differs from the schema in this folder: %v", err)
	}
	var files []string
	for _, pattern := range []string{"testdata/good/*.yaml", "../../examples/*/pack.yaml", "../../internal/cli/templates/*/pack.yaml", "../../spec/vectors/plan/*/pack.yaml", "../../spec/vectors/plan/*/*/pack.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 5 {
		t.Fatal(files)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.Parse(file, data); err != nil {
			t.Errorf("%v", err)
		}
		if err := check(string(data)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range bad() {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	for _, file := range []string{"long", "short", "json"} {
		data, err := os.ReadFile("testdata/good/" + file + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	check := compileSchema(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Parse("pack.yaml", data)
		if err != nil {
			var all manifest.Problems
			if !errors.As(err, &all) || len(all) == 0 || len(all) > manifest.MaxProblems+1 {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(m.Steps) == 0 {
			t.Fatal("no steps")
		}
		if err := check(string(data)); err != nil {
			if strings.Contains(err.Error(), "json: unsupported") || strings.HasPrefix(err.Error(), "yaml: ") {
				return // a value that has no JSON, such as .inf, where a text is expected
			}
			t.Fatalf("%s\nis accepted, but not by the schema: %v", data, err)
		}
	})
}
