package blackbox

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"orrery.example/orrery/internal/testservice"
)

// decisions is the policy that the engine has: when a release may go out.
const decisions = `package release

import rego.v1

default allow := false

allow if {
	input.parameters.errors < 2
	input.run.tenant == "local"
	input.run.submitter == "ada"
	input.run.pack.name == "asks"
	input.inputs.where == "here"
	input.gate == "limits"
}

details := {"allow": false, "reasons": ["not today", "nor tomorrow"]}

half := 0.5

word := "true"
`

// asks is a pack whose gate asks an engine; what it asks, and what then, is filled in.
const asks = `name: asks
inputs:
  where: {type: string, default: here}
  key: {type: secret}
steps:
  - id: measure
    run: echo "errors=1" >> "$ORRERY_OUTPUT"
    outputs: {errors: {type: integer}}
  - id: limits
    gate:
      policy:
        engine: opa
        path: %s
        parameters: {errors: "${{ steps.measure.outputs.errors }}"}
        %s
  - id: after
    run: echo "got past"
`

// T6, T11: a gate passes only by a clear yes of the policy engine that the operator has configured, the evidence says who decided what by
// which policies, and neither verification nor replay asks again.
func TestT11_PolicyEngine(t *testing.T) {
	o, err := testservice.StartOPA("let-me-in", map[string]string{"release.rego": decisions, ".manifest": `{"revision": "r-7"}`})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}()
	// An address that packs could want the server to call, and that a redirect leads to.
	var called []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { called = append(called, r.URL.String()) }))
	defer other.Close()
	astray := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer astray.Close()

	dir := t.TempDir()
	write(t, dir, "engines.yaml", fmt.Appendf(nil, `engines:
  - {name: opa, url: %s, token: "env:OPA_TOKEN", paths: [release]}
  - {name: astray, url: %s}
`, o.URL, astray.URL))
	pack := func(name, path, more string) { write(t, dir, name, fmt.Appendf(nil, asks, path, more)) }
	pack("yes.yaml", "release/allow", "onUnavailable: wait")
	pack("no.yaml", "release/details", "failAction: halt")
	pack("goes-on.yaml", "release/details", "failAction: continue")
	pack("half.yaml", "release/half", "failAction: halt")
	pack("word.yaml", "release/word", "failAction: halt")
	pack("undefined.yaml", "release/nothing", "failAction: halt")
	pack("elsewhere.yaml", "system/authz/allow", "onUnavailable: fail")
	pack("fails.yaml", "release/allow", "onUnavailable: fail")
	pack("expires.yaml", "release/allow", "ttl: 2s")
	write(t, dir, "astray.yaml", []byte(strings.Replace(fmt.Sprintf(asks, "release/allow", "onUnavailable: fail"), "engine: opa", "engine: astray", 1)))

	step := func(script string) {
		t.Helper()
		out, err := shell(t, dir, prelude+"export OPA_TOKEN=let-me-in ORRERY_POLICY_ENGINES=$PWD/engines.yaml ORRERY_DATA=$PWD/d\n"+script)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	step(`
exits 0 orrery run yes.yaml --input key=env:HOME
out 'got past'
err 'asks the policy engine opa for release/allow'
exits 0 orrery evidence export @latest -f yes.tar
valid yes.tar
out '1 allowed.*opa on release/allow, decision [0-9a-f-]{36}, bundle at r-7'
exits 0 orrery replay yes.tar
tar -xOf yes.tar policy/limits.1.json > "$HOME/streams/out"
json 'd["engine"]["result"] is True and d["engine"]["bundles"] == [{"name": "bundle", "revision": "r-7"}] and len(d["engine"]["decisionId"]) == 36'
json 'd["input"]["parameters"] == {"errors": 1} and "key" not in d["input"]["inputs"] and d["input"]["run"]["submitter"] == "ada"'
[ -s d/orrery.db ] || fail "there is no folder to look into"
if grep -raF let-me-in d yes.tar; then fail "the token of the engine is kept"; fi

# Only true, or an object that allows, is a yes.
exits 3 orrery run no.yaml --input key=env:HOME
exits 0 orrery why @latest
out 'not today; nor tomorrow'
exits 0 orrery evidence export @latest -f no.tar
valid no.tar
exits 0 orrery run goes-on.yaml --input key=env:HOME
out 'got past'
valid @latest
for pack in half word undefined; do
	exits 3 orrery run $pack.yaml --input key=env:HOME
	valid @latest
done
exits 0 orrery why @latest
out 'no result'

# What the operator has not set aside is not asked for; a redirect is no answer.
exits 3 orrery run elsewhere.yaml --input key=env:HOME
exits 0 orrery why @latest
out 'policy unavailable opa: .*may not ask'
exits 3 orrery run astray.yaml --input key=env:HOME
exits 0 orrery why @latest
out '307'
exits 5 orrery run yes.yaml --input key=env:HOME --policy-engines nowhere.yaml --new
`)
	if len(called) > 0 {
		t.Errorf("the server was made to call %v", called)
	}
	o.Stop()
	step(`
# Down: the gate waits and says so, or fails, as the pack has it.
exits 3 orrery run fails.yaml --input key=env:HOME
exits 0 orrery why @latest
out 'policy unavailable opa: it cannot be reached: .*refused'
valid @latest
exits 3 orrery run expires.yaml --input key=env:HOME
exits 0 orrery why @latest
out 'did not decide in time'
valid @latest
orrery run yes.yaml --input key=env:HOME --new > waits.out 2> waits.err & pid=$!
eventually grep -q 'has no answer' waits.err
grep -q '⏸.* limits asks the policy engine opa for release/allow' waits.err || fail "it is not said what the gate waits for"
if grep -q 'Queued' waits.err; then fail "a gate that asks is shown as queued"; fi
exits 0 orrery why @latest
out 'waits for policy opa: it cannot be reached'
out 'Waiting'
notout 'orrery approve'
exits 5 orrery approve @latest --gate limits --as ada --reason "let it"
kill -9 $pid; wait $pid 2>/dev/null || true
`)
	if err := o.Restart(); err != nil {
		t.Fatal(err)
	}
	step(`
# Up again: the same run goes on from there, also in another process.
exits 0 orrery run yes.yaml --input key=env:HOME
err 'carrying on'
out 'got past'
exits 0 orrery evidence export @latest -f late.tar
valid late.tar
exits 0 orrery replay late.tar
tar -xOf late.tar timeline.ndjson > "$HOME/timeline"
grep -q '"policy.unavailable"' "$HOME/timeline" || fail "that the engine was down is not in the history"

# A token that the engine does not take is no answer either.
export OPA_TOKEN=wrong
exits 3 orrery run fails.yaml --input key=env:HOME --new
exits 0 orrery why @latest
out '401'
`)
}
