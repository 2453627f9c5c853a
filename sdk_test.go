package orrery_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orrery.example/orrery"
	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/keyring"
)

// site is an installation for one test, with a client of its administrator and a worker that runs until the test ends.
func site(t *testing.T, trust func() (orrery.Trust, error), handlers map[string]orrery.Handler) (*installation, *orrery.Client) {
	t.Helper()
	i, err := install()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.stop)
	client, err := orrery.NewClient(orrery.Config{Server: i.url, Token: i.admin, Tenant: "local"})
	if err != nil {
		t.Fatal(err)
	}
	station, err := orrery.NewClient(orrery.Config{Server: i.url, Token: i.worker})
	if err != nil {
		t.Fatal(err)
	}
	if trust == nil {
		trust = i.keyring
	}
	w := orrery.NewWorker(station, orrery.WorkerConfig{Name: "w", Slots: 4, Trust: trust})
	for kind, h := range handlers {
		w.Handle(kind, h)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return i, client
}

// person makes a key that the installation trusts, and its signer.
func (i *installation) person(t *testing.T, name string, p256 bool) *orrery.Signer {
	t.Helper()
	var s *orrery.Signer
	var pub any
	if p256 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		pub = k.Public()
		if s, err = orrery.NewSigner(name, k); err != nil {
			t.Fatal(err)
		}
	} else {
		public, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		pub = public
		if s, err = orrery.NewSigner(name, k); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if _, err := i.server.Keys.Import(name, text, []keyring.Usage{keyring.Approve, keyring.Submit}, app.Now()-1_000_000); err != nil {
		t.Fatal(err)
	}
	return s
}

func manifest(steps string) api.SubmitRequest {
	return api.SubmitRequest{PackSource: api.PackSource{Manifest: "name: test\nversion: 1.0.0\nsteps:\n" + steps}}
}

const own = `- id: a
  run: {uses: acme/a}
  sandbox: {tier: t0}
`

// patience is how long something may take that happens by itself. Nothing that is well comes near.
const patience = 2 * time.Minute

