package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// raw is a worker that somebody wrote by hand.
type raw struct {
	t       *testing.T
	at      string
	token   string
	session string
}

// post sends a message and returns the status; a reply is decoded, an error is returned as its code.
func (c *raw) post(path string, in, out any) (int, string) {
	c.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.do(http.MethodPost, path, bytes.NewReader(body), nil, out)
}

func (c *raw) do(method, path string, body io.Reader, header http.Header, out any) (int, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.at+"/api/v1/"+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if res.StatusCode >= 300 {
		var e api.ErrorReply
		if err := json.Unmarshal(answer, &e); err != nil {
			c.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, answer)
		}
		return res.StatusCode, e.Error.Code
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			c.t.Fatalf("%s: %v", answer, err)
		}
	}
	return res.StatusCode, ""
}

func (c *raw) register() {
	c.t.Helper()
	if status, code := c.post("worker/sessions", api.WorkerRegistration{Session: c.session, Worker: "raw", Slots: 1}, nil); status != 200 {
		c.t.Fatal(status, code)
	}
}

func (c *raw) claim(n int) []api.WorkerGrant {
	c.t.Helper()
	var out api.WorkerExchanged
	if status, code := c.post("worker/claim", api.WorkerExchange{Session: c.session, Max: n, Offer: api.WorkerOffer{Runners: []string{"noop"}, Tier: 2}}, &out); status != 200 {
		c.t.Fatal(status, code)
	}
	return out.Grants
}

func ended(g api.WorkerGrant) api.WorkerReport {
	now := work.At(time.Now()).String()
	return api.WorkerReport{
		Run: g.Run, Step: g.Step, Token: g.Token, State: "succeeded", Reason: api.WorkerReason{Code: "SUCCEEDED"}, StartedAt: now, EndedAt: now,
	}
}

func (c *raw) report(r api.WorkerReport) string {
	c.t.Helper()
	var out api.WorkerExchanged
	if status, code := c.post("worker/report", api.WorkerExchange{Session: c.session, Worker: "raw", Reports: []api.WorkerReport{r}}, &out); status != 200 {
		c.t.Fatal(status, code)
	}
	if e := out.Results[0].Error; e != nil {
		return e.Code
	}
	return ""
}

// What the reference promises about tokens and about messages that come twice.
func TestFencing(t *testing.T) {
	r := newRig(t)
	c := &raw{t, r.server.URL, "one", "session-1"}
	c.register()
	id, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
	grants := c.claim(5)
	if len(grants) != 1 || grants[0].Run != string(id) || grants[0].Step != "a" || grants[0].Attempt != 1 {
		t.Fatal(grants)
	}
	g := grants[0]
	if more := c.claim(5); len(more) != 0 {
		t.Fatal("one step was granted twice", more)
	}
	for _, change := range []func(*api.WorkerReport){
		func(r *api.WorkerReport) { r.Token.Epoch++ }, func(r *api.WorkerReport) { r.Token.Epoch-- },
		func(r *api.WorkerReport) { r.Token.Incarnation++ },
	} {
		stale := ended(g)
		change(&stale)
		if code := c.report(stale); code != "LEASE_STALE" {
			t.Errorf("a report under %+v: %q", stale.Token, code)
		}
	}
	for what, change := range map[string]func(*api.WorkerReport){
		"state":      func(r *api.WorkerReport) { r.State = "running" },
		"reason":     func(r *api.WorkerReport) { r.Reason.Code = "EXIT_CODE" },
		"time":       func(r *api.WorkerReport) { r.StartedAt = "yesterday" },
		"transcript": func(r *api.WorkerReport) { r.Transcript.Lines = 2 },
		"outputs":    func(r *api.WorkerReport) { r.Outputs = []byte(`[1]`) },
		"number":     func(r *api.WorkerReport) { r.Outputs = []byte(`{"a":9007199254740993}`) },
		"artifact": func(r *api.WorkerReport) {
			r.Artifacts = []api.WorkerArtifact{{Name: "a", Path: "b", Digest: "sha256:1"}}
		},
	} {
		wrong := ended(g)
		change(&wrong)
		if code := c.report(wrong); code != "INVALID" {
			t.Errorf("a report with a wrong %s: %q", what, code)
		}
	}
	if code := c.report(ended(g)); code != "" {
		t.Fatal(code)
	}
	if code := c.report(ended(g)); code != "LEASE_STALE" {
		t.Errorf("the same report again: %q", code)
	}
	if run := r.ends(id); run.State != work.Succeeded || r.count(id, work.StepReported) != 1 {
		t.Error(run.State, r.events(id))
	}
}

// Output may be sent again and is there once; a gap is refused.
func TestLinesOnce(t *testing.T) {
	r := newRig(t)
	c := &raw{t, r.server.URL, "one", "session-1"}
	c.register()
	id, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
	g := c.claim(1)[0]
	send := func(from int64, texts ...string) string {
		t.Helper()
		o := api.WorkerOutput{WorkerLease: api.WorkerLease{Run: g.Run, Step: g.Step, Token: g.Token}, From: from}
		for _, text := range texts {
			o.Lines = append(o.Lines, api.WorkerLine{Time: work.At(time.Now()).String(), Level: "info", Type: "step.stdout", Message: text})
		}
		var out api.WorkerResults
		if status, code := c.post("worker/logs", api.WorkerLogs{Session: c.session, Batches: []api.WorkerOutput{o}}, &out); status != 200 {
			t.Fatal(status, code)
		}
		if e := out.Results[0].Error; e != nil {
			return e.Code
		}
		return ""
	}
	for _, step := range []struct {
		from  int64
		texts []string
		code  string
	}{
		{1, []string{"one", "two"}, ""}, {1, []string{"one", "two"}, ""}, {2, []string{"two", "three"}, ""}, {5, []string{"five"}, "CONFLICT"},
		{0, []string{"zero"}, "INVALID"}, {4, []string{"a\nb"}, "INVALID"}, {4, []string{"four"}, ""},
	} {
		if code := send(step.from, step.texts...); code != step.code {
			t.Errorf("%d %q: %q, want %q", step.from, step.texts, code, step.code)
		}
	}
	text := "one\ntwo\nthree\nfour\n"
	if got := r.text(id); got != text {
		t.Errorf("%q", got)
	}
	sum := sha256.Sum256([]byte(text))
	done := ended(g)
	done.Transcript = api.WorkerTranscript{Lines: 4, Digest: "sha256:" + hex.EncodeToString(sum[:])}
	if code := c.report(done); code != "" {
		t.Error(code)
	}
	if code := send(5, "late"); code != "LEASE_STALE" {
		t.Errorf("output after the report: %q", code)
	}
}

