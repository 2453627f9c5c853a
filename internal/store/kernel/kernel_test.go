package kernel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// clock is a time that only the test moves.
type clock struct {
	mu  sync.Mutex
	now work.Time
}

func (c *clock) Now() work.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(micro work.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += micro
}

const second = work.Time(1_000_000)

// gated is a driver whose next Update waits, so that commands gather behind it into one batch.
type gated struct {
	*memory.Driver
	mu      sync.Mutex
	hold    chan struct{} // not nil: Updates wait for it
	entered chan struct{}
	fail    error // of the next Update, after its commands ran
	wrap    func(kernel.Tx) kernel.Tx

	incarnation int64
	asked       int // FirstHeld
	looked      int // Ready
	put         int // PutStep
}

func (g *gated) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	g.mu.Lock()
	hold, fail := g.hold, g.fail
	g.fail = nil
	g.mu.Unlock()
	if hold != nil {
		g.entered <- struct{}{}
		<-hold
	}
	return g.Driver.Update(ctx, func(tx kernel.Tx) error {
		tx = counting{tx, g}
		if g.wrap != nil {
			tx = g.wrap(tx)
		}
		if err := fn(tx); err != nil {
			return err
		}
		return fail
	})
}

// Incarnation must be answered within a transaction, too.
func (g *gated) Incarnation() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.incarnation
}

type fixture struct {
	*testing.T
	driver *gated
	store  *kernel.Store
	clock  *clock
}

func open(t *testing.T) *fixture {
	f := &fixture{T: t, driver: &gated{Driver: memory.New(), entered: make(chan struct{}, 1), incarnation: 1}, clock: &clock{now: 1_750_000_000 * second}}
	f.store = kernel.New(f.driver, kernel.Options{Now: f.clock.Now})
	t.Cleanup(func() {
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

var ctx = context.Background()

// plan is n independent noop steps.
func plan(n int) *work.Plan {
	p := &work.Plan{Version: work.PlanVersion}
	for i := range n {
		p.Steps = append(p.Steps, work.PlanStep{ID: work.StepID(fmt.Sprintf("s%d", i)), Kind: work.KindRun, Run: &work.RunSpec{
			Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"}, TimeoutMs: 60_000, GraceMs: 1_000, Retry: work.RetrySpec{MaxAttempts: 1},
		}})
	}
	return p
}

func (f *fixture) submission(n, steps int) store.Submission {
	hash, raw, err := canonical.DigestOf(plan(steps))
	if err != nil {
		f.Fatal(err)
	}
	run := work.Run{
		Tenant: "t", ID: work.RunID(fmt.Sprintf("run_%d", n)), Name: fmt.Sprintf("run-%d", n), PlanHash: hash, Submitter: "ann",
	}
	return store.Submission{Run: run, Canonical: raw, Data: work.SubmittedData{Name: run.Name, PlanHash: hash, Submitter: "ann"}}
}

func (f *fixture) submit(n, steps int) {
	f.Helper()
	if got := f.store.Submit(ctx, []store.Submission{f.submission(n, steps)})[0]; got.Err != nil {
		f.Fatal(got.Err)
	}
}

func (f *fixture) session(id string) {
	f.Helper()
	err := f.store.OpenSession(ctx, store.Session{ID: id, Worker: "w", Tenant: "t", Expires: f.clock.Now() + 30*second})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) claim(session string, max int) []store.Grant {
	f.Helper()
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: session, Tenant: "t", Runners: []string{"noop"}, Max: max})
	if err != nil {
		f.Fatal(err)
	}
	return reply.Grants
}

func succeeded(g *store.Grant, outputs string) store.ReportCommand {
	r := store.ReportCommand{Run: g.Run, Step: g.Step, Report: work.ReportedData{Token: g.Token, Worker: "w", State: work.Succeeded}}
	if outputs != "" {
		r.Report.Outputs = json.RawMessage(outputs)
	}
	return r
}

// TestBatch: what is asked for while a commit is under way shares the next one, and each command has its own answer.
func TestBatch(t *testing.T) {
	f := open(t)
	hold := make(chan struct{})
	f.driver.mu.Lock()
	f.driver.hold = hold
	f.driver.mu.Unlock()
	const n = 20
	answers := make(chan store.Submitted, n+1)
	var started sync.WaitGroup
	ask := func(i int) {
		started.Done()
		answers <- f.store.Submit(ctx, []store.Submission{f.submission(i, 1)})[0]
	}
	started.Add(1)
	go ask(0)
	<-f.driver.entered // the first is on its way; the others gather behind it
	started.Add(n)
	for i := range n {
		go ask(i / 2) // each id twice: one of two must be refused
	}
	started.Wait()
	f.driver.mu.Lock()
	f.driver.hold = nil
	f.driver.mu.Unlock()
	close(hold)
	made, refused := 0, 0
	for range n + 1 {
		switch a := <-answers; fault.CodeOf(a.Err) {
		case "":
			made++
		case fault.Conflict:
			refused++
		default:
			t.Error(a.Err)
		}
	}
	if made != n/2 || refused != n/2+1 {
		t.Errorf("%d runs were made and %d refused of %d asked for twice", made, refused, n/2)
	}
}

// TestPoison: what no event can hold is refused to whoever brings it, and harms nobody else in the batch.
func TestPoison(t *testing.T) {
	f := open(t)
	f.submit(1, 2)
	f.session("s")
	grants := f.claim("s", 2)
	for _, outputs := range []string{`{"n":1.5}`, `{"n":1,"n":2}`, `{"n":9007199254740993}`} {
		reply, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{
			succeeded(&grants[0], outputs),
		}})
		if err != nil || fault.CodeOf(reply.Errs[0]) != fault.Invalid {
			t.Errorf("outputs %s: %v, %v", outputs, err, reply.Errs)
		}
	}
	errs := f.store.Control(ctx, []store.ControlCommand{
		{Tenant: "t", Run: "run_1", Verb: "pause", Actor: work.Actor{Name: "ann", Reason: "\xff"}},
		{Tenant: "t", Run: "run_1", Verb: "pause", Actor: work.Actor{Name: "ann"}},
	})
	if fault.CodeOf(errs[0]) != fault.Invalid || errs[1] != nil {
		t.Errorf("a pause with a reason that is no text: %v; the one after it: %v", errs[0], errs[1])
	}
	bad := f.submission(2, 1)
	bad.Data.Note = "\xff"
	answers := f.store.Submit(ctx, []store.Submission{bad, f.submission(3, 1)})
	if fault.CodeOf(answers[0].Err) != fault.Invalid || answers[1].Err != nil {
		t.Errorf("a submission that is no text: %v; the one after it: %v", answers[0].Err, answers[1].Err)
	}
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{
		succeeded(&grants[0], `{"n":1}`), succeeded(&grants[1], ""),
	}})
	if err != nil || reply.Errs[0] != nil || reply.Errs[1] != nil {
		t.Errorf("reports after refused ones: %v, %v", err, reply.Errs)
	}
}

