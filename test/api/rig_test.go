// Package api tests the HTTP API of a whole installation: real stores, real runs, real requests.
package api

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// rig is an installation that serves while a test lasts.
type rig struct {
	t     testing.TB
	url   string
	root  string // the first administrator's token
	stop  context.CancelFunc
	ended chan error
	*app.Server
}

// patience is how long something that happens by itself may take. Nothing that is well comes near, also on a machine with much else to do.
const patience = 2 * time.Minute

func start(t testing.TB, o app.ServerOptions) *rig {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Tenant, o.Listen, o.Version = work.LocalTenant, "127.0.0.1:0", "test"
	o.Slots = 2
	if o.Drain == 0 {
		o.Drain = 20 * time.Second
	}
	s, err := app.OpenServer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &rig{t: t, root: s.Admin, Server: s, stop: stop, ended: make(chan error, 1)}
	ready := make(chan string, 1)
	go func() {
		r.ended <- s.Serve(ctx, func(url string) { ready <- url })
		close(r.ended)
	}()
	select {
	case r.url = <-ready:
	case err := <-r.ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

const fixedTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// ask sends a request. Headers come in pairs.
func (r *rig) ask(method, path, token, tenant string, body any, headers ...string) answer {
	r.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		in = bytes.NewReader(b)
	case string:
		in = strings.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			r.t.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, in)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Traceparent", fixedTrace)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if tenant != "" {
		req.Header.Set(httpapi.TenantHeader, tenant)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, raw}
}

// want demands a status and returns the decoded body.
func (r *rig) want(a answer, status int) map[string]any {
	r.t.Helper()
	if a.status != status {
		r.t.Fatalf("status %d instead of %d: %s", a.status, status, a.body)
	}
	var v map[string]any
	if len(a.body) > 0 {
		if err := json.Unmarshal(a.body, &v); err != nil {
			r.t.Fatalf("%v in %s", err, a.body)
		}
	}
	return v
}

// code demands an error code.
func (r *rig) code(a answer, status int, code string) {
	r.t.Helper()
	v := r.want(a, status)
	e, _ := v["error"].(map[string]any)
	if e["code"] != code || e["message"] == "" || e["trace_id"] != "4bf92f3577b34da6a3ce929d0e0e4736" {
		r.t.Fatalf("the envelope of %s is %s", code, a.body)
	}
}

// tenant makes a tenant with an account per role, and returns their tokens by role.
func (r *rig) tenant(name string, roles ...string) map[string]string {
	r.t.Helper()
	if name != string(work.LocalTenant) {
		r.want(r.ask("POST", "/api/v1/tenants", r.root, "", map[string]any{"name": name}), 201)
	}
	tokens := map[string]string{}
	for _, role := range roles {
		account := name + "-" + role
		r.want(r.ask("POST", "/api/v1/accounts", r.root, name, map[string]any{"name": account, "kind": "user", "roles": []string{role}}), 201)
		tokens[role] = r.token(name, account, scopesOf(role))
	}
	return tokens
}

func scopesOf(role string) []string {
	return map[string][]string{
		"viewer": {"packs.read", "orch:read"}, "operator": {"packs.read", "packs.run", "orch:read", "orch:operate"},
		"publisher": {"packs.read", "packs.write"}, "approver": {"packs.read", "packs.approve"},
		"worker": {"worker"}, "admin": {"orchestrator:admin"}, "quota-manager": {"orch:read", "orch:quota", "orch:backfill"},
	}[role]
}

func (r *rig) token(tenant, account string, scopes []string) string {
	r.t.Helper()
	q := map[string]any{"account": account, "scopes": scopes}
	return r.want(r.ask("POST", "/api/v1/tokens", r.root, tenant, q), 201)["token"].(string)
}

// finish waits for the end of a run on its stream of lines, and returns the run.
func (r *rig) finish(token, tenant, run string) map[string]any {
	r.t.Helper()
	a := r.ask("GET", "/api/v1/runs/"+run+"/logs", token, tenant, nil, "Accept", "text/event-stream")
	if a.status != 200 || !bytes.Contains(a.body, []byte("event: run.ended")) {
		r.t.Fatalf("the stream of %s did not end with its end: %d %s", run, a.status, a.body)
	}
	return r.want(r.ask("GET", "/api/v1/runs/"+run, token, tenant, nil), 200)
}

// sealed waits until an ended run is in the log, which is soon after its end.
func (r *rig) sealed(token, tenant, run string) {
	r.t.Helper()
	r.until("the seal of "+run, func() bool {
		a := r.ask("GET", "/api/v1/runs/"+run+"/proof", token, tenant, nil)
		if a.status != 200 {
			r.code(a, 422, "INCOMPLETE")
		}
		return a.status == 200
	})
}

// until waits for a condition. It looks seldom enough that the limits of a server stay out of it.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !holds(); {
		select {
		case <-tick.C:
		case <-end:
			r.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// packTar is a pack as a tar.
func packTar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hello writes an output, so that there is an artifact.
const hello = `
name: hello
version: 1.0.0
steps:
  - id: greet
    run: echo hello | tee out.txt
    outputs:
      out: out.txt
`
