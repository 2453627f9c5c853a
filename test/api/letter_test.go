package api

import (
	"testing"

	"orrery.example/orrery/internal/app"
)

// J7, B8: dead letters over HTTP: people note, acknowledge and discard, a query redrives, and everything is in the audit stream.
func TestJ7_DeadLetters(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	const tenant = "local"
	tokens := r.tenant(tenant, "operator", "viewer", "publisher")
	const dies = "steps: [{id: a, retry: {max: 2, backoff: 1ms}, run: exit 4}]\n"
	submit := func(label string) string {
		run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"manifest": dies, "labels": map[string]string{"env": label}}), 201)["runId"].(string)
		r.finish(tokens["viewer"], tenant, run)
		return run
	}
	first, second := submit("prod"), submit("test")
	items := func(path string) []any {
		t.Helper()
		return r.want(r.ask("GET", path, tokens["viewer"], tenant, nil), 200)["items"].([]any)
	}
	if got := items("/api/v1/dead-letters"); len(got) != 2 || got[0].(map[string]any)["state"] != "open" {
		t.Fatalf("at first: %v", got)
	}
	if got := items("/api/v1/dead-letters?label=env%3Dtest"); len(got) != 1 || got[0].(map[string]any)["run"] != second {
		t.Errorf("with a label: %v", got)
	}
	r.code(r.ask("GET", "/api/v1/dead-letters?state=redriven", tokens["viewer"], tenant, nil), 400, "INVALID")
	at := "/api/v1/dead-letters/" + first
	r.code(r.ask("POST", at+"/notes", tokens["viewer"], tenant, map[string]any{"text": "x"}), 403, "DENIED")
	r.code(r.ask("POST", at+"/notes", tokens["operator"], tenant, map[string]any{"text": ""}), 400, "INVALID")
	r.code(r.ask("POST", at+"/notes", tokens["operator"], tenant, map[string]any{"text": "x", "step": "b"}), 404, "NOT_FOUND")
	r.want(r.ask("POST", at+"/notes", tokens["operator"], tenant, map[string]any{"text": "the disk was full"}), 200)
	r.want(r.ask("POST", at+"/acknowledge", tokens["operator"], tenant, map[string]any{"reason": "mine"}), 200)
	shown := items(at)[0].(map[string]any)
	if shown["state"] != "acknowledged" || shown["notes"].([]any)[0].(map[string]any)["text"] != "the disk was full" || shown["by"].(map[string]any)["reason"] != "mine" {
		t.Errorf("shown: %v", shown)
	}

	redrive := func(body map[string]any) map[string]any {
		t.Helper()
		return r.want(r.ask("POST", "/api/v1/dead-letters/redrive", tokens["operator"], tenant, body), 200)
	}
	if got := redrive(map[string]any{"dryRun": true, "limit": 1}); len(got["items"].([]any)) != 1 || got["left"].(float64) != 1 {
		t.Errorf("foreseen: %v", got)
	}
	r.code(r.ask("POST", "/api/v1/dead-letters/redrive", tokens["operator"], tenant, map[string]any{"limit": 1000}), 400, "INVALID")
	got := redrive(map[string]any{"labels": []string{"env=prod"}, "reason": "there is room"})
	again := got["items"].([]any)[0].(map[string]any)["again"].(string)
	if again == "" || len(got["items"].([]any)) != 1 || got["left"].(float64) != 0 {
		t.Fatalf("redriven: %v", got)
	}
	if run := r.finish(tokens["viewer"], tenant, again); run["retryOf"] != first || run["labels"].(map[string]any)["env"] != "prod" || run["note"] != "there is room" {
		t.Errorf("the new run: %v", run)
	}
	if shown := items(at)[0].(map[string]any); shown["state"] != "redriven" || shown["again"] != again {
		t.Errorf("shown: %v", shown)
	}
	r.code(r.ask("POST", at+"/acknowledge", tokens["operator"], tenant, map[string]any{}), 409, "CONFLICT")
	at = "/api/v1/dead-letters/" + second
	r.code(r.ask("POST", at+"/resolve", tokens["operator"], tenant, map[string]any{}), 400, "INVALID")
	r.want(r.ask("POST", at+"/resolve", tokens["operator"], tenant, map[string]any{"reason": "an old pack"}), 204)
	if shown := items(at)[0].(map[string]any); shown["state"] != "discarded" {
		t.Errorf("shown: %v", shown)
	}
	if left := items("/api/v1/dead-letters"); len(left) != 1 || left[0].(map[string]any)["run"] != again { // it died again
		t.Errorf("left: %v", left)
	}
	audit := string(r.ask("GET", "/api/v1/audit?page_size=200", r.root, tenant, nil).body)
	for _, action := range []string{"noteDeadLetter", "acknowledgeDeadLetter", "redriveDeadLetters", "resolveDeadLetter"} {
		if !containsAction(audit, action) {
			t.Errorf("%s is not in the audit stream", action)
		}
	}
}
