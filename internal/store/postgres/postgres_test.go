package postgres_test

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/postgres"
	"orrery.example/orrery/internal/store/storetest"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

// server is shared by the tests of this package.
var server testservice.SharedPostgres

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("30") // each takes many round trips, and the rows are the same ones that SQLite and the model are tried with
	}
	os.Exit(server.Main(m))
}

// driver gives its database back when it is closed.
type driver struct {
	*postgres.Driver
	url  string
	home *databases
	once sync.Once
}

func (d *driver) Close() error {
	err := d.Driver.Close()
	d.once.Do(func() { d.home.give(d.url) })
	return err
}

// databases are those of a test; one that is closed is emptied and used again, which takes a fraction of making a new one.
type databases struct {
	mu   sync.Mutex
	free []string
	kept map[string]bool // to be opened again as they are
}

func connect(t testing.TB, url string) *postgres.Driver {
	t.Helper()
	d, err := postgres.Open(t.Context(), postgres.Options{URL: url, Unsafe: true, Connections: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func (d *databases) give(url string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.kept[url] {
		d.free = append(d.free, url)
	}
}

func (d *databases) open(t testing.TB) kernel.Driver {
	d.mu.Lock()
	var url string
	if n := len(d.free); n > 0 {
		url, d.free = d.free[n-1], d.free[:n-1]
	}
	d.mu.Unlock()
	if url == "" {
		url = server.Database(t)
	} else {
		empty(t, url)
	}
	return &driver{Driver: connect(t, url), url: url, home: d}
}

// empty deletes the rows of every table but the version of the schema.
func empty(t testing.TB, url string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tables, err := pgx.CollectRows(query(t, conn, `SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`), pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	tables = slices.DeleteFunc(tables, func(name string) bool { return name == "orrery_schema" || name == "store" })
	if _, err := conn.Exec(context.Background(), `DELETE FROM `+strings.Join(tables, `; DELETE FROM `)+`; UPDATE store SET incarnation = 1`,
		pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

func query(t testing.TB, conn *pgx.Conn, sql string, args ...any) pgx.Rows {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func (d *databases) reopen(t testing.TB, was kernel.Driver) kernel.Driver {
	url := was.(*driver).url
	d.mu.Lock()
	d.kept[url] = true
	d.mu.Unlock()
	if err := was.Close(); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	delete(d.kept, url)
	d.mu.Unlock()
	return &driver{Driver: connect(t, url), url: url, home: d}
}

// crash ends every process of the server at once, starts it again and returns a driver over a copy of what it has then.
func (d *databases) crash(t testing.TB, was kernel.Driver) kernel.Driver {
	s := server.Server(t)
	s.Kill()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := s.Copy(context.Background(), was.(*driver).url)
	if err != nil {
		t.Fatal(err)
	}
	return &driver{Driver: connect(t, url), url: url, home: d}
}

func TestDriver(t *testing.T) {
	d := databases{kept: map[string]bool{}}
	storetest.RunDriver(t, d.open, d.reopen)
}

func TestStore(t *testing.T) {
	d := databases{kept: map[string]bool{}}
	storetest.Run(t, storetest.Harness{
		Open: d.open, Crash: d.crash,
		Raise: func(t testing.TB, of kernel.Driver) {
			if err := of.(*driver).RaiseIncarnation(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestRestoreIsNoticed: a server that runs refuses a token from before a restore as soon as another has raised the incarnation.
func TestRestoreIsNoticed(t *testing.T) {
	url := server.Database(t)
	running := kernel.New(connect(t, url), kernel.Options{Now: now})
	defer running.Close()
	raw, hash := onePlan(1)
	submitAll(t, running, 1, raw, hash)
	if err := running.OpenSession(t.Context(), store.Session{ID: "s", Tenant: "acme", Expires: now() + 60e6}); err != nil {
		t.Fatal(err)
	}
	claim := store.ExchangeRequest{Session: "s", Tenant: "acme", Runners: []string{"noop", "process"}, MinTier: 3, Max: 1}
	got, err := running.Exchange(t.Context(), claim)
	if err != nil || len(got.Grants) != 1 {
		t.Fatalf("%d grants, %v", len(got.Grants), err)
	}
	restorer := connect(t, url)
	defer restorer.Close()
	if err := restorer.RaiseIncarnation(t.Context()); err != nil {
		t.Fatal(err)
	}
	g := got.Grants[0]
	reply, err := running.Exchange(t.Context(), store.ExchangeRequest{Session: "s", Tenant: "acme", Reports: []store.ReportCommand{{
		Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}},
	}}})
	if err != nil || fault.CodeOf(reply.Errs[0]) != fault.Stale {
		t.Errorf("a report from before the restore: %v, %v", reply.Errs, err)
	}
}
