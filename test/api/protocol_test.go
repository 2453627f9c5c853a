package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

const local = string(work.LocalTenant)

// The same key with the same body has one effect and one answer; with another body it is refused.
func TestIdempotencyKey(t *testing.T) {
	r := start(t, app.ServerOptions{})
	body := map[string]any{"manifest": hello}
	send := func(token, key string, body any) answer {
		return r.ask("POST", "/api/v1/runs", token, local, body, "Idempotency-Key", key)
	}
	first := send(r.root, "one", body)
	r.want(first, 201)
	second := send(r.root, "one", body)
	if second.status != 201 || !bytes.Equal(first.body, second.body) || second.header.Get("Location") != first.header.Get("Location") {
		t.Fatalf("the second answer is %d %s, the first was %s", second.status, second.body, first.body)
	}
	if second.header.Get("Idempotency-Replayed") != "true" {
		t.Error("the second answer does not say that it is one")
	}
	r.code(send(r.root, "one", map[string]any{"manifest": hello, "note": "another"}), 409, "CONFLICT")
	r.want(send(r.root, "two", body), 201)
	if n := len(r.want(r.ask("GET", "/api/v1/runs", r.root, local, nil), 200)["items"].([]any)); n != 2 {
		t.Fatalf("%d runs instead of 2", n)
	}
	// An answer that refuses is kept as well.
	bad := send(r.root, "bad", map[string]any{"manifest": "steps: 5"})
	again := send(r.root, "bad", map[string]any{"manifest": "steps: 5"})
	if bad.status != 400 || !bytes.Equal(bad.body, again.body) {
		t.Fatalf("%d %s, then %d %s", bad.status, bad.body, again.status, again.body)
	}
	r.code(send(r.root, "with space", body), 400, "INVALID")
}

// A secret in an answer is for its caller alone: another token with the same key does not get it, and the store does not have it.
func TestIdempotencyKeepsSecrets(t *testing.T) {
	dir := t.TempDir()
	r := start(t, app.ServerOptions{Options: app.Options{Dir: dir}})
	q := map[string]any{"scopes": []string{"packs.read"}}
	send := func(token string) answer {
		return r.ask("POST", "/api/v1/tokens", token, local, q, "Idempotency-Key", "k-1")
	}
	made := r.want(send(r.root), 201)["token"].(string)
	if again := r.want(send(r.root), 201)["token"]; again != made {
		t.Fatalf("the second answer has the token %v", again)
	}
	other := r.want(r.ask("POST", "/api/v1/tokens", r.root, local, map[string]any{"scopes": []string{"orchestrator:admin"}}), 201)["token"].(string)
	r.code(send(other), 409, "CONFLICT")
	files, err := filepath.Glob(filepath.Join(dir, "orrery.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no store", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{made, other, r.root} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s holds the text of a token", filepath.Base(f))
			}
		}
	}
}

// Many at once with one key make one run, and all hear of it.
func TestIdempotencyKeyAtOnce(t *testing.T) {
	r := start(t, app.ServerOptions{})
	var group sync.WaitGroup
	answers := make([]answer, 12)
	for i := range answers {
		group.Go(func() {
			answers[i] = r.ask("POST", "/api/v1/runs", r.root, local, map[string]any{"manifest": hello}, "Idempotency-Key", "same")
		})
	}
	group.Wait()
	for _, a := range answers {
		if a.status != 201 || !bytes.Equal(a.body, answers[0].body) {
			t.Errorf("%d %s, another was told %s", a.status, a.body, answers[0].body)
		}
	}
	if n := len(r.want(r.ask("GET", "/api/v1/runs", r.root, local, nil), 200)["items"].([]any)); n != 1 {
		t.Fatalf("%d runs instead of 1", n)
	}
}

