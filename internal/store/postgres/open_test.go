package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

// Servers that start at the same moment bring the schema up to date once.
func TestOpenTogether(t *testing.T) {
	url := server.Database(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			d, err := postgres.Open(t.Context(), postgres.Options{URL: url, Unsafe: true})
			if err != nil {
				t.Error(err)
				return
			}
			_ = d.Close()
		})
	}
	all.Wait()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var steps, newest int
	if err := conn.QueryRow(t.Context(), `SELECT count(*), max(version) FROM orrery_schema`).Scan(&steps, &newest); err != nil || steps != newest || steps == 0 {
		t.Errorf("%d steps to version %d, %v", steps, newest, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	newer := server.Database(t)
	connect(t, newer)
	conn, err := pgx.Connect(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `INSERT INTO orrery_schema VALUES (1000, now())`); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		o    postgres.Options
		code fault.Code
	}{
		"a newer schema":               {postgres.Options{URL: newer, Unsafe: true}, fault.Conflict},
		"a server that does not flush": {postgres.Options{URL: server.Database(t)}, fault.Invalid},
		"no URL":                       {postgres.Options{URL: "postgres://%zz"}, fault.Invalid},
		"nobody there":                 {postgres.Options{URL: "postgres://orrery@127.0.0.1:1/none?sslmode=disable"}, fault.Unavailable},
	} {
		d, err := postgres.Open(t.Context(), c.o)
		if err == nil {
			_ = d.Close()
		}
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, not %s", what, err, c.code)
		}
	}
}

// A commit whose answer does not arrive is unknown, not refused; and the command may be sent again.
func TestLostCommit(t *testing.T) {
	pg, err := testservice.StartPostgres(testservice.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	url, err := pg.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := connect(t, url)
	runs := 0
	err = d.Update(t.Context(), func(tx kernel.Tx) error {
		if runs++; runs == 1 {
			if err := tx.PutSession(store.Session{ID: "s1", Tenant: "acme", Expires: 1}); err != nil {
				return err
			}
			if _, err := tx.LeasesBySession("s1"); err != nil {
				return err
			}
			pg.Kill() // between the last question and the commit
			if err := pg.Start(); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if fault.CodeOf(err) != fault.Unavailable || runs != 1 {
		t.Fatalf("%d runs, %v", runs, err)
	}
	if err := d.Update(t.Context(), func(tx kernel.Tx) error { return tx.PutSession(store.Session{ID: "s1", Tenant: "acme", Expires: 1}) }); err != nil {
		t.Fatalf("after the server is back: %v", err)
	}
}

// Two transactions that wait for each other are run again, and both take place.
func TestDeadlock(t *testing.T) {
	url := server.Database(t)
	one, two := connect(t, url), connect(t, url)
	for i := range 2 {
		id := work.RunID(fmt.Sprint("run_", i))
		if err := one.Update(t.Context(), func(tx kernel.Tx) error {
			return tx.PutRun(&work.Run{Tenant: "acme", ID: id, Name: string(id), Created: 1, Updated: 1, State: work.Running, Phase: work.PhaseMain})
		}); err != nil {
			t.Fatal(err)
		}
	}
	var met sync.WaitGroup
	met.Add(2)
	var all sync.WaitGroup
	for i, d := range []*postgres.Driver{one, two} {
		all.Go(func() {
			first, second := work.RunID(fmt.Sprint("run_", i)), work.RunID(fmt.Sprint("run_", 1-i))
			tries := 0
			if err := d.Update(t.Context(), func(tx kernel.Tx) error {
				a, err := tx.Run("acme", first)
				if err != nil {
					return err
				}
				if tries++; tries == 1 {
					met.Done()
					met.Wait()
				}
				b, err := tx.Run("acme", second)
				if err != nil {
					return err
				}
				a.Seq++
				b.Seq++
				if err := tx.PutRun(a); err != nil {
					return err
				}
				return tx.PutRun(b)
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := one.View(t.Context(), func(r kernel.Reader) error {
		for i := range 2 {
			row, err := r.Run("acme", work.RunID(fmt.Sprint("run_", i)))
			if err != nil || row.Seq != 2 {
				t.Errorf("%+v, %v", row, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// No statement of the path of a job reads a whole table, whatever the planner knew when it prepared the statement: here that the tables
// are empty.
func TestNoTableIsReadWhole(t *testing.T) {
	url := server.Database(t)
	s := servers(t, url, 1)[0]
	raw, hash := onePlan(2)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	type counts struct{ inserted, whole, found int64 }
	look := func() map[string]counts {
		out := map[string]counts{}
		var name string
		var c counts
		rows := query(t, conn, `SELECT relname, n_tup_ins, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables`)
		if _, err := pgx.ForEachRow(rows, []any{&name, &c.inserted, &c.whole, &c.found}, func() error { out[name] = c; return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	submitAll(t, s, 2000, raw, hash)
	var ended atomic.Int64
	drive(t, s, "worker", 50, &ended, 4000)
	if err := s.Close(); err != nil { // its connections tell what they have counted
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); look()["steps"].inserted < 4000; {
		if time.Now().After(deadline) {
			t.Fatal("the server has counted nothing")
		}
	}
	for name, c := range look() {
		if name != "orrery_schema" && name != "store" && name != "sessions" && c.whole > 100 {
			t.Errorf("%d rows of %s were read in passing", c.whole, name)
		}
		// Until the first statistics are there, some look-ups read more than they need; a thousand times more would be each row for each other.
		if name != "store" && name != "sessions" && c.found > 200*c.inserted+1000 {
			t.Errorf("%d rows of %s were found through an index, for %d that were made", c.found, name, c.inserted)
		}
	}
}

// A transaction that only looked and locked is rolled back, so that nobody waits for a disk that has nothing to keep; one that changed a row is not.
func TestNothingIsCommitted(t *testing.T) {
	url := server.Database(t)
	d := connect(t, url)
	defer d.Close()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	row := store.Record{Tenant: "acme", Kind: "kind", ID: "id", Version: 1, Doc: []byte(`{}`)}
	ended := func(column string) (how string) {
		if err := conn.QueryRow(t.Context(), `SELECT pg_xact_status(`+column+`::text::xid8) FROM records`).Scan(&how); err != nil {
			t.Fatal(err)
		}
		return how
	}
	if err := d.Update(t.Context(), func(tx kernel.Tx) error { return tx.PutRecord(row) }); err != nil {
		t.Fatal(err)
	}
	if how := ended("xmin"); how != "committed" {
		t.Errorf("a transaction that made a row was %s", how)
	}
	if err := d.Update(t.Context(), func(tx kernel.Tx) error {
		_, err := tx.Record(row.Tenant, row.Kind, row.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if how := ended("xmax"); how != "aborted" {
		t.Errorf("a transaction that locked a row and changed none was %s", how)
	}
}

// The planner learns of a young store from its first runs on, without waiting for the server to look.
func TestStatisticsOfAYoungStore(t *testing.T) {
	url := server.Database(t)
	s := servers(t, url, 1)[0]
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `ALTER TABLE runs SET (autovacuum_enabled = off)`); err != nil {
		t.Fatal(err)
	}
	raw, hash := onePlan(1)
	submitAll(t, s, 300, raw, hash)
	var known float64
	for deadline := time.Now().Add(time.Minute); known < 100; {
		if err := conn.QueryRow(t.Context(), `SELECT reltuples FROM pg_class WHERE relname = 'runs'`).Scan(&known); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 300 runs the planner thinks there are %g", known)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