// TestFailedCommit: when the disk refuses, nothing has happened, and the rows in memory do not believe otherwise.
func TestFailedCommit(t *testing.T) {
	f := open(t)
	f.submit(1, 1)
	f.session("s")
	grants := f.claim("s", 1)
	if err := f.driver.Update(ctx, func(tx kernel.Tx) error { return tx.DeleteSession("s") }); err != nil {
		t.Fatal(err)
	}
	f.driver.mu.Lock()
	f.driver.fail = errors.New("no space left")
	f.driver.mu.Unlock()
	req := store.ExchangeRequest{Session: "s", Tenant: "t", Max: 1, Reports: []store.ReportCommand{succeeded(&grants[0], "")}}
	reply, err := f.store.Exchange(ctx, req)
	if fault.CodeOf(err) != fault.Internal || len(reply.Errs) != 0 {
		t.Fatalf("a report that was not committed is answered with %v, %v", reply.Errs, err)
	}
	if run, err := f.store.Run(ctx, "t", "run_1"); err != nil || run.State != work.Running {
		t.Errorf("after the failed commit the run is %s, %v", run.State, err)
	}
	reply, err = f.store.Exchange(ctx, req)
	if fault.CodeOf(err) != fault.NotFound || len(reply.Errs) != 1 || reply.Errs[0] != nil {
		t.Errorf("the report sent again under a session that has ended: %v, %v", reply.Errs, err)
	}
	if run, err := f.store.Run(ctx, "t", "run_1"); err != nil || run.State != work.Succeeded {
		t.Errorf("the run is %s, %v", run.State, err)
	}
}

// TestResync: leases whose grant got lost are given back, and only those.
func TestResync(t *testing.T) {
	f := open(t)
	f.submit(1, 2)
	f.session("s")
	grants := f.claim("s", 2)
	if len(grants) != 2 {
		t.Fatalf("%d grants", len(grants))
	}
	heard := grants[1]
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{
		Session: "s", Tenant: "t", Runners: []string{"noop"}, Max: 5, Resync: true,
		Holding: []store.AckCommand{{Tenant: "t", Run: heard.Run, Step: heard.Step, Token: heard.Token}},
	})
	if err != nil || len(reply.Grants) != 1 || reply.Grants[0].Step != grants[0].Step || reply.Grants[0].Token == grants[0].Token {
		t.Fatalf("after a lost reply: %v, %v", reply.Grants, err)
	}
	steps, err := f.store.Steps(ctx, "t", "run_1", "", 0)
	if err != nil || steps[0].Crashes != 0 || steps[0].Failures != 0 {
		t.Errorf("the step was charged for it: %+v, %v", steps, err)
	}
	// This grant gets lost, too, while the worker is still busy with the earlier attempt of the same step.
	reply, err = f.store.Exchange(ctx, store.ExchangeRequest{
		Session: "s", Tenant: "t", Runners: []string{"noop"}, Max: 5, Resync: true,
		Holding: []store.AckCommand{
			{Tenant: "t", Run: heard.Run, Step: heard.Step, Token: heard.Token},
			{Tenant: "t", Run: grants[0].Run, Step: grants[0].Step, Token: grants[0].Token},
		},
	})
	if err != nil || len(reply.Grants) != 1 || reply.Grants[0].Step != grants[0].Step {
		t.Errorf("the same step lost a second time: %v, %v", reply.Grants, err)
	}
}