// The tenant is the one that the caller proved; nothing in a message reaches another's.
func TestWalls(t *testing.T) {
	r := newRig(t)
	one, two, reader := &raw{t, r.server.URL, "one", "session-1"}, &raw{t, r.server.URL, "two", "session-1"}, &raw{t, r.server.URL, "not", "session-1"}
	one.register()
	id, hash := r.submit([]byte(`{"payload":"","payloadType":"t","signatures":[]}`), "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
	d, _, err := r.blobs.Put(context.Background(), acme, strings.NewReader("ours"))
	if err != nil {
		t.Fatal(err)
	}
	if status, code := two.post("worker/heartbeat", api.WorkerBeat{Session: "session-1"}, nil); status != 404 || code != "NOT_FOUND" {
		t.Errorf("another tenant keeps our session alive: %d %s", status, code)
	}
	two.register()
	if got := two.claim(5); len(got) != 0 {
		t.Fatal("another tenant got our work", got)
	}
	g := one.claim(1)[0]
	if code := two.report(ended(g)); code == "" {
		t.Error("another tenant reported our work")
	}
	for _, path := range []string{"plans/" + string(hash), "runs/" + string(id) + "/request", "blobs/" + string(d)} {
		if status, _ := one.do(http.MethodGet, "worker/"+path, nil, nil, nil); status != 200 && !strings.HasPrefix(path, "blobs") {
			t.Errorf("%s: we get %d", path, status)
		}
		if status, code := two.do(http.MethodGet, "worker/"+path, nil, nil, nil); status != 404 || code != "NOT_FOUND" {
			t.Errorf("%s: another tenant gets %d %s", path, status, code)
		}
	}
	if status, code := reader.post("worker/claim", api.WorkerExchange{Session: "session-1", Max: 1}, nil); status != 403 || code != "DENIED" {
		t.Errorf("without the scope: %d %s", status, code)
	}
	if status, code := one.post("worker/claim", map[string]any{"session": "session-1", "max": 1, "tenant": "globex"}, nil); status != 400 || code != "INVALID" {
		t.Errorf("a tenant in the body: %d %s", status, code)
	}
	if status, code := one.post("worker/heartbeat", api.WorkerBeat{Session: "../session-1"}, nil); status != 400 || code != "INVALID" {
		t.Errorf("a session with a path: %d %s", status, code)
	}
}

// An upload goes on where it broke off, and what is not the file that its name says is not kept.
func TestUploads(t *testing.T) {
	r := newRig(t)
	c := &raw{t, r.server.URL, "one", "session-1"}
	data := []byte("0123456789")
	d := canonical.Digest(data)
	part := func(d work.Digest, text, span string) (int, string) {
		t.Helper()
		return c.do(http.MethodPut, "worker/blobs/"+string(d), strings.NewReader(text), http.Header{"Content-Range": {span}}, nil)
	}
	offset := func() string {
		t.Helper()
		req, err := http.NewRequest(http.MethodHead, r.server.URL+"/api/v1/worker/blobs/"+string(d), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer one")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.Header.Get("Upload-Complete") + res.Header.Get("Upload-Offset")
	}
	if got := offset(); got != "?00" {
		t.Error(got)
	}
	for _, step := range []struct {
		text, span string
		status     int
		then       string
	}{
		{"0123", "bytes 0-3/10", 200, "?04"}, {"0123", "bytes 0-3/10", 409, "?04"}, {"67", "bytes 6-7/10", 409, "?04"},
		{"45", "bytes 4-6/10", 400, "?06"}, // what arrived of a part that broke off counts
		{"6789", "bytes 6-9/10", 200, "?1"},
		{"x", "bytes 0-0", 400, "?1"}, {"x", "bytes 3-1/9", 400, "?1"},
	} {
		if status, code := part(d, step.text, step.span); status != step.status || offset() != step.then {
			t.Errorf("%s: %d %s, then %s", step.span, status, code, offset())
		}
	}
	other := canonical.Digest([]byte("something else"))
	if status, code := part(other, "wrong", "bytes 0-4/5"); status != 422 || code != "UNVERIFIED" {
		t.Errorf("other bytes in parts: %d %s", status, code)
	}
	if status, code := c.do(http.MethodPut, "worker/blobs/"+string(other), strings.NewReader("wrong"), nil, nil); status != 422 || code != "UNVERIFIED" {
		t.Errorf("other bytes at once: %d %s", status, code)
	}
	if known, err := r.blobs.Has(context.Background(), acme, other); known || err != nil {
		t.Error("the wrong bytes are kept", err)
	}
	if known, err := r.blobs.Has(context.Background(), acme, canonical.Digest([]byte("wrong"))); known || err != nil {
		t.Error("the wrong bytes are kept under their own name", err)
	}
}
