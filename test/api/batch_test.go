package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"orrery.example/orrery/internal/app"
)

// Many runs of one pack are created by one request: each under its own token and with its own inputs, all or none of them planned, and a
// request that is sent again makes no others.
func TestBatch(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator")
	pack := "name: many\ninputs: {n: {type: integer, default: 0}}\nsteps:\n- run: {uses: noop}\n"
	submit := func(key string, runs ...map[string]any) answer {
		return r.ask("POST", "/api/v1/run-batches", tokens["operator"], "acme", map[string]any{"manifest": pack, "runs": runs}, "Idempotency-Key", key)
	}
	entries := func(a answer) (out []struct {
		RunID, PlanHash string
		Error           *struct{ Code string }
	}) {
		t.Helper()
		var reply struct{ Runs json.RawMessage }
		r.want(a, 201)
		if err := json.Unmarshal(a.body, &reply); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(reply.Runs, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	inputs := func(n int) map[string]any {
		return map[string]any{"inputs": map[string]any{"n": n}, "runToken": fmt.Sprint("t", n)}
	}
	first := entries(submit("one", inputs(1), inputs(2), map[string]any{}))
	if len(first) != 3 || first[0].PlanHash == first[1].PlanHash || first[0].RunID == first[1].RunID {
		t.Fatalf("the batch is %v", first)
	}
	for _, e := range first {
		if e.Error != nil {
			t.Fatalf("%+v", e)
		}
		if run := r.finish(tokens["viewer"], "acme", e.RunID); run["state"] != "succeeded" {
			t.Errorf("a run ended %v: %v", run["state"], run["reason"])
		}
	}
	if again := entries(submit("one", inputs(1), inputs(2), map[string]any{})); again[2].RunID != first[2].RunID {
		t.Error("the same request made other runs")
	}
	// One whose token is taken by another plan is refused alone.
	taken := map[string]any{"inputs": map[string]any{"n": 7}, "runToken": "t1"}
	second := entries(submit("two", taken, inputs(3), inputs(2)))
	if second[0].Error == nil || second[0].Error.Code != "CONFLICT" || second[1].Error != nil || second[2].RunID != first[1].RunID {
		t.Errorf("the second batch is %+v", second)
	}
	// When one cannot be planned there is none.
	r.code(submit("three", inputs(4), map[string]any{"inputs": map[string]any{"n": "four"}}), 400, "INVALID")
	r.code(submit("four"), 400, "INVALID")
	r.code(submit("five", map[string]any{"planHash": first[0].PlanHash}), 409, "PLAN_MISMATCH")
	list := r.want(r.ask("GET", "/api/v1/runs", tokens["viewer"], "acme", nil), 200)["items"].([]any)
	if len(list) != 4 {
		t.Errorf("there are %d runs, not the 4 that were created", len(list))
	}
	if v := r.want(r.ask("GET", "/api/v1/audit/verification", r.root, "acme", nil), 200); v["valid"] != true {
		t.Errorf("the audit stream is judged %v", v)
	}
}

// Each run of a batch has a project, a time and labels of its own, as a run that is submitted alone; one that cannot have them is named and
// none is created.
func TestBatchOfItsOwn(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator")
	pack := "name: many\nsteps:\n- run: {uses: noop}\n"
	submit := func(runs ...map[string]any) answer {
		return r.ask("POST", "/api/v1/run-batches", tokens["operator"], "acme", map[string]any{"manifest": pack, "runs": runs})
	}
	later := map[string]any{"project": "shop", "notBefore": "2099-01-02T03:04:05.000000Z", "labels": map[string]string{"case": "7"}}
	made := r.want(submit(later, map[string]any{}), 201)["runs"].([]any)
	id := func(i int) string { return made[i].(map[string]any)["runId"].(string) }
	detail := r.want(r.ask("GET", "/api/v1/runs/"+id(0), tokens["viewer"], "acme", nil), 200)
	if detail["project"] != "shop" || detail["notBefore"] != later["notBefore"] || detail["state"] != "queued" {
		t.Errorf("the run is %v", detail)
	}
	why := r.want(r.ask("GET", "/api/v1/runs/"+id(0)+"/why", tokens["viewer"], "acme", nil), 200)
	if reason := why["reason"].(map[string]any); reason["code"] != "WAITS_FOR_TIME" || reason["until"] != later["notBefore"] {
		t.Errorf("it waits for %v", reason)
	}
	if found := r.want(r.ask("GET", "/api/v1/runs?project=shop&label=case%3D7", tokens["viewer"], "acme", nil), 200)["items"].([]any); len(found) != 1 {
		t.Errorf("%d runs are found by project and label", len(found))
	}
	if run := r.finish(tokens["viewer"], "acme", id(1)); run["state"] != "succeeded" {
		t.Errorf("the other one ended %v", run["state"])
	}
	r.code(submit(map[string]any{}, map[string]any{"notBefore": "tomorrow"}), 400, "INVALID")
	if all := r.want(r.ask("GET", "/api/v1/runs", tokens["viewer"], "acme", nil), 200)["items"].([]any); len(all) != 2 {
		t.Errorf("%d runs after a batch that was refused", len(all))
	}
}