// TestLinesAgain: lines that are sent again are there once, and a gap is refused.
func TestLinesAgain(t *testing.T) {
	f := open(t)
	f.submit(1, 1)
	f.session("s")
	g := f.claim("s", 1)[0]
	say := func(from int64, texts ...string) error {
		c := store.LinesCommand{Session: "s", Tenant: "t", Run: g.Run, Step: g.Step, Token: g.Token, From: from}
		for _, text := range texts {
			c.Lines = append(c.Lines, work.LogLine{Time: f.clock.Now(), Level: "info", EventType: "step.stdout", Message: text})
		}
		return f.store.AppendLines(ctx, []store.LinesCommand{c})[0]
	}
	for _, err := range []error{say(1, "a", "b"), say(1, "a", "b"), say(2, "b", "c"), say(1, "a")} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := say(9, "z"); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("line 9 after line 3: %v", err)
	}
	lines, err := f.store.Lines(ctx, "t", "run_1", 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for i := range lines {
		got += lines[i].Message
	}
	if got != "abc" {
		t.Errorf("the output is %q", got)
	}
}

// TestDeadSession: a session that expires loses its leases when time is looked at, not before.
func TestDeadSession(t *testing.T) {
	f := open(t)
	f.submit(1, 1)
	f.session("s")
	g := f.claim("s", 1)[0]
	f.clock.advance(29 * second)
	next, err := f.store.Tick(ctx, 10)
	if err != nil || next != f.clock.Now()+second {
		t.Errorf("the next thing is due at %s, %v", next, err)
	}
	f.clock.advance(2 * second)
	// Nobody has looked yet: the report still counts.
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{succeeded(&g, "")}})
	if err != nil || reply.Errs[0] != nil {
		t.Errorf("a late report before anybody revoked: %v, %v", reply.Errs, err)
	}
	f.submit(2, 1)
	g = f.claim("s", 1)[0]
	if _, err := f.store.Tick(ctx, 10); err != nil {
		t.Fatal(err)
	}
	reply, err = f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{succeeded(&g, "")}})
	if err != nil || fault.CodeOf(reply.Errs[0]) != fault.Stale {
		t.Errorf("a report after the lease was revoked: %v, %v", reply.Errs, err)
	}
	if _, err := f.store.Heartbeat(ctx, "s", f.clock.Now()+second); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("the heartbeat of a dead session: %v", err)
	}
}

// TestRestoredLease: a worker that lived through a restore of the store holds tokens that are void. Its heartbeat gives
// its leases back, so that their steps need not wait for a deadline and fail by it.
func TestRestoredLease(t *testing.T) {
	f := open(t)
	f.submit(1, 1)
	f.session("s")
	old := f.claim("s", 1)[0]
	f.driver.mu.Lock()
	f.driver.incarnation = 2
	f.driver.mu.Unlock()
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{succeeded(&old, "")}})
	if err != nil || fault.CodeOf(reply.Errs[0]) != fault.Stale {
		t.Fatalf("a report from before the restore: %v, %v", reply.Errs, err)
	}
	if _, err := f.store.Heartbeat(ctx, "s", f.clock.Now()+30*second); err != nil {
		t.Fatal(err)
	}
	again := f.claim("s", 1)
	if len(again) != 1 || again[0].Token != (work.Token{Incarnation: 2, Epoch: old.Token.Epoch + 2}) {
		t.Fatalf("after the heartbeat: %+v", again)
	}
	steps, err := f.store.Steps(ctx, "t", "run_1", "", 0)
	if err != nil || steps[0].Crashes != 0 || steps[0].Failures != 0 {
		t.Errorf("the step was charged for the restore: %+v, %v", steps, err)
	}
}

// TestManyHeld: letting a thousand held steps go asks the driver a few times for each, not once for each pair.
func TestManyHeld(t *testing.T) {
	f := open(t)
	f.submit(1, 900)
	for _, verb := range []string{"pause", "resume"} {
		f.driver.mu.Lock()
		f.driver.asked = 0
		f.driver.mu.Unlock()
		if err := f.store.Control(ctx, []store.ControlCommand{{Tenant: "t", Run: "run_1", Verb: verb, Actor: work.Actor{Name: "ann"}}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	f.driver.mu.Lock()
	defer f.driver.mu.Unlock()
	if f.driver.asked == 0 || f.driver.asked > 2_000 {
		t.Errorf("the driver was asked for the first held step %d times", f.driver.asked)
	}
}

// counting counts questions for held and for ready steps, and rows of steps that are written.
type counting struct {
	kernel.Tx
	g *gated
}

func (c counting) FirstHeld(tenant work.Tenant, run work.RunID, after work.StepID) (work.StepID, error) {
	c.g.mu.Lock()
	c.g.asked++
	c.g.mu.Unlock()
	return c.Tx.FirstHeld(tenant, run, after)
}
