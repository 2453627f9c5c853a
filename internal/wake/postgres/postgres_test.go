package postgres_test

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/wake"
	"orrery.example/orrery/internal/wake/postgres"
	"orrery.example/orrery/internal/wake/waketest"
)

var server testservice.SharedPostgres

func TestMain(m *testing.M) { os.Exit(server.Main(m)) }

func open(t *testing.T, servers int) []wake.Hints {
	url, out := server.Database(t), make([]wake.Hints, servers)
	for i := range out {
		out[i] = openAt(t, url)
	}
	return out
}

func openAt(t *testing.T, url string) *postgres.Hints {
	t.Helper()
	h, err := postgres.Open(postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func TestHints(t *testing.T) { waketest.Run(t, open) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// However much is announced, the database hears of it twenty times a second.
func TestFewNotifications(t *testing.T) {
	url := server.Database(t)
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `LISTEN orrery`); err != nil {
		t.Fatal(err)
	}
	h := openAt(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var announced atomic.Int64
	over := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(over)
		for ctx.Err() == nil {
			h.Announce()
			announced.Add(1)
		}
	}()
	const some, gap = 12, 50 * time.Millisecond
	for heard := range some {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			t.Fatalf("after %d notifications: %v", heard, err)
		}
	}
	took := time.Since(began)
	cancel()
	<-over
	if took < (some-2)*gap || announced.Load() < 2*some {
		t.Errorf("%d announcements became %d notifications in %s: more than one in %s", announced.Load(), some, took, gap)
	}
}

// Connections that break are made again, and nobody is told but by the hints that follow.
func TestBrokenConnections(t *testing.T) {
	url := server.Database(t)
	one, two := openAt(t, url), openAt(t, url)
	heard := two.Listen(t.Context())
	waketest.Reaches(t, one, heard)
	conn, others := connect(t, url), 0
	for others < 4 { // each has one that listens and one that announces, and makes them when it comes to it
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&others); err != nil {
			t.Fatal(err)
		}
		two.Announce()
	}
	broken := 0
	if err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&broken); err != nil || broken < 4 {
		t.Fatalf("%d connections broken, %v", broken, err)
	}
	waketest.Reaches(t, one, heard)
	waketest.Reaches(t, one, heard)
	waketest.Reaches(t, two, one.Listen(t.Context()))
}

func TestInvalidURL(t *testing.T) {
	if _, err := postgres.Open(postgres.Options{URL: "postgres://%zz"}); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}