// A token that is revoked, expired, disabled with its account or stripped with its role is worth nothing from the next request on.
func TestTokensEnd(t *testing.T) {
	r := start(t, app.ServerOptions{})
	tokens := r.tenant("acme", "viewer", "operator")
	ask := func(token string) answer { return r.ask("GET", "/api/v1/runs", token, "acme", nil) }
	r.want(ask(tokens["viewer"]), 200)
	id := r.want(r.ask("GET", "/api/v1/me", tokens["viewer"], "", nil), 200)["tokenId"].(string)
	r.want(r.ask("DELETE", "/api/v1/tokens/"+id, tokens["viewer"], "acme", nil), 204)
	r.code(ask(tokens["viewer"]), 401, "UNAUTHENTICATED")

	submit := func() answer {
		return r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": hello})
	}
	r.want(submit(), 201)
	change := func(body map[string]any) {
		r.want(r.ask("PUT", "/api/v1/accounts/acme-operator", r.root, "acme", body), 200)
	}
	change(map[string]any{"roles": []string{"viewer"}})
	r.code(submit(), 403, "DENIED")
	r.want(ask(tokens["operator"]), 200)
	change(map[string]any{"roles": []string{"operator"}, "disabled": true})
	r.code(ask(tokens["operator"]), 401, "UNAUTHENTICATED")

	broken := r.root[:len(r.root)-1] + "x"
	for _, token := range []string{"orr_", "nonsense", broken, strings.ToUpper(r.root)} {
		r.code(ask(token), 401, "UNAUTHENTICATED")
	}
}

