package app

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/journal"
	"orrery.example/orrery/internal/metric"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/tracing"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// TelemetryOptions say what a process tells about itself.
type TelemetryOptions struct {
	Collector string // where spans go, see tracing.Options; "" for what the environment says
	Metrics   bool
	Tenants   int // how many have labels of their own
	Version   string
	Journal   *journal.Journal // nil for a process without one
	Log       *slog.Logger
}

// Telemetry is what a process tells about itself: metrics, spans, lines. A nil one tells nothing.
type Telemetry struct {
	Metrics *metric.Metrics // nil for none
	journal *journal.Journal
	tracer  *tracing.Tracer // nil for none
	log     *slog.Logger

	ended  chan ended // runs whose spans are to be sent
	stop   chan struct{}
	sender sync.WaitGroup
}

type ended struct {
	tenant work.Tenant
	run    work.RunID
}

// waitingTraces bounds the runs whose spans wait to be sent.
const waitingTraces = 1000

// NewTelemetry returns what the options and the environment say; nil when that is nothing. Errors: fault.Invalid.
func NewTelemetry(ctx context.Context, o TelemetryOptions) (*Telemetry, error) {
	tracer, err := tracing.New(ctx, tracing.Options{Endpoint: o.Collector, Lookup: os.LookupEnv, Version: o.Version, Log: hushed(o.Log)})
	if err != nil || tracer == nil && !o.Metrics && o.Journal == nil {
		return nil, err
	}
	t := &Telemetry{journal: o.Journal, tracer: tracer, log: hushed(o.Log), ended: make(chan ended, waitingTraces), stop: make(chan struct{})}
	if o.Metrics {
		t.Metrics = metric.New(o.Version, o.Tenants)
	}
	return t, nil
}

// kernel adds to the options of a store what is to be heard of it.
func (t *Telemetry) kernel(o kernel.Options) kernel.Options {
	if t == nil {
		return o
	}
	o.Observe = t.committed
	if t.tracer != nil {
		o.Trace = span.Below
	}
	return o
}

// follow begins to look at a store, and returns what ends that.
func (t *Telemetry) follow(s *kernel.Store) (stop func()) {
	if t == nil {
		return func() {}
	}
	if t.Metrics != nil {
		t.Metrics.Gauges(s.Census)
	}
	if t.tracer == nil {
		return func() {}
	}
	t.sender.Go(func() { t.send(s) })
	return sync.OnceFunc(func() {
		close(t.stop)
		t.sender.Wait()
	})
}

// Close sends what is left.
func (t *Telemetry) Close() {
	if t == nil || t.tracer == nil {
		return
	}
	const patience = 5 * time.Second
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	if err := t.tracer.Close(ctx); err != nil {
		t.log.Warn("the last spans are lost", "error", err)
	}
}

// committed is called by a writer of the store: it must return at once.
func (t *Telemetry) committed(c kernel.Commit) {
	if t.Metrics != nil {
		t.Metrics.Commit(c)
	}
	for i := range c.Changes {
		if x := &c.Changes[i]; x.Type == work.RunEnded {
			t.runEnded(x)
		}
	}
}

func (t *Telemetry) runEnded(c *kernel.Change) {
	at, traced := span.Parse(c.Run.TraceParent)
	if t.log.Enabled(context.Background(), slog.LevelInfo) {
		t.log.Info("a run has ended", "tenant", c.Run.Tenant, "dagId", c.Run.Pack.Name, "runId", c.Run.ID, "status", c.Run.State,
			"reason", c.Run.Reason.Code, "trace_id", at.Trace, "seconds", float64(c.At-c.Run.Created)/1e6)
	}
	if t.tracer == nil || !traced || !at.Sampled {
		return
	}
	select {
	case t.ended <- ended{c.Run.Tenant, c.Run.ID}:
	default:
		if t.Metrics != nil {
			t.Metrics.TraceDropped()
		}
	}
}

// send sends the spans of ended runs, until it is stopped and nothing is left.
func (t *Telemetry) send(s *kernel.Store) {
	for {
		select {
		case e := <-t.ended:
			t.sendRun(s, e)
			continue
		default:
		}
		select {
		case e := <-t.ended:
			t.sendRun(s, e)
		case <-t.stop:
			if len(t.ended) == 0 {
				return
			}
		}
	}
}

func (t *Telemetry) sendRun(s *kernel.Store, e ended) {
	ctx := context.Background()
	run, err := s.Run(ctx, e.tenant, string(e.run))
	if err == nil {
		h := span.NewHistory(&run)
		h.Span = t.tracer.Send
		err = control.EachEvent(ctx, s, &run, h.Add)
	}
	if err != nil {
		t.log.Error("the spans of a run cannot be made", "tenant", e.tenant, "runId", e.run, "error", err)
	}
}

