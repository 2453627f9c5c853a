package api

import (
	"bytes"
	"os"
	"sync"
	"testing"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/testservice"
)

// Two servers on one PostgreSQL are one installation: what one is told, the other knows, at once.
func TestTwoServersAreOne(t *testing.T) {
	server, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // after those who use it have stopped
	url, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := app.ServerOptions{Options: app.Options{Dir: dir, Store: url}, Work: true}
	a := start(t, o)
	b := start(t, o)
	if a.root == "" || b.root != "" {
		t.Fatalf("the first administrator was made by %q and %q", a.root, b.root)
	}
	tokens := a.tenant("acme", "viewer", "operator")
	submit := func(r *rig) answer {
		return r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": hello}, "Idempotency-Key", "one")
	}
	first, second := submit(a), submit(b)
	a.want(first, 201)
	if !bytes.Equal(first.body, second.body) || second.header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("the other server answers %d %s", second.status, second.body)
	}
	id := a.want(first, 201)["runId"].(string)
	if run := b.finish(tokens["viewer"], "acme", id); run["state"] != "succeeded" {
		t.Fatalf("the run ended %v: %v", run["state"], run["reason"])
	}
	// Both are asked the same at once.
	var group sync.WaitGroup
	answers := make([]answer, 8)
	for i := range answers {
		group.Go(func() {
			answers[i] = []*rig{a, b}[i%2].ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": hello}, "Idempotency-Key", "both")
		})
	}
	group.Wait()
	for _, got := range answers {
		if got.status != 201 || !bytes.Equal(got.body, answers[0].body) {
			t.Errorf("%d %s, another was told %s", got.status, got.body, answers[0].body)
		}
	}
	if n := len(a.want(a.ask("GET", "/api/v1/runs", tokens["viewer"], "acme", nil), 200)["items"].([]any)); n != 2 {
		t.Errorf("%d runs of two keys", n)
	}
	me := a.want(a.ask("GET", "/api/v1/me", tokens["viewer"], "", nil), 200)["tokenId"].(string)
	a.want(a.ask("DELETE", "/api/v1/tokens/"+me, tokens["viewer"], "acme", nil), 204)
	b.code(b.ask("GET", "/api/v1/runs", tokens["viewer"], "acme", nil), 401, "UNAUTHENTICATED")
	// Both write into one chain.
	for i, r := range []*rig{a, b, a, b} {
		r.want(r.ask("POST", "/api/v1/accounts", a.root, "acme", map[string]any{"name": string(rune('p' + i)), "kind": "user"}), 201)
	}
	if v := b.want(b.ask("GET", "/api/v1/audit/verification", a.root, "acme", nil), 200); v["valid"] != true || v["entries"].(float64) < 8 {
		t.Errorf("the audit stream is judged %v", v)
	}
	if _, err := os.Stat(dir + "/orrery.db"); err == nil {
		t.Error("there is a store in the data folder as well")
	}
}