func wait(t *testing.T, c *orrery.Client, run string) api.Run {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	out, err := c.Wait(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A run is signed by its author, decided by another person, and proved.
func TestSigned(t *testing.T) {
	done := func(_ context.Context, j *orrery.Job) error {
		j.Log("line with <html> & \u2028")
		return j.File(t.Context(), "f", "out/f.txt", []byte("content"))
	}
	i, c := site(t, nil, map[string]orrery.Handler{"acme/a": done})
	alice, bob := i.person(t, "alice", false), i.person(t, "bob", true)
	r := manifest(own + "  outputs: {f: {path: out/f.txt}}\n- id: gate\n  needs: [a]\n  gate:\n    approval: {}\n")
	r.Note = "<&> \u2028 \\u2028 “quoted”"
	reply, err := c.Submit(t.Context(), r, alice)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		detail, err := c.Get(t.Context(), reply.RunID)
		if err != nil {
			t.Fatal(err)
		}
		if len(detail.Pending) == 1 {
			if detail.Submitter != "alice" || detail.Note != r.Note {
				t.Errorf("%q %q", detail.Submitter, detail.Note)
			}
			break
		}
		if orrery.Ended(&detail.Run) || time.Now().After(deadline) {
			t.Fatalf("%s %+v %+v", detail.State, detail.Reason, detail.Steps)
		}
	}
	if err := c.Decide(t.Context(), reply.RunID, orrery.Decision{Gate: "gate", Approved: true, Reason: "looks good"}, bob); err != nil {
		t.Fatal(err)
	}
	if run := wait(t, c, reply.Name); run.State != "succeeded" {
		t.Fatal(run.State, run.Reason)
	}
	var tape bytes.Buffer
	for deadline := time.Now().Add(patience); ; {
		tape.Reset()
		err := c.Evidence(t.Context(), reply.RunID, &tape)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	files := map[string]bool{}
	for r := tar.NewReader(&tape); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = true
	}
	if !files["request.dsse.json"] || !files["plan.json"] {
		t.Error(files)
	}
	found := 0
	for run, err := range c.List(t.Context(), orrery.Query{Pack: "test", States: []string{"succeeded"}}) {
		if err != nil || run.ID != reply.RunID {
			t.Error(run.ID, err)
		}
		found++
	}
	if found != 1 {
		t.Error(found)
	}
}

// A worker that trusts nobody who asked runs nothing.
func TestDistrust(t *testing.T) {
	called := false
	_, c := site(t, func() (orrery.Trust, error) { return orrery.Trust{}, nil }, map[string]orrery.Handler{
		"acme/a": func(context.Context, *orrery.Job) error { called = true; return nil },
	})
	reply, err := c.Submit(t.Context(), manifest(own), nil)
	if err != nil {
		t.Fatal(err)
	}
	run := wait(t, c, reply.RunID)
	detail, err := c.Get(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if called || run.State != "failed" || detail.Steps[0].Reason.Code != "UNTRUSTED" {
		t.Error(called, run.State, detail.Steps[0].Reason)
	}
}

// Runs that are submitted at once are signed at once: a worker takes each request in its own place, and none in another.
func TestSubmittedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		code     string
	}{
		"honest":        {code: "SUCCEEDED"},
		"another place": {`"batch":{"index":`, `"batch":{"index":1`, "UNTRUSTED"},
		"another node":  {`"proof":["`, `"proof":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","`, "UNTRUSTED"},
		"no proof":      {`"proof":["`, `"prove":["`, "UNTRUSTED"},
		"another size":  {`"size":3}`, `"size":4}`, "UNTRUSTED"},
		"taken out":     {`"batch":{`, `"other":{`, "UNTRUSTED"},
	} {
		t.Run(name, func(t *testing.T) {
			i, c1 := site(t, nil, nil)
			target, err := url.Parse(i.url)
			if err != nil {
				t.Fatal(err)
			}
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Header.Set("Accept-Encoding", "identity")
			}}
			proxy.ModifyResponse = func(r *http.Response) error {
				body, err := io.ReadAll(r.Body)
				body = bytes.ReplaceAll(body, []byte(c.from), []byte(c.to))
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				r.Header.Set("Content-Length", strconv.Itoa(len(body)))
				return err
			}
			between := httptest.NewServer(proxy)
			t.Cleanup(func() { between.CloseClientConnections(); between.Close() })
			station, err := orrery.NewClient(orrery.Config{Server: between.URL, Token: i.worker})
			if err != nil {
				t.Fatal(err)
			}
			w := orrery.NewWorker(station, orrery.WorkerConfig{Name: "far", Slots: 4, Trust: i.keyring})
			w.Handle("acme/a", func(context.Context, *orrery.Job) error { return nil })
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- w.Run(ctx) }()
			t.Cleanup(func() {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
			q := api.BatchRequest{PackSource: manifest(own).PackSource, Runs: make([]api.BatchRun, 3)}
			reply, err := c1.SubmitMany(t.Context(), q)
			if err != nil || len(reply.Runs) != 3 {
				t.Fatal(reply, err)
			}
			for _, made := range reply.Runs {
				run := wait(t, c1, made.RunID)
				detail, err := c1.Get(t.Context(), run.ID)
				if err != nil {
					t.Fatal(err)
				}
				if got := detail.Steps[0].Reason.Code; got != c.code {
					t.Errorf("%s %s, want %s", run.State, got, c.code)
				}
			}
		})
	}
}

// What a handler returns is how its attempt ends.
func TestEnds(t *testing.T) {
	type end struct{ state, code string }
	cases := map[string]struct {
		handler orrery.Handler
		want    end
	}{
		"acme/fails":  {func(context.Context, *orrery.Job) error { return orrery.Fail("net", errors.New("no route")) }, end{"failed", "EXIT_CODE"}},
		"acme/panics": {func(context.Context, *orrery.Job) error { panic("oh") }, end{"failed", "EXIT_CODE"}},
		"acme/mute":   {func(context.Context, *orrery.Job) error { return nil }, end{"failed", "OUTPUT"}},
		"acme/slow": {func(ctx context.Context, _ *orrery.Job) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}, end{"timed-out", "TIMEOUT"}},
	}
	handlers := map[string]orrery.Handler{}
	for kind, c := range cases {
		handlers[kind] = c.handler
	}
	_, c := site(t, nil, handlers)
	for kind, want := range cases {
		outputs, limit := "", "10m"
		if kind == "acme/mute" {
			outputs = "  outputs: {x: {}}\n"
		}
		if kind == "acme/slow" {
			limit = "1s"
		}
		reply, err := c.Submit(t.Context(), manifest(fmt.Sprintf("- id: a\n  run: {uses: %s}\n  timeout: %s\n  sandbox: {tier: t0}\n%s", kind, limit, outputs)), nil)
		if err != nil {
			t.Fatal(err)
		}
		wait(t, c, reply.RunID)
		detail, err := c.Get(t.Context(), reply.RunID)
		if err != nil {
			t.Fatal(err)
		}
		if got := (end{detail.Steps[0].State, detail.Steps[0].Reason.Code}); got != want.want {
			t.Errorf("%s: %+v %s, want %+v", kind, got, detail.Steps[0].Reason.Message, want.want)
		}
	}
}

