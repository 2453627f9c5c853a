package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// rig is a store over a driver with a clock that only the test moves.
type rig struct {
	tb
	*kernel.Store
	driver kernel.Driver
	clock  *atomic.Int64
	names  int
}

// tb is what a test and a property have in common.
type tb interface {
	Helper()
	Error(...any)
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
	Failed() bool
	Cleanup(func())
}

const (
	acme   work.Tenant = "acme"
	zenith work.Tenant = "zenith"

	second work.Time = 1_000_000
	start            = 1_000_000 * second
)

func newRig(t tb, d kernel.Driver) *rig {
	clock := &atomic.Int64{}
	clock.Store(int64(start))
	return rigAt(t, d, clock)
}

func rigAt(t tb, d kernel.Driver, clock *atomic.Int64) *rig {
	s := kernel.New(d, kernel.Options{Now: func() work.Time { return work.Time(clock.Load()) }})
	t.Cleanup(func() { _ = s.Close() }) // tests that care close it themselves
	return &rig{tb: t, Store: s, driver: d, clock: clock}
}

func (r *rig) now() work.Time       { return work.Time(r.clock.Load()) }
func (r *rig) advance(by work.Time) { r.clock.Add(int64(by)) }
func (r *rig) ctx() context.Context { return context.Background() }
func (r *rig) must(what string, err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// a plan of run steps; change may make something else of it.
func plan(change func(*work.Plan), steps ...work.PlanStep) *work.Plan {
	p := &work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: "suite", Version: "1.0.0", Digest: canonical.Digest(nil)}, Steps: steps,
	}
	if change != nil {
		change(p)
	}
	return p
}

func runStep(id work.StepID, needs ...work.StepID) work.PlanStep {
	return work.PlanStep{ID: id, Kind: work.KindRun, Needs: needs, Run: &work.RunSpec{
		Runner: "process", Command: []string{"true"}, Sandbox: work.SandboxSpec{MinTier: "t0"},
		TimeoutMs: 60_000, GraceMs: 1_000, Retry: work.RetrySpec{MaxAttempts: 1},
	}}
}

func gateStep(id work.StepID) work.PlanStep {
	return work.PlanStep{ID: id, Kind: work.KindApproval, Approval: &work.ApprovalSpec{Required: 1, TTLMs: 60_000}}
}

// submission is a run of a plan with an id of its own.
func (r *rig) submission(tenant work.Tenant, p *work.Plan) store.Submission {
	r.names++
	return submissionOf(r.tb, tenant, p, r.names)
}

func submissionOf(t tb, tenant work.Tenant, p *work.Plan, n int) store.Submission {
	raw, err := canonical.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	run := work.Run{
		Tenant: tenant, ID: work.RunID(fmt.Sprintf("run_%026d", n)), Name: fmt.Sprintf("amber-fox-%d", n), PlanHash: canonical.Digest(raw),
		Pack: p.Pack, Submitter: "ann",
	}
	if p.Concurrency != nil {
		run.ConcurrencyKey = p.Concurrency.Key
	}
	return store.Submission{Run: run, Canonical: raw, Data: work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, ReplayToken: "replay",
		InputsHash: canonical.Digest([]byte("{}")), Concurrency: run.ConcurrencyKey,
	}}
}

func (r *rig) submit(tenant work.Tenant, p *work.Plan) work.Run {
	r.Helper()
	out := r.Submit(r.ctx(), []store.Submission{r.submission(tenant, p)})
	r.must("submit", out[0].Err)
	return out[0].Run
}

func (r *rig) session(tenant work.Tenant, id string) {
	r.Helper()
	r.must("session", r.OpenSession(r.ctx(), store.Session{ID: id, Worker: "w-" + id, Tenant: tenant, Expires: r.now() + 3600*second, Local: true}))
}

func request(tenant work.Tenant, session string, most int, reports ...store.ReportCommand) store.ExchangeRequest {
	return store.ExchangeRequest{Session: session, Tenant: tenant, Reports: reports, Runners: []string{"process"}, MinTier: 3, Max: most}
}

// claim asks for up to most steps and requires exactly want.
func (r *rig) claim(tenant work.Tenant, session string, most, want int) []store.Grant {
	r.Helper()
	reply, err := r.Exchange(r.ctx(), request(tenant, session, most))
	r.must("claim", err)
	if len(reply.Grants) != want {
		r.Fatalf("%d grants, not %d", len(reply.Grants), want)
	}
	return reply.Grants
}

func ackOf(g store.Grant) store.AckCommand {
	return store.AckCommand{Session: g.Session, Tenant: g.Tenant, Run: g.Run, Step: g.Step, Token: g.Token}
}

