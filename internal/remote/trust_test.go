package remote_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/warrant"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// author is somebody who signs requests.
func author(t *testing.T, name string) *keyring.Private {
	t.Helper()
	p, err := keyring.Generate(name, keyring.Ed25519, []keyring.Usage{keyring.Submit}, work.At(time.Now().Add(-time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signed is a request for a plan.
func signed(t *testing.T, by keyring.Signer, run work.RunID, p *work.Plan, change func(*evidence.Submission)) []byte {
	t.Helper()
	e, err := evidence.SignSubmission(context.Background(), submission(t, run, p, change), by)
	if err != nil {
		t.Fatal(err)
	}
	return e.Encode()
}

// batched is such a request, signed at once with two others.
func batched(t *testing.T, by keyring.Signer, run work.RunID, p *work.Plan) dsse.Envelope {
	t.Helper()
	var all [][]byte
	for _, id := range []work.RunID{"run_first", run, "run_last"} {
		raw, err := evidence.SubmissionOf(submission(t, id, p, nil), by.Name())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
	}
	out, err := evidence.SignSubmissions(context.Background(), all, by)
	if err != nil {
		t.Fatal(err)
	}
	return out[1]
}

// submission is what is signed.
func submission(t *testing.T, run work.RunID, p *work.Plan, change func(*evidence.Submission)) evidence.Submission {
	t.Helper()
	p.Version, p.Pack = work.PlanVersion, work.PackRef{Name: "test", Version: "1.0.0", Digest: canonical.Digest([]byte("test"))}
	raw, err := canonical.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := evidence.InputsDigest(p.Inputs)
	if err != nil {
		t.Fatal(err)
	}
	s := evidence.Submission{
		Tenant: acme, Run: run, Pack: p.Pack, InputsDigest: inputs, PlanHash: canonical.Digest(raw), Nonce: rand.Text(),
		IssuedAt: work.At(time.Now()),
	}
	if change != nil {
		change(&s)
	}
	return s
}

// A server that was taken over may say what it likes: nothing is executed that the author has not signed.
func TestH7_LyingServer(t *testing.T) {
	alice, mallory := author(t, "alice"), author(t, "mallory")
	carol, err := keyring.Generate("carol", keyring.Ed25519, []keyring.Usage{keyring.Publish}, work.At(time.Now().Add(-time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := keyring.Trust{}.With(alice.Key)
	if err != nil {
		t.Fatal(err)
	}
	if trust, err = trust.With(carol.Key); err != nil {
		t.Fatal(err)
	}
	statement := func(by *keyring.Private, change func(*work.PackRef)) func(*testing.T, *work.Plan) []byte {
		return func(t *testing.T, p *work.Plan) []byte {
			pack := p.Pack
			if change != nil {
				change(&pack)
			}
			e, err := evidence.SignPack(t.Context(), evidence.PackStatement{Pack: pack, SignedAt: work.At(time.Now())}, by)
			if err != nil {
				t.Fatal(err)
			}
			return e.Encode()
		}
	}
	byCarol := []access.Rule{{Pack: "*", Submitters: []string{"*"}, Authors: []string{"carol"}}}
	touched := func(dir string) string { return filepath.Join(dir, "executed") }
	cases := []struct {
		name    string
		request func(t *testing.T, run work.RunID, p *work.Plan) []byte
		lie     func(path string, body []byte) []byte
		rules   []access.Rule
		author  func(t *testing.T, p *work.Plan) []byte // what is stated of the pack
		reason  work.ReasonCode                         // "" for a run that is executed
	}{
		{name: "an honest server", reason: ""},
		{name: "another plan", reason: work.EndedByPlanMismatch, lie: func(path string, body []byte) []byte {
			if strings.Contains(path, "/plans/") {
				return bytes.Replace(body, []byte("echo"), []byte("echo evil;"), 1)
			}
			return body
		}},
		{name: "another plan with its own hash", reason: work.EndedByPlanMismatch, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, alice, run, &work.Plan{Steps: []work.PlanStep{noop("harmless")}}, nil)
		}},
		{name: "another input", reason: work.EndedByPlanMismatch, lie: func(path string, body []byte) []byte {
			return bytes.ReplaceAll(body, []byte(`"word":"good"`), []byte(`"word":"evil"`))
		}},
		{name: "another secret", reason: work.EndedByPlanMismatch, lie: func(path string, body []byte) []byte {
			return bytes.ReplaceAll(body, []byte(`"secrets":{"KEY":"env:KEY"}`), []byte(`"secrets":{"KEY":"env:HOME"}`))
		}},
		{name: "the request of another run", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, alice, "run_other", p, nil)
		}},
		{name: "a request that names no run", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, alice, "", p, nil)
		}},
		{name: "the request of another tenant", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, alice, run, p, func(s *evidence.Submission) { s.Tenant = "globex" })
		}},
		{name: "a request of a batch", request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return batched(t, alice, run, p).Encode()
		}},
		{name: "another request of a batch", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			e := batched(t, alice, "run_other", p)
			return e.Encode()
		}},
		{name: "a request in the place of another", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			e := batched(t, alice, run, p)
			e.Signatures[0].Batch.Index = 0
			return e.Encode()
		}},
		{name: "a batch of an unknown signer", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return batched(t, mallory, run, p).Encode()
		}},
		{name: "no request", reason: work.EndedByDistrust, request: func(*testing.T, work.RunID, *work.Plan) []byte { return nil }},
		{name: "an unknown signer", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, mallory, run, p, nil)
		}},
		{name: "a changed request", reason: work.EndedByDistrust, lie: func(path string, body []byte) []byte {
			return bytes.Replace(body, []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1)
		}},
		{name: "leases without a request, which is changed when it is asked for", reason: work.EndedByDistrust, lie: func(path string, body []byte) []byte {
			if strings.HasSuffix(path, "/request") {
				return bytes.Replace(body, []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1)
			}
			return bytes.ReplaceAll(body, []byte(`"request":`), []byte(`"forgotten":`))
		}},
		{name: "leases without a request, which is asked for", lie: func(path string, body []byte) []byte {
			return bytes.ReplaceAll(body, []byte(`"request":`), []byte(`"forgotten":`))
		}},
		{name: "an expired request", reason: work.EndedByDistrust, request: func(t *testing.T, run work.RunID, p *work.Plan) []byte {
			return signed(t, alice, run, p, func(s *evidence.Submission) {
				s.IssuedAt, s.ExpiresAt = work.At(time.Now().Add(-2*time.Minute)), work.At(time.Now().Add(-time.Minute))
			})
		}},
		{name: "a signer without a rule", reason: work.EndedByDistrust, rules: []access.Rule{{Pack: "te*", Submitters: []string{"bob"}}}},
		{name: "a pack without a rule", reason: work.EndedByDistrust, rules: []access.Rule{{Pack: "other", Submitters: []string{"*"}}}},
		{name: "a rule that fits", rules: []access.Rule{{Tenant: "globex", Pack: "*", Submitters: []string{"bob"}}, {Pack: "test", Submitters: []string{"alice"}}}},
		{name: "a pack of its author", rules: byCarol, author: statement(carol, nil)},
		{name: "a pack that nobody has signed", reason: work.EndedByDistrust, rules: byCarol},
		{name: "a pack that somebody else has signed", reason: work.EndedByDistrust, rules: byCarol, author: statement(alice, nil)},
		{name: "a pack that a stranger has signed", reason: work.EndedByDistrust, rules: byCarol, author: statement(mallory, nil)},
		{name: "the signature of another pack", reason: work.EndedByDistrust, rules: byCarol, author: statement(carol, func(p *work.PackRef) {
			p.Digest = canonical.Digest([]byte("another"))
		})},
		{name: "the signature of another version", reason: work.EndedByDistrust, rules: byCarol, author: statement(carol, func(p *work.PackRef) { p.Version = "2.0.0" })},
		{name: "a changed signature", reason: work.EndedByDistrust, rules: byCarol, author: func(t *testing.T, p *work.Plan) []byte {
			return bytes.Replace(statement(carol, nil)(t, p), []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1)
		}},
		{name: "signatures that the server keeps back", reason: work.EndedByDistrust, rules: byCarol, author: statement(carol, nil), lie: func(path string, body []byte) []byte {
			if strings.HasSuffix(path, "/signatures") {
				return []byte(`{"items":[]}`)
			}
			return body
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			dir := t.TempDir()
			t.Setenv("KEY", "a secret that is long enough")
			at := r.server.URL
			if c.lie != nil {
				at = liar(t, r.server.URL, c.lie)
			}
			r.trusting(at, trust, c.rules)
			p := &work.Plan{
				Inputs: []work.Input{{Name: "key", Type: "secret", Secret: "env:KEY"}, {Name: "word", Type: "string", Value: []byte(`"good"`)}},
				Steps: []work.PlanStep{runStep("a", work.RunSpec{
					Runner: "shell", Script: "echo \"$WORD\" > " + touched(dir), Env: map[string]string{"WORD": "${{ inputs.word }}"},
					Secrets: map[string]string{"KEY": "key"},
				})},
			}
			request := signed(t, alice, "run_this", p, nil)
			if c.request != nil {
				request = c.request(t, "run_this", p)
			}
			if c.author != nil {
				r.stated = []json.RawMessage{c.author(t, p)}
			}
			id, _ := r.submit(request, "run_this", p)
			run := r.ends(id)
			_, err := os.Stat(touched(dir))
			if executed := err == nil; executed != (c.reason == "") {
				t.Errorf("executed: %v, run %s %+v", executed, run.State, run.Reason)
			}
			if c.reason == "" {
				return
			}
			if got := reported(r, id); got.Code != c.reason {
				t.Errorf("the reason is %+v, want %s", got, c.reason)
			}
		})
	}
}

