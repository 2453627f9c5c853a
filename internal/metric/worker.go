package metric

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/work"
)

type workerMetrics struct {
	slots, busy   *prometheus.GaugeVec
	attempts      *prometheus.CounterVec
	took          *prometheus.HistogramVec
	cpu, requests *prometheus.CounterVec
}

func (m *Metrics) defineWorker() {
	w := &m.worker
	w.slots = m.gauge("orchestrator_worker_slots", "Steps that the workers of this process run at once.")
	w.busy = m.gauge("orchestrator_worker_slots_busy", "Of those, in use.")
	w.attempts = m.counter("orchestrator_worker_attempts_total", "Attempts that ended here, by state. Steps without a process are left out.", "status")
	w.took = m.histogram("orchestrator_worker_attempt_duration_seconds", "How long they took.", stepBuckets())
	w.cpu = m.counter("orchestrator_worker_step_cpu_seconds_total", "Processor time that they used.")
	w.requests = m.counter("orchestrator_worker_requests_total", "What the workers of this process asked of the store or the server, by result.", "request", "result")
	w.slots.WithLabelValues()
	w.busy.WithLabelValues()
}

// Slots adds the slots of a worker of this process.
func (m *Metrics) Slots(n int) { m.worker.slots.WithLabelValues().Add(float64(n)) }

// Attempt counts an attempt that begins; the returned function is called with its report.
func (m *Metrics) Attempt() (through func(*work.ReportedData)) {
	w, began := &m.worker, time.Now()
	w.busy.WithLabelValues().Inc()
	return func(r *work.ReportedData) {
		w.busy.WithLabelValues().Dec()
		w.attempts.WithLabelValues(string(r.State)).Inc()
		w.took.WithLabelValues().Observe(time.Since(began).Seconds())
		if r.Usage != nil {
			w.cpu.WithLabelValues().Add(max(0, float64(r.Usage.CPUMs)/1000))
		}
	}
}

// Asked counts what a worker of this process asked: exchange, heartbeat or lines.
func (m *Metrics) Asked(request string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.worker.requests.WithLabelValues(request, result).Inc()
}

// Blobs returns blobs whose bytes are counted.
func (m *Metrics) Blobs(b blob.Store) blob.Store { return &blobs{b, m} }

type blobs struct {
	blob.Store
	m *Metrics
}

func (b *blobs) count(direction string, n int64) {
	b.m.server.blobs.WithLabelValues(direction).Add(float64(n))
}

// Put implements blob.Store.
func (b *blobs) Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error) {
	digest, n, err := b.Store.Put(ctx, tenant, r)
	b.count("in", n)
	return digest, n, err
}

// PutAll implements blob.Store.
func (b *blobs) PutAll(ctx context.Context, tenant work.Tenant, all [][]byte) ([]work.Digest, error) {
	digests, err := b.Store.PutAll(ctx, tenant, all)
	if err == nil {
		for _, raw := range all {
			b.count("in", int64(len(raw)))
		}
	}
	return digests, err
}

// Open implements blob.Store.
func (b *blobs) Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error) {
	r, n, err := b.Store.Open(ctx, tenant, digest)
	if err != nil {
		return r, n, err
	}
	return &counted{r, b}, n, nil
}

type counted struct {
	io.ReadCloser
	b *blobs
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.b.count("out", int64(n))
	return n, err
}
