package plan_test

import (
	"strings"
	"testing"

	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// changes returns the differences of two packs, one on each line, without those that every two packs have.
func changes(t *testing.T, a, b string) string {
	t.Helper()
	var out []string
	for _, c := range plan.Diff(mustBuild(t, a).Plan, mustBuild(t, b).Plan) {
		if c.Kind == "pack" || c.Kind == "file" {
			continue
		}
		out = append(out, string(c.Severity)+" "+c.Kind+": "+c.Text)
	}
	return strings.Join(out, "\n")
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ name, a, b, want string }{
		{"nothing", "steps: [{run: x}]", "steps:\n- run: x", ""},
		{"step added with reach", "steps: [{id: a, run: x}]", "steps: [{id: a, run: x}, {id: b, run: y, egress: ['h.x:443'], sandbox: {tier: t0}}]",
			"warning step-added: the step b (run shell) is new\ndanger sandbox: b runs in a sandbox of tier t0 instead of t2\nwarning endpoint: b may reach h.x:443"},
		{"step removed", "steps: [{id: a, run: x}, {id: b, run: y}]", "steps: [{id: a, run: x}]", "info step-removed: the step b (run shell) is gone"},
		{"script", "steps: [{id: a, run: x}]", "steps: [{id: a, run: y}]", `warning step-changed: a: script is "y" instead of "x"`},
		{"gate removed", "steps: [{id: a, run: x}, {id: ok, gate: {approval: {}}}, {id: b, run: x}]", "steps: [{id: a, run: x}, {id: b, run: x}]",
			"info step-changed: b: needs is [\"a\"] instead of [\"ok\"]\ndanger gate: b does not wait for the gate ok any more\ndanger gate: the gate ok (gate.approval) is gone"},
		{"gate walked around", "steps: [{id: a, run: x}, {id: ok, gate: {approval: {}}}, {id: b, run: x}, {id: c, run: x}]", "steps: [{id: a, run: x}, {id: ok, gate: {approval: {}}}, {id: b, needs: [a], run: x}, {id: c, run: x}]",
			"info order: 2 of the steps come earlier in the order\ninfo step-changed: b: needs is [\"a\"] instead of [\"ok\"]\ndanger gate: b does not wait for the gate ok any more\ndanger gate: c does not wait for the gate ok any more"},
		{"gate weaker", "steps: [{id: ok, gate: {approval: {required: 2, approvers: [a, b]}}}]", "steps: [{id: ok, when: '1 == 1', gate: {approval: {required: 1, approvers: [b, c], allowSubmitter: true, ttl: 2h}}}]",
			"danger step-changed: ok: when is \"1 == 1\" instead of nothing\ndanger gate: ok needs 1 approval instead of 2\ninfo gate: ok stays open for 2h instead of 1d\ndanger gate: ok: whoever submits the run may approve it\ndanger gate: ok can be approved by c\ninfo gate: ok cannot be approved by a any more"},
		{"gate stronger", "steps: [{id: ok, gate: {approval: {}}}]", "steps: [{id: ok, gate: {approval: {required: 2}}}]", "info gate: ok needs 2 approvals instead of 1"},
		{"anyone", "steps: [{id: ok, gate: {approval: {approvers: [a]}}}]", "steps: [{id: ok, gate: {approval: {}}}]", "danger gate: ok can be approved by anyone who may approve, not only by the people named before"},
		{"policy", "steps: [{id: p, gate: {policy: {rules: [{id: r, require: '1 == 1'}, {id: s, require: '2 == 2'}]}}}]", "steps: [{id: p, gate: {policy: {failAction: continue, rules: [{id: s, require: '2 != 2'}]}}}]",
			"danger gate: p: when a rule fails the run goes by \"continue\" instead of \"halt\"\ndanger gate: p has no rule r any more (1 == 1)\ndanger gate: p: the rule s requires 2 != 2 instead of 2 == 2"},
		{"endpoints and secrets", "inputs: {t: {type: secret, required: false}, u: {type: secret, required: false}}\nsteps: [{id: a, run: x, egress: ['a.x:1', 'b.x:1'], env: {A: '${{ inputs.t }}'}}]", "inputs: {t: {type: secret, required: false}, u: {type: secret, required: false}}\nsteps: [{id: a, run: x, egress: ['b.x:1', 'c.x:1'], env: {A: '${{ inputs.u }}', B: '${{ inputs.t }}'}}]",
			"info endpoint: a may not reach a.x:1 any more\nwarning endpoint: a may reach c.x:1\nwarning secret: a gets the secret u as A instead of t\nwarning secret: a gets the secret t as B"},
		{"limits", "steps: [{id: a, run: x, sandbox: {memory: 1Ki, tier: t1}}]", "steps: [{id: a, run: x, timeout: 2m, sandbox: {cpu: 1s, readOnly: [/opt/x]}}]",
			"info sandbox: a runs in a sandbox of tier t2 instead of t1\nwarning sandbox: a may read /opt/x of the worker\ninfo resource: a: the limit of memory (bytes) is the default instead of 1024\ninfo resource: a: the limit of processor time (ms) is 1000 instead of the default\ninfo step-changed: a: timeoutMs is 120000 instead of 3600000"},
		{"settings", "inputs: {a: {default: x}}\nsealed: true\nmaxParallel: 2\nsteps: [{id: a, run: x}]", "inputs: {b: {default: y}}\ncontinueOnError: true\ntimeout: 90s\nconcurrency: k\nsteps: [{id: a, run: x}]\noutputs: {o: v}",
			"info setting: any number of steps run at once instead of 2\nwarning setting: after a failure the run goes on\ninfo setting: the run may take 1m30s instead of any time\ninfo setting: the concurrency key of the run is \"k\" (1) instead of none\ndanger sandbox: the pack is not sealed any more\ninfo output: the output o is new: v\ninfo input: the input a is gone\ninfo input: the input b is new: \"y\""},
		{"kind", "steps: [{id: a, gate: {approval: {}}}]", "steps: [{id: a, run: x}]", "danger step-changed: a is run shell instead of gate.approval"},
	} {
		if got := changes(t, c.a, c.b); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestSimulate(t *testing.T) {
	b := mustBuild(t, `
inputs: {env: {default: staging}, t: {type: secret, required: false}}
steps:
  - {id: test, run: x, outputs: {r: r.txt}}
  - {id: rules, gate: {policy: {rules: ["inputs.env != ''"]}}}
  - id: block
    when: inputs.env == 'production'
    parallel: [{id: inner, run: y}]
  - id: later
    when: steps.test.status == 'succeeded'
    gate: {approval: {}}
  - id: deploy
    run: z
    egress: ["h.x:443"]
    env: {T: "${{ inputs.t }}"}
finally: [{id: bye, run: w}]
`)
	var out []string
	for _, v := range plan.Simulate(b.Plan) {
		line := string(v.Step) + " " + string(v.Outlook)
		for _, g := range v.Gates {
			line += " <" + string(g)
		}
		out = append(out, strings.TrimSpace(line+" "+strings.Join(append(append(v.Outputs, v.Egress...), v.Secrets...), ",")+" "+v.Reason))
	}
	want := `test pending r
rules requires-policy
block skipped <rules  when is false: inputs.env == 'production'
inner skipped <rules  inside of block, which is skipped
later requires-approval <rules
deploy pending <later <rules h.x:443,t
bye pending`
	if got := strings.Join(out, "\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestStepDigests(t *testing.T) {
	digests := func(pack string, more ...string) map[work.StepID]work.Digest {
		d, err := plan.StepDigests(mustBuild(t, pack, more...).Plan)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := "inputs: {a: {default: 1}, b: {default: 2}}\nsteps:\n- {id: x, run: {command: [p, '${{ inputs.a }}']}}\n- {id: y, run: {uses: noop, with: {v: '${{ inputs.b }}'}}}\n- {id: z, needs: [], map: {items: [1], step: {id: c, run: {uses: noop}}}}\n- {id: w, run: {uses: noop}}\nfinally: [{id: f, run: {uses: noop}}]"
	for _, c := range []struct{ name, from, to, stale string }{
		{"a comment", "", "", ""},
		{"input of the first", "a: {default: 1}", "a: {default: 9}", "f x y"},
		{"input of the second", "b: {default: 2}", "b: {default: 9}", "f y"},
		{"inside of a map", "uses: noop}}}}\n- {id: w", "uses: noop, with: {q: 1}}}}}\n- {id: w", "f w z[*]::c"},
		{"the map itself", "items: [1]", "items: [1, 2]", "f w z z[*]::c"},
		{"the last", "id: w, run: {uses: noop}", "id: w, run: {uses: noop, with: {q: 1}}", "f w"},
	} {
		text := strings.Replace(base, c.from, c.to, 1)
		if c.from == "" {
			text += " # comment"
		}
		a, b := digests(base), digests(text)
		var stale []string
		for _, id := range []work.StepID{"f", "w", "x", "y", "z", "z[*]::c"} {
			if a[id] != b[id] {
				stale = append(stale, string(id))
			}
		}
		if got := strings.Join(stale, " "); got != c.stale {
			t.Errorf("%s: %s, want %s", c.name, got, c.stale)
		}
	}
	if _, err := plan.StepDigest(mustBuild(t, base).Plan, "nope"); err == nil {
		t.Error("a step that is not there has a digest")
	}
	b := mustBuild(t, base)
	if one, err := plan.StepDigest(b.Plan, "z[7]::c"); err != nil || one != digests(base)["z[*]::c"] {
		t.Error(one, err)
	}
}
