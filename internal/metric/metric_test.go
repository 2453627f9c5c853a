package metric_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"orrery.example/orrery/internal/metric"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

func text(t testing.TB, m *metric.Metrics) string {
	t.Helper()
	raw, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func ended(tenant work.Tenant, class string) kernel.Commit {
	run := &work.Run{Tenant: tenant, Created: 1e6, Started: 2e6}
	return kernel.Commit{Commands: 3, Took: time.Millisecond, Changes: []kernel.Change{
		{Run: run, Type: work.StepClaimed, At: 3e6, Since: 2e6},
		{Run: run, Type: work.StepReported, At: 4e6, Data: work.ReportedData{State: work.Failed, Class: class, StartedAt: 3e6, EndedAt: 4e6, Usage: &work.Usage{CPUMs: 250, MaxRSSBytes: 1 << 20}}},
		{Run: run, Type: work.StepRevoked, At: 4e6, Data: work.RevokedData{Reason: work.Reason{Code: work.EndedByWorkerLoss}}},
		{Run: run, Type: work.RunEnded, At: 5e6, Data: work.EndedData{State: work.Failed}},
	}}
}

// Whatever tenants, classes, routes and limits there are, the series stay few.
func TestJ11_LabelsAreBounded(t *testing.T) {
	m := metric.New("test", 3)
	m.Gauges(func(context.Context) ([]store.Census, error) {
		var all []store.Census
		for i := range 50 {
			all = append(all, store.Census{Tenant: work.Tenant(fmt.Sprintf("tenant-%02d", i)), Queued: 2})
		}
		return all, nil
	})
	for i := range 50 {
		m.Commit(ended(work.Tenant(fmt.Sprintf("tenant-%02d", i)), fmt.Sprintf("class-%d", i)))
		m.Request("BREW", "", 405, time.Second, false)
		m.Limited(fmt.Sprint(i))
		m.Delivered(fmt.Sprint(i), fmt.Sprint(i))
	}
	got := text(t, m)
	for _, line := range []string{
		`orchestrator_runs_total{status="failed",tenant="tenant-02"} 1`, `orchestrator_runs_total{status="failed",tenant="other"} 47`,
		`orchestrator_failures_total{class="other",tenant="other"} 47`, `orchestrator_queue_depth{tenant="other"} 94`,
		`orchestrator_http_requests_total{method="other",route="other",status="405"} 50`, `orchestrator_rate_limit_hits_total{limit="other"} 50`,
		`orchestrator_deliveries_total{channel="other",result="other"} 50`, `orchestrator_leases_revoked_total{cause="worker_lost",tenant="tenant-00"} 1`,
		`orchestrator_run_duration_seconds_sum{tenant="tenant-00"} 3`, `orchestrator_job_latency_seconds_sum{tenant="tenant-00"} 4`,
		`orchestrator_queue_wait_seconds_sum{tenant="tenant-00"} 1`, `orchestrator_step_cpu_seconds_total{tenant="tenant-00"} 0.25`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(got, "tenant-03") {
		t.Error("a fourth tenant has labels of its own")
	}
	if problems, err := testutil.GatherAndLint(m.Gatherer()); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

// A commit that failed changed nothing, whatever it was about to.
func TestFailedCommit(t *testing.T) {
	m := metric.New("test", 0)
	c := ended("acme", "exit")
	c.Changes, c.Err = nil, errors.New("disk")
	m.Commit(c)
	if got := text(t, m); !strings.Contains(got, "orchestrator_store_commit_failures_total 1\n") || !strings.Contains(got, "orchestrator_events_total 0\n") {
		t.Error(got)
	}
}

// The store is counted once in a while, however often somebody asks, and a scrape survives a store that does not answer.
func TestGaugesAreCached(t *testing.T) {
	asked := 0
	m := metric.New("test", 0)
	m.Gauges(func(context.Context) ([]store.Census, error) {
		asked++
		return nil, errors.New("the store is gone")
	})
	for range 5 {
		if got := text(t, m); !strings.Contains(got, `orchestrator_background_failures_total{task="count"}`) && asked > 1 || !strings.Contains(got, "go_goroutines") {
			t.Fatal(got)
		}
	}
	if asked != 1 {
		t.Errorf("the store was asked %d times", asked)
	}
}

func BenchmarkCommit(b *testing.B) {
	m := metric.New("test", 0)
	c := ended("acme", "exit")
	for b.Loop() {
		m.Commit(c)
	}
}