// The context of a handler ends when the run is cancelled, and tells why.
func TestCancelled(t *testing.T) {
	begun, cause := make(chan string, 1), make(chan error, 1)
	_, c := site(t, nil, map[string]orrery.Handler{"acme/a": func(ctx context.Context, j *orrery.Job) error {
		begun <- j.EffectToken()
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}})
	reply, err := c.Submit(t.Context(), manifest(own), nil)
	if err != nil {
		t.Fatal(err)
	}
	if token := <-begun; !strings.HasPrefix(token, reply.RunID+"/a@") {
		t.Error(token)
	}
	if err := c.Cancel(t.Context(), reply.RunID, "not needed"); err != nil {
		t.Fatal(err)
	}
	if err := <-cause; !errors.Is(err, orrery.ErrCancelled) {
		t.Error(err)
	}
	if run := wait(t, c, reply.RunID); run.State != "cancelled" {
		t.Error(run.State, run.Reason)
	}
}

// Errors keep their codes.
func TestErrors(t *testing.T) {
	_, c := site(t, nil, nil)
	if _, err := c.Get(t.Context(), "run_nothing"); orrery.Code(err) != "NOT_FOUND" {
		t.Error(err)
	}
	if _, err := c.Submit(t.Context(), api.SubmitRequest{PackSource: api.PackSource{Manifest: "name: ["}}, nil); orrery.Code(err) != "INVALID" {
		t.Error(err)
	}
	r := manifest(own)
	r.PlanHash = "sha256:" + strings.Repeat("0", 64)
	if _, err := c.Submit(t.Context(), r, nil); orrery.Code(err) != "PLAN_MISMATCH" {
		t.Error(err)
	}
	wrong, err := orrery.NewClient(orrery.Config{Server: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := wrong.Wait(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// trip answers requests without a network.
type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func answer(r *http.Request, kind string, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {kind}}, Body: body, Request: r}
}

// What holds streams back on the way is told from a server that does not answer: the first is an error, the second is waited for.
func TestBlockedStream(t *testing.T) {
	held := func(r *http.Request, kind string) (*http.Response, error) {
		out, in := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(context.Cause(r.Context())) })
		return answer(r, kind, out), nil
	}
	tests := []struct {
		name string
		trip trip
		want string
	}{
		{"another kind of answer", func(r *http.Request) (*http.Response, error) {
			return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{"items":[]}`)))), nil
		}, "STREAM_BLOCKED"},
		{"the head of an answer only", func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v1/me" {
				return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{}`)))), nil
			}
			return held(r, "text/event-stream")
		}, "STREAM_BLOCKED"},
		{"nothing of an answer", func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v1/me" {
				return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{}`)))), nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, "STREAM_BLOCKED"},
		{"a server that hangs", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				enough, losses := errors.New("enough"), 0
				c, err := orrery.NewClient(orrery.Config{Server: "http://server", HTTP: &http.Client{Transport: tt.trip}, Stream: func(lost error) error {
					if losses++; lost == nil || losses < 3 {
						return nil
					}
					return enough
				}})
				if err != nil {
					t.Fatal(err)
				}
				for _, err := range c.Follow(t.Context(), "run", "") {
					if orrery.Code(err) != tt.want || tt.want == "" && !errors.Is(err, enough) {
						t.Errorf("ended by %v after %d losses", err, losses)
					}
				}
			})
		})
	}
}
