package verify_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/simulator/randomplan"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

// driver plays a run with the engine, in an order that chance decides.
type driver struct {
	t      *testing.T
	rng    *rand.Rand
	w      *evidencetest.World
	people []*keyring.Private
	g      *engine.Graph
	view   *replay.History
	raw    []byte
	now    work.Time
}

func (d *driver) must(what string, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(what, err)
	}
}

func newDriver(t *testing.T, seed uint64, w *evidencetest.World, people []*keyring.Private) *driver {
	d := &driver{t: t, rng: rand.New(rand.NewPCG(seed, 2)), w: w, people: people, now: evidencetest.Start}
	plan := randomplan.New(d.rng.IntN, randomplan.Shape{
		Steps: 12, Depth: 3, Gates: true, Policies: true, Finally: true, Conditions: true, Retries: true, Limits: true, TimeLimit: true,
	})
	hash, raw, err := canonical.DigestOf(plan)
	d.must("plan", err)
	d.raw = raw
	d.g, err = engine.NewGraph(plan, hash)
	d.must("graph", err)
	d.view = replay.NewHistory(work.Run{
		Tenant: "acme", ID: "run_1", Name: "bold-owl", PlanHash: hash, Pack: plan.Pack, Submitter: "alice", SubmitterKey: w.Alice.KeyID(),
	})
	return d
}

func (d *driver) submit() []byte {
	run := d.view.Run()
	inputs, err := evidence.InputsDigest(d.g.Plan.Inputs)
	d.must("inputs", err)
	e, err := evidence.SignSubmission(context.Background(), evidence.Submission{
		Tenant: run.Tenant, Run: run.ID, Pack: run.Pack, InputsDigest: inputs, PlanHash: run.PlanHash, Nonce: "0123456789abcdef", IssuedAt: d.now,
	}, d.w.Alice)
	d.must("submission", err)
	engine.Submit(d.g, d.view, d.now, work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: "alice", SubmitterKey: run.SubmitterKey, ReplayToken: "r",
		InputsHash: inputs, Incarnation: 1, Request: canonical.Digest(e.Encode()),
	}, d.rng.IntN(10) == 0)
	return e.Encode()
}

func (d *driver) token(id work.StepID) work.Token {
	return work.Token{Incarnation: 1, Epoch: d.view.Step(id).Epoch}
}

// move does one thing that is possible to some live step, or to the run.
func (d *driver) move() {
	d.now += work.Time(1 + d.rng.IntN(2_000_000))
	run := d.view.Run()
	switch chance := d.rng.IntN(80); {
	case run.Phase == work.PhaseAdmission:
		engine.Admit(d.g, d.view, d.now)
		return
	case run.Paused != nil && chance < 30:
		d.must("resume", engine.Resume(d.g, d.view, d.now, work.Actor{Name: "alice"}))
		return
	case chance == 79:
		d.must("cancel", engine.Cancel(d.g, d.view, d.now, work.Actor{Name: "alice", Reason: "wrong day"}))
		return
	case chance == 78 && run.Paused == nil:
		d.must("pause", engine.Pause(d.g, d.view, d.now, work.Actor{Name: "alice"}))
		return
	case run.Due != 0 && (d.now >= run.Due || chance == 77):
		d.now = max(d.now, run.Due)
		engine.Due(d.g, d.view, d.now)
		return
	}
	live := d.view.Live()
	if len(live) == 0 {
		return
	}
	id := live[d.rng.IntN(len(live))]
	switch row := d.view.Step(id); {
	case row.State == work.Queued && !row.Held && row.Queue != nil:
		// What cannot be rendered ends the step; the claim is refused then, and the history says why.
		_, _ = engine.Claim(d.g, d.view, d.now, id, "s", "w", 1)
	case row.State == work.Running && row.Lease != nil:
		d.attempt(id)
	case row.State == work.Retrying:
		d.now = max(d.now, row.Timer)
		engine.DueStep(d.g, d.view, d.now, id, 1)
	case row.State == work.Waiting:
		d.decide(id, row)
	}
}

