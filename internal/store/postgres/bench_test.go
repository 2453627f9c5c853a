package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/store/storetest"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

func now() work.Time { return work.Time(time.Now().UnixMicro()) }

// onePlan is a plan of one step that does nothing, or of a few that follow each other.
func onePlan(steps int) (raw []byte, hash work.Digest) {
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: "bench", Version: "1.0.0", Digest: canonical.Digest([]byte("bench"))}}
	for i := range steps {
		s := work.PlanStep{ID: work.StepID(fmt.Sprintf("s%04d", i)), Kind: work.KindRun, Run: &work.RunSpec{
			Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: 60_000, Retry: work.RetrySpec{MaxAttempts: 1},
		}}
		if i > 0 {
			s.Needs = []work.StepID{p.Steps[i-1].ID}
		}
		p.Steps = append(p.Steps, s)
	}
	raw, err := canonical.MarshalUpTo(p, 1<<30)
	if err != nil {
		panic(err)
	}
	return raw, canonical.Digest(raw)
}

var serial atomic.Int64

func submissions(n int, raw []byte, hash work.Digest) []store.Submission {
	out := make([]store.Submission, n)
	for i := range out {
		id := work.RunID(fmt.Sprintf("run_%016d%010d", now(), serial.Add(1)))
		out[i] = store.Submission{
			Run:       work.Run{Tenant: "acme", ID: id, Name: string(id[4:]), PlanHash: hash, Pack: work.PackRef{Name: "bench", Version: "1.0.0"}, Submitter: "bench"},
			Canonical: raw, Data: work.SubmittedData{Name: string(id[4:]), PlanHash: hash, Submitter: "bench", InputsHash: hash, ReplayToken: string(hash)},
		}
	}
	return out
}

func submitAll(t testing.TB, s *kernel.Store, n int, raw []byte, hash work.Digest) {
	t.Helper()
	for n > 0 {
		batch := min(n, 100)
		for _, out := range s.Submit(context.Background(), submissions(batch, raw, hash)) {
			if out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		n -= batch
	}
}

// drive is a worker with some slots: it reports and asks for more in one exchange, acknowledging in between, until it has ended total
// steps together with others.
func drive(t testing.TB, s *kernel.Store, session string, slots int, ended *atomic.Int64, total int64) {
	ctx := context.Background()
	if err := s.OpenSession(ctx, store.Session{ID: session, Worker: session, Tenant: "acme", Expires: now() + 3600e6}); err != nil {
		t.Error(err)
		return
	}
	wake, stop := context.WithCancel(ctx)
	defer stop()
	woken := s.Watch(wake)
	var reports []store.ReportCommand
	for deadline := time.Now().Add(2 * time.Minute); ended.Load() < total; {
		if time.Now().After(deadline) {
			t.Errorf("%d of %d steps ended in time", ended.Load(), total)
			return
		}
		reply, err := s.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "acme", Reports: reports, Runners: []string{"noop"}, MinTier: 3, Max: slots})
		if err != nil {
			t.Error(err)
			return
		}
		for _, err := range reply.Errs {
			if err != nil {
				t.Errorf("report: %v", err)
			}
		}
		ended.Add(int64(len(reports)))
		reports = reports[:0]
		if len(reply.Grants) == 0 {
			select {
			case <-woken:
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		acks := make([]store.AckCommand, len(reply.Grants))
		for i, g := range reply.Grants {
			acks[i] = store.AckCommand{Session: g.Session, Tenant: "acme", Run: g.Run, Step: g.Step, Token: g.Token}
		}
		for _, err := range s.Ack(ctx, acks) {
			if err != nil {
				t.Errorf("ack: %v", err)
			}
		}
		for _, g := range reply.Grants {
			reports = append(reports, store.ReportCommand{Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, State: work.Succeeded}})
		}
	}
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is the processor time of a server and its children, those that have ended included.
func serverCPU(pid int) time.Duration {
	total := int64(0)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		own := filepath.Base(filepath.Dir(file)) == strconv.Itoa(pid)
		if fields[1] != strconv.Itoa(pid) && !own {
			continue
		}
		for i, f := range fields[11:15] {
			if n, err := strconv.ParseInt(f, 10, 64); err == nil && (i < 2 || own) {
				total += n
			}
		}
	}
	return time.Duration(total) * 10 * time.Millisecond // ticks of a hundredth of a second
}

// BenchmarkDrain is the life of runs with one step: submitted in batches of 100, leased, acknowledged, reported by workers of 100 slots.
// Everything is durable.
func BenchmarkDrain(b *testing.B) {
	const jobs = 10_000
	raw, hash := onePlan(1)
	drain := func(b *testing.B, stores []*kernel.Store, pid int) {
		for b.Loop() {
			for phase, run := range []func(){
				func() {
					var all sync.WaitGroup
					for _, s := range stores {
						all.Go(func() { submitAll(b, s, jobs/len(stores), raw, hash) })
					}
					all.Wait()
				},
				func() {
					var ended atomic.Int64
					var all sync.WaitGroup
					for i, s := range stores {
						all.Go(func() { drive(b, s, fmt.Sprintf("s%d-%d", i, serial.Add(1)), 100, &ended, jobs) })
					}
					all.Wait()
				},
			} {
				runtime.GC()
				own, theirs, start := ownCPU(), time.Duration(0), time.Now()
				if pid != 0 {
					theirs = serverCPU(pid)
				}
				run()
				name := []string{"submit", "drain"}[phase]
				b.ReportMetric(jobs/time.Since(start).Seconds(), name+"-jobs/s")
				b.ReportMetric(float64((ownCPU()-own).Microseconds())/jobs, name+"-own-µs/job")
				if pid != 0 {
					b.ReportMetric(float64((serverCPU(pid)-theirs).Microseconds())/jobs, name+"-server-µs/job")
				}
			}
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		d, err := sqlite.Open(b.Context(), b.TempDir(), sqlite.Options{Ballast: -1})
		if err != nil {
			b.Fatal(err)
		}
		s := kernel.New(d, kernel.Options{Now: now})
		defer s.Close()
		drain(b, []*kernel.Store{s}, 0)
	})
	for _, mode := range []string{"", "&default_query_exec_mode=cache_describe"} {
		for _, servers := range []int{1, 2, 8} {
			for _, writers := range []int{1, 2} {
				if servers == 8 && writers == 2 {
					continue
				}
				b.Run(fmt.Sprintf("postgres/%s/servers=%d/writers=%d", map[bool]string{true: "prepared", false: "described"}[mode == ""], servers, writers), func(b *testing.B) {
					pg, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
					if err != nil {
						b.Fatal(err)
					}
					defer pg.Close()
					url, err := pg.Database(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					var stores []*kernel.Store
					for range servers {
						d, err := postgres.Open(b.Context(), postgres.Options{URL: url + mode, Writers: writers})
						if err != nil {
							b.Fatal(err)
						}
						s := kernel.New(d, kernel.Options{Now: now})
						defer s.Close()
						stores = append(stores, s)
					}
					drain(b, stores, pg.PID())
				})
			}
		}
	}
}

// BenchmarkBlocked measures claims beside very many steps that are held back, and submissions under a quota.
func BenchmarkBlocked(b *testing.B) {
	storetest.BenchmarkBlocked(b, func(t testing.TB) kernel.Driver { return connect(t, server.Database(t)) })
}
