package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

// servers opens several stores on one database.
func servers(t testing.TB, url string, n int) []*kernel.Store {
	t.Helper()
	out := make([]*kernel.Store, n)
	for i := range out {
		out[i] = kernel.New(connect(t, url), kernel.Options{Now: now})
		t.Cleanup(func() { _ = out[i].Close() })
	}
	return out
}

// keyedPlan is one step under a concurrency key, in a run under another.
func keyedPlan(t testing.TB, steps, runs int) (raw []byte, hash work.Digest) {
	t.Helper()
	text, _ := onePlan(1)
	var p work.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	p.Steps[0].Run.Concurrency = &work.Concurrency{Key: "db", Max: steps}
	if runs > 0 {
		p.Concurrency = &work.Concurrency{Key: "site", Max: runs}
	}
	raw, err := canonical.Marshal(&p)
	if err != nil {
		t.Fatal(err)
	}
	return raw, canonical.Digest(raw)
}

// together runs fn once for every store at the same time.
func together(stores []*kernel.Store, fn func(i int, s *kernel.Store)) {
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() { fn(i, s) })
	}
	all.Wait()
}

// TestServersDrain lets three servers claim from one queue, directly and through a pooler that gives every transaction another connection.
func TestServersDrain(t *testing.T) {
	const each, runs, steps = 60, 180, 540
	for _, through := range []string{"server", "pgbouncer"} {
		t.Run(through, func(t *testing.T) {
			url := server.Database(t)
			if through == "pgbouncer" {
				pooler, err := testservice.StartPgbouncer(server.Server(t), 3)
				if err != nil {
					t.Fatal(err)
				}
				defer pooler.Close()
				url = pooler.Through(url)
			}
			stores := servers(t, url, 3)
			defer closeAll(t, stores)
			raw, hash := onePlan(3)
			together(stores, func(_ int, s *kernel.Store) { submitAll(t, s, each, raw, hash) })
			var ended atomic.Int64
			together(stores, func(i int, s *kernel.Store) { drive(t, s, fmt.Sprint("worker", i), 7, &ended, steps) })
			ends, err := stores[0].Find(t.Context(), "acme", store.RunQuery{States: []work.State{work.Succeeded}})
			if err != nil || len(ends) != runs {
				t.Fatalf("%d runs succeeded, not %d: %v", len(ends), runs, err)
			}
			for _, run := range ends {
				events, err := stores[1].Events(t.Context(), "acme", run.ID, 1, 0)
				if err != nil || int64(len(events)) != run.Seq {
					t.Fatalf("run %s has %d events, not %d: %v", run.ID, len(events), run.Seq, err)
				}
				claims := 0
				for _, e := range events {
					if e.Type == work.StepClaimed {
						claims++
					}
				}
				if claims != 3 {
					t.Fatalf("run %s was claimed %d times, not 3", run.ID, claims)
				}
			}
		})
	}
}

