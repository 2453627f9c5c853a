package metric

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

type serverMetrics struct {
	submitted, runs, steps, retries, failures, lost, cpu *prometheus.CounterVec
	runTook, latency, wait, stepTook, memory             *prometheus.HistogramVec

	events, commitsFailed *prometheus.CounterVec
	commitTook, commands  *prometheus.HistogramVec

	requests, limited *prometheus.CounterVec
	requestTook       *prometheus.HistogramVec
	subscribers       *prometheus.GaugeVec

	background, blobs, deliveries, dropped *prometheus.CounterVec
	freed, freedBytes                      *prometheus.CounterVec
	kept, keptBytes, stored                *prometheus.GaugeVec
}

const (
	publishLag     = "orchestrator_publish_lag_seconds"
	publishLagHelp = "For how long the oldest event waits that this server is to publish, by broker; 0 when none does."
)

// Buckets. The bounds of the service levels are among them: five minutes for a run, half a second for a request.
func runBuckets() []float64 {
	return []float64{.1, .5, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400}
}
func stepBuckets() []float64 { return []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 900, 3600} }

func (m *Metrics) defineServer() {
	s := &m.server
	s.submitted = m.counter("orchestrator_runs_submitted_total", "Runs that were created.", "tenant")
	s.runs = m.counter("orchestrator_runs_total", "Runs that ended, by the state they ended in.", "tenant", "status")
	s.runTook = m.histogram("orchestrator_run_duration_seconds", "From the start of a run to its end.", runBuckets(), "tenant")
	s.latency = m.histogram("orchestrator_job_latency_seconds", "From the submission of a run to its end, with the time it waited to start.", runBuckets(), "tenant")
	s.steps = m.counter("orchestrator_steps_total", "Steps that ended, by the state they ended in.", "tenant", "status")
	s.retries = m.counter("orchestrator_step_retries_total", "Attempts that are tried again.", "tenant")
	s.wait = m.histogram("orchestrator_queue_wait_seconds", "From when a step could be claimed until a worker claimed it.", stepBuckets(), "tenant")
	s.stepTook = m.histogram("orchestrator_step_duration_seconds", "How long attempts took, as their workers measured it.", stepBuckets(), "tenant")
	s.failures = m.counter("orchestrator_failures_total", "Attempts that did not succeed, by class of failure.", "tenant", "class")
	s.lost = m.counter("orchestrator_leases_revoked_total", "Leases that ended without a report of their worker, by cause.", "tenant", "cause")
	s.cpu = m.counter("orchestrator_step_cpu_seconds_total", "Processor time that attempts used.", "tenant")
	s.memory = m.histogram("orchestrator_step_memory_bytes", "The most memory that an attempt had.",
		[]float64{16 << 20, 64 << 20, 256 << 20, 1 << 30, 4 << 30, 16 << 30}, "tenant")

	s.events = m.counter("orchestrator_events_total", "Events that this process committed.")
	s.commitTook = m.histogram("orchestrator_store_commit_duration_seconds", "How long a commit took, until it was on disk.",
		[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5})
	s.commands = m.histogram("orchestrator_store_commit_commands", "How many commands shared a commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
	s.commitsFailed = m.counter("orchestrator_store_commit_failures_total", "Commits that failed.")

	s.requests = m.counter("orchestrator_http_requests_total", "Requests, by the pattern of their route; status 0 for an answer that broke off.", "method", "route", "status")
	s.requestTook = m.histogram("orchestrator_http_request_duration_seconds", "How long answers took. Streams are left out.",
		[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "route")
	s.limited = m.counter("orchestrator_rate_limit_hits_total", "What was put off because of a limit: requests of one token (api), steps of a tenant or to a source.", "limit")
	s.subscribers = m.gauge("orchestrator_stream_subscribers", "Open streams, by the pattern of their route.", "route")

	s.background = m.counter("orchestrator_background_failures_total", "Failures of what goes on beside requests, by task.", "task")
	s.blobs = m.counter("orchestrator_blob_bytes_total", "Bytes that were put into the blobs (in) and taken from them (out).", "direction")
	s.freed = m.counter("orchestrator_blobs_collected_total", "Files that were removed because nothing named them any more.", "tenant")
	s.freedBytes = m.counter("orchestrator_blobs_collected_bytes_total", "Their bytes.", "tenant")
	s.kept = m.gauge("orchestrator_blobs_kept", "Files that were there at the last collection, by whether something named them.", "tenant", "reference")
	s.keptBytes = m.gauge("orchestrator_blobs_kept_bytes", "Their bytes.", "tenant", "reference")
	s.stored = m.gauge("orchestrator_stored_bytes", "Bytes of files that are stored, as far as this process knows.", "tenant")
	s.deliveries = m.counter("orchestrator_deliveries_total", "Attempts to deliver a notification, by channel and result.", "channel", "result")
	m.define("gauge", publishLag, publishLagHelp, []string{"target"})
	s.dropped = m.counter("orchestrator_traces_dropped_total", "Runs whose spans were not sent because too many were waiting.")
	for _, v := range []*prometheus.CounterVec{s.events, s.commitsFailed, s.dropped} {
		v.WithLabelValues() // a series that is there before its first event can be told from one that is missing
	}
}

// Collected counts files that were removed because nothing named them.
func (m *Metrics) Collected(tenant work.Tenant, files, bytes int64) {
	label := m.tenant(tenant)
	m.server.freed.WithLabelValues(label).Add(float64(files))
	m.server.freedBytes.WithLabelValues(label).Add(float64(bytes))
}

// Kept shows how much is there, by reference: named or unnamed.
func (m *Metrics) Kept(tenant work.Tenant, reference string, files, bytes int64) {
	label := m.tenant(tenant)
	m.server.kept.WithLabelValues(label, reference).Set(float64(files))
	m.server.keptBytes.WithLabelValues(label, reference).Set(float64(bytes))
}

// Stored shows how many bytes a tenant stores.
func (m *Metrics) Stored(tenant work.Tenant, bytes int64) {
	m.server.stored.WithLabelValues(m.tenant(tenant)).Set(float64(bytes))
}

// Publishing reports for how long the oldest event waits that this server is to publish at a target. Behind is asked with every scrape.
func (m *Metrics) Publishing(target string, behind func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: publishLag, Help: publishLagHelp, ConstLabels: prometheus.Labels{"target": target},
	}, behind))
}

