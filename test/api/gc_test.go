package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// B14: after a deletion of runs the files go that only they named, with an audit entry and a count; an administrator can ask for it and
// for what would go.
func TestB14_CollectFiles(t *testing.T) {
	telemetry, err := app.NewTelemetry(t.Context(), app.TelemetryOptions{Version: "test", Metrics: true})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, app.ServerOptions{Options: app.Options{Telemetry: telemetry}, Work: true})
	const tenant = "local"
	tokens := r.tenant(tenant, "operator", "viewer", "admin")
	const leaves = "steps:\n  - {id: a, run: 'echo result > out.txt', outputs: {text: out.txt}}\n"
	run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"manifest": leaves}), 201)["runId"].(string)
	r.finish(tokens["viewer"], tenant, run)
	r.code(r.ask("POST", "/api/v1/gc", tokens["operator"], tenant, map[string]any{}), 403, "DENIED")
	counted := func(answer map[string]any, what string) float64 {
		return answer[what].(map[string]any)["blobs"].(float64)
	}
	preview := func() map[string]any {
		t.Helper()
		return r.want(r.ask("POST", "/api/v1/gc", tokens["admin"], tenant, map[string]any{"dryRun": true}), 200)
	}
	if got := preview(); counted(got, "kept") != 2 || counted(got, "waiting") != 0 || got["dryRun"] != true {
		t.Fatalf("while the run is there: %v", got)
	}
	ctx, by := t.Context(), work.Actor{Name: "retention", Reason: "policy"}
	r.want(r.ask("POST", "/api/v1/retention", tokens["admin"], tenant, map[string]any{"days": map[string]int{"*": 1}}), 200)
	later := r.Server.Retention()
	later.Now = func() work.Time { return app.Now().Add(48 * time.Hour) }
	if n, err := later.Sweep(ctx, tenant, by, 10); n != 1 || err != nil {
		t.Fatalf("%d runs went, %v", n, err)
	}
	if got := preview(); counted(got, "kept") != 1 || counted(got, "waiting") != 2 {
		t.Fatalf("after the run, whose evidence stays: %v", got)
	}
	if got := r.want(r.ask("POST", "/api/v1/gc", tokens["admin"], tenant, map[string]any{}), 200); counted(got, "freed") != 0 || counted(got, "waiting") != 2 {
		t.Fatalf("the first look: %v", got)
	}
	r.age(tenant, 72*time.Hour)
	if got := preview(); counted(got, "freed") != 2 {
		t.Fatalf("the second look is to find %v", got)
	}
	if got := r.want(r.ask("POST", "/api/v1/gc", tokens["admin"], tenant, map[string]any{}, "X-Orrery-Reason", "room"), 200); counted(got, "freed") != 2 || counted(got, "kept") != 1 {
		t.Fatalf("the second look: %v", got)
	}
	audit := string(r.ask("GET", "/api/v1/audit?page_size=200", tokens["admin"], tenant, nil).body)
	if !strings.Contains(audit, `"collectBlobs"`) || !strings.Contains(audit, `"blobs":2`) || !strings.Contains(audit, `"room"`) {
		t.Errorf("the audit stream: %s", audit)
	}
	text, err := telemetry.Metrics.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`orchestrator_blobs_collected_total{tenant="local"} 2`, fmt.Sprintf(`orchestrator_blobs_collected_bytes_total{tenant="local"} %d`, len(leaves)+len("result\n")),
		`orchestrator_blobs_kept{reference="named",tenant="local"} 1`, `orchestrator_blobs_kept{reference="unnamed",tenant="local"} 0`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// age makes the files of a tenant, and what is noted of them, look as if they had been there for longer.
func (r *rig) age(tenant work.Tenant, by time.Duration) {
	r.t.Helper()
	then := time.Now().Add(-by)
	files, err := filepath.Glob(filepath.Join(r.Server.Dir, "blobs", "*", "*"))
	if err != nil || len(files) == 0 {
		r.t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, then, then); err != nil {
			r.t.Fatal(err)
		}
	}
	notes, err := r.Server.Store.Records(r.t.Context(), tenant, "unnamed", "", "", 0)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range notes {
		n.Doc = []byte(`{"since":"` + work.At(then).String() + `","bytes":1}`)
		if err := r.Server.Store.Change(r.t.Context(), store.RecordChange{Record: n}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// O9: at the quota of bytes submissions and packs are refused with a code of their own, and evidence is made and kept all the same.
func TestO9_QuotaOfBytes(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	const tenant = "local"
	tokens := r.tenant(tenant, "operator", "viewer", "publisher", "admin")
	const leaves = "steps:\n  - {id: a, run: 'echo result > out.txt', outputs: {text: out.txt}}\n"
	submit := func(label string) answer {
		return r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"manifest": leaves, "labels": map[string]string{"case": label}})
	}
	run := r.want(submit("1"), 201)["runId"].(string)
	r.finish(tokens["viewer"], tenant, run)
	stored := r.want(r.ask("GET", "/api/v1/flow", tokens["viewer"], tenant, nil), 200)["storedBytes"].(float64)
	if int(stored) < len(leaves)+len("result\n") {
		t.Errorf("%g bytes are stored", stored)
	}
	reasons := []string{"X-Orrery-Reason", "too much", "X-Orrery-Ticket", "OPS-1"}
	limit := func(bytes int) {
		t.Helper()
		r.want(r.ask("POST", "/api/v1/flow/limit", tokens["admin"], tenant, map[string]any{"kind": "tenant", "quota": map[string]any{"bytes": bytes}}, reasons...), 200)
	}
	limit(1)
	var refused answer
	for n := 2; refused.status != 413; n++ { // what was stored counts after a second
		if refused = submit(fmt.Sprint(n)); refused.status != 201 && refused.status != 413 || n == 10_000 {
			t.Fatalf("submission %d: %d %s", n, refused.status, refused.body)
		}
	}
	r.code(refused, 413, "QUOTA_EXCEEDED")
	if res := r.ask("GET", "/api/v1/runs/"+run+"/evidence", tokens["viewer"], tenant, nil); res.status != 200 {
		t.Errorf("the evidence at the quota: %d %s", res.status, res.body)
	}
	limit(0)
	for n := 0; ; n++ {
		if res := submit(fmt.Sprint(n)); res.status == 201 {
			break
		} else if n == 10_000 {
			t.Fatalf("without the quota: %d %s", res.status, res.body)
		}
	}
}
