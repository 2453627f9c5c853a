package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// A transaction that has taken a number and is slow to commit holds back what others have committed meanwhile, so that nobody who follows goes
// past it; one that has ended, either way, does not.
func TestFeedWaitsForSmallerNumbers(t *testing.T) {
	url := server.Database(t)
	d := connect(t, url)
	write := func(tenant work.Tenant, run work.RunID) {
		t.Helper()
		if err := d.Update(t.Context(), func(tx kernel.Tx) error {
			return tx.AppendEvents(tenant, run, []work.Event{{Tenant: tenant, Run: run, Seq: 1, Type: work.StepDue}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	runs := func() (out []work.RunID) {
		t.Helper()
		upTo, err := d.Settled(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := d.View(t.Context(), func(r kernel.Reader) error {
			events, err := r.Feed("acme", 0, upTo, 0)
			for _, e := range events {
				out = append(out, e.Run)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	same := func(what string, want ...work.RunID) {
		t.Helper()
		got := runs()
		if len(got) != len(want) {
			t.Fatalf("%s: %v, not %v", what, got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%s: %v, not %v", what, got, want)
			}
		}
	}
	slow := func(run string) pgx.Tx {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `INSERT INTO events (tenant, run, first, body, pos) SELECT 'acme', $1, 1, body, nextval('events_pos')
			FROM events WHERE run = 'run_1'`, run); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	write("acme", "run_1")
	same("one", "run_1")
	one := slow("run_2") // the newest transaction of all, with the greatest number
	same("a transaction is under way", "run_1")
	write("acme", "run_3")
	same("a later one has committed", "run_1")
	two := slow("run_4")
	if err := one.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	write("acme", "run_5")
	same("the slow one has committed, another is under way", "run_1", "run_2")
	if err := two.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	same("it has given up", "run_1", "run_2", "run_3", "run_5")
}
