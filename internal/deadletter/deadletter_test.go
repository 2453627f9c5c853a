package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/deadletter"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

const (
	acme   work.Tenant = "acme"
	minute work.Time   = 60_000_000
)

type rig struct {
	*testing.T
	*kernel.Store
	letters *deadletter.Service
	clock   *atomic.Int64
	n       int
}

func newRig(t *testing.T) *rig {
	clock := &atomic.Int64{}
	clock.Store(int64(1_000_000 * minute))
	now := func() work.Time { return work.Time(clock.Add(1)) }
	s := kernel.New(memory.New(), kernel.Options{Now: now})
	t.Cleanup(func() { _ = s.Close() })
	return &rig{T: t, Store: s, letters: &deadletter.Service{Store: s, Now: now}, clock: clock}
}

func (r *rig) must(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

func (r *rig) submission(pack string, labels map[string]string, of *work.Run, token string) store.Submission {
	r.Helper()
	r.n++
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: pack, Version: "1.0.0", Digest: canonical.Digest(nil)}}
	for _, id := range []work.StepID{"a", "b"} {
		p.Steps = append(p.Steps, work.PlanStep{ID: id, Kind: work.KindRun, Run: &work.RunSpec{
			Runner: "process", Command: []string{"true"}, Sandbox: work.SandboxSpec{MinTier: "t0"},
			TimeoutMs: 60_000, GraceMs: 1_000, Retry: work.RetrySpec{MaxAttempts: 2, BackoffMs: 1},
		}})
	}
	raw, err := canonical.Marshal(p)
	r.must("a plan", err)
	run := work.Run{
		Tenant: acme, ID: work.RunID(fmt.Sprintf("run_%026d", r.n)), Name: fmt.Sprintf("amber-fox-%d", r.n), PlanHash: canonical.Digest(raw),
		Pack: p.Pack, Submitter: "ann", Labels: labels, RunToken: token,
	}
	if of != nil {
		run.RetryOf = of.ID
	}
	return store.Submission{Run: run, Canonical: raw, Data: work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, ReplayToken: "replay",
		InputsHash: canonical.Digest([]byte("{}")), Labels: labels, RunToken: token, RetryOf: run.RetryOf,
	}}
}

// dead is a run whose two steps used up their attempts.
func (r *rig) dead(pack string, labels map[string]string) work.Run {
	r.Helper()
	ctx := r.Context()
	out := r.Submit(ctx, []store.Submission{r.submission(pack, labels, nil, "")})
	r.must("submit", out[0].Err)
	for range 100 {
		r.must("session", r.OpenSession(ctx, store.Session{ID: "s", Worker: "w", Tenant: acme, Expires: work.Time(r.clock.Load()) + 60*minute, Local: true}))
		reply, err := r.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: acme, Runners: []string{"process"}, MinTier: 3, Max: 2})
		r.must("claim", err)
		for _, g := range reply.Grants {
			ended, err := r.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: acme, Reports: []store.ReportCommand{{
				Run: g.Run, Step: g.Step, Report: work.ReportedData{
					Token: g.Token, Worker: "w", State: work.Failed, Reason: work.Reason{Code: work.EndedByExit}, Class: "exit", ExitCode: 1,
				},
			}}})
			r.must("report", errors.Join(append(ended.Errs, err)...))
		}
		r.clock.Add(int64(10 * minute))
		_, err = r.Tick(ctx, 100)
		r.must("tick", err)
		run, err := r.Store.Run(ctx, acme, string(out[0].Run.ID))
		r.must("run", err)
		if run.State.Terminal() {
			return run
		}
	}
	r.Fatal("the run does not end")
	return work.Run{}
}

func (r *rig) retry(ctx context.Context, run work.Run) (work.Run, error) {
	out := r.Submit(ctx, []store.Submission{r.submission(run.Pack.Name, run.Labels, &run, deadletter.Token(run.ID))})
	return out[0].Run, out[0].Err
}

func (r *rig) states(run work.Run) map[work.StepID]deadletter.State {
	r.Helper()
	cases, err := r.letters.Show(r.Context(), run)
	r.must("show", err)
	out := map[work.StepID]deadletter.State{}
	for _, c := range cases {
		out[c.Step] = c.State
	}
	return out
}

func (r *rig) wants(what string, err error, code fault.Code) {
	r.Helper()
	if fault.CodeOf(err) != code {
		r.Errorf("%s: %v, not %s", what, err, code)
	}
}

