// Package tracing sends spans to a collector of OpenTelemetry: of requests, of runs and their attempts, and of what workers execute.
//
// Nothing is sent unless somebody has named a collector. Spans carry ids, states, codes and figures, never text of steps or people.
package tracing

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Options say where spans go.
type Options struct {
	Endpoint string                      // http(s)://HOST:PORT of a collector, "" for what the environment says
	Lookup   func(string) (string, bool) // of the environment
	Version  string
	Log      *slog.Logger
}

// Tracer sends spans. A nil Tracer sends nothing. It is safe for concurrent use.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New returns a tracer, nil when nobody has named a collector. The environment of OpenTelemetry counts: OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER
// and its argument, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none. Errors: fault.Invalid.
func New(ctx context.Context, o Options) (*Tracer, error) {
	get := func(names ...string) string {
		for _, name := range names {
			if v, ok := o.Lookup(name); ok && v != "" {
				return v
			}
		}
		return ""
	}
	if strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") || strings.EqualFold(get("OTEL_TRACES_EXPORTER"), "none") {
		return nil, nil
	}
	var options []otlptracehttp.Option
	switch {
	case o.Endpoint != "":
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fault.New(fault.Invalid, "a collector is at an http:// or https:// address").WithHint("for example: http://127.0.0.1:4318")
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	case get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "":
		return nil, nil
	}
	if p := get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fault.New(fault.Invalid, "spans are sent as http/protobuf, not as %s", p).WithHint("most collectors take that at port 4318")
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the collector of spans")
	}
	described, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "orrery"), attribute.String("service.version", o.Version)), resource.WithFromEnv())
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "OTEL_RESOURCE_ATTRIBUTES")
	}
	complain(o.Log)
	// Only a setting of the environment changes the sampler: by default the decision of whoever began a trace counts, and a trace that
	// begins here is kept.
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(described), sdk.WithIDGenerator(ids{}))
	return &Tracer{provider: p, tracer: p.Tracer("orrery.example/orrery")}, nil
}

// complain logs that spans cannot be sent, once a minute at most. It must not say what they would have carried, nor headers.
func complain(log *slog.Logger) {
	var last atomic.Int64
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		now := time.Now().Unix()
		if before := last.Load(); now-before >= 60 && last.CompareAndSwap(before, now) {
			log.Warn("spans are not sent", "error", err)
		}
	}))
}

// Close sends what is left, and waits for that until ctx ends.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return fault.Wrap(fault.Unavailable, t.provider.Shutdown(ctx), "sending the last spans")
}

// wanted are ids that a span is to have.
type wanted struct {
	trace trace.TraceID
	span  trace.SpanID
}

type wantedKey struct{}

// ids gives spans the ids that follow from what they are about, and others random ones.
type ids struct{}

// NewIDs implements sdktrace.IDGenerator.
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	w, _ := ctx.Value(wantedKey{}).(wanted)
	if !w.trace.IsValid() {
		binary.BigEndian.PutUint64(w.trace[:8], rand.Uint64())
		binary.BigEndian.PutUint64(w.trace[8:], rand.Uint64()|1)
	}
	return w.trace, g.NewSpanID(ctx, w.trace)
}

// NewSpanID implements sdktrace.IDGenerator.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if w, _ := ctx.Value(wantedKey{}).(wanted); w.span.IsValid() {
		return w.span
	}
	var id trace.SpanID
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}

// below returns a context whose spans are below a span of somebody else's.
func below(ctx context.Context, c span.Context, state string) context.Context {
	config := trace.SpanContextConfig{Remote: true}
	config.TraceID, _ = trace.TraceIDFromHex(c.Trace)
	config.SpanID, _ = trace.SpanIDFromHex(c.Span)
	config.TraceFlags = trace.TraceFlags(0).WithSampled(c.Sampled)
	config.TraceState, _ = trace.ParseTraceState(state) // what is none says nothing
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(config))
}

