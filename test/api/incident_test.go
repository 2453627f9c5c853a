package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
)

// Runs that fail open an incident and turn incident mode on; whoever follows or is notified hears of it, an operator deals with it, and the
// audit stream says who and why.
func TestJ6_IncidentsOverTheAPI(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true, Notify: app.NotifyOptions{Allow: []string{"127.0.0.1/32"}}})
	tokens := r.tenant("acme", "operator", "viewer", "admin")
	zenith := r.tenant("zenith", "operator", "viewer")
	told := newHook(t)
	r.notification(tokens["admin"], map[string]any{"name": "on-call", "channel": "webhook", "url": told.URL, "events": []string{"incident.opened", "incident.resolved"}})
	lines, leave := r.open("/api/v1/events", tokens["viewer"], "acme", "")
	defer leave()
	runs := make([]map[string]any, 12)
	for i := range runs {
		runs[i] = map[string]any{}
	}
	r.want(r.ask("POST", "/api/v1/run-batches", tokens["operator"], "acme", map[string]any{"manifest": failing, "runs": runs}), 201)
	frames := r.frames(lines, "incident.mode-on")
	i := slices.IndexFunc(frames, func(f api.Frame) bool { return f.EventType == "incident.opened" })
	if i < 0 {
		t.Fatal("no incident was opened before incident mode went on")
	}
	var opened struct{ ID, Cause, State, Message string }
	if err := json.Unmarshal(frames[i].Data, &opened); err != nil || opened.Cause != "error-budget" || opened.State != "open" || frames[i].RunID != "" || frames[i].CorrelationID != opened.ID || frames[i].Project != "default" {
		t.Errorf("the frame is %+v, %v", frames[i], err)
	}
	one := "/api/v1/incidents/" + opened.ID
	items := r.want(r.ask("GET", "/api/v1/incidents", tokens["viewer"], "acme", nil), 200)["items"].([]any)
	if len(items) != 1 || items[0].(map[string]any)["id"] != opened.ID {
		t.Errorf("the list is %v", items)
	}
	if other := r.want(r.ask("GET", "/api/v1/incidents?all=true", zenith["viewer"], "zenith", nil), 200)["items"].([]any); len(other) != 0 {
		t.Errorf("another tenant has %v", other)
	}
	reason := map[string]any{"reason": "the disk was full"}
	r.code(r.ask("POST", one+"/acknowledge", tokens["viewer"], "acme", reason), 403, "DENIED")
	r.code(r.ask("POST", one+"/acknowledge", zenith["operator"], "zenith", reason), 404, "NOT_FOUND")
	r.code(r.ask("POST", one+"/acknowledge", tokens["operator"], "acme", map[string]any{}), 400, "INVALID")
	if v := r.want(r.ask("POST", one+"/acknowledge", tokens["operator"], "acme", reason), 200); v["state"] != "acknowledged" {
		t.Errorf("acknowledged: %v", v)
	}
	r.code(r.ask("POST", one+"/acknowledge", tokens["operator"], "acme", reason), 409, "CONFLICT")
	if v := r.want(r.ask("POST", one+"/resolve", tokens["operator"], "acme", reason), 200); v["state"] != "resolved" {
		t.Errorf("resolved: %v", v)
	}
	r.code(r.ask("POST", one+"/resolve", tokens["operator"], "acme", reason), 409, "CONFLICT")
	r.frames(lines, "incident.resolved")
	r.until("two notifications", func() bool { return len(told.requests()) == 2 })
	var bodies []string
	for _, q := range told.requests() {
		bodies = append(bodies, string(q.body))
	}
	slices.Sort(bodies) // "incident.opened" and "incident.resolved", whichever came first
	if !strings.Contains(bodies[0], `"incident.opened"`) || !strings.Contains(bodies[0], opened.ID) || !strings.Contains(bodies[1], `"incident.resolved"`) || !strings.Contains(bodies[1], "the disk was full") {
		t.Errorf("told was %q", bodies)
	}
	// Incident mode holds everything; who turns it off says why.
	mode := r.want(r.ask("GET", "/api/v1/incident-mode", tokens["viewer"], "acme", nil), 200)
	if burn := mode["burn"].([]any)[0].(map[string]any); mode["on"] != true || burn["failed"] != 12.0 || burn["burn"].(float64) < 99 {
		t.Errorf("incident mode is %v", mode)
	}
	if holds := r.ask("GET", "/api/v1/retention", tokens["viewer"], "acme", nil); !strings.Contains(string(holds.body), `"everything"`) {
		t.Errorf("nothing is held: %s", holds.body)
	}
	r.code(r.ask("POST", "/api/v1/incident-mode", tokens["viewer"], "acme", map[string]any{"on": false, "reason": "x"}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/incident-mode", tokens["operator"], "acme", map[string]any{"on": false}), 400, "INVALID")
	off := map[string]any{"on": false, "reason": "known", "ticket": "OPS-17"}
	if v := r.want(r.ask("POST", "/api/v1/incident-mode", tokens["operator"], "acme", off), 200); v["on"] != false {
		t.Errorf("off: %v", v)
	}
	policy := mode["policy"].(map[string]any)
	policy["threshold"] = 0.1
	r.code(r.ask("POST", "/api/v1/incident-policy", tokens["admin"], "acme", policy), 400, "INVALID")
	policy["threshold"] = 7.5
	r.code(r.ask("POST", "/api/v1/incident-policy", tokens["operator"], "acme", policy), 403, "DENIED")
	if v := r.want(r.ask("POST", "/api/v1/incident-policy", tokens["admin"], "acme", policy), 200); v["policy"].(map[string]any)["threshold"] != 7.5 {
		t.Errorf("the policy is %v", v)
	}
	audit := string(r.ask("GET", "/api/v1/audit?page_size=500", tokens["admin"], "acme", nil).body)
	for _, want := range []string{"openIncident", "acknowledgeIncident", "resolveIncident", "turnIncidentMode", "OPS-17", "setIncidentPolicy"} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit stream lacks %s", want)
		}
	}
	r.want(r.ask("GET", "/api/v1/audit/verification", tokens["admin"], "acme", nil), 200)
}