// trusting starts a worker that checks who asked.
func (r *rig) trusting(at string, trust keyring.Trust, rules []access.Rule) {
	r.t.Helper()
	c := r.client(at, "one")
	source := c.Source(r.t.Context(), remote.About{Worker: "w", Slots: 1})
	r.worker(at, 1, func(config *worker.Config) {
		guard, err := warrant.New(warrant.Config{
			Request: source.Request, Authors: source.Signatures, Rules: rules, Now: config.Now, Trust: func() (keyring.Trust, error) { return trust, nil },
		})
		if err != nil {
			r.t.Fatal(err)
		}
		config.Admit = guard.Check
		config.Secret = func(_ work.Tenant, ref string) ([]byte, error) {
			return []byte(os.Getenv(strings.TrimPrefix(ref, "env:"))), nil
		}
	})
}

// reported is the reason that the worker gave for the end of the first step.
func reported(r *rig, id work.RunID) work.Reason {
	r.t.Helper()
	rows, err := r.store.Steps(context.Background(), acme, id, "", 10)
	if err != nil || len(rows) == 0 {
		r.t.Fatal(rows, err)
	}
	return rows[0].Reason
}

// liar is a server that passes everything on and changes what it says.
func liar(t *testing.T, to string, lie func(path string, body []byte) []byte) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(req *httputil.ProxyRequest) {
		req.SetURL(target)
		req.Out.Header.Set("Accept-Encoding", "identity")
	}}
	proxy.ModifyResponse = func(res *http.Response) error {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		body = lie(res.Request.URL.Path, body)
		res.Body = io.NopCloser(bytes.NewReader(body))
		res.ContentLength = int64(len(body))
		res.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}
