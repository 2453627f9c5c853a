package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/oidc"
	"orrery.example/orrery/internal/testservice"
)

const resource = "https://orrery.test"

// startProvider starts an OpenID provider with people of two tenants.
func startProvider(t *testing.T, o testservice.ProviderOptions) *testservice.Provider {
	t.Helper()
	o.Clients = []string{"orrery", "other"}
	if o.Users == nil {
		o.Users = map[string]map[string]any{
			"u-ada": {"preferred_username": "ada", "org": "ACME", "groups": []string{"builders", "unheard"}},
			"u-ben": {"preferred_username": "ben", "org": "Globex", "groups": []string{"builders", "reviewers"}},
			"u-cid": {"preferred_username": "cid", "org": "ACME", "groups": []string{"unheard"}},
			"u-dot": {"preferred_username": "ada", "org": "ACME", "groups": []string{"builders"}}, // also calls himself ada
			"u-eve": {"preferred_username": "eve", "org": "Nowhere", "groups": []string{"builders"}},
			"u-fay": {"preferred_username": "admin", "org": "ACME", "groups": []string{"builders"}}, // would be the first administrator
		}
	}
	p, err := testservice.StartProvider(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func trusting(p *testservice.Provider) oidc.Issuer {
	return oidc.Issuer{
		Name: "corp", URL: p.Issuer, ClientID: "orrery", Audiences: []string{"orrery", resource}, Skew: time.Second, Provision: true,
		Tenant: oidc.TenantRule{Claim: "org", Values: map[string]string{"ACME": "acme", "Globex": "globex", "Nowhere": "nowhere"}},
		Roles:  oidc.RoleRule{Claim: "groups", Values: map[string][]string{"builders": {"operator"}, "reviewers": {"approver"}}},
	}
}

func logIn(t *testing.T, p *testservice.Provider, user, client string) (id, access string) {
	t.Helper()
	id, access, err := p.Tokens(t.Context(), user, client, resource)
	if err != nil {
		t.Fatal(err)
	}
	return id, access
}

// forge makes a token that says the same as another with a header of its own, signed as sign does.
func forge(t *testing.T, token string, header map[string]any, change func(map[string]any), sign func(text string) []byte) string {
	t.Helper()
	parts := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(claims)
	}
	encode := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := encode(header) + "." + encode(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

// Whoever a trusted provider vouches for may do what his groups give him, in his tenant and nowhere else.
func TestB1_LoginsOfAProvider(t *testing.T) {
	p := startProvider(t, testservice.ProviderOptions{})
	r := start(t, app.ServerOptions{Providers: []oidc.Issuer{trusting(p)}})
	for _, tenant := range []string{"acme", "globex"} {
		r.want(r.ask("POST", "/api/v1/tenants", r.root, "", map[string]any{"name": tenant}), 201)
	}
	id, access := logIn(t, p, "u-ada", "orrery")
	for name, token := range map[string]string{"ID token": id, "access token": access} {
		me := r.want(r.ask("GET", "/api/v1/me", token, "acme", nil), 200)
		if me["subject"] != "ada" || me["tenant"] != "acme" || me["kind"] != "user" || !slices.Contains(me["scopes"].([]any), any("packs.run")) {
			t.Errorf("by the %s ada is %v", name, me)
		}
	}
	run := r.want(r.ask("POST", "/api/v1/runs", access, "acme", map[string]any{"manifest": hello}), 201)["runId"].(string)
	r.code(r.ask("POST", "/api/v1/tenants", access, "", map[string]any{"name": "more"}), 403, "DENIED")
	r.code(r.ask("POST", "/api/v1/runs/"+run+"/approve", access, "acme", map[string]any{"gate": "g"}), 403, "DENIED")

	// The tenant is a wall.
	ben, _ := logIn(t, p, "u-ben", "orrery")
	r.want(r.ask("GET", "/api/v1/runs", ben, "globex", nil), 200)
	r.code(r.ask("GET", "/api/v1/runs/"+run, ben, "acme", nil), 404, "NOT_FOUND")
	r.code(r.ask("GET", "/api/v1/runs/"+run, ben, "globex", nil), 404, "NOT_FOUND")

	// Who has no role, no tenant, or somebody else's name, stays out; and two people are never one because of a name.
	for _, user := range []string{"u-cid", "u-dot", "u-eve", "u-fay"} {
		token, _ := logIn(t, p, user, "orrery")
		r.code(r.ask("GET", "/api/v1/me", token, "", nil), 403, "DENIED")
	}
	accounts := r.want(r.ask("GET", "/api/v1/accounts", r.root, "acme", nil), 200)["items"].([]any)
	if len(accounts) != 1 || accounts[0].(map[string]any)["external"].(map[string]any)["subject"] != "u-ada" {
		t.Errorf("the accounts of acme are %v", accounts)
	}
	var made int
	for _, e := range r.want(r.ask("GET", "/api/v1/audit", r.root, "acme", nil), 200)["items"].([]any) {
		if e.(map[string]any)["type"] == "provisionAccount" {
			made++
		}
	}
	if made != 1 {
		t.Errorf("the audit stream has %d accounts made by a login", made)
	}

	// A session is a token of the installation; it goes with the account.
	session := r.want(r.ask("POST", "/api/v1/tokens", id, "acme", map[string]any{"scopes": []string{"packs.read"}, "expiresIn": 600}), 201)["token"].(string)
	r.want(r.ask("GET", "/api/v1/runs/"+run, session, "acme", nil), 200)
	r.want(r.ask("PUT", "/api/v1/accounts/ada", r.root, "acme", map[string]any{"kind": "user", "roles": []string{"operator"}, "disabled": true}), 200)
	for _, token := range []string{id, access, session} {
		r.code(r.ask("GET", "/api/v1/me", token, "acme", nil), 401, "UNAUTHENTICATED")
	}
}

// A token counts only whole, in time, for us and from whom we trust.
func TestB1_TokensThatDoNotCount(t *testing.T) {
	p, stranger := startProvider(t, testservice.ProviderOptions{}), startProvider(t, testservice.ProviderOptions{})
	hasty := startProvider(t, testservice.ProviderOptions{Life: time.Second})
	brief := trusting(hasty)
	brief.Name = "brief"
	r := start(t, app.ServerOptions{Providers: []oidc.Issuer{trusting(p), brief}})
	r.want(r.ask("POST", "/api/v1/tenants", r.root, "", map[string]any{"name": "acme"}), 201)
	id, _ := logIn(t, p, "u-ada", "orrery")
	r.want(r.ask("GET", "/api/v1/me", id, "", nil), 200)

	elsewhere, _ := logIn(t, p, "u-ada", "other")
	foreign, _ := logIn(t, stranger, "u-ada", "orrery")
	nobody := func(string) []byte { return nil }
	header := func(alg, typ string) map[string]any { return map[string]any{"alg": alg, "typ": typ} }
	parts := strings.Split(id, ".")
	kept := func(string) []byte {
		sig, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	bad := map[string]string{
		"another audience":    elsewhere,
		"another issuer":      foreign,
		"our issuer, his key": forge(t, foreign, header("ES256", "JWT"), func(c map[string]any) { c["iss"] = p.Issuer }, kept),
		"no signature":        forge(t, id, header("none", "JWT"), nil, nobody),
		"no signature, ES256": parts[0] + "." + parts[1] + ".",
		"a secret of all": forge(t, id, header("HS256", "JWT"), nil, func(text string) []byte {
			m := hmac.New(sha256.New, []byte("orrery"))
			m.Write([]byte(text))
			return m.Sum(nil)
		}),
		"another person":       forge(t, id, header("ES256", "JWT"), func(c map[string]any) { c["sub"] = "u-ben" }, kept),
		"a decision":           forge(t, id, header("ES256", "orrery-approval+jwt"), nil, kept),
		"half a token":         id[:len(id)/2],
		"two dots":             "..",
		"nothing readable":     "a.b.c",
		"larger than a token":  parts[0] + "." + strings.Repeat("A", 1<<15) + "." + parts[2],
		"one of ours, altered": strings.Replace(r.root, "orr_", "orr_a", 1),
	}
	for name, token := range bad {
		t.Run(name, func(t *testing.T) {
			a := r.ask("GET", "/api/v1/me", token, "", nil)
			if a.status != 401 {
				t.Errorf("%s is answered %d %s", name, a.status, a.body)
			}
		})
	}
	r.want(r.ask("GET", "/api/v1/me", id, "", nil), 200)
	// The time of a token ends.
	short, _ := logIn(t, hasty, "u-ada", "orrery")
	var a answer
	r.until("the token is refused", func() bool {
		a = r.ask("GET", "/api/v1/me", short, "", nil)
		return a.status == 401
	})
	if !strings.Contains(string(a.body), "expired at") {
		t.Errorf("an expired token is refused with %s", a.body)
	}
}

// Keys change, and a provider that is down stops only those who come from there without a known key.
func TestB1_ProviderRotatesAndFails(t *testing.T) {
	p := startProvider(t, testservice.ProviderOptions{})
	r := start(t, app.ServerOptions{Providers: []oidc.Issuer{trusting(p)}})
	r.want(r.ask("POST", "/api/v1/tenants", r.root, "", map[string]any{"name": "acme"}), 201)
	early, _ := logIn(t, p, "u-ada", "orrery")
	p.Stop()
	a := r.ask("GET", "/api/v1/me", early, "", nil)
	r.code(a, 503, "UNAVAILABLE")
	if !strings.Contains(string(a.body), "corp") {
		t.Errorf("nothing says which provider is missing: %s", a.body)
	}
	r.want(r.ask("GET", "/api/v1/me", r.root, "", nil), 200)
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	r.eventually(early)
	p.Stop()
	r.want(r.ask("GET", "/api/v1/me", early, "", nil), 200) // by the key that is kept
	if err := p.Rotate(false); err != nil {
		t.Fatal(err)
	}
	late, _ := logIn(t, p, "u-ada", "orrery")
	r.eventually(late)
	r.want(r.ask("GET", "/api/v1/me", early, "", nil), 200)
	if err := p.Rotate(true); err != nil {
		t.Fatal(err)
	}
	last, _ := logIn(t, p, "u-ada", "orrery")
	r.eventually(last)
	r.code(r.ask("GET", "/api/v1/me", early, "", nil), 401, "UNAUTHENTICATED")
	r.code(r.ask("GET", "/api/v1/me", late, "", nil), 401, "UNAUTHENTICATED")
}

// eventually demands that a token counts, as soon as the provider may be asked again.
func (r *rig) eventually(token string) {
	r.t.Helper()
	r.until("the token counts", func() bool { return r.ask("GET", "/api/v1/me", token, "", nil).status == 200 })
}

// Without provisioning a login counts for an account that an administrator made for exactly this person.
func TestB1_AccountsAreMadeByAnAdministrator(t *testing.T) {
	p := startProvider(t, testservice.ProviderOptions{})
	issuer := trusting(p)
	issuer.Provision, issuer.Roles = false, oidc.RoleRule{}
	r := start(t, app.ServerOptions{Providers: []oidc.Issuer{issuer}})
	r.want(r.ask("POST", "/api/v1/tenants", r.root, "", map[string]any{"name": "acme"}), 201)
	id, _ := logIn(t, p, "u-ada", "orrery")
	a := r.ask("GET", "/api/v1/me", id, "", nil)
	r.code(a, 403, "DENIED")
	if !strings.Contains(string(a.body), "orrery user create") {
		t.Errorf("nothing says what to do: %s", a.body)
	}
	external := map[string]any{"issuer": p.Issuer, "subject": "u-ada"}
	r.want(r.ask("POST", "/api/v1/accounts", r.root, "acme", map[string]any{"name": "lovelace", "kind": "user", "roles": []string{"viewer"}, "external": external}), 201)
	r.code(r.ask("POST", "/api/v1/accounts", r.root, "acme", map[string]any{"name": "second", "kind": "user", "external": external}), 409, "CONFLICT")
	me := r.want(r.ask("GET", "/api/v1/me", id, "", nil), 200)
	if me["subject"] != "lovelace" || slices.Contains(me["scopes"].([]any), any("packs.run")) {
		t.Errorf("the login counts as %v", me)
	}
}
