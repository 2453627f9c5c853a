package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/journal"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/work"
)

// received is a collector: it takes spans as OpenTelemetry's own messages.
type received struct {
	url string

	mu    sync.Mutex
	raw   []byte
	spans []*tracev1.Span
}

func collect(t testing.TB) *received {
	c := &received{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if in, err = gzip.NewReader(in); err != nil {
				http.Error(w, err.Error(), 400)
				return
			}
		}
		raw, err := io.ReadAll(in)
		var q collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &q)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, "no spans", 400)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, raw...)
		for _, of := range q.ResourceSpans {
			for _, in := range of.ScopeSpans {
				c.spans = append(c.spans, in.Spans...)
			}
		}
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// named returns the spans with a name, by what an attribute says.
func (c *received) named(name, attribute string) map[string]*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]*tracev1.Span{}
	for _, s := range c.spans {
		if s.Name != name {
			continue
		}
		for _, a := range s.Attributes {
			if a.Key == attribute {
				out[a.Value.GetStringValue()] = s
			}
		}
	}
	return out
}

func telemetry(t testing.TB, o app.TelemetryOptions) *app.Telemetry {
	t.Helper()
	tell, err := app.NewTelemetry(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tell
}

const twice = `
name: nightly
version: 1.0.0
steps:
  - id: build
    run: |
      echo "$TRACEPARENT $TRACESTATE $BAGGAGE" >> seen.txt
      test "$ORRERY_ATTEMPT" = 2
    retry: {maxAttempts: 2}
    outputs:
      seen: seen.txt
`

// O8, O6: one trace from whoever asks, through the API, the run, each attempt and the worker, to the environment of the step.
func TestO8_OneTraceFromRequestToTask(t *testing.T) {
	spans, theirs := collect(t), collect(t)
	tell := telemetry(t, app.TelemetryOptions{Collector: spans.url, Metrics: true, Version: "test"})
	dir := t.TempDir()
	r := start(t, app.ServerOptions{Options: app.Options{Dir: dir, Telemetry: tell}})
	tokens := r.tenant("acme", "operator", "publisher", "viewer", "worker")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(tokens["worker"]), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	left, joined := make(chan error, 1), make(chan string, 1)
	go func() {
		left <- app.RunWorker(ctx, app.WorkerOptions{
			Options: app.Options{Dir: t.TempDir(), Tenant: "acme", Slots: 1, Telemetry: telemetry(t, app.TelemetryOptions{Collector: theirs.url}), Log: slog.New(slog.DiscardHandler)},
			Server:  r.url, TokenFile: file, Name: "w1", TrustServer: true,
		}, func(name string) { joined <- name })
	}()
	select {
	case <-joined:
	case err := <-left:
		t.Fatal(err)
	}
	pack := r.want(r.ask("POST", "/api/v1/packs", tokens["publisher"], "acme", packTar(t, map[string]string{"pack.yaml": twice})), 201)
	run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"pack": pack["digest"]},
		"Tracestate", "vendor=1", "Baggage", "team=blue"), 201)["runId"].(string)
	if got := r.finish(tokens["viewer"], "acme", run); got["state"] != "succeeded" {
		t.Fatalf("the run ended %v: %v", got["state"], got["reason"])
	}
	digest := r.want(r.ask("GET", "/api/v1/runs/"+run+"/artifacts", tokens["viewer"], "acme", nil), 200)["items"].([]any)[0].(map[string]any)["digest"].(string)
	seen := string(r.ask("GET", "/api/v1/runs/"+run+"/artifacts/"+digest, tokens["viewer"], "acme", nil).body)
	stop()
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	// What is left is sent when the server stops.
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	request := spans.named("POST /api/v1/runs", "http.route")["/api/v1/runs"]
	whole := spans.named(span.NameRun, "runId")[run]
	attempts := spans.named(span.NameStep, "stepId")
	if request == nil || whole == nil || len(attempts) == 0 {
		t.Fatalf("spans are missing: request %v, run %v, attempts %v", request, whole, attempts)
	}
	first, second := spans.attempt(t, span.NameStep, 1), spans.attempt(t, span.NameStep, 2)
	executed, again := theirs.attempt(t, span.NameExecute, 1), theirs.attempt(t, span.NameExecute, 2)
	for _, link := range []struct {
		what          string
		below, above  *tracev1.Span
		aboveIsCaller bool
	}{
		{"the request", request, nil, true}, {"the run", whole, request, false}, {"the first attempt", first, whole, false},
		{"the second attempt", second, whole, false}, {"what the worker did first", executed, first, false}, {"what it did then", again, second, false},
	} {
		above := "00f067aa0ba902b7"
		if link.above != nil {
			above = hex.EncodeToString(link.above.SpanId)
		}
		if hex.EncodeToString(link.below.TraceId) != "4bf92f3577b34da6a3ce929d0e0e4736" || hex.EncodeToString(link.below.ParentSpanId) != above {
			t.Errorf("%s is in trace %x below %x, want below %s", link.what, link.below.TraceId, link.below.ParentSpanId, above)
		}
	}
	if first.Status.GetCode() != tracev1.Status_STATUS_CODE_ERROR || second.Status.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
		t.Error("the first attempt failed and the second did not: their spans say otherwise")
	}
	if want := "00-4bf92f3577b34da6a3ce929d0e0e4736-" + hex.EncodeToString(again.SpanId) + "-01 vendor=1 team=blue\n"; seen != want {
		t.Errorf("the step saw %q, want %q", seen, want)
	}
	replayed(t, dir, run)
}

