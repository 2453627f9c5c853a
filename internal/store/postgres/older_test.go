package postgres_test

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/storetest"
	"orrery.example/orrery/internal/work"
)

// Databases that earlier versions have written are brought up to date with nothing lost: histories are whole, the feed has every event,
// and what waits can be acted on. Each is what pg_dump wrote of a server's database after the tour (which waits), a run that failed and
// one that succeeded.
func TestB14_OlderDatabases(t *testing.T) {
	dumps, err := filepath.Glob("testdata/older/schema-*.sql.gz")
	if err != nil || len(dumps) == 0 {
		t.Fatal("there are no older databases", err)
	}
	for _, dump := range dumps {
		t.Run(filepath.Base(dump), func(t *testing.T) {
			url := server.Database(t)
			load(t, url, dump)
			d := connect(t, url)
			s := kernel.New(d, kernel.Options{Now: func() work.Time { return 1 << 51 }})
			const tenant = "local"
			runs, err := s.Find(t.Context(), tenant, store.RunQuery{})
			if err != nil || len(runs) != 3 {
				t.Fatalf("%d runs, %v", len(runs), err)
			}
			storetest.Audit(t, d, tenant)
			ends, events := map[string]work.State{}, int64(0)
			for i := range runs {
				r := &runs[i]
				ends[r.Pack.Name] = r.State
				events += r.Seq
				lines, err := s.Lines(t.Context(), tenant, r.ID, 1, 0)
				if err != nil || r.Pack.Name != "nightly" && len(lines) == 0 {
					t.Errorf("%s has %d lines, %v", r.Pack.Name, len(lines), err)
				}
				if plan, err := s.Plan(t.Context(), tenant, r.PlanHash); err != nil || len(plan) == 0 {
					t.Errorf("the plan of %s: %v", r.Pack.Name, err)
				}
			}
			if ends["fine"] != work.Succeeded || ends["nightly"] != work.Failed || ends["tour"] != work.Running {
				t.Errorf("%v", ends)
			}
			if page, err := s.Feed(t.Context(), tenant, -1, 0); err != nil || int64(len(page.Events)) != events {
				t.Errorf("%d of %d events in the feed, %v", len(page.Events), events, err)
			}
			if err := d.View(t.Context(), func(r kernel.Reader) error {
				n, err := r.LiveRuns(tenant, 0)
				if n != 1 {
					t.Errorf("%d runs have not ended, not the one", n)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			tour := runs[len(runs)-1]
			if errs := s.Control(t.Context(), []store.ControlCommand{{
				Tenant: tenant, Run: tour.ID, Verb: "cancel", Actor: work.Actor{Name: "ada", Reason: "enough"},
			}}); errs[0] != nil {
				t.Fatal(errs[0])
			}
			if tour, err = s.Run(t.Context(), tenant, string(tour.ID)); err != nil || tour.Reason.Code == "" {
				t.Errorf("after the cancel: %s %v, %v", tour.State, tour.Reason, err)
			}
			storetest.Audit(t, d, tenant)
		})
	}
}

// load runs what pg_dump has written.
func load(t *testing.T, url, dump string) {
	t.Helper()
	f, err := os.Open(dump)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zipped)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), string(text), pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}