// failed notes that a task beside requests went wrong.
func (o *Options) failed(task string, err error, args ...any) {
	if o.Telemetry != nil && o.Telemetry.Metrics != nil {
		o.Telemetry.Metrics.Background(task)
	}
	o.Log.Error(task, append(args, "error", err)...)
}

// blobs returns blobs whose bytes are counted.
func (t *Telemetry) blobs(b blob.Store) blob.Store {
	if t == nil || t.Metrics == nil {
		return b
	}
	return t.Metrics.Blobs(b)
}

// collected counts what a collection removed, and shows what is kept.
func (t *Telemetry) collected(tenant work.Tenant, r collect.Result) {
	if t == nil || t.Metrics == nil {
		return
	}
	t.Metrics.Collected(tenant, r.Freed.Blobs, r.Freed.Bytes)
	t.Metrics.Kept(tenant, "named", r.Kept.Blobs, r.Kept.Bytes)
	t.Metrics.Kept(tenant, "unnamed", r.Waiting.Blobs, r.Waiting.Bytes)
}

// stored shows how much a tenant stores.
func (t *Telemetry) stored(tenant work.Tenant, bytes int64) {
	if t != nil && t.Metrics != nil {
		t.Metrics.Stored(tenant, bytes)
	}
}

// secret returns a resolver whose secrets never get into the log.
func (t *Telemetry) secret(resolve func(tenant work.Tenant, ref string) ([]byte, error)) func(tenant work.Tenant, ref string) ([]byte, error) {
	if t == nil || t.journal == nil {
		return resolve
	}
	return func(tenant work.Tenant, ref string) ([]byte, error) {
		value, err := resolve(tenant, ref)
		if err == nil {
			_, name, _ := strings.Cut(ref, ":")
			t.journal.Hide(name, value)
		}
		return value, err
	}
}

// source counts what a worker with a number of slots asks for.
func (t *Telemetry) source(s worker.Source, slots int) worker.Source {
	if t == nil || t.Metrics == nil {
		return s
	}
	t.Metrics.Slots(slots)
	return &counted{s, t.Metrics}
}

// attempts hears of what a worker executes; nil for nobody who does.
func (t *Telemetry) attempts(name string) func(*store.Grant) (string, func(*work.ReportedData)) {
	if t == nil || t.Metrics == nil && t.tracer == nil {
		return nil
	}
	return func(g *store.Grant) (string, func(*work.ReportedData)) {
		trace, through := t.tracer.Attempt(g, name)
		if t.Metrics == nil {
			return trace, through
		}
		counted := t.Metrics.Attempt()
		return trace, func(r *work.ReportedData) {
			counted(r)
			through(r)
		}
	}
}

// counted is a source that is counted.
type counted struct {
	worker.Source
	m *metric.Metrics
}

// Exchange implements worker.Source.
func (s *counted) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	reply, err := s.Source.Exchange(ctx, req)
	s.m.Asked("exchange", err)
	return reply, err
}

// Heartbeat implements worker.Source.
func (s *counted) Heartbeat(ctx context.Context, session string, expires work.Time) (store.Orders, error) {
	orders, err := s.Source.Heartbeat(ctx, session, expires)
	s.m.Asked("heartbeat", err)
	return orders, err
}

// AppendLines implements worker.Source.
func (s *counted) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	errs := s.Source.AppendLines(ctx, batch)
	for _, err := range errs {
		s.m.Asked("lines", err)
	}
	return errs
}

// request hears of a request; see httpapi.Config.Observe.
func (t *Telemetry) request(r *http.Request, route *httpapi.Route, c *httpapi.Call) func(status int) {
	began, pattern, stream := time.Now(), "", false
	closed, traced := func() {}, func(int, work.Tenant) {}
	if route != nil {
		pattern = route.Path
		stream = route.Stream != "" && (strings.Contains(r.Header.Get("Accept"), "event-stream") || r.Header.Get("Upgrade") != "")
		if stream && t.Metrics != nil {
			closed = t.Metrics.Subscriber(pattern)
		}
		if !route.Plain && !route.Public {
			_, given := span.Parse(r.Header.Get("Traceparent"))
			c.Trace, traced = t.tracer.Request(route.Method, pattern, c.Trace, given)
		}
	}
	return func(status int) {
		closed()
		traced(status, c.Tenant)
		took := time.Since(began)
		if t.Metrics != nil {
			t.Metrics.Request(r.Method, pattern, status, took, stream)
		}
		if t.log.Enabled(context.Background(), slog.LevelDebug) {
			t.log.Debug("request", "method", r.Method, "route", pattern, "status", status, "tenant", c.Tenant, "trace_id", c.RequestID, "seconds", took.Seconds())
		}
	}
}