func closeAll(t testing.TB, stores []*kernel.Store) {
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestServersKeepKeys lets three servers grant under one key for steps and one for runs, each with a limit.
func TestServersKeepKeys(t *testing.T) {
	const most, admitted, jobs = 3, 5, 150
	raw, hash := keyedPlan(t, most, admitted)
	url := server.Database(t)
	stores := servers(t, url, 3)
	together(stores, func(_ int, s *kernel.Store) {
		for range jobs / 3 / 10 {
			batch := submissions(10, raw, hash)
			for i := range batch {
				batch[i].Run.ConcurrencyKey = "site"
			}
			for _, out := range s.Submit(context.Background(), batch) {
				if out.Err != nil {
					t.Error(out.Err)
				}
			}
		}
	})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	stop := make(chan struct{})
	watched := make(chan int)
	go func() { // what is committed, looked at all the time
		full := 0
		for {
			select {
			case <-stop:
				watched <- full
				return
			default:
			}
			var leases, active int
			if err := conn.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM leases WHERE key = 'db'),
				(SELECT count(*) FROM keyed_runs WHERE NOT waiting)`).Scan(&leases, &active); err != nil {
				t.Error(err)
			}
			if leases > most || active > admitted {
				t.Errorf("%d leases of %d, %d runs of %d", leases, most, active, admitted)
			}
			if leases == most {
				full++
			}
		}
	}()
	var ended, held atomic.Int64
	together(stores, func(i int, s *kernel.Store) {
		ctx, session := context.Background(), fmt.Sprint("worker", i)
		if err := s.OpenSession(ctx, store.Session{ID: session, Worker: session, Tenant: "acme", Expires: now() + 3600e6}); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(time.Minute); ended.Load() < jobs && time.Now().Before(deadline); {
			reply, err := s.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "acme", Runners: []string{"noop"}, MinTier: 3, Max: 3})
			if err != nil {
				t.Error(err)
				return
			}
			if n := held.Add(int64(len(reply.Grants))); n > most {
				t.Errorf("%d steps run under a key for %d", n, most)
			}
			for _, g := range reply.Grants {
				held.Add(-1)
				out, err := s.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "acme", Reports: []store.ReportCommand{
					{Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, State: work.Succeeded}},
				}})
				if err != nil || out.Errs[0] != nil {
					t.Error(err, out.Errs)
				}
				ended.Add(1)
			}
		}
	})
	close(stop)
	if full := <-watched; full == 0 {
		t.Error("nothing was tried: the limit was never reached")
	}
	if ended.Load() != jobs {
		t.Errorf("%d of %d jobs ended", ended.Load(), jobs)
	}
}

// TestServersDecideOnce gives several servers the same command at the same moment: one of them does it.
func TestServersDecideOnce(t *testing.T) {
	stores := servers(t, server.Database(t), 3)
	raw, hash := onePlan(1)
	for round := range 20 {
		batch := submissions(1, raw, hash)
		batch[0].Run.RunToken, batch[0].Data.RunToken = fmt.Sprint("token", round), fmt.Sprint("token", round)
		var made, stale, reported atomic.Int64
		together(stores, func(i int, s *kernel.Store) {
			mine := []store.Submission{batch[0]}
			mine[0].Run.ID, mine[0].Run.Name = work.RunID(fmt.Sprintf("run_%d_%d", round, i)), fmt.Sprintf("name-%d-%d", round, i)
			switch out := s.Submit(t.Context(), mine)[0]; {
			case out.Err != nil:
				t.Error(out.Err)
			case !out.Existed:
				made.Add(1)
			}
		})
		session := fmt.Sprint("worker", round)
		if err := stores[0].OpenSession(t.Context(), store.Session{ID: session, Tenant: "acme", Expires: now() + 60e6}); err != nil {
			t.Fatal(err)
		}
		reply, err := stores[rand.N(3)].Exchange(t.Context(), store.ExchangeRequest{Session: session, Tenant: "acme", Runners: []string{"noop"}, MinTier: 3, Max: 10})
		if err != nil || len(reply.Grants) != 1 {
			t.Fatalf("%d grants, %v", len(reply.Grants), err)
		}
		g := reply.Grants[0]
		together(stores, func(_ int, s *kernel.Store) {
			out, err := s.Exchange(t.Context(), store.ExchangeRequest{Session: session, Tenant: "acme", Reports: []store.ReportCommand{
				{Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, State: work.Succeeded}},
			}})
			switch {
			case err != nil:
				t.Error(err)
			case out.Errs[0] == nil:
				reported.Add(1)
			case fault.CodeOf(out.Errs[0]) == fault.Stale:
				stale.Add(1)
			}
		})
		if made.Load() != 1 || reported.Load() != 1 || stale.Load() != 2 {
			t.Fatalf("made %d times, reported %d times, refused %d times", made.Load(), reported.Load(), stale.Load())
		}
	}
}

// TestServersOneRun lets three servers write to one run at the same time: they wait for each other, and nothing is lost or refused.
func TestServersOneRun(t *testing.T) {
	const each, lines = 40, 3
	stores := servers(t, server.Database(t), 3)
	text, _ := onePlan(3)
	var p work.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	for i := range p.Steps {
		p.Steps[i].Needs = nil
	}
	raw, err := canonical.Marshal(&p)
	if err != nil {
		t.Fatal(err)
	}
	submitAll(t, stores[0], 1, raw, canonical.Digest(raw))
	if err := stores[0].OpenSession(t.Context(), store.Session{ID: "s", Tenant: "acme", Expires: now() + 60e6}); err != nil {
		t.Fatal(err)
	}
	reply, err := stores[0].Exchange(t.Context(), store.ExchangeRequest{Session: "s", Tenant: "acme", Runners: []string{"noop"}, MinTier: 3, Max: 10})
	if err != nil || len(reply.Grants) != 3 {
		t.Fatalf("%d grants, %v", len(reply.Grants), err)
	}
	together(stores, func(i int, s *kernel.Store) {
		g := reply.Grants[i]
		for n := range each {
			c := store.LinesCommand{Session: g.Session, Tenant: "acme", Run: g.Run, Step: g.Step, Token: g.Token, From: int64(n*lines + 1), Lines: make([]work.LogLine, lines)}
			if err := s.AppendLines(t.Context(), []store.LinesCommand{c})[0]; err != nil {
				t.Error(err)
			}
			if err := s.Acknowledge(t.Context(), "acme", g.Run); err != nil {
				t.Error(err)
			}
		}
	})
	got, err := stores[1].Lines(t.Context(), "acme", reply.Grants[0].Run, 1, 0)
	if err != nil || len(got) != 3*each*lines {
		t.Fatalf("%d lines of %d, %v", len(got), 3*each*lines, err)
	}
	for i, l := range got {
		if l.Seq != int64(i+1) {
			t.Fatalf("line %d has number %d", i+1, l.Seq)
		}
	}
}

// TestServersEndSessions lets three servers find the same session expired while its worker comes back for more.
func TestServersEndSessions(t *testing.T) {
	stores := servers(t, server.Database(t), 3)
	raw, hash := onePlan(1)
	submitAll(t, stores[0], 60, raw, hash)
	for round := range 6 {
		session := fmt.Sprint("worker", round)
		if err := stores[0].OpenSession(t.Context(), store.Session{ID: session, Tenant: "acme", Expires: now() - 1}); err != nil {
			t.Fatal(err)
		}
		together(stores, func(i int, s *kernel.Store) {
			if i == 0 {
				for range 5 { // it may have ended meanwhile
					if _, err := s.Exchange(t.Context(), store.ExchangeRequest{Session: session, Tenant: "acme", Runners: []string{"noop"}, MinTier: 3, Max: 2}); err != nil && fault.CodeOf(err) != fault.NotFound {
						t.Error(err)
					}
				}
				return
			}
			if _, err := s.Tick(t.Context(), 100); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 { // what was passed over ends now
		if _, err := stores[1].Tick(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
	}
	orphans := 0
	runs, err := stores[1].Find(t.Context(), "acme", store.RunQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range runs {
		steps, err := stores[1].Steps(t.Context(), "acme", runs[i].ID, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for j := range steps {
			if steps[j].Lease != nil {
				orphans++
			}
		}
	}
	if orphans > 0 {
		t.Errorf("%d leases outlived their sessions", orphans)
	}
}

// TestKill ends PostgreSQL with SIGKILL while two servers work, again and again. Whatever was acknowledged is there afterwards, and
// everything comes to its end.
func TestKill(t *testing.T) {
	pg, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	url, err := pg.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stores := make([]*kernel.Store, 2)
	for i := range stores {
		d, err := postgres.Open(t.Context(), postgres.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = kernel.New(d, kernel.Options{Now: now})
	}
	raw, hash := onePlan(2)
	var mu sync.Mutex
	acknowledged, reported := map[work.RunID]bool{}, map[kernel.StepRef]bool{}
	failures, stop := atomic.Int64{}, make(chan struct{})
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() {
			submitUntil(s, raw, hash, stop, &failures, func(id work.RunID) { mu.Lock(); acknowledged[id] = true; mu.Unlock() })
		})
		all.Go(func() {
			workUntil(s, fmt.Sprint("worker", i), stop, &failures, func(ref kernel.StepRef) { mu.Lock(); reported[ref] = true; mu.Unlock() })
		})
	}
	grown := func(from int) bool {
		mu.Lock()
		defer mu.Unlock()
		return len(reported) >= from+20
	}
	for range 5 {
		mu.Lock()
		from := len(reported)
		mu.Unlock()
		for deadline := time.Now().Add(time.Minute); !grown(from); {
			if time.Now().After(deadline) {
				t.Fatal("nothing goes on")
			}
		}
		pg.Kill()
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	all.Wait()
	if failures.Load() == 0 {
		t.Error("nobody noticed that the database was gone")
	}
	for id := range acknowledged {
		if _, err := stores[0].Run(t.Context(), "acme", string(id)); err != nil {
			t.Fatalf("an acknowledged run is lost: %v", err)
		}
	}
	for ref := range reported {
		steps, err := stores[0].Steps(t.Context(), ref.Tenant, ref.Run, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			if s.ID == ref.Step && s.State != work.Succeeded {
				t.Fatalf("an acknowledged report is lost: %+v", s)
			}
		}
	}
	// Grants whose answers were lost come back with the end of their sessions.
	late := kernel.New(mustOpen(t, url), kernel.Options{Now: func() work.Time { return now() + 7200e6 }})
	for range 3 {
		if _, err := late.Tick(t.Context(), 10_000); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d runs and %d reports acknowledged, %d failures seen", len(acknowledged), len(reported), failures.Load())
	closeAll(t, append(stores, late))
}

func mustOpen(t testing.TB, url string) *postgres.Driver {
	t.Helper()
	d, err := postgres.Open(t.Context(), postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func stopped(stop chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

func submitUntil(s *kernel.Store, raw []byte, hash work.Digest, stop chan struct{}, failures *atomic.Int64, ok func(work.RunID)) {
	for !stopped(stop) {
		for _, out := range s.Submit(context.Background(), submissions(3, raw, hash)) {
			if out.Err != nil {
				failures.Add(1)
			} else {
				ok(out.Run.ID)
			}
		}
	}
}

// workUntil works as a worker does that loses answers: what it has not heard of is given back.
func workUntil(s *kernel.Store, session string, stop chan struct{}, failures *atomic.Int64, ok func(kernel.StepRef)) {
	ctx, lost := context.Background(), false
	open := func() error {
		return s.OpenSession(ctx, store.Session{ID: session, Worker: session, Tenant: "acme", Expires: now() + 3600e6})
	}
	for open() != nil && !stopped(stop) {
		failures.Add(1)
	}
	for !stopped(stop) {
		reply, err := s.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "acme", Runners: []string{"noop"}, MinTier: 3, Max: 5, Resync: lost})
		if lost = err != nil; lost {
			failures.Add(1)
			continue
		}
		for _, g := range reply.Grants {
			out, err := s.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "acme", Reports: []store.ReportCommand{
				{Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, State: work.Succeeded}},
			}})
			if err != nil {
				failures.Add(1)
			} else if out.Errs[0] == nil {
				ok(kernel.StepRef{Tenant: "acme", Run: g.Run, Step: g.Step})
			}
		}
	}
}
