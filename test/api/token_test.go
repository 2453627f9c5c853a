package api

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/dsse"
)

// person is somebody with a key of their own, as a server knows it.
type person struct {
	t    *testing.T
	id   string
	alg  string
	sign func(text []byte) []byte
}

// trusted makes a key that the tenant trusts for the account of a token.
func (r *rig) trusted(t *testing.T, token, tenant, alg string) person {
	t.Helper()
	p := person{t: t, alg: alg}
	var public any
	switch alg {
	case "EdDSA":
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, p.sign = pub, func(text []byte) []byte { return ed25519.Sign(key, text) }
	case "ES256":
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, p.sign = &key.PublicKey, func(text []byte) []byte {
			sum := sha256.Sum256(text)
			a, b, err := ecdsa.Sign(rand.Reader, key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			const size = 32
			return append(a.FillBytes(make([]byte, size)), b.FillBytes(make([]byte, size))...)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	id, err := dsse.NewKey(public)
	if err != nil {
		t.Fatal(err)
	}
	p.id = id.ID
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	r.want(r.ask("POST", "/api/v1/keys", token, tenant, map[string]any{"public": text, "usage": []string{"approve"}}), 201)
	return p
}

func (p person) token(header, claims map[string]any) string {
	encode := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	full := map[string]any{"alg": p.alg, "typ": "orrery-approval+jwt", "kid": p.id}
	maps.Copy(full, header)
	text := encode(full) + "." + encode(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(p.sign([]byte(text)))
}

// A decision counts by the token of a person whose key the tenant trusts, for one gate of one run of one plan, in its time, once.
func TestT5_ApprovalToken(t *testing.T) {
	for _, alg := range []string{"EdDSA", "ES256"} {
		t.Run(alg, func(t *testing.T) {
			r := start(t, app.ServerOptions{Work: true})
			tokens := r.tenant("acme", "operator", "approver", "viewer")
			ben := r.trusted(t, tokens["approver"], "acme", alg)
			run := r.want(r.ask("POST", "/api/runs", tokens["operator"], "acme", map[string]any{"manifest": gated}), 201)
			id, hash := run["runId"].(string), run["planHash"].(string)
			other := r.want(r.ask("POST", "/api/runs", tokens["operator"], "acme", map[string]any{"manifest": gated}), 201)["runId"].(string)
			now := time.Now().Unix()
			claims := func(change map[string]any) map[string]any {
				out := map[string]any{
					"pack_run_id": id, "pack_gate_id": "ask", "pack_plan_hash": hash, "decision": "approved", "reason": "fine", "sub": "acme-approver",
					"jti": "0123456789abcdef", "iat": now, "exp": now + 300, "amr": []string{"hwk"},
				}
				for k, v := range change {
					if out[k] = v; v == nil {
						delete(out, k)
					}
				}
				return out
			}
			decide := func(path, run, token string) answer {
				return r.ask("POST", path+"/"+run+"/approve", tokens["approver"], "acme", map[string]any{"token": token})
			}
			stranger := ben
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			stranger.sign = func(text []byte) []byte { return ed25519.Sign(key, text) }
			good := ben.token(nil, claims(nil))
			parts := strings.Split(good, ".")
			for name, token := range map[string]string{
				"no type":          ben.token(map[string]any{"typ": nil}, claims(nil)),
				"a login":          ben.token(map[string]any{"typ": "JWT"}, claims(nil)),
				"no algorithm":     ben.token(map[string]any{"alg": "none"}, claims(nil)),
				"a shared secret":  ben.token(map[string]any{"alg": "HS256"}, claims(nil)),
				"another key":      ben.token(map[string]any{"kid": strings.Repeat("0", 64)}, claims(nil)),
				"a key of its own": stranger.token(map[string]any{"jwk": map[string]any{"kty": "OKP"}}, claims(nil)),
				"another signer":   stranger.token(nil, claims(nil)),
				"no signature":     parts[0] + "." + parts[1] + ".",
				"another plan":     ben.token(nil, claims(map[string]any{"pack_plan_hash": "sha256:" + strings.Repeat("0", 64)})),
				"another run":      ben.token(nil, claims(map[string]any{"pack_run_id": other})),
				"another gate":     ben.token(nil, claims(map[string]any{"pack_gate_id": "go"})),
				"another tenant":   ben.token(nil, claims(map[string]any{"tenant": "local"})),
				"another person":   ben.token(nil, claims(map[string]any{"sub": "acme-viewer"})),
				"no plan":          ben.token(nil, claims(map[string]any{"pack_plan_hash": nil})),
				"no reason":        ben.token(nil, claims(map[string]any{"reason": nil})),
				"no jti":           ben.token(nil, claims(map[string]any{"jti": nil})),
				"no end":           ben.token(nil, claims(map[string]any{"exp": nil})),
				"expired":          ben.token(nil, claims(map[string]any{"iat": now - 500, "exp": now - 100})),
				"of the future":    ben.token(nil, claims(map[string]any{"iat": now + 200, "exp": now + 400})),
				"too long":         ben.token(nil, claims(map[string]any{"exp": now + 3600})),
				"perhaps":          ben.token(nil, claims(map[string]any{"decision": "perhaps"})),
				"garbage":          "a.b.c",
			} {
				if a := decide("/api/runs", id, token); a.status < 400 || a.status >= 500 {
					t.Errorf("%s: %d %s", name, a.status, a.body)
				}
			}
			r.code(decide("/api/v1/runs", other, good), 400, "INVALID")
			r.code(r.ask("POST", "/api/runs/"+id+"/approve", tokens["viewer"], "acme", map[string]any{"token": good}), 403, "DENIED")
			r.want(decide("/api/runs", id, good), 200)
			r.code(decide("/api/runs", id, good), 409, "CONFLICT")
			again := ben.token(nil, claims(map[string]any{"pack_run_id": other}))
			a := decide("/api/runs", other, again)
			if r.code(a, 409, "CONFLICT"); !strings.Contains(string(a.body), "jti") {
				t.Errorf("a jti that was used is refused with %s", a.body)
			}
			r.want(decide("/api/v1/runs", other, ben.token(nil, claims(map[string]any{"pack_run_id": other, "jti": "fedcba9876543210"}))), 200)
			if done := r.finish(tokens["viewer"], "acme", id); done["state"] != "succeeded" {
				t.Errorf("the run ended %v", done["state"])
			}
		})
	}
}
