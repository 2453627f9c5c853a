package metric

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orrery.example/orrery/internal/store"
)

// fresh is for how long a count is good: counting costs as much as there is to count, and scrapes may come from several sides.
const fresh = 10 * time.Second

// patience is how long a scrape waits for the store.
const patience = 5 * time.Second

// gauges reports a census of the store.
type gauges struct {
	m     *Metrics
	count func(context.Context) ([]store.Census, error)
	descs []*prometheus.Desc

	mu   sync.Mutex
	at   time.Time
	last []store.Census
	err  error
}

type field struct {
	name, help string
	value      func(c *store.Census, now time.Time) float64
	greatest   bool // of several tenants in one label, not the sum
}

func fields() []field {
	return []field{
		{"orchestrator_queue_depth", "Steps that a worker may claim.", func(c *store.Census, _ time.Time) float64 { return float64(c.Queued) }, false},
		{"orchestrator_queue_oldest_seconds", "For how long the oldest of them has waited.", func(c *store.Census, now time.Time) float64 {
			if c.Oldest == 0 {
				return 0
			}
			return max(0, now.Sub(c.Oldest.Std()).Seconds())
		}, true},
		{"orchestrator_leases", "Steps that workers hold.", func(c *store.Census, _ time.Time) float64 { return float64(c.Leases) }, false},
		{"orchestrator_leases_expired", "Of those, held by workers that no longer answer, until they are taken back.", func(c *store.Census, _ time.Time) float64 { return float64(c.Lost) }, false},
		{"orchestrator_workers", "Workers that answer; those that take steps of every tenant are of the tenant *.", func(c *store.Census, _ time.Time) float64 { return float64(c.Workers) }, false},
		{"orchestrator_dead_letters", "Steps that used up their attempts and that nobody has dealt with.", func(c *store.Census, _ time.Time) float64 { return float64(c.DeadLetters) }, false},
		{"orchestrator_runs_unsealed", "Runs that have ended and are not in the log yet.", func(c *store.Census, _ time.Time) float64 { return float64(c.Unsealed) }, false},
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range g.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	counted, err := g.census()
	if err != nil {
		return // Background has counted it: a scrape with everything else is better than none
	}
	now := time.Now()
	for i, f := range fields() {
		values := map[string]float64{}
		for _, label := range g.m.labels() {
			values[label] = 0 // what has run empty is 0 and not missing
		}
		for j := range counted {
			label, v := g.m.tenant(counted[j].Tenant), f.value(&counted[j], now)
			if f.greatest {
				values[label] = max(values[label], v)
			} else {
				values[label] += v
			}
		}
		for label, v := range values {
			ch <- prometheus.MustNewConstMetric(g.descs[i], prometheus.GaugeValue, v, label)
		}
	}
}

func (g *gauges) census() ([]store.Census, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.at) < fresh {
		return g.last, g.err
	}
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	if g.last, g.err = g.count(ctx); g.err != nil {
		g.m.Background("count")
	}
	g.at = time.Now()
	return g.last, g.err
}