// replayed checks that the run decides the same again, byte for byte, with its trace in the history.
func replayed(t *testing.T, dir, run string) {
	t.Helper()
	f, err := app.Open(t.Context(), app.Options{Dir: dir, Tenant: "acme", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	row, err := f.Store.Run(t.Context(), "acme", run)
	if err != nil {
		t.Fatal(err)
	}
	if row.TraceState != "vendor=1" || row.Baggage != "team=blue" {
		t.Errorf("the run keeps %q and %q", row.TraceState, row.Baggage)
	}
	var events []work.Event
	if err := control.EachEvent(t.Context(), f.Store, &row, func(e *work.Event) error { events = append(events, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	plan, err := f.Store.Plan(t.Context(), "acme", row.PlanHash)
	if err != nil {
		t.Fatal(err)
	}
	result, err := replay.Scheduler(plan, events)
	if err != nil || !result.Identical() {
		t.Errorf("replay: %v, %v", err, result.Divergence)
	}
}

// attempt returns the span of one attempt.
func (c *received) attempt(t *testing.T, name string, n int64) *tracev1.Span {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		for _, a := range s.Attributes {
			if s.Name == name && a.Key == "attempt" && a.Value.GetIntValue() == n {
				return s
			}
		}
	}
	t.Fatalf("there is no span %s of attempt %d", name, n)
	return nil
}

// O8, J11, T10: what happened is counted once, under the names that are promised, and the text is what Prometheus reads.
func TestO8_Metrics(t *testing.T) {
	tell := telemetry(t, app.TelemetryOptions{Metrics: true, Version: "test"})
	r := start(t, app.ServerOptions{Options: app.Options{Telemetry: tell}, Work: true})
	tokens := r.tenant("acme", "operator", "publisher", "viewer")
	pack := r.want(r.ask("POST", "/api/v1/packs", tokens["publisher"], "acme", packTar(t, map[string]string{"pack.yaml": twice})), 201)
	for range 2 {
		run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"pack": pack["digest"]}), 201)["runId"].(string)
		r.finish(tokens["viewer"], "acme", run)
	}
	expected := []string{
		`orchestrator_runs_total{status="succeeded",tenant="acme"} 2`,
		`orchestrator_runs_submitted_total{tenant="acme"} 2`,
		`orchestrator_run_duration_seconds_count{tenant="acme"} 2`,
		`orchestrator_job_latency_seconds_count{tenant="acme"} 2`,
		`orchestrator_queue_depth{tenant="`, // of a tenant only while it has something: its runs may be sealed by now
		`orchestrator_queue_wait_seconds_count{tenant="acme"} 4`,
		`orchestrator_step_duration_seconds_count{tenant="acme"} 4`,
		`orchestrator_step_retries_total{tenant="acme"} 2`,
		`orchestrator_step_memory_bytes_count{tenant="acme"} 4`,
		`orchestrator_steps_total{status="succeeded",tenant="acme"} 2`,
		`orchestrator_failures_total{class="exit",tenant="acme"} 2`,
		`orchestrator_http_requests_total{method="POST",route="/api/v1/runs",status="201"} 2`,
		`orchestrator_worker_attempts_total{status="failed"} 2`,
		`orchestrator_stream_subscribers{route="/api/v1/runs/{runId}/logs"} 0`,
		`orchestrator_build_info{goversion="go`,
		"orchestrator_store_commit_duration_seconds_bucket", "orchestrator_blob_bytes_total", "orchestrator_step_cpu_seconds_total", "go_goroutines", "process_cpu_seconds_total",
	}
	var text string
	lacking := func() (lines []string) {
		text = string(r.ask("GET", "/metrics", "", "", nil).body)
		for _, line := range expected {
			if !strings.Contains(text, line) {
				lines = append(lines, line)
			}
		}
		return lines
	}
	missing := lacking() // a stream may be let go, and a count be made, a moment after its client has heard the end
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); len(missing) > 0 && time.Now().Before(until); missing = lacking() {
		<-tick.C
	}
	for _, line := range missing {
		t.Errorf("the metrics lack %s", line)
	}
	if strings.Contains(text, "run_") && strings.Contains(text, `="run_`) {
		t.Error("a run is a label")
	}
	problems, err := testutil.GatherAndLint(tell.Metrics.Gatherer())
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	if t.Failed() {
		t.Log(text)
	}
}