func (d *driver) attempt(id work.StepID) {
	switch d.rng.IntN(10) {
	case 0:
		d.must("ack", engine.Ack(d.g, d.view, d.now, id, d.token(id), 1))
	case 1:
		d.must("revoke", engine.Revoke(d.g, d.view, d.now, id, work.RevokedData{
			Token: d.token(id), Reason: work.Reason{Code: work.EndedByWorkerLoss}, Charge: d.rng.IntN(2) == 0,
		}, 1))
	case 2:
		d.now = max(d.now, d.view.Step(id).Timer)
		engine.DueStep(d.g, d.view, d.now, id, 1)
	default:
		r := work.ReportedData{
			Token: d.token(id), Worker: "w", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, StartedAt: d.now, EndedAt: d.now,
			Outputs: json.RawMessage(`{"items":[` + strings.TrimSuffix(strings.Repeat(`"x",`, d.rng.IntN(4)), ",") + `]}`),
		}
		if d.rng.IntN(6) == 0 {
			r.State, r.ExitCode, r.Class, r.Reason, r.Outputs = work.Failed, 1, "exit", work.Reason{Code: work.EndedByExit}, nil
		}
		d.must("report", engine.Report(d.g, d.view, d.now, id, r, 1))
	}
}

func (d *driver) decide(id work.StepID, row *work.Step) {
	if d.now >= row.Timer || d.rng.IntN(12) == 0 {
		d.now = max(d.now, row.Timer)
		engine.DueStep(d.g, d.view, d.now, id, 1)
		return
	}
	by := d.people[len(row.Decisions)%len(d.people)]
	a := evidence.Answer{
		Tenant: "acme", Run: "run_1", Gate: id, PlanHash: d.g.Hash, Decision: "approved", DecidedAt: d.now,
		Nonce: fmt.Sprintf("nonce-%s-%d-0123456789", id, len(d.view.Events())),
	}
	if d.rng.IntN(8) == 0 {
		a.Decision = "rejected"
	}
	e, err := evidence.SignApproval(context.Background(), a, by)
	d.must("sign", err)
	decision, _, err := evidence.Approval(e, d.w.Trust, d.now)
	d.must("approval", err)
	d.must("decide", engine.Decide(d.g, d.view, d.now, decision))
}

// Whatever plan and whatever order: the evidence of what the engine did is valid, by rules that the verifier has of its own.
func TestAnyHistoryOfTheEngineIsValid(t *testing.T) {
	runs := 600
	if testing.Short() {
		runs = 40
	}
	w := evidencetest.NewWorld(t)
	var people []*keyring.Private
	for i := range 6 {
		p, err := keyring.Generate(fmt.Sprintf("person%d", i), keyring.Ed25519, []keyring.Usage{keyring.Approve}, evidencetest.Start-1)
		if err != nil {
			t.Fatal(err)
		}
		if w.Trust, err = w.Trust.With(p.Key); err != nil {
			t.Fatal(err)
		}
		people = append(people, p)
	}
	ends := map[work.State]int{}
	for seed := range uint64(runs) {
		d := newDriver(t, seed, w, people)
		request := d.submit()
		for moves := 0; !d.view.Run().State.Terminal(); moves++ {
			if moves > 50_000 {
				t.Fatalf("seed %d: the run does not end", seed)
			}
			d.move()
		}
		d.must("history", d.view.Err())
		events := d.view.Events()
		run := *d.view.Run()
		last := events[len(events)-1]
		run.Seq, run.Head = last.Seq, last.Hash
		record := &evidence.Record{Run: run, Plan: d.raw, Events: events, Request: request, Trust: w.Trust}
		w.Seal(t, record)
		r := judge(pack(t, record, w.Attestor), w.Trust)
		if r.Verdict != verify.Valid || r.Status != run.State {
			t.Errorf("seed %d: %s %s", seed, r.Verdict, r.Status)
			show(t, r)
			for _, e := range events {
				t.Logf("%d %s %s %d %s", e.Seq, e.Type, e.Step, e.Attempt, e.Data)
			}
			t.FailNow()
		}
		ends[run.State]++
	}
	for _, s := range []work.State{work.Succeeded, work.Failed, work.Cancelled} {
		if ends[s] == 0 {
			t.Errorf("no run ended %s: %v", s, ends)
		}
	}
	t.Log(ends)
}
