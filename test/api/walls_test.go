package api

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// possessions are the ids of what a tenant has, by the parameter of a path that names it.
type possessions map[string]string

// furnish gives a tenant one of everything that has an id.
func furnish(r *rig, tenant string, tokens map[string]string) possessions {
	pack := r.want(r.ask("POST", "/api/v1/packs?manifest=hello/pack.yaml", tokens["publisher"], tenant,
		packTar(r.t, map[string]string{"pack.yaml": strings.ReplaceAll(hello, "echo hello", "echo hello "+tenant)})), 201)
	run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"pack": pack["digest"]}), 201)
	id := run["runId"].(string)
	ended := r.finish(tokens["viewer"], tenant, id)
	if ended["state"] != "succeeded" {
		r.t.Fatalf("the run of %s ended %v: %v", tenant, ended["state"], ended["reason"])
	}
	r.sealed(tokens["viewer"], tenant, id)
	artifacts := r.want(r.ask("GET", "/api/v1/runs/"+id+"/artifacts", tokens["viewer"], tenant, nil), 200)["items"].([]any)
	keys := r.want(r.ask("GET", "/api/v1/keys", tokens["viewer"], tenant, nil), 200)["items"].([]any)
	spare := r.want(r.ask("POST", "/api/v1/tokens", tokens["admin"], tenant, map[string]any{"account": tenant + "-operator", "scopes": []string{"packs.read"}}), 201)
	told := r.want(r.ask("POST", "/api/v1/notifications", tokens["admin"], tenant, map[string]any{"name": tenant, "channel": "webhook", "url": "https://hooks.invalid/" + tenant}), 201)["id"].(string)
	sent := r.want(r.ask("POST", "/api/v1/notifications/"+told+"/test", tokens["admin"], tenant, nil), 202)["id"].(string)
	incidents := r.Incidents()
	if _, err := incidents.Look(r.t.Context(), work.Tenant(tenant), incidents.Now()); err != nil { // the store was away
		r.t.Fatal(err)
	}
	open, err := incidents.List(r.t.Context(), work.Tenant(tenant), false, "", 1)
	if err != nil || len(open) != 1 {
		r.t.Fatal(open, err)
	}
	return possessions{
		"incidentId": open[0].ID, "notificationId": told, "deliveryId": sent, "runId": id, "name": tenant + "-operator", "planHash": run["planHash"].(string), "hash": run["planHash"].(string), "run": id,
		"digest": artifacts[0].(map[string]any)["digest"].(string), "keyId": keys[0].(map[string]any)["id"].(string),
		"tokenId": spare["id"].(string), "key": strings.Repeat("c", 64), "id": "nobody", "session": "ses_nobody", "worker": "their-worker",
		"pack": pack["digest"].(string), "runName": run["name"].(string),
	}
}

// nothing has the form of possessions and names nothing.
func nothing() possessions {
	none := "sha256:" + strings.Repeat("0", 63) + "1"
	return possessions{
		"incidentId": "inc_aaaaaaaaaaaaaaaa", "notificationId": "ntf_aaaaaaaaaaaaaaaa", "deliveryId": "taaaaaaaaaaaa", "runId": "run_00000000000000000000000000", "name": "nobody", "planHash": none, "hash": none, "run": "run_00000000000000000000000000",
		"digest": none, "keyId": strings.Repeat("0", 64), "tokenId": "aaaaaaaaaaaa", "key": strings.Repeat("d", 64), "id": "nothing", "session": "ses_nothing", "worker": "no-worker",
		"pack": none, "runName": "no-such-run",
	}
}

var inBraces = regexp.MustCompile(`\{([^}.]+)(\.\.\.)?\}`)

func fill(t testing.TB, path string, p possessions) string {
	packs := strings.Contains(path, "/packs/")
	return inBraces.ReplaceAllStringFunc(path, func(name string) string {
		name = strings.Trim(name, "{}.")
		if packs && name == "digest" {
			name = "pack" // the other digests are those of files
		}
		if p[name] == "" {
			t.Fatalf("no id for {%s} in %s: add one to furnish and nothing", name, path)
		}
		return p[name]
	})
}

