package api

import (
	"strings"
	"testing"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/oidc"
	"orrery.example/orrery/internal/policy"
)

// A sealed installation asks and tells nobody, whatever its settings name, and says so where somebody wants it to.
func TestT8_SealedInstallation(t *testing.T) {
	provider := oidc.Issuer{Name: "corp", URL: "https://idp.invalid", ClientID: "orrery"}
	engine := policy.Engine{Name: "opa", URL: "http://127.0.0.1:1"}
	r := start(t, app.ServerOptions{
		Sealed: true, Work: true, Options: app.Options{Engines: []policy.Engine{engine}}, Providers: []oidc.Issuer{provider},
		Notify: app.NotifyOptions{Allow: []string{"127.0.0.1/32"}}, SecretVault: "secret/data/orrery",
	})
	tokens := r.tenant("acme", "viewer", "operator", "admin")
	says := func(a answer, status int, text string) {
		t.Helper()
		if a.status != status || !strings.Contains(string(a.body), text) {
			t.Errorf("status %d and not %d with %q: %s", a.status, status, text, a.body)
		}
	}
	says(r.ask("POST", "/api/v1/notifications", tokens["admin"], "acme", map[string]any{"name": "x", "channel": "webhook", "url": newHook(t).URL}), 403, "is sealed")
	says(r.ask("GET", "/api/v1/runs", "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lkcC5pbnZhbGlkIn0.AAAA", "acme", nil), 401, "is sealed")
	ask := "name: asks\nversion: 1.0.0\ninputs:\n  key: {type: secret}\nsteps:\n  - id: a\n    run: echo $KEY\n    env: {KEY: '${{ inputs.key }}'}\n"
	run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": ask, "inputs": map[string]any{"key": "vault:secret/data/orrery/acme/key#value"}}), 201)["runId"].(string)
	if ended := r.finish(tokens["viewer"], "acme", run); !strings.Contains(ended["reason"].(map[string]any)["message"].(string), "is sealed") {
		t.Errorf("a secret of a Vault server: %v", ended["reason"])
	}
	gate := "name: gated\nversion: 1.0.0\nsteps:\n  - id: g\n    gate:\n      policy:\n        engine: opa\n        path: release/allow\n"
	run = r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": gate}), 201)["runId"].(string)
	r.until("the gate says why it has no answer", func() bool {
		return strings.Contains(string(r.ask("GET", "/api/v1/runs/"+run+"/events?page_size=500", tokens["viewer"], "acme", nil).body), "is sealed")
	})
}
