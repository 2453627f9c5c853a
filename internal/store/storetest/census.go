package storetest

import (
	"context"
	"errors"
	"testing"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// census: what is counted, and what is not.
func census(t *testing.T, d kernel.Driver) {
	run := plainRun("acme", "run_1")
	other := plainRun("beta", "run_2")
	leased := func(id work.StepID, session string) *work.Step {
		s := plainStep(run, id)
		s.State, s.Queue, s.Lease = work.Running, nil, &work.Lease{Session: session, Granted: 1, Deadline: 90}
		return s
	}
	held, later, first := plainStep(run, "held"), plainStep(run, "later"), plainStep(other, "first")
	held.Held, later.Queue.At, first.Queue.At = true, 7, 0 // a time like any other
	sealed, ended := plainRun("acme", "run_3"), plainRun("acme", "run_4")
	for _, r := range []*work.Run{sealed, ended} {
		r.State, r.Phase, r.Ended = work.Succeeded, work.PhaseEnded, 5
	}
	mustUpdate(t, d, func(tx kernel.Tx) error {
		return errors.Join(
			tx.PutRun(run), tx.PutRun(other), tx.PutRun(sealed), tx.PutRun(ended),
			tx.PutStep(plainStep(run, "a")), tx.PutStep(later), tx.PutStep(held), tx.PutStep(plainStep(other, "a")), tx.PutStep(first),
			tx.PutStep(leased("live", "s1")), tx.PutStep(leased("lost", "s2")), tx.PutStep(leased("gone", "nobody")),
			tx.PutSession(store.Session{ID: "s1", Tenant: "acme", Expires: 11}), tx.PutSession(store.Session{ID: "s2", Tenant: "acme", Expires: 10}),
			tx.PutDeadLetter(store.DeadLetter{Tenant: "acme", Run: "run_1", Step: "x", At: 3}),
			tx.PutDeadLetter(store.DeadLetter{Tenant: "acme", Run: "run_3", Step: "x", At: 3}),
			tx.ResolveDeadLetters("acme", "run_3", "", work.Actor{Name: "ann"}),
			tx.AppendLog("acme", store.LogAppend{Runs: []work.RunID{"run_3"}, Leaves: [][]byte{{1}}, Hashes: [][32]byte{{1}}}),
		)
	})
	want := []store.Census{
		{Tenant: "acme", Queued: 2, Oldest: 1, Leases: 3, Lost: 2, Workers: 1, DeadLetters: 1, Unsealed: 1},
		{Tenant: "beta", Queued: 2, Oldest: 0},
	}
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		got, err := r.Census(10)
		same(t, "census", want, got, err)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