// Every operation answers for the id of another tenant's thing exactly as for an id that nothing has.
func TestAnotherTenantsThingsAreNotThere(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	acme := r.tenant("acme", "viewer", "operator", "publisher", "approver", "worker", "admin")
	zenith := r.tenant("zenith", "viewer", "operator", "publisher", "approver", "worker", "admin")
	mine, theirs, none := furnish(r, "acme", acme), furnish(r, "zenith", zenith), nothing()
	asked := 0
	for _, route := range r.Routes() {
		if route.Public || !strings.Contains(route.Path, "{") {
			continue
		}
		token := acme["admin"]
		if route.Scope == "worker" {
			token = acme["worker"]
		}
		body := bodyFor(route)
		foreign := r.ask(route.Method, fill(t, route.Path, theirs), token, "acme", body)
		missing := r.ask(route.Method, fill(t, route.Path, none), token, "acme", body)
		if route.Method == "PUT" && strings.Contains(route.Path, "{digest}") {
			// Who uploads is told that his bytes have another digest than he said, whatever is there; the digest is his own.
			missing.body = bytes.ReplaceAll(missing.body, []byte(none["digest"]), []byte(theirs["digest"]))
		}
		same(t, route.Method+" "+route.Path, foreign, missing)
		if foreign.status < 400 && !emptyIsFine(route) {
			t.Errorf("%s %s: %d for another tenant's id", route.Method, route.Path, foreign.status)
		}
		asked++
	}
	if asked < 30 {
		t.Fatalf("only %d operations with ids were asked: the table is not what it was", asked)
	}
	for what, swap := range map[string]func(possessions) answer{
		"submit a pack": func(p possessions) answer {
			return r.ask("POST", "/api/v1/runs", acme["operator"], "acme", map[string]any{"pack": p["pack"]})
		},
		"plan a pack": func(p possessions) answer {
			return r.ask("POST", "/api/v1/plans", acme["viewer"], "acme", map[string]any{"pack": p["pack"]})
		},
		"diff with a run": func(p possessions) answer {
			return r.ask("POST", "/api/v1/plan-diffs", acme["viewer"], "acme", map[string]any{"before": map[string]any{"run": mine["runId"]}, "after": map[string]any{"run": p["runName"]}})
		},
		"diff with a plan": func(p possessions) answer {
			return r.ask("POST", "/api/v1/plan-diffs", acme["viewer"], "acme", map[string]any{"before": map[string]any{"run": mine["runId"]}, "after": map[string]any{"plan": p["planHash"]}})
		},
		"a token of an account": func(p possessions) answer {
			return r.ask("POST", "/api/v1/tokens", acme["admin"], "acme", map[string]any{"account": p["name"], "scopes": []string{"packs.read"}})
		},
	} {
		foreign, missing := swap(theirs), swap(none)
		same(t, what, foreign, missing)
		if foreign.status != 404 {
			t.Errorf("%s: %d %s", what, foreign.status, foreign.body)
		}
	}
	for _, list := range []string{"runs", "packs", "approvals", "dead-letters", "accounts", "tokens", "audit", "keys", "notifications", "events"} {
		a := r.ask("GET", "/api/v1/"+list+"?page_size=500", acme["admin"], "acme", nil)
		r.want(a, 200)
		for _, id := range []string{theirs["runId"], theirs["pack"], theirs["name"], theirs["keyId"], "zenith"} {
			if bytes.Contains(a.body, []byte(id)) {
				t.Errorf("the list of %s shows %s of another tenant", list, id)
			}
		}
	}
}

// emptyIsFine names operations for which it is no error that the thing is not there.
func emptyIsFine(r httpapi.Route) bool {
	return r.Name == "workerCached" || r.Name == "workerPackSignatures" || r.Name == "workerUploadOffset"
}

