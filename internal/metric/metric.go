// Package metric counts what this process does and serves it in the text format of Prometheus.
//
// Counters and histograms are fed from what this process committed, answered or ran itself, so several servers of one store add up and
// nothing is counted twice. Gauges of the store are counts of what is there; every server reports the same ones, so they are to be
// aggregated with max. No label grows with use: tenants are bounded by a number, routes are patterns, classes are a closed list, and no
// run, step, worker or person ever is a label.
package metric

import (
	"bytes"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Definition is what the reference says about a metric.
type Definition struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels []string
	Help   string
	Role   string // who has it: server, worker or both
}

// Roles of a process.
const (
	Server = "server"
	Worker = "worker"
	Both   = "server, worker"
)

// Other stands for every value of a label beyond its bound.
const Other = "other"

// DefaultTenants is how many tenants have labels of their own unless said otherwise.
const DefaultTenants = 200

// Metrics are the metrics of one process. It is safe for concurrent use.
type Metrics struct {
	registry    *prometheus.Registry
	definitions []Definition
	role        string // of what is defined at the moment

	mu      sync.RWMutex
	tenants map[work.Tenant]bool
	most    int

	server serverMetrics
	worker workerMetrics
}

// New returns the metrics of a process of a version. The first tenants that it meets, up to a number (0 for DefaultTenants), have
// labels of their own; the others share one.
func New(version string, tenants int) *Metrics {
	if tenants <= 0 {
		tenants = DefaultTenants
	}
	m := &Metrics{registry: prometheus.NewRegistry(), tenants: map[work.Tenant]bool{}, most: tenants}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.role = Both
	m.gauge("orchestrator_build_info", "1, labelled with the version of Orrery and of Go that this process was built with.", "version", "goversion").
		WithLabelValues(version, runtime.Version()).Set(1)
	m.role = Server
	m.defineServer()
	m.role = Worker
	m.defineWorker()
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// Gatherer gives the metrics to whoever does not ask over HTTP.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Text returns the metrics as they are served.
func (m *Metrics) Text() ([]byte, error) {
	found, err := m.registry.Gather()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "gather the metrics")
	}
	var out bytes.Buffer
	for _, f := range found {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "write the metrics")
		}
	}
	return out.Bytes(), nil
}

// Definitions lists the metrics of Orrery's own by name.
func (m *Metrics) Definitions() []Definition {
	return slices.SortedFunc(slices.Values(m.definitions), func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
}

func (m *Metrics) define(kind, name, help string, labels []string) {
	m.definitions = append(m.definitions, Definition{name, kind, labels, help, m.role})
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	m.define("counter", name, help, labels)
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	m.define("gauge", name, help, labels)
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	m.define("histogram", name, help, labels)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(v)
	return v
}

// tenant is the label of a tenant: its name, or Other beyond the bound.
func (m *Metrics) tenant(t work.Tenant) string {
	m.mu.RLock()
	known := m.tenants[t]
	m.mu.RUnlock()
	if known {
		return string(t)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.tenants[t] && len(m.tenants) >= m.most {
		return Other
	}
	m.tenants[t] = true
	return string(t)
}

// labels are those that tenants have by now.
func (m *Metrics) labels() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]string, 0, len(m.tenants))
	for t := range m.tenants {
		out = append(out, string(t))
	}
	return out
}

// oneOf keeps a label to a closed list.
func oneOf(value string, known ...string) string {
	if slices.Contains(known, value) {
		return value
	}
	return Other
}