// J7: people say what they know of a dead step, who looks after it, and that nobody needs it.
func TestJ7_ReviewOfDeadLetters(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	run := r.dead("nightly", nil)
	if got := r.states(run); len(got) != 2 || got["a"] != deadletter.Open || got["b"] != deadletter.Open {
		t.Fatalf("at first: %v", got)
	}
	ann := work.Actor{Name: "ann", Reason: "mine"}
	r.must("note", r.letters.Note(ctx, run, "", "ann", " the disk was full "))
	r.must("note", r.letters.Note(ctx, run, "a", "ben", "again"))
	r.wants("an empty note", r.letters.Note(ctx, run, "", "ann", " "), fault.Invalid)
	r.wants("a note on another step", r.letters.Note(ctx, run, "zzz", "ann", "x"), fault.NotFound)
	r.must("acknowledge", r.letters.Acknowledge(ctx, run, "a", ann))
	found, err := r.letters.List(ctx, acme, deadletter.Query{State: deadletter.Acknowledged})
	if err != nil || len(found) != 1 || found[0].Step != "a" || found[0].By.Name != "ann" || found[0].Pack != "nightly" || len(found[0].Notes) != 2 || found[0].Notes[0].Text != "the disk was full" {
		t.Fatalf("acknowledged: %+v, %v", found, err)
	}
	r.wants("to discard without a reason", r.letters.Discard(ctx, run, "b", work.Actor{Name: "ann"}), fault.Invalid)
	r.must("discard", r.letters.Discard(ctx, run, "b", ann))
	r.wants("to acknowledge what is discarded", r.letters.Acknowledge(ctx, run, "b", ann), fault.Conflict)
	if got := r.states(run); got["a"] != deadletter.Acknowledged || got["b"] != deadletter.Discarded {
		t.Errorf("then: %v", got)
	}
	if waiting, err := r.DeadLetters(ctx, acme, 0); err != nil || len(waiting) != 1 || waiting[0].Step != "a" {
		t.Errorf("waiting: %+v, %v", waiting, err)
	}
	_, err = r.retry(ctx, run)
	r.must("retry", err)
	if got := r.states(run); got["a"] != deadletter.Redriven || got["b"] != deadletter.Discarded {
		t.Errorf("after a retry: %v", got)
	}
	well := r.Submit(ctx, []store.Submission{r.submission("nightly", nil, nil, "")})[0].Run
	if got := r.states(well); len(got) != 0 {
		t.Errorf("a run without any: %v", got)
	}
	r.wants("a note on a run without any", r.letters.Note(ctx, well, "", "ann", "x"), fault.NotFound)
}

// B8: those that a query selects are redriven oldest first, in batches, once, whoever asks how often.
func TestB8_RedriveByQuery(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	var nightly []work.Run
	for i := range 3 {
		nightly = append(nightly, r.dead("nightly", map[string]string{"env": []string{"prod", "test", "prod"}[i]}))
	}
	other := r.dead("hourly", map[string]string{"env": "prod"})
	count := func(q deadletter.Query, want int) {
		t.Helper()
		if got, err := r.letters.List(ctx, acme, q); err != nil || len(got) != want {
			t.Errorf("%+v selects %d, not %d: %v", q, len(got), want, err)
		}
	}
	count(deadletter.Query{}, 8)
	count(deadletter.Query{Pack: "nightly"}, 6)
	count(deadletter.Query{Labels: map[string]string{"env": "prod"}}, 6)
	count(deadletter.Query{Step: "[ab]"}, 0)
	count(deadletter.Query{Step: "?"}, 8)
	count(deadletter.Query{Step: "b", Code: work.EndedByExit}, 4)
	count(deadletter.Query{Code: "OTHER"}, 0)
	count(deadletter.Query{Before: nightly[1].Created}, 2)
	count(deadletter.Query{Since: nightly[1].Created}, 6)
	_, err := r.letters.List(ctx, acme, deadletter.Query{State: deadletter.Redriven})
	r.wants("another state", err, fault.Invalid)

	q := deadletter.Query{Pack: "nightly", Step: "a"}
	planned, left, err := r.letters.Plan(ctx, acme, q, 2)
	if err != nil || len(planned) != 2 || left != 1 || planned[0].Run.ID != nightly[0].ID || len(planned[0].Steps) != 1 {
		t.Fatalf("planned: %+v, %d, %v", planned, left, err)
	}
	failing := errors.New("no room")
	broken := append([]deadletter.Outcome{}, planned...)
	r.must("redrive", r.letters.Redrive(ctx, broken, work.Actor{Name: "ann", Reason: "back"}, func(ctx context.Context, run work.Run) (work.Run, error) {
		if run.ID == nightly[0].ID {
			return work.Run{}, failing
		}
		return r.retry(ctx, run)
	}))
	if !errors.Is(broken[0].Err, failing) || broken[1].Err != nil || broken[1].Again.RetryOf != nightly[1].ID {
		t.Fatalf("redriven: %+v", broken)
	}
	// The same plan again, by somebody else at the same time: one run for each.
	r.must("redrive", r.letters.Redrive(ctx, planned, work.Actor{Name: "ben"}, r.retry))
	if planned[1].Again.ID != broken[1].Again.ID {
		t.Errorf("redriven twice: %s and %s", planned[1].Again.ID, broken[1].Again.ID)
	}
	cases, err := r.letters.Show(ctx, nightly[0])
	if err != nil || cases[1].State != deadletter.Redriven || cases[1].Again != planned[0].Again.ID || cases[1].By.Name != "ben" {
		t.Errorf("shown: %+v, %v", cases, err)
	}
	planned, left, err = r.letters.Plan(ctx, acme, q, 2)
	if err != nil || len(planned) != 1 || left != 0 || planned[0].Run.ID != nightly[2].ID {
		t.Errorf("the next batch: %+v, %d, %v", planned, left, err)
	}
	if got := r.states(other); got["a"] != deadletter.Open {
		t.Errorf("what was not selected: %v", got)
	}
}

// What people said goes with the run.
func TestB14_NotesGoWithTheRun(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	run := r.dead("nightly", nil)
	r.must("note", r.letters.Note(ctx, run, "", "ann", "x"))
	r.must("seal", r.AppendLog(ctx, acme, store.LogAppend{
		Runs: []work.RunID{run.ID}, Leaves: [][]byte{[]byte("leaf")}, Hashes: [][32]byte{{1}}, Checkpoint: []byte("c"),
	}))
	r.must("evidence", r.Attach(ctx, acme, run.ID, "evidence", []byte("sha256:00")))
	for left := true; left; {
		var err error
		left, err = r.Erase(ctx, acme, run.ID, 1)
		r.must("erase", err)
	}
	if rows, err := r.Records(ctx, acme, store.LetterKind, "", "", 0); err != nil || len(rows) != 0 {
		t.Errorf("%d are left, %v", len(rows), err)
	}
}