// Commit takes a commit of the store; see kernel.Options.Observe.
func (m *Metrics) Commit(c kernel.Commit) {
	s := &m.server
	s.commitTook.WithLabelValues().Observe(c.Took.Seconds())
	s.commands.WithLabelValues().Observe(float64(c.Commands))
	if c.Err != nil {
		s.commitsFailed.WithLabelValues().Inc()
		return
	}
	s.events.WithLabelValues().Add(float64(len(c.Changes)))
	for i := range c.Changes {
		m.change(&c.Changes[i])
	}
}

func seconds(t work.Time) float64 { return float64(t) / 1e6 }

func (m *Metrics) change(c *kernel.Change) {
	s := &m.server
	switch c.Type {
	case work.RunSubmitted:
		s.submitted.WithLabelValues(m.tenant(c.Run.Tenant)).Inc()
	case work.StepClaimed:
		s.wait.WithLabelValues(m.tenant(c.Run.Tenant)).Observe(seconds(c.At - c.Since))
	case work.StepReported:
		m.reported(c)
	case work.StepRevoked:
		if d, ok := c.Data.(work.RevokedData); ok {
			s.lost.WithLabelValues(m.tenant(c.Run.Tenant), strings.ToLower(string(d.Reason.Code))).Inc()
		}
	case work.StepRetrying:
		s.retries.WithLabelValues(m.tenant(c.Run.Tenant)).Inc()
	case work.StepEnded:
		if d, ok := c.Data.(work.EndedData); ok {
			s.steps.WithLabelValues(m.tenant(c.Run.Tenant), string(d.State)).Inc()
		}
	case work.RunEnded:
		d, ok := c.Data.(work.EndedData)
		if !ok {
			return
		}
		tenant, started := m.tenant(c.Run.Tenant), c.Run.Started
		if started == 0 {
			started = c.At
		}
		s.runs.WithLabelValues(tenant, string(d.State)).Inc()
		s.runTook.WithLabelValues(tenant).Observe(seconds(c.At - started))
		s.latency.WithLabelValues(tenant).Observe(seconds(c.At - c.Run.Created))
	}
}