const leaky = `
name: leaky
version: 1.0.0
inputs:
  key: {type: secret}
steps:
  - id: shout
    env: {KEY: "${{ inputs.key }}"}
    run: |
      echo "the key is $KEY"
      exit 3
    retry: {maxAttempts: 2}
`

// T8, J17: a secret of a run is in no line of the log at its lowest level, no metric, no span, no audit entry and no debug bundle.
func TestJ17_NoSecretInWhatIsTold(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	t.Setenv("SHARED_KEY", secret)
	spans := collect(t)
	var log bytes.Buffer
	j, err := journal.New(journal.Options{To: &log, Format: "json", Level: "debug"})
	if err != nil {
		t.Fatal(err)
	}
	tell := telemetry(t, app.TelemetryOptions{Collector: spans.url, Metrics: true, Version: "test", Journal: j, Log: j.Log()})
	r := start(t, app.ServerOptions{Options: app.Options{Telemetry: tell, Log: j.Log()}, Work: true, SecretEnv: []string{"SHARED_KEY"}})
	tokens := r.tenant("acme", "operator", "publisher", "viewer", "admin")
	pack := r.want(r.ask("POST", "/api/v1/packs", tokens["publisher"], "acme", packTar(t, map[string]string{"pack.yaml": leaky})), 201)
	run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"pack": pack["digest"], "inputs": map[string]any{"key": "env:SHARED_KEY"}}), 201)["runId"].(string)
	if got := r.finish(tokens["viewer"], "acme", run); got["state"] == "succeeded" {
		t.Fatal("the run was to fail")
	}
	lines := r.ask("GET", "/api/v1/runs/"+run+"/logs", tokens["viewer"], "acme", nil).body
	if !bytes.Contains(lines, []byte("the key is [redacted:key]")) {
		t.Fatalf("the step did not get its secret: %s", lines)
	}
	j.Log().Warn("somebody says "+secret, "and", secret) // the journal knows it since the worker resolved it
	audit := r.ask("GET", "/api/v1/audit?page_size=500", tokens["admin"], "acme", nil).body
	metrics := r.ask("GET", "/metrics", "", "", nil).body
	zipped := r.ask("GET", "/api/v1/admin/debug-bundle", r.root, "", nil).body
	plain, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	r.code(r.ask("GET", "/api/v1/admin/debug-bundle", tokens["admin"], "acme", nil), 403, "DENIED")
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if len(spans.named(span.NameRun, "runId")) != 1 || !strings.Contains(log.String(), run) {
		t.Fatalf("nothing was told of the run: %d spans, log %s", len(spans.spans), log.String())
	}
	for _, tag := range []string{`"tenant":"acme"`, `"dagId":"leaky"`, `"runId":"` + run, `"status":"failed"`, `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`} {
		if !strings.Contains(log.String(), tag) {
			t.Errorf("the log lacks %s", tag)
		}
	}
	for what, text := range map[string][]byte{"log": log.Bytes(), "spans": spans.raw, "audit": audit, "metrics": metrics, "bundle": bundle} {
		for _, bad := range append([]string{secret, r.root}, tokens["operator"], tokens["admin"]) {
			if len(text) == 0 || bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s is empty or holds %.12s…", what, bad)
			}
		}
	}
}
