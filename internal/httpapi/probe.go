package httpapi

import (
	"context"
	"net/http"
	"runtime"

	"orrery.example/orrery/internal/fault"
)

// Probes are what a server answers about itself.
type Probes struct {
	Ready   func(ctx context.Context) error // nil when requests can be served
	Metrics http.Handler                    // nil for none
	Version string
}

// Health is the answer of a probe.
type Health struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Go      string `json:"go,omitempty"`
	API     string `json:"api,omitempty"`
}

// ProbeRoutes returns the operations that answer without a token. They are Plain: nobody in particular asks.
func ProbeRoutes(p Probes) []Route {
	public := func(path, name, summary string, reply any, h func(http.ResponseWriter, *http.Request, *Call) error) Route {
		return Route{Method: http.MethodGet, Path: path, Name: name, Tag: "server", Summary: summary, Public: true, Plain: true, Reply: reply, Handle: h}
	}
	metrics := public("/metrics", "getMetrics", "Read the metrics in the text format of Prometheus", nil, p.metrics)
	metrics.Stream = "text/plain"
	return []Route{
		public("/healthz", "getHealth", "Say that the process lives", Health{}, func(w http.ResponseWriter, _ *http.Request, _ *Call) error {
			return Reply(w, http.StatusOK, Health{Status: "ok", Version: p.Version})
		}),
		public("/readyz", "getReadiness", "Say whether requests can be served: not before the store answers, and not while the server drains", Health{}, p.ready),
		public("/version", "getVersion", "Say which version this is", Health{}, func(w http.ResponseWriter, _ *http.Request, _ *Call) error {
			return Reply(w, http.StatusOK, Health{Status: "ok", Version: p.Version, Go: runtime.Version(), API: "v1"})
		}),
		metrics,
	}
}

func (p Probes) ready(w http.ResponseWriter, r *http.Request, c *Call) error {
	select {
	case <-c.Draining:
		return fault.New(fault.Unavailable, "the server drains")
	default:
	}
	if err := p.Ready(r.Context()); err != nil {
		return fault.New(fault.Unavailable, "the store does not answer: %v", err)
	}
	return Reply(w, http.StatusOK, Health{Status: "ready", Version: p.Version})
}

func (p Probes) metrics(w http.ResponseWriter, r *http.Request, _ *Call) error {
	if p.Metrics == nil {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	p.Metrics.ServeHTTP(w, r)
	return nil
}

// DocumentRoutes returns the operations that describe the others and themselves.
func DocumentRoutes(routes []Route, version string) ([]Route, error) {
	own := []Route{
		{Method: http.MethodGet, Path: "/.well-known/openapi", Name: "getOpenAPI", Tag: "server", Summary: "Read this document"},
		{
			Method: http.MethodGet, Path: "/openapi/orchestrator.json", Name: "getOrchestratorOpenAPI", Tag: "server",
			Summary: "Read this document under its earlier address", Successor: "/.well-known/openapi",
		},
	}
	for i := range own {
		own[i].Public, own[i].Plain, own[i].Stream = true, true, "application/json"
	}
	raw, err := Document(append(own, routes...), version)
	if err != nil {
		return nil, err
	}
	for i := range own {
		own[i].Handle = func(w http.ResponseWriter, r *http.Request, _ *Call) error {
			return replyRaw(w, r, raw)
		}
	}
	return own, nil
}