func (m *Metrics) reported(c *kernel.Change) {
	d, ok := c.Data.(work.ReportedData)
	if !ok {
		return
	}
	s, tenant := &m.server, m.tenant(c.Run.Tenant)
	s.stepTook.WithLabelValues(tenant).Observe(max(0, seconds(d.EndedAt-d.StartedAt)))
	if d.State != work.Succeeded {
		s.failures.WithLabelValues(tenant, Class(d.Class)).Inc()
	}
	if u := d.Usage; u != nil {
		s.cpu.WithLabelValues(tenant).Add(max(0, float64(u.CPUMs)/1000))
		s.memory.WithLabelValues(tenant).Observe(float64(u.MaxRSSBytes))
	}
}

// Class is the label of a class of failure. Workers of other people's making may report any.
func Class(class string) string {
	return oneOf(class, "exit", "signal", "timeout", "limit", "cancelled", "input", "output", "checksum", "plan", "untrusted", "internal",
		"sandbox", "sandbox-unavailable", "http", "http-429", "http-5xx", "schema", "parse")
}

// Request takes an answered request. Route is the pattern, "" for none.
func (m *Metrics) Request(method, route string, status int, took time.Duration, stream bool) {
	if route == "" {
		method, route = Other, Other
	}
	s := &m.server
	s.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	if !stream {
		s.requestTook.WithLabelValues(route).Observe(took.Seconds())
	}
	if status == 429 {
		m.Limited("api")
	}
}

// Subscriber counts a stream that was opened, until the returned function is called.
func (m *Metrics) Subscriber(route string) (closed func()) {
	g := m.server.subscribers.WithLabelValues(route)
	g.Inc()
	return g.Dec
}

// Limited counts something that a limit put off. The limit is api, tenant or source.
func (m *Metrics) Limited(limit string) {
	m.server.limited.WithLabelValues(oneOf(limit, "api", "tenant", "source")).Inc()
}

// Delivered counts an attempt to deliver a notification. The channel is webhook, mail or chat; the result delivered, failed (it is tried
// again) or given-up.
func (m *Metrics) Delivered(channel, result string) {
	m.server.deliveries.WithLabelValues(oneOf(channel, "webhook", "mail", "chat"), oneOf(result, "delivered", "failed", "given-up")).Inc()
}

// Background counts a failure of a task that goes on beside requests. Tasks are named by the program.
func (m *Metrics) Background(task string) { m.server.background.WithLabelValues(task).Inc() }

// TraceDropped counts a run whose spans are not sent.
func (m *Metrics) TraceDropped() { m.server.dropped.WithLabelValues().Inc() }

// Gauges reports what count finds, asked at most once in a while. Errors of count leave the gauges out and are counted.
func (m *Metrics) Gauges(count func(ctx context.Context) ([]store.Census, error)) {
	m.role = Server
	g := &gauges{m: m, count: count}
	for _, f := range fields() {
		m.define("gauge", f.name, f.help, []string{"tenant"})
		g.descs = append(g.descs, prometheus.NewDesc(f.name, f.help, []string{"tenant"}, nil))
	}
	m.registry.MustRegister(g)
}