func reportOf(g store.Grant, state work.State) store.ReportCommand {
	reason := work.Reason{Code: work.EndedWell}
	class := ""
	if state != work.Succeeded {
		reason, class = work.Reason{Code: work.EndedByExit}, "exit"
	}
	return store.ReportCommand{Run: g.Run, Step: g.Step, Report: work.ReportedData{
		Token: g.Token, Worker: "w", State: state, Reason: reason, Class: class, Outputs: json.RawMessage(`{"n":1}`),
	}}
}

// report ends an attempt and returns the error of the report.
func (r *rig) report(session string, g store.Grant, state work.State) error {
	r.Helper()
	reply, err := r.Exchange(r.ctx(), request(g.Tenant, session, 0, reportOf(g, state)))
	r.must("report", err)
	return reply.Errs[0]
}

func (r *rig) run(tenant work.Tenant, id work.RunID) work.Run {
	r.Helper()
	run, err := r.Run(r.ctx(), tenant, string(id))
	r.must("run", err)
	return run
}

func (r *rig) step(run work.Run, id work.StepID) work.Step {
	r.Helper()
	steps, err := r.Steps(r.ctx(), run.Tenant, run.ID, "", 0)
	r.must("steps", err)
	at := slices.IndexFunc(steps, func(s work.Step) bool { return s.ID == id })
	if at < 0 {
		r.Fatalf("step %s has no row", id)
	}
	return steps[at]
}

// drain works on everything of a tenant until nothing is left, and moves the clock over every wait.
func (r *rig) drain(tenant work.Tenant, session string) {
	r.Helper()
	everything := request(tenant, session, 50)
	everything.Runners = []string{"process", "shell"}
	for range 1_000 {
		reply, err := r.Exchange(r.ctx(), everything)
		r.must("claim", err)
		for _, g := range reply.Grants {
			r.must("report", r.report(session, g, work.Succeeded))
		}
		if len(reply.Grants) > 0 {
			continue
		}
		next, err := r.Tick(r.ctx(), 100)
		r.must("tick", err)
		open, err := r.Find(r.ctx(), tenant, store.RunQuery{States: []work.State{work.Queued, work.Running, work.Waiting, work.Retrying}})
		r.must("find", err)
		if len(open) == 0 {
			return
		}
		if next > r.now() {
			r.advance(next - r.now())
			r.session(tenant, session)
		}
	}
	r.Fatal("work does not come to an end")
}

// Audit checks what must hold of every store at any moment.
func Audit(t tb, d kernel.Driver, tenants ...work.Tenant) {
	t.Helper()
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		for _, tenant := range tenants {
			runs, err := r.FindRuns(tenant, store.RunQuery{})
			if err != nil {
				return err
			}
			for i := range runs {
				if err := auditRun(t, r, &runs[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func auditRun(t tb, r kernel.Reader, run *work.Run) error {
	t.Helper()
	events, err := r.Events(run.Tenant, run.ID, 1, 0)
	if err != nil {
		return err
	}
	head, n, err := ledger.VerifyChain(withoutError(events))
	if err != nil || n != run.Seq || head != run.Head {
		t.Errorf("run %s has %d events up to %s, its history %d up to %s: %v", run.ID, run.Seq, run.Head.Short(), n, head.Short(), err)
	}
	lines, err := r.Lines(run.Tenant, run.ID, 1, 0)
	if err != nil {
		return err
	}
	for i, l := range lines {
		if l.Seq != int64(i+1) {
			t.Errorf("run %s: line %d stands at place %d", run.ID, l.Seq, i+1)
		}
	}
	if int64(len(lines)) != run.LogSeq {
		t.Errorf("run %s has %d lines and counts %d", run.ID, len(lines), run.LogSeq)
	}
	steps, err := r.Steps(run.Tenant, run.ID, "", 0)
	if err != nil {
		return err
	}
	for i := range steps {
		auditStep(t, run, &steps[i])
	}
	return nil
}

// auditStep: what has not ended is driven by exactly one thing, and what has ended by nothing.
func auditStep(t tb, run *work.Run, s *work.Step) {
	t.Helper()
	drivers := 0
	for _, driven := range []bool{s.Queue != nil && !s.Held, s.Held, s.Lease != nil, s.Timer != 0 && s.Lease == nil} {
		if driven {
			drivers++
		}
	}
	want := 1
	if s.State.Terminal() || s.State == work.Pending || s.State == work.Running && s.Lease == nil {
		want = 0 // a container is driven by its children
	}
	if drivers != want || run.State.Terminal() && !s.State.Terminal() && s.State != work.Pending {
		t.Errorf("step %s of run %s (%s) is %s and has %d things that drive it: %+v", s.ID, run.ID, run.State, s.State, drivers, s)
	}
}

func withoutError(events []work.Event) iter.Seq2[work.Event, error] {
	return func(yield func(work.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}
