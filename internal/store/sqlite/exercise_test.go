package sqlite

import (
	"errors"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// exercise uses every statement that a transaction may need.
func exercise(tx kernel.Tx) error {
	run := &work.Run{Tenant: "t", ID: "r", Name: "n", State: work.Running, Phase: work.PhaseMain, Created: 1, Updated: 2, PlanHash: "p"}
	step := &work.Step{Tenant: "t", Run: "r", ID: "s", State: work.Queued, Queue: &work.QueueEntry{Runner: "process"}}
	moving := &work.Step{Tenant: "t", Run: "r", ID: "m", State: work.Running, Done: 1}
	ended := *run
	ended.State, ended.Phase, ended.Ended = work.Succeeded, work.PhaseEnded, 3
	seen := ended
	seen.Acknowledged = true
	ready := &kernel.ReadyStep{}
	return errors.Join(
		tx.PutRun(run), tx.PutRun(run), tx.PutRun(&ended), tx.PutRun(&seen), tx.PutStep(step), tx.PutStep(moving),
		tx.PutSession(store.Session{ID: "x"}), tx.DeleteSession("x"), tx.PutPlan("t", "p", nil),
		tx.AppendLog("t", store.LogAppend{Runs: []work.RunID{"r"}, Leaves: [][]byte{{1}}, Hashes: [][32]byte{{1}}}),
		tx.PutDeadLetter(store.DeadLetter{Tenant: "t", Run: "r", Step: "s"}), tx.ResolveDeadLetters("t", "r", "", work.Actor{}),
		asked(tx.Run("t", "r")), asked(tx.RunByName("t", "n")), asked(tx.RunByToken("t", "x")), asked(tx.ActiveRuns("t", "k")),
		asked(tx.FirstWaiting("t", "k")), asked(tx.Unsealed("t", 1)), asked(tx.FindRuns("t", store.RunQuery{})),
		asked(tx.FindRuns("t", store.RunQuery{Open: true, Since: 1, Before: 2})), asked(tx.FindRuns("t", store.RunQuery{States: []work.State{work.Running}})),
		asked(tx.Step("t", "r", "s")), asked(tx.Steps("t", "r", "", 1)), asked(tx.LiveSteps("t", "r")), asked(tx.FirstHeld("t", "r", "")),
		asked(tx.Ready("t", []string{"process"}, nil, nil, 1)), asked(tx.Ready("t", []string{"process"}, nil, ready, 1)), asked(tx.LeasesByKey("t", "k")),
		asked(tx.LeasesBySession("x")), asked(tx.DueSteps(1, 1)), asked(tx.DueRuns(1, 1)), asked(tx.NextDue()),
		asked(tx.Sessions("", 1)), asked(tx.Sessions("*local", 1)), asked(tx.Sessions("*live", 1)), asked(tx.Sessions("x", 1)),
		asked(tx.Events("t", "r", 1, 1)), asked(tx.Lines("t", "r", 1, 1)), asked(tx.Plan("t", "p")), asked(tx.Document("t", "r", "k")),
		asked(tx.Cached("t", "k")), asked(tx.DeadLetters("t", 1)), asked(tx.LogHashes("t", []int64{0})),
	)
}

func asked[T any](_ T, err error) error { return err }