// Nobody hands out what he does not have.
func TestNobodyClimbs(t *testing.T) {
	r := start(t, app.ServerOptions{})
	tokens := r.tenant("acme", "viewer", "admin")
	r.code(r.ask("POST", "/api/v1/tokens", tokens["viewer"], "acme", map[string]any{"scopes": []string{"packs.run"}}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/tokens", tokens["viewer"], "acme", map[string]any{"account": "acme-admin", "scopes": []string{"packs.read"}}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/tenants", tokens["admin"], "acme", map[string]any{"name": "mine"}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/accounts", tokens["admin"], "acme", map[string]any{"name": "admin", "kind": "user", "roles": []string{"admin"}}), 409, "CONFLICT")
	narrow := r.want(r.ask("POST", "/api/v1/tokens", tokens["admin"], "acme", map[string]any{"scopes": []string{"packs.read"}}), 201)["token"].(string)
	r.code(r.ask("POST", "/api/v1/tokens", narrow, "acme", map[string]any{"scopes": []string{"orchestrator:admin"}}), 403, "DENIED")
	r.code(r.ask("GET", "/api/v1/audit", narrow, "acme", nil), 403, "DENIED")
}

// The tenant has one canonical header and its aliases; two that disagree are refused.
func TestTenantHeaders(t *testing.T) {
	r := start(t, app.ServerOptions{})
	for _, name := range []string{"X-Orrery-Tenant", "X-Stella-Tenant", "X-StellaOps-Tenant", "X-Tenant-Id", "x-tenant-id"} {
		r.want(r.ask("GET", "/api/v1/runs", r.root, "", nil, name, local), 200)
	}
	r.want(r.ask("GET", "/api/v1/runs", r.root, local, nil, "X-Tenant-Id", local), 200)
	r.code(r.ask("GET", "/api/v1/runs", r.root, local, nil, "X-Tenant-Id", "other"), 400, "INVALID")
	r.code(r.ask("GET", "/api/v1/runs", r.root, "", nil), 403, "TENANT_REQUIRED")
}

// Requests have bounds.
func TestBounds(t *testing.T) {
	r := start(t, app.ServerOptions{Rate: 1, Burst: 10})
	a := r.ask("POST", "/api/v1/accounts", r.root, local, strings.Repeat(" ", 2<<20))
	r.code(a, 413, "INVALID")
	if a.header.Get("X-RateLimit-Limit") != "10" || a.header.Get("X-RateLimit-Remaining") != "9" || a.header.Get("X-RateLimit-Reset") == "" {
		t.Errorf("the rate limit is told as %v", a.header)
	}
	refused := false
	for range 1000 { // as many as it takes to be quicker than one a second
		if a := r.ask("GET", "/api/v1/me", r.root, "", nil); a.status == 429 {
			r.code(a, 429, "EXHAUSTED")
			refused = a.header.Get("Retry-After") != ""
			break
		}
	}
	if !refused {
		t.Error("1000 requests at once were not too many for a bucket of 10")
	}
	r.want(r.ask("GET", "/healthz", "", "", nil), 200)
}

// Pages neither repeat nor leave out, and a token of one list is none of another.
func TestPages(t *testing.T) {
	r := start(t, app.ServerOptions{})
	want := map[string]bool{}
	for i := range 7 {
		run := r.want(r.ask("POST", "/api/v1/runs", r.root, local, map[string]any{"manifest": hello, "note": fmt.Sprint(i)}), 201)
		want[run["runId"].(string)] = true
	}
	got, next, pages := map[string]bool{}, "", 0
	for {
		q := "?page_size=3"
		if next != "" {
			q += "&page_token=" + next
		}
		page := r.want(r.ask("GET", "/api/v1/runs"+q, r.root, local, nil), 200)
		for _, item := range page["items"].([]any) {
			id := item.(map[string]any)["id"].(string)
			if got[id] || !want[id] {
				t.Fatalf("%s comes twice, or from elsewhere", id)
			}
			got[id] = true
		}
		pages++
		if next, _ = page["next_page_token"].(string); next == "" {
			break
		}
		r.code(r.ask("GET", "/api/v1/packs?page_token="+next, r.root, local, nil), 400, "INVALID")
		r.want(r.ask("GET", "/api/v1/runs?limit=3&continuationToken="+next, r.root, local, nil), 200)
	}
	if len(got) != 7 || pages != 3 {
		t.Fatalf("%d runs on %d pages", len(got), pages)
	}
	r.code(r.ask("GET", "/api/v1/runs?page_size=501", r.root, local, nil), 400, "INVALID")
}

// A client that polls is told when nothing has changed.
func TestETag(t *testing.T) {
	r := start(t, app.ServerOptions{})
	run := r.want(r.ask("POST", "/api/v1/runs", r.root, local, map[string]any{"manifest": hello}), 201)["runId"].(string)
	first := r.ask("GET", "/api/runs/"+run, r.root, local, nil)
	tag := first.header.Get("Etag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	if a := r.ask("GET", "/api/runs/"+run, r.root, local, nil, "If-None-Match", `"other", W/`+tag); a.status != 304 || len(a.body) != 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.want(r.ask("POST", "/api/runs/"+run+"/cancel", r.root, local, map[string]any{"reason": "enough"}), 200)
	if a := r.ask("GET", "/api/runs/"+run, r.root, local, nil, "If-None-Match", tag); a.status != 200 {
		t.Fatalf("%d after a change", a.status)
	}
}

const gated = `
name: gated
version: 1.0.0
steps:
  - id: ask
    gate:
      approval: {required: 1, ttl: 1h}
  - id: go
    run: echo went
`

// A decision by token needs one that is bound to run, gate and plan hash; a bearer token alone decides nothing.
func TestApproveByBoundToken(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "operator", "approver", "viewer")
	run := r.want(r.ask("POST", "/api/runs", tokens["operator"], "acme", map[string]any{"manifest": gated}), 201)
	id, hash := run["runId"].(string), run["planHash"].(string)
	approve := func(token string, body map[string]any) answer {
		return r.ask("POST", "/api/runs/"+id+"/approve", token, "acme", body)
	}
	r.code(approve(tokens["approver"], map[string]any{"gate": "ask", "planHash": hash, "reason": "fine"}), 403, "DENIED")
	bound := func(run, gate, plan string) string {
		return r.want(r.ask("POST", "/api/v1/tokens", tokens["approver"], "acme", map[string]any{
			"scopes": []string{"packs.approve"}, "expiresIn": 300,
			"bound": map[string]any{"pack_run_id": run, "pack_gate_id": gate, "pack_plan_hash": plan},
		}), 201)["token"].(string)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	r.code(approve(bound(id, "go", hash), map[string]any{"gate": "ask", "reason": "fine"}), 403, "DENIED")
	r.code(approve(bound("run_00000000000000000000000000", "ask", hash), map[string]any{"gate": "ask", "reason": "fine"}), 403, "DENIED")
	r.code(approve(bound(id, "ask", other), map[string]any{"gate": "ask", "reason": "fine"}), 409, "PLAN_MISMATCH")
	good := bound(id, "ask", hash)
	r.code(approve(good, map[string]any{"reason": ""}), 400, "INVALID")
	r.want(approve(good, map[string]any{"reason": "fine", "ticket": "OPS-1"}), 200)
	if done := r.finish(tokens["viewer"], "acme", id); done["state"] != "succeeded" {
		t.Fatalf("the run ended %v", done["state"])
	}
	r.code(r.ask("POST", "/api/v1/tokens", good, "acme", map[string]any{"scopes": []string{"packs.approve"}}), 403, "DENIED")
	// The entry of the decision names who, and the chain holds.
	audit := r.ask("GET", "/api/v1/audit?page_size=500", r.root, "acme", nil)
	if !bytes.Contains(audit.body, []byte(`"actor":"acme-approver"`)) || !bytes.Contains(audit.body, []byte(`"packRunApprove"`)) {
		t.Errorf("the audit stream says %s", audit.body)
	}
	if v := r.want(r.ask("GET", "/api/v1/audit/verification", r.root, "acme", nil), 200); v["valid"] != true {
		t.Errorf("the audit stream is judged %v", v)
	}
}

// Every operation that changes something leaves exactly one entry, also one that is no command of the store, and one that is refused none.
func TestAuditCounts(t *testing.T) {
	r := start(t, app.ServerOptions{})
	entries := func() int {
		return int(r.want(r.ask("GET", "/api/v1/audit/verification", r.root, local, nil), 200)["entries"].(float64))
	}
	step := func(what string, add int, do func() answer) {
		t.Helper()
		before := entries()
		a := do()
		if got := entries() - before; got != add {
			t.Errorf("%s: %d entries instead of %d (%d %s)", what, got, add, a.status, a.body)
		}
	}
	post := func(path string, body any) func() answer {
		return func() answer {
			return r.ask("POST", path, r.root, local, body, "X-Orrery-Reason", "why", "X-Orrery-Ticket", "T-1")
		}
	}
	step("an account", 1, post("/api/v1/accounts", map[string]any{"name": "ada", "kind": "user", "roles": []string{"viewer"}}))
	step("the same account", 0, post("/api/v1/accounts", map[string]any{"name": "ada", "kind": "user", "roles": []string{"viewer"}}))
	step("a run", 1, post("/api/v1/runs", map[string]any{"manifest": hello}))
	step("no run", 0, post("/api/v1/runs", map[string]any{"manifest": "steps: 1"}))
	step("a look", 0, func() answer { return r.ask("GET", "/api/v1/runs", r.root, local, nil) })
}

// Streams end and readiness says no when the server drains, while requests are still answered.
func TestDrain(t *testing.T) {
	r := start(t, app.ServerOptions{Drain: time.Hour})
	run := r.want(r.ask("POST", "/api/v1/runs", r.root, local, map[string]any{"manifest": hello}), 201)["runId"].(string)
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/api/v1/runs/"+run+"/logs", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.root)
	req.Header.Set(httpapi.TenantHeader, local)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.want(r.ask("GET", "/readyz", "", "", nil), 200)
	r.stop()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatalf("the stream broke instead of ending: %v", err)
	}
	select {
	case err := <-r.ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("nothing is under way, and the server does not end")
	}
}

// Superseded routes say what replaces them; the routes of the task-pack API do not.
func TestJ2_Deprecation(t *testing.T) {
	r := start(t, app.ServerOptions{})
	a := r.ask("GET", "/v1/task-runner/runs/nothing", r.root, local, nil)
	if a.status != 404 || a.header.Get("Deprecation") == "" || a.header.Get("Link") != `</api/v1/runs/{runId}>; rel="successor-version"` {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := r.ask("GET", "/api/runs/nothing", r.root, local, nil); a.header.Get("Deprecation") != "" {
		t.Error("a route of the task-pack API is said to be superseded")
	}
	var doc any
	if err := json.Unmarshal(r.ask("GET", "/openapi/orchestrator.json", "", "", nil).body, &doc); err != nil {
		t.Error(err)
	}
}

// Whatever names and values a client makes up for labels, the server answers, and goes on answering.
func TestOddLabels(t *testing.T) {
	r := start(t, app.ServerOptions{})
	tokens := r.tenant("acme", "operator", "viewer")
	for _, label := range []string{"\x01", "\x7f", "é", "\"", "\\", "<>&", "\u2028", "", " ", strings.Repeat("x", 300)} {
		a := r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": "steps: [{run: echo hello}]", "labels": map[string]any{label: label}})
		if a.status != 201 && a.status != 400 {
			t.Errorf("the label %q: %d %s", label, a.status, a.body)
		}
	}
	r.want(r.ask("GET", "/api/v1/runs", tokens["viewer"], "acme", nil), 200)
}
