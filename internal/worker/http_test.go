package worker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/work"
)

// server answers what its path asks for.
func server(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/")); err == nil {
			w.WriteHeader(code)
			return
		}
		switch r.URL.Path {
		case "/hang":
			<-r.Context().Done()
		case "/elsewhere":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "/echo":
			body, _ := io.ReadAll(r.Body) // a test's own client sent it
			fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Header.Get("X-Plain"), r.Header.Get("X-Key"), body)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// request is an http step that may reach the server.
func request(t *testing.T, id work.StepID, s *httptest.Server, path string, more map[string]any) work.PlanStep {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	spec := work.RunSpec{Runner: "http", With: map[string]json.RawMessage{"url": quoted(t, s.URL+path)}}
	for k, v := range more {
		spec.With[k] = quoted(t, v)
	}
	// An address of this machine counts only where it is listed as this very address.
	spec.Sandbox.Egress = []work.Egress{{Host: "127.0.0.1", Port: port}}
	return step(id, spec)
}

func egress(t *testing.T, report work.ReportedData) []sandbox.EgressRecord {
	t.Helper()
	var records []sandbox.EgressRecord
	if err := json.Unmarshal(report.Egress, &records); err != nil {
		t.Fatalf("%v: %s", err, report.Egress)
	}
	return records
}

// What the server answers is what becomes of the step.
func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(true)
	s := server(t)
	for name, c := range map[string]struct {
		path  string
		more  map[string]any
		state work.State
		class string
	}{
		"fine":       {path: "/status/204", state: work.Succeeded},
		"expected":   {path: "/status/404", more: map[string]any{"expect": []any{"404"}}, state: work.Succeeded},
		"number":     {path: "/status/404", more: map[string]any{"expect": []any{404}}, state: work.Succeeded},
		"missing":    {path: "/status/404", state: work.Failed, class: "http"},
		"busy":       {path: "/status/429", state: work.Failed, class: "http-429"},
		"broken":     {path: "/status/503", state: work.Failed, class: "http-5xx"},
		"redirect":   {path: "/elsewhere", state: work.Failed, class: "http"},
		"bad-method": {path: "/echo", more: map[string]any{"method": "no method"}, state: work.Failed, class: "http"},
		"upwards":    {path: "/echo", more: map[string]any{"file": "../out"}, state: work.Failed, class: "http"},
		"absolute":   {path: "/echo", more: map[string]any{"file": "/tmp/out"}, state: work.Failed, class: "http"},
	} {
		_, report := r.only(request(t, work.StepID(name), s, c.path, c.more))
		if report.State != c.state || report.Class != c.class {
			t.Errorf("%s: %s, class %q: %v", name, report.State, report.Class, report.Reason)
		}
		if records := egress(t, report); name != "bad-method" && (len(records) != 1 || records[0].Decision != "allowed") {
			t.Errorf("%s: the connections are %+v", name, records)
		}
	}
	slow := request(t, "slow", s, "/hang", nil)
	slow.Run.TimeoutMs = 200
	if _, report := r.only(slow); report.State != work.TimedOut || len(egress(t, report)) != 1 {
		t.Errorf("the report is %+v", report)
	}
	r.empty()
}

// Method, headers, body and secret go out; status and body come back as outputs, and the secret that the server repeats is refused.
func TestHTTPContent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(true)
	s := server(t)
	outputs := []work.StepOutput{{Name: "body", Path: "out/answer.txt"}, {Name: "status", Type: "integer"}}
	send := request(t, "send", s, "/echo", map[string]any{
		"method": "post", "headers": map[string]any{"X-Plain": "plain"}, "body": map[string]any{"b": 1, "a": "x"}, "file": "out/answer.txt",
	})
	send.Run.Outputs = outputs
	_, report := r.only(send)
	if report.State != work.Succeeded || string(report.Outputs) != `{"status":200}` || len(report.Artifacts) != 1 {
		t.Fatalf("the report is %+v", report)
	}
	body, _, err := r.blobs.Open(t.Context(), work.LocalTenant, report.Artifacts[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(body); err != nil || string(raw) != `POST plain  {"a":"x","b":1}` {
		t.Errorf("the server saw %q, %v", raw, err)
	}
	send = request(t, "secret", s, "/echo", map[string]any{"file": "out/answer.txt"})
	send.Run.Outputs, send.Run.Secrets = outputs, map[string]string{"HTTP_X_KEY": "key"}
	_, report = r.only(send)
	if report.State != work.Failed || report.Reason.Code != work.EndedByOutput || r.blobs.has(canary) {
		t.Errorf("a server that repeats a secret: %+v", report)
	}
}

// What is not in the list is not reached, and the attempt is on record.
func TestHTTPRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(true)
	s := server(t)
	reached := false
	s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	for name, host := range map[string]string{"name": "localhost", "other": "127.0.0.2", "mapped": "[::ffff:7f00:2]", "local6": "[::1]"} {
		step := request(t, work.StepID(name), s, "/echo", nil)
		step.Run.With["url"] = quoted(t, "http://"+host+":"+port+"/echo")
		_, report := r.only(step)
		records := egress(t, report)
		if report.State != work.Failed || len(records) != 1 || records[0].Decision != "refused" {
			t.Errorf("%s: %s, %+v", name, report.State, records)
		}
	}
	for _, bad := range []string{"", "file:///etc/passwd", "unix:/run/x", "http://"} {
		step := request(t, "bad", s, "/echo", nil)
		step.Run.With["url"] = quoted(t, bad)
		if _, report := r.only(step); report.State != work.Failed || len(egress(t, report)) != 0 {
			t.Errorf("%q: %+v", bad, report)
		}
	}
	if reached {
		t.Error("the server was reached")
	}
}

// A request under way ends when its run is cancelled.
func TestHTTPCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(true)
	began := make(chan struct{})
	s := server(t)
	s.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(began)
		<-req.Context().Done()
	})
	id := r.submit(nil, request(t, "hang", s, "/hang", nil))
	<-began
	r.cancel(id)
	if run := r.end(id); run.State != work.Cancelled {
		t.Errorf("the run is %s", run.State)
	}
	if reports := r.reports(id, "hang"); len(reports) != 1 || reports[0].State != work.Cancelled || len(egress(t, reports[0])) != 1 {
		t.Errorf("the reports are %+v", reports)
	}
}
