package oidc

import (
	"context"
	"encoding/base64"
	"log/slog"
	"reflect"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

func issuer() Issuer {
	return Issuer{
		Name: "corp", URL: "https://login.example.org", ClientID: "orrery", Provision: true, Tenant: TenantRule{Fixed: "acme"},
		Roles: RoleRule{Claim: "realm_access.roles", Values: map[string][]string{"dev": {"operator", "viewer"}, "boss": {"approver"}}},
	}
}

func TestClaims(t *testing.T) {
	byOrg := func(i *Issuer) {
		i.Tenant = TenantRule{Claim: "org", Values: map[string]string{"A": "acme", "B": "beta"}}
	}
	person := func(extra map[string]any) map[string]any {
		out := map[string]any{"sub": "1", "preferred_username": "ada", "realm_access": map[string]any{"roles": []any{"dev", "dev", 7, "other"}}}
		for k, v := range extra {
			out[k] = v
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*Issuer)
		claims map[string]any
		tenant work.Tenant
		roles  []string
		code   fault.Code
	}{
		"fixed":                    {nil, person(nil), "acme", []string{"operator", "viewer"}, ""},
		"both roles":               {nil, person(map[string]any{"realm_access": map[string]any{"roles": []any{"boss", "dev"}}}), "acme", []string{"approver", "operator", "viewer"}, ""},
		"one text":                 {func(i *Issuer) { i.Roles.Claim = "role" }, person(map[string]any{"role": "boss"}), "acme", []string{"approver"}, ""},
		"a dot in the name":        {func(i *Issuer) { i.Roles.Claim = "x.y" }, person(map[string]any{"x.y": "boss"}), "acme", []string{"approver"}, ""},
		"no role":                  {nil, person(map[string]any{"realm_access": "none"}), "acme", nil, fault.Denied},
		"no role, no account":      {func(i *Issuer) { i.Provision = false }, person(map[string]any{"realm_access": nil}), "acme", nil, ""},
		"by claim":                 {byOrg, person(map[string]any{"org": "B"}), "beta", []string{"operator", "viewer"}, ""},
		"an unknown organisation":  {byOrg, person(map[string]any{"org": "C"}), "", nil, fault.Denied},
		"the name of a tenant":     {byOrg, person(map[string]any{"org": "acme"}), "", nil, fault.Denied},
		"two organisations":        {byOrg, person(map[string]any{"org": []any{"A", "B"}}), "", nil, fault.Denied},
		"one twice":                {byOrg, person(map[string]any{"org": []any{"A", "A"}}), "acme", []string{"operator", "viewer"}, ""},
		"without an organisation":  {byOrg, person(nil), "", nil, fault.Denied},
		"the claim is the tenant":  {func(i *Issuer) { i.Tenant = TenantRule{Claim: "org"} }, person(map[string]any{"org": "beta"}), "beta", []string{"operator", "viewer"}, ""},
		"an organisation of texts": {byOrg, person(map[string]any{"org": map[string]any{"A": true}}), "", nil, fault.Denied},
	} {
		i := issuer()
		if c.change != nil {
			c.change(&i)
		}
		if err := i.complete(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := i.person(c.claims)
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (got.Tenant != c.tenant || got.Account != "ada" || got.Subject != "1" || len(got.Roles)+len(c.roles) > 0 && !reflect.DeepEqual(got.Roles, c.roles)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestIssuersThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Issuer){
		"a shared secret":      func(i *Issuer) { i.Algorithms = []string{"HS256"} },
		"no signature":         func(i *Issuer) { i.Algorithms = []string{"none"} },
		"without TLS":          func(i *Issuer) { i.URL = "http://login.example.org" },
		"with a password":      func(i *Issuer) { i.URL = "https://a:b@login.example.org" },
		"no tenant":            func(i *Issuer) { i.Tenant = TenantRule{} },
		"two kinds of tenants": func(i *Issuer) { i.Tenant.Claim = "org" },
		"no client":            func(i *Issuer) { i.ClientID = "" },
		"an unknown role":      func(i *Issuer) { i.Roles.Default = []string{"king"} },
		"accounts of no role":  func(i *Issuer) { i.Roles = RoleRule{} },
		"a day and more":       func(i *Issuer) { i.Session = 25 * 3600e9 },
	} {
		i := issuer()
		change(&i)
		if _, err := New([]Issuer{i}, func() work.Time { return 0 }, slog.New(slog.DiscardHandler)); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	second := issuer()
	second.Name = "other"
	if _, err := New([]Issuer{issuer(), second}, func() work.Time { return 0 }, slog.New(slog.DiscardHandler)); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("one issuer and audience twice: %v", err)
	}
}

// FuzzPerson reads whatever comes as a token. Nothing of it is signed, so nobody is let in, and without a known issuer nobody is asked.
func FuzzPerson(f *testing.F) {
	s, err := New([]Issuer{issuer()}, func() work.Time { return 1 }, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	f.Add(encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(`{"iss":"https://other","aud":["orrery"]}`)) + ".AA")
	f.Add(encode([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + encode([]byte(`{"iss":"https://login.example.org","aud":"orrery"}`)) + ".")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nobody is reached
		if p, err := s.Person(ctx, token); err == nil {
			t.Errorf("%q is %+v", token, p)
		}
	})
}