func contextOf(s trace.Span) span.Context {
	c := s.SpanContext()
	return span.Context{Trace: c.TraceID().String(), Span: c.SpanID().String(), Sampled: c.IsSampled()}
}

// Request begins the span of a request: below that of its caller when given, else as the first of the trace. It returns the trace that
// whatever the request leads to goes on in, and what is called with the status of the answer, 0 when it broke off.
func (t *Tracer) Request(method, route string, caller work.Trace, given bool) (work.Trace, func(status int, tenant work.Tenant)) {
	c, ok := span.Parse(caller.Parent)
	if t == nil || !ok {
		return caller, func(int, work.Tenant) {}
	}
	ctx := context.Background()
	if given {
		ctx = below(ctx, c, caller.State)
	} else {
		var w wanted
		w.trace, _ = trace.TraceIDFromHex(c.Trace)
		ctx = context.WithValue(ctx, wantedKey{}, w)
	}
	_, s := t.tracer.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", method), attribute.String("http.route", route)))
	caller.Parent = contextOf(s).String()
	return caller, func(status int, tenant work.Tenant) {
		s.SetAttributes(attribute.Int("http.response.status_code", status), attribute.String("tenant", string(tenant)))
		if status == 0 || status >= http.StatusInternalServerError {
			s.SetStatus(codes.Error, "")
		}
		s.End()
	}
}

// Attempt begins the span of an attempt that a worker executes, below that of its lease. It returns the traceparent for what the step
// does, and what is called with the report.
func (t *Tracer) Attempt(g *store.Grant, worker string) (string, func(*work.ReportedData)) {
	c, ok := span.Parse(g.Trace)
	if t == nil || !ok {
		return g.Trace, func(*work.ReportedData) {}
	}
	_, s := t.tracer.Start(below(context.Background(), c, g.TraceState), span.NameExecute, trace.WithAttributes(
		attribute.String("tenant", string(g.Tenant)), attribute.String("runId", string(g.Run)), attribute.String("stepId", string(g.Step)),
		attribute.Int("attempt", g.Attempt), attribute.String("worker", worker)))
	return contextOf(s).String(), func(r *work.ReportedData) {
		s.SetAttributes(attribute.String("status", string(r.State)), attribute.String("reason", string(r.Reason.Code)), attribute.Int("exitCode", r.ExitCode))
		if u := r.Usage; u != nil {
			s.SetAttributes(attribute.Int64("cpuMs", u.CPUMs), attribute.Int64("maxRssBytes", u.MaxRSSBytes))
		}
		if r.State != work.Succeeded {
			s.SetStatus(codes.Error, string(r.Reason.Code))
		}
		s.End()
	}
}

// Send sends a span of a history.
func (t *Tracer) Send(s span.Span) {
	if t == nil || s.Trace == "" {
		return
	}
	var w wanted
	w.trace, _ = trace.TraceIDFromHex(s.Trace)
	w.span, _ = trace.SpanIDFromHex(s.Span)
	ctx := context.Background()
	if s.Parent != "" {
		ctx = below(ctx, span.Context{Trace: s.Trace, Span: s.Parent, Sampled: s.Sampled}, "")
	}
	ctx = context.WithValue(ctx, wantedKey{}, w)
	_, out := t.tracer.Start(ctx, s.Name, trace.WithTimestamp(s.Start.Std()), trace.WithAttributes(attributes(s.Attributes)...))
	if s.Failed {
		out.SetStatus(codes.Error, "")
	}
	out.End(trace.WithTimestamp(s.End.Std()))
}

func attributes(in []span.Attribute) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(in))
	for _, a := range in {
		switch v := a.Value.(type) {
		case string:
			out = append(out, attribute.String(a.Key, v))
		case int64:
			out = append(out, attribute.Int64(a.Key, v))
		case bool:
			out = append(out, attribute.Bool(a.Key, v))
		}
	}
	return out
}
