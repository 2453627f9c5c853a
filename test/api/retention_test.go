package api

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"context"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/retention"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

// dying is a store whose process ends after some of the deletions.
type dying struct {
	retention.Store
	left int
}

var errKilled = errors.New("killed")

func (d *dying) Erase(ctx context.Context, tenant work.Tenant, run work.RunID, _ int) (bool, error) {
	if d.left--; d.left < 0 {
		return true, errKilled
	}
	return d.Store.Erase(ctx, tenant, run, 2)
}

// B14: runs go when the policy says so, their evidence stays and verifies, a hold is stronger than any policy, and a deletion that was
// interrupted is finished by the next one.
func TestB14_Retention(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	const tenant = "local"
	tokens := r.tenant(tenant, "operator", "viewer", "admin")
	submit := func(label string) string {
		run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"manifest": hello, "labels": map[string]string{"case": label}}), 201)["runId"].(string)
		r.finish(tokens["viewer"], tenant, run)
		return run
	}
	before, err := r.Server.Store.FeedEnd(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	goes := submit("1")
	seen, err := r.Server.Store.FeedEnd(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	held := submit("2")
	r.code(r.ask("POST", "/api/v1/retention", tokens["operator"], tenant, map[string]any{"days": map[string]int{"*": 30}}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/retention", tokens["admin"], tenant, map[string]any{"days": map[string]int{"running": 30}}), 400, "INVALID")
	r.want(r.ask("POST", "/api/v1/retention", tokens["admin"], tenant, map[string]any{"days": map[string]int{"*": 30}}), 200)
	r.code(r.ask("POST", "/api/v1/retention/holds", tokens["admin"], tenant, map[string]any{"on": "label/case=2"}), 400, "INVALID")
	r.want(r.ask("POST", "/api/v1/retention/holds", tokens["admin"], tenant, map[string]any{"on": "label/case=2", "reason": "court"}), 200)

	ctx, by := t.Context(), work.Actor{Name: "retention", Reason: "policy"}
	if n, err := r.Server.Retention().Sweep(ctx, tenant, by, 10); n != 0 || err != nil {
		t.Fatalf("before their time %d runs went, %v", n, err)
	}
	later := r.Server.Retention()
	later.Now = func() work.Time { return app.Now().Add(31 * 24 * time.Hour) }
	expired, err := later.Candidates(ctx, tenant, 10)
	if err != nil || len(expired) != 2 || expired[0].Held != "label/case=2" || string(expired[1].Run.ID) != goes || expired[1].Held != "" {
		t.Fatalf("the preview is %+v, %v", expired, err)
	}
	broken := *later
	broken.Store = &dying{Store: r.Server.Store, left: 1}
	if _, err := broken.Sweep(ctx, tenant, by, 10); !errors.Is(err, errKilled) {
		t.Fatalf("the sweep ended with %v", err)
	}
	r.code(r.ask("GET", "/api/v1/runs/"+goes, tokens["viewer"], tenant, nil), 404, "NOT_FOUND")
	if _, err := later.Sweep(ctx, tenant, by, 10); err != nil {
		t.Fatal(err)
	}
	if left, err := r.Server.Store.Records(ctx, tenant, store.ErasingKind, "", "", 10); err != nil || len(left) != 0 {
		t.Errorf("%d deletions are not finished, %v", len(left), err)
	}
	if events, err := r.Server.Store.Events(ctx, tenant, work.RunID(goes), 1, 0); err != nil || len(events) != 0 {
		t.Errorf("%d events are left, %v", len(events), err)
	}
	r.want(r.ask("GET", "/api/v1/runs/"+held, tokens["viewer"], tenant, nil), 200)

	// Who followed the tenant and was away hears that something is missing; who begins anew or has seen all of it goes on.
	r.code(r.ask("GET", "/api/v1/events?after="+before.String(), tokens["viewer"], tenant, nil), 409, "CONFLICT")
	back, leave := r.open("/api/v1/events", tokens["viewer"], tenant, before.String())
	r.frames(back, "stream.resync")
	leave()
	r.want(r.ask("GET", "/api/v1/events?after="+seen.String(), tokens["viewer"], tenant, nil), 200)
	r.want(r.ask("GET", "/api/v1/events", tokens["viewer"], tenant, nil), 200)

	erased := r.want(r.ask("GET", "/api/v1/retention/erased", tokens["viewer"], tenant, nil), 200)["items"].([]any)
	if len(erased) != 1 || erased[0].(map[string]any)["run"] != goes || erased[0].(map[string]any)["done"] != true {
		t.Fatalf("what stays is %v", erased)
	}
	bundle, _, err := r.Server.Blobs.Open(ctx, tenant, work.Digest(erased[0].(map[string]any)["evidence"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	defer bundle.Close()
	var trust keyring.Trust
	if trust, err = r.Server.Keys.Trust(); err != nil {
		t.Fatal(err)
	}
	if report := verify.Bundle(bundle, trust, verify.Options{}); report.Verdict != verify.Valid {
		raw, _ := json.Marshal(report)
		t.Errorf("the evidence of the run that is gone is %s: %s", report.Verdict, raw)
	}
	if _, _, err := r.Server.Store.Leaf(ctx, tenant, work.RunID(goes)); err != nil {
		t.Errorf("its leaf: %v", err)
	}
	audit := string(r.ask("GET", "/api/v1/audit?page_size=200", tokens["admin"], tenant, nil).body)
	for _, action := range []string{"setRetention", "holdRetention", "eraseRun"} {
		if !containsAction(audit, action) {
			t.Errorf("%s is not in the audit stream", action)
		}
	}
	r.want(r.ask("POST", "/api/v1/retention/holds", tokens["admin"], tenant, map[string]any{"on": "label/case=2", "release": true, "reason": "over"}), 200)
	if n, err := later.Sweep(ctx, tenant, by, 10); n != 1 || err != nil {
		t.Errorf("after the release %d runs went, %v", n, err)
	}
	if end, err := r.Server.Store.FeedEnd(ctx, tenant); err != nil || end.Number < seen.Number {
		t.Errorf("a feed without events ends at %s, %v: before %s", end, err, seen)
	}
	if _, err := r.Server.Store.Run(ctx, tenant, held); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("the released run: %v", err)
	}
}

func containsAction(audit, action string) bool {
	var page struct {
		Items []map[string]any `json:"items"`
	}
	if json.Unmarshal([]byte(audit), &page) != nil {
		return false
	}
	for _, e := range page.Items {
		if e["type"] == action {
			return true
		}
	}
	return false
}
