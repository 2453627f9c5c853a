package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/vault"
)

const value = "correct-horse-battery-staple"

func client(t *testing.T, s vault.Settings) *vault.Client {
	t.Helper()
	c, err := vault.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// read wants a value, or an error of a code without the value in it.
func read(t *testing.T, c *vault.Client, ref, want string, code fault.Code) error {
	t.Helper()
	entry, field, err := vault.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Read(t.Context(), entry, field)
	if string(got) != want || code == "" && err != nil || code != "" && fault.CodeOf(err) != code {
		t.Errorf("%s is %q, %v; want %q %s", ref, got, err, want, code)
	}
	if err != nil && strings.Contains(err.Error(), value) {
		t.Errorf("%s: the error holds the value: %v", ref, err)
	}
	return err
}

// B18: secrets come from a real server, by token and by role, over TLS with an authority of its own.
func TestB18_VaultServer(t *testing.T) {
	v, err := testservice.StartVault()
	if fault.CodeOf(err) == fault.NotFound {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := v.Write("kv/deploy", map[string]any{"token": value, "port": 8443, "on": true, "list": []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(v.Root+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	byToken := client(t, vault.Settings{Address: v.URL + "/", CA: v.CA, TokenFile: file})
	read(t, byToken, "kv/deploy#token", value, "")
	read(t, byToken, "kv/deploy#port", "8443", "")
	read(t, byToken, "kv/deploy#on", "true", "")
	read(t, byToken, "kv/deploy#list", "", fault.Invalid)
	read(t, byToken, "kv/deploy#missing", "", fault.NotFound)
	read(t, byToken, "kv/nothing#token", "", fault.NotFound)
	read(t, client(t, vault.Settings{Address: v.URL, CA: v.CA, Token: "not-a-token"}), "kv/deploy#token", "", fault.Denied)
	read(t, client(t, vault.Settings{Address: v.URL, Token: v.Root}), "kv/deploy#token", "", fault.Unavailable) // nobody knows its certificate
	if v.Version == 2 {
		if err := v.Write("secret/data/deploy", map[string]any{"data": map[string]any{"token": value}}); err != nil {
			t.Fatal(err)
		}
		read(t, byToken, "secret/data/deploy#token", value, "")
		read(t, byToken, "secret/deploy#token", "", fault.NotFound)
	}
	t.Run("role", func(t *testing.T) { byRole(t, v) })

	if err := v.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := read(t, byToken, "kv/deploy#token", "", fault.Unavailable); !strings.Contains(fmt.Sprint(err), "sealed") {
		t.Errorf("a sealed server: %v", err)
	}
	if err := v.Unseal(); err != nil {
		t.Fatal(err)
	}
	read(t, byToken, "kv/deploy#token", value, "")
	v.Stop()
	read(t, byToken, "kv/deploy#token", "", fault.Unavailable)
}

// byRole reads many times with a secret id that is good for one login only.
func byRole(t *testing.T, v *testservice.Vault) {
	id, secret, err := v.Role("worker", 600, 1)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, vault.Settings{Address: v.URL, CA: v.CA, RoleID: id, SecretIDFile: file})
	read(t, c, "kv/deploy#token", value, "")
	read(t, c, "kv/deploy#token", value, "")
	c.Age() // renewed or not, there is no second login
	read(t, c, "kv/deploy#token", value, "")
	c.Forget()
	if err := read(t, c, "kv/deploy#token", "", fault.Denied); !strings.Contains(fmt.Sprint(err), "refuses the role") {
		t.Errorf("the second login with a secret id for one: %v", err)
	}
	if _, err := client(t, vault.Settings{Address: v.URL, CA: v.CA, RoleID: id, SecretID: "wrong"}).Read(t.Context(), "kv/deploy", "token"); fault.CodeOf(err) != fault.Denied {
		t.Errorf("a wrong secret id: %v", err)
	}
}

// What no good server does: lead the token elsewhere, answer without end, answer nonsense, repeat secrets in its errors.
func TestServersThatMisbehave(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "t" || r.Header.Get("X-Vault-Namespace") != "team" {
			t.Errorf("%s without token or namespace", r.URL)
		}
		switch strings.TrimPrefix(r.URL.Path, "/v1/kv/") {
		case "away":
			http.Redirect(w, r, other.URL+"/v1/kv/x", http.StatusTemporaryRedirect)
		case "along":
			http.Redirect(w, r, "/v1/kv/good", http.StatusTemporaryRedirect)
		case "round":
			http.Redirect(w, r, "/v1/kv/round", http.StatusTemporaryRedirect)
		case "good":
			fmt.Fprintf(w, `{"data":{"data":{"a":"not this"},"a":%q}}`, value)
		case "large":
			fmt.Fprintf(w, `{"data":{"a":%q}}`, strings.Repeat(value, 20_000))
		case "nonsense":
			fmt.Fprint(w, value)
		case "null":
			fmt.Fprint(w, `{"data":{"a":null}}`)
		case "tells":
			http.Error(w, `{"errors":["`+value+`"]}`, http.StatusBadRequest)
		case "busy":
			if asked.Add(1) < 3 {
				http.Error(w, value, http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintf(w, `{"data":{"a":%q}}`, value)
		case "sealed":
			asked.Add(1)
			http.Error(w, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	c := client(t, vault.Settings{Address: s.URL, Namespace: "team", Token: "t"})
	read(t, c, "kv/good#a", value, "")
	read(t, c, "kv/along#a", value, "")
	read(t, c, "kv/round#a", "", fault.Denied)
	if read(t, c, "kv/away#a", "", fault.Denied); elsewhere.Load() != 0 {
		t.Error("the token went to another server")
	}
	read(t, c, "kv/large#a", "", fault.Invalid)
	read(t, c, "kv/nonsense#a", "", fault.Unavailable)
	read(t, c, "kv/null#a", "", fault.Invalid)
	read(t, c, "kv/tells#a", "", fault.Invalid)
	if read(t, c, "kv/busy#a", value, ""); asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	asked.Store(0)
	if read(t, c, "kv/sealed#a", "", fault.Unavailable); asked.Load() != 1 {
		t.Errorf("a sealed server was asked %d times", asked.Load())
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Read(gone, "kv/good", "a"); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// A login is renewed in its second half, kept when that fails, and made again only when it is refused.
func TestLogin(t *testing.T) {
	var logins, renewals atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/auth/workers/login":
			fmt.Fprintf(w, `{"auth":{"client_token":"t%d","lease_duration":3600,"renewable":true}}`, logins.Add(1))
		case "/v1/auth/token/renew-self":
			if renewals.Add(1) > 1 {
				http.Error(w, "", http.StatusBadRequest)
				return
			}
			fmt.Fprintf(w, `{"auth":{"client_token":%q,"lease_duration":3600,"renewable":true}}`, r.Header.Get("X-Vault-Token"))
		case "/v1/kv/revoked":
			if r.Header.Get("X-Vault-Token") == "t1" {
				http.Error(w, "", http.StatusForbidden)
				return
			}
			fallthrough
		default:
			fmt.Fprintf(w, `{"data":{"a":%q}}`, value)
		}
	}))
	defer s.Close()
	c := client(t, vault.Settings{Address: s.URL, RoleID: "r", SecretID: "s", Mount: "/workers/"})
	count := func(when string, l, r int32) {
		t.Helper()
		if logins.Load() != l || renewals.Load() != r {
			t.Errorf("%s: %d logins, %d renewals", when, logins.Load(), renewals.Load())
		}
	}
	read(t, c, "kv/x#a", value, "")
	read(t, c, "kv/x#a", value, "")
	count("two reads", 1, 0)
	c.Age()
	read(t, c, "kv/x#a", value, "")
	count("renewed", 1, 1)
	c.Age()
	read(t, c, "kv/x#a", value, "")
	read(t, c, "kv/x#a", value, "")
	count("not renewed", 1, 2)
	read(t, c, "kv/revoked#a", value, "")
	count("revoked", 2, 2)
}

func TestSettings(t *testing.T) {
	open := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(open, []byte("t"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range []vault.Settings{
		{Token: "t"}, {Address: "vault.example.org", Token: "t"}, {Address: "http://vault.example.org:8200", Token: "t"},
		{Address: "https://u:p@vault.example.org", Token: "t"}, {Address: "https://vault.example.org"},
		{Address: "https://vault.example.org", Token: "t", RoleID: "r"}, {Address: "https://vault.example.org", Token: "t", CA: open},
	} {
		if _, err := vault.New(s); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := client(t, vault.Settings{Address: "http://127.0.0.1:1", TokenFile: open}).Read(t.Context(), "kv/a", "b"); fault.CodeOf(err) != fault.Denied {
		t.Errorf("a token that others may read: %v", err)
	}
	for _, ref := range []string{"", "a#b", "kv/a", "kv/a#", "/kv/a#b", "kv/../sys/raw#b", "kv/./a#b", "kv//a#b", "kv/a?x=y#b", "kv/a%2f#b", "kv/a b#c", "kv/a#b#c", "../kv/a#b"} {
		if _, _, err := vault.Parse(ref); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// Whatever the reference is, what is asked for stays below the address and is what the reference says.
func FuzzParse(f *testing.F) {
	f.Add("secret/data/deploy#token")
	f.Add("kv/../sys#x")
	f.Add("0/..0#0") // two points in front of something are a name
	f.Fuzz(func(t *testing.T, ref string) {
		entry, field, err := vault.Parse(ref)
		if err != nil {
			return
		}
		req, err := http.NewRequest(http.MethodGet, "https://vault.example.org/v1/"+entry, nil)
		if err != nil || req.URL.Path != "/v1/"+entry || req.URL.RawQuery != "" || slices.Contains(strings.Split(entry, "/"), "..") || entry+"#"+field != ref {
			t.Errorf("%q asks for %v, %v", ref, req, err)
		}
	})
}