// bodyFor is a body that the operation could do something with.
func bodyFor(r httpapi.Route) any {
	switch r.Name {
	case "revokeKey":
		return map[string]any{"reason": "superseded"}
	case "updateNotification":
		return map[string]any{"name": "new", "channel": "webhook", "url": "https://hooks.invalid/new"}
	case "changeAccount":
		return map[string]any{"kind": "user", "roles": []string{"viewer"}}
	case "decideGate", "packRunApprove":
		return map[string]any{"reason": "because"}
	}
	if r.Method == "GET" || r.Method == "HEAD" {
		return nil
	}
	return map[string]any{}
}

func same(t *testing.T, what string, foreign, missing answer) {
	t.Helper()
	if foreign.status != missing.status || !bytes.Equal(foreign.body, missing.body) {
		t.Errorf("%s: what belongs to another tenant answers\n%d %s\nwhat is not there\n%d %s", what, foreign.status, foreign.body, missing.status, missing.body)
	}
	for _, h := range []string{"Etag", "Location", "Content-Type", "Content-Length"} {
		if foreign.header.Get(h) != missing.header.Get(h) {
			t.Errorf("%s: the header %s tells them apart: %q and %q", what, h, foreign.header.Get(h), missing.header.Get(h))
		}
	}
}

// A token answers in another tenant exactly as in one that does not exist, whatever is asked.
func TestAnotherTenantIsNotThere(t *testing.T) {
	r := start(t, app.ServerOptions{})
	acme := r.tenant("acme", "admin", "worker")
	r.tenant("zenith")
	asked := 0
	for _, route := range r.Routes() {
		if route.Public {
			continue
		}
		token := acme["admin"]
		if route.Scope == "worker" {
			token = acme["worker"]
		}
		path := fill(t, route.Path, nothing())
		there, nowhere := r.ask(route.Method, path, token, "zenith", bodyFor(route)), r.ask(route.Method, path, token, "nowhere", bodyFor(route))
		same(t, route.Method+" "+route.Path, there, nowhere)
		if there.status != 404 || route.Method != "HEAD" && !bytes.Contains(there.body, []byte(`"NOT_FOUND"`)) {
			t.Errorf("%s %s in another tenant: %d %s", route.Method, route.Path, there.status, there.body)
		}
		asked++
	}
	if asked < 60 {
		t.Fatalf("only %d operations were asked", asked)
	}
	// The administrator of the installation may look everywhere, but a tenant must exist.
	for tenant, status := range map[string]int{"acme": 200, "zenith": 200, "nowhere": 404} {
		r.want(r.ask("GET", "/api/v1/runs", r.root, tenant, nil), status)
	}
}

// Every operation wants a token, the tenant, and the scope that the table says.
func TestRights(t *testing.T) {
	r := start(t, app.ServerOptions{})
	tokens := r.tenant("acme", "viewer", "operator", "publisher", "approver", "worker", "quota-manager", "admin")
	checked := 0
	for _, route := range r.Routes() {
		if route.Public {
			continue
		}
		path := fill(t, route.Path, nothing())
		what := route.Method + " " + route.Path
		if a := r.ask(route.Method, path, "", "acme", nil); a.status != 401 || a.header.Get("Www-Authenticate") == "" {
			t.Errorf("%s without a token: %d", what, a.status)
		}
		if !route.NoTenant {
			if a := r.ask(route.Method, path, tokens["admin"], "", nil); a.status != 403 || !bytes.Contains(a.body, []byte("TENANT_REQUIRED")) {
				t.Errorf("%s without a tenant: %d %s", what, a.status, a.body)
			}
		}
		if route.Scope == "" {
			continue
		}
		for role, token := range tokens {
			may := role == "admin" && route.Scope != "worker"
			for _, s := range scopesOf(role) {
				may = may || s == string(route.Scope)
			}
			a := r.ask(route.Method, path, token, "acme", bodyFor(route))
			refused := a.status == 403 && strings.Contains(string(a.body), fmt.Sprintf("lacks the scope %s", route.Scope))
			if route.Method == "HEAD" {
				refused = a.status == 403
			}
			if refused == may {
				t.Errorf("%s as %s: %d %s", what, role, a.status, a.body)
			}
			checked++
		}
	}
	if checked < 300 {
		t.Fatalf("only %d rights were checked", checked)
	}
}
