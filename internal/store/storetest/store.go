// Package storetest is the one suite that every driver and every store has to pass.
//
// RunDriver holds a kernel.Driver to its contract row by row, with the driver in memory as the model. Run holds the store over a
// driver to what package store promises: each command, the wall between tenants, fencing, group commit, crashes.
package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Harness is a kind of driver under test.
type Harness struct {
	// Open returns an empty one.
	Open func(testing.TB) kernel.Driver

	// Crash returns a driver with what would be left of another one, in use, if the power went now.
	Crash func(testing.TB, kernel.Driver) kernel.Driver

	// Raise raises the incarnation, as a restore does.
	Raise func(testing.TB, kernel.Driver)
}

// Run tests the store over a driver.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*rig)
	}{
		{"Submit", testSubmit}, {"Names", testNames}, {"Answer", testAnswer}, {"Chain", testChain}, {"Concurrency", testConcurrency}, {"Gate", testGate}, {"PolicyEngine", testPolicyEngine}, {"Control", testControl},
		{"Pauses", testPauses}, {"SetAside", testAside}, {"Limits", testLimits}, {"Shares", testShares}, {"Quota", testQuota}, {"Delayed", testDelayed}, {"Bound", testBound}, {"Erase", testErase},
		{"Retry", testRetry}, {"DeadLetter", testDeadLetter}, {"Sessions", testSessions}, {"Deadline", testDeadline},
		{"RunTimeout", testRunTimeout}, {"Recover", testRecover}, {"Lines", testLines}, {"Attach", testAttach}, {"Cache", testCache},
		{"Find", testFind}, {"Log", testLog}, {"Watch", testWatch}, {"Announce", testAnnounce}, {"Claim", testClaim}, {"Resync", testResync},
		{"Fencing", testFencing}, {"Tenants", testTenants}, {"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, h.Open(t))
			test.run(r)
			if test.name != "Closed" {
				Audit(t, r.driver, acme, zenith)
			}
		})
	}
	t.Run("Incarnation", func(t *testing.T) { testIncarnation(t, h) })
	t.Run("Feed", func(t *testing.T) { testFeed(t, h) })
	t.Run("Batch", func(t *testing.T) { testBatch(t, h) })
	t.Run("BrokenCommit", func(t *testing.T) { testBrokenCommit(t, h) })
	t.Run("AnswerAtOnce", func(t *testing.T) { testAnswerAtOnce(t, h) })
	t.Run("Together", func(t *testing.T) { testTogether(t, h) })
	t.Run("SameAsModel", func(t *testing.T) { storeSameAsModel(t, h) })
	t.Run("Crash", func(t *testing.T) { testCrash(t, h) })
}

func (r *rig) wants(what string, err error, code fault.Code) {
	r.Helper()
	if fault.CodeOf(err) != code {
		r.Errorf("%s: %v, not %s", what, err, code)
	}
}

func testSubmit(r *rig) {
	s := r.submission(acme, plan(nil, runStep("a")))
	s.Run.RunToken, s.Data.RunToken, s.Request = "token", "token", []byte("signed")
	first := r.Submit(r.ctx(), []store.Submission{s})[0]
	r.must("submit", first.Err)
	if first.Existed || first.Run.State != work.Running || first.Run.Seq == 0 {
		r.Errorf("submitted: %+v", first)
	}
	again := s
	again.Run.ID, again.Run.Name = "run_other", "other"
	second := r.Submit(r.ctx(), []store.Submission{again})[0]
	if second.Err != nil || !second.Existed || second.Run.ID != s.Run.ID {
		r.Errorf("the token again: %+v", second)
	}
	other := r.submission(acme, plan(nil, runStep("b")))
	other.Run.RunToken = "token"
	sameName, sameID := r.submission(acme, plan(nil, runStep("a"))), r.submission(acme, plan(nil, runStep("a")))
	sameName.Run.Name, sameID.Run.ID = s.Run.Name, s.Run.ID
	forged := r.submission(acme, plan(nil, runStep("forged")))
	forged.Canonical = append([]byte(" "), forged.Canonical...)
	foreign := r.submission(zenith, plan(nil, runStep("a")))
	foreign.Run.ID, foreign.Run.Name, foreign.Run.RunToken = s.Run.ID, s.Run.Name, "token"
	twice := r.submission(acme, plan(nil, runStep("a")))
	twice.Run.RunToken = "within the batch"
	out := r.Submit(r.ctx(), []store.Submission{other, sameName, sameID, forged, foreign, twice, twice})
	r.wants("the token for another plan", out[0].Err, fault.Conflict)
	r.wants("a name that is taken", out[1].Err, fault.Conflict)
	r.wants("an id that is taken", out[2].Err, fault.Conflict)
	r.wants("a plan that is not what its hash says", out[3].Err, fault.PlanMismatch)
	if out[4].Err != nil || out[4].Existed {
		r.Errorf("another tenant with the same id, name and token: %+v", out[4])
	}
	if out[5].Err != nil || out[5].Existed || out[6].Err != nil || !out[6].Existed {
		r.Errorf("a token twice in one batch: %+v, %+v", out[5], out[6])
	}
	raw, err := r.Plan(r.ctx(), acme, s.Run.PlanHash)
	r.must("plan", err)
	request, err := r.Document(r.ctx(), acme, s.Run.ID, kernel.DocumentRequest)
	r.must("document", err)
	if string(raw) != string(s.Canonical) || string(request) != "signed" {
		r.Errorf("plan %q, request %q", raw, request)
	}
	r.session(acme, "s")
	for i, g := range r.claim(acme, "s", 10, 2) { // s, and one that was made without a request
		if want := map[work.RunID]string{s.Run.ID: "signed"}[g.Run]; string(g.Request) != want {
			r.Errorf("lease %d comes with the request %q, not %q", i, g.Request, want)
		}
	}
	byName, err := r.Run(r.ctx(), acme, s.Run.Name)
	if err != nil || byName.ID != s.Run.ID {
		r.Errorf("by name: %v, %v", byName.ID, err)
	}
}

func testChain(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b", "a"), runStep("c", "b")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 5, 1)[0]
	if g.Step != "a" || g.Run != run.ID || g.RunName != run.Name || g.PlanHash != run.PlanHash || g.Attempt != 1 || g.Bindings == nil ||
		g.Token != (work.Token{Incarnation: 1, Epoch: 1}) || g.Deadline != r.now()+61*second+1 && g.Deadline < r.now()+61*second {
		r.Errorf("the grant: %+v", g)
	}
	for _, next := range []work.StepID{"b", "c", ""} {
		errs := r.Ack(r.ctx(), []store.AckCommand{ackOf(g), ackOf(g)}) // the second is the same command sent again
		r.must("ack", errors.Join(errs...))
		reply, err := r.Exchange(r.ctx(), request(acme, "s", 5, reportOf(g, work.Succeeded))) // the end of one is the begin of the next
		r.must("exchange", errors.Join(append(reply.Errs, err)...))
		if next == "" {
			break
		}
		if len(reply.Grants) != 1 || reply.Grants[0].Step != next {
			r.Fatalf("after %s: %+v", g.Step, reply.Grants)
		}
		g = reply.Grants[0]
	}
	got := r.run(acme, run.ID)
	if got.State != work.Succeeded || got.Ended == 0 || got.Active != 0 {
		r.Errorf("at the end: %+v", got)
	}
	events, err := r.Events(r.ctx(), acme, run.ID, 1, 0)
	r.must("events", err)
	page, err := r.Events(r.ctx(), acme, run.ID, 3, 2)
	r.must("events", err)
	if int64(len(events)) != got.Seq || len(page) != 2 || page[0].Hash != events[2].Hash || events[0].Type != work.RunSubmitted || events[len(events)-1].Type != work.RunEnded {
		r.Errorf("%d events, %d in a page", len(events), len(page))
	}
	if s := r.step(run, "b"); s.State != work.Succeeded || string(s.Outputs) != `{"n":1}` || s.Lease != nil || s.Attempt != 1 {
		r.Errorf("step b: %+v", s)
	}
	r.wants("Acknowledge", r.Acknowledge(r.ctx(), acme, run.ID), "")
	r.wants("Acknowledge again", r.Acknowledge(r.ctx(), acme, run.ID), "")
	if got := r.run(acme, run.ID); !got.Acknowledged {
		r.Error("nobody has seen the end")
	}
}

func testConcurrency(r *rig) {
	keyed := func(p *work.Plan) { p.Concurrency = &work.Concurrency{Key: "deploy", Max: 1} }
	first, second := r.submit(acme, plan(keyed, runStep("a"))), r.submit(acme, plan(keyed, runStep("a")))
	elsewhere := r.submit(zenith, plan(keyed, runStep("a")))
	if first.State != work.Running || second.State != work.Queued || second.Reason.Code != work.WaitsForConcurrency || elsewhere.State != work.Running {
		r.Errorf("%s, %s (%s), in another tenant %s", first.State, second.State, second.Reason.Code, elsewhere.State)
	}
	r.session(acme, "s")
	r.must("report", r.report("s", r.claim(acme, "s", 5, 1)[0], work.Succeeded))
	if got := r.run(acme, second.ID); got.State != work.Running {
		r.Errorf("after the first has ended the second is %s", got.State)
	}
	step := func(id work.StepID) work.PlanStep {
		s := runStep(id)
		s.Run.Concurrency = &work.Concurrency{Key: "db", Max: 2}
		return s
	}
	r.must("report", r.report("s", r.claim(acme, "s", 5, 1)[0], work.Succeeded))
	run := r.submit(acme, plan(nil, step("a"), step("b"), step("c"), runStep("free")))
	grants := r.claim(acme, "s", 10, 3) // two with the key and the one without
	if s := r.step(run, "c"); s.Reason.Code != work.WaitsForConcurrency {
		r.Errorf("the third says it waits for %+v", s.Reason)
	}
	r.must("report", r.report("s", grants[0], work.Succeeded))
	r.claim(acme, "s", 10, 1)
}

func testGate(r *rig) {
	after := runStep("after", "gate")
	run := r.submit(acme, plan(nil, gateStep("gate"), after))
	decision := work.Decision{Gate: "gate", Decision: "approved", Approver: "bob", Key: "k", PlanHash: run.PlanHash, Statement: []byte(`{"signed":true}`)}
	decide := func(change func(*work.Decision)) error {
		d := decision
		change(&d)
		return r.Decide(r.ctx(), []store.DecideCommand{{Tenant: acme, Run: run.ID, Decision: d}})[0]
	}
	r.wants("another plan", decide(func(d *work.Decision) { d.PlanHash = digestOf('f') }), fault.PlanMismatch)
	r.wants("the submitter", decide(func(d *work.Decision) { d.Approver = "ann" }), fault.Denied)
	r.wants("no gate", decide(func(d *work.Decision) { d.Gate = "after" }), fault.NotFound)
	r.wants("approval", decide(func(*work.Decision) {}), "")
	r.wants("approval again", decide(func(*work.Decision) {}), fault.Conflict)
	if s := r.step(run, "gate"); s.State != work.Succeeded || len(s.Decisions) != 1 || string(s.Decisions[0].Statement) != `{"signed":true}` {
		r.Errorf("the gate: %+v", s)
	}
	forgotten := r.submit(acme, plan(nil, gateStep("gate")))
	next, err := r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if s := r.step(forgotten, "gate"); s.Timer != next {
		r.Errorf("the gate expires at %s, Tick says %s", s.Timer, next)
	}
	r.advance(next - r.now())
	_, err = r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if s := r.step(forgotten, "gate"); s.State != work.TimedOut {
		r.Errorf("a gate that nobody opened is %s", s.State)
	}
}

func (r *rig) control(run work.Run, verb string) error {
	return r.Control(r.ctx(), []store.ControlCommand{{Tenant: run.Tenant, Run: run.ID, Verb: verb, Actor: work.Actor{Name: "ann", Reason: "why not"}}})[0]
}

func testControl(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b", "a")))
	r.session(acme, "s")
	r.must("pause", r.control(run, "pause"))
	r.wants("pause again", r.control(run, "pause"), fault.Conflict)
	r.claim(acme, "s", 5, 0)
	r.must("resume", r.control(run, "resume"))
	r.wants("resume again", r.control(run, "resume"), fault.Conflict)
	r.wants("nonsense", r.control(run, "frobnicate"), fault.Invalid)
	g := r.claim(acme, "s", 5, 1)[0]
	r.must("cancel", r.control(run, "cancel"))
	orders, err := r.Heartbeat(r.ctx(), "s", r.now()+60*second)
	if err != nil || len(orders.Cancel) != 1 || orders.Cancel[0] != ackOf(g) {
		r.Errorf("the worker is told %+v, %v", orders, err)
	}
	r.must("report", r.report("s", g, work.Cancelled))
	if got := r.run(acme, run.ID); got.State != work.Cancelled {
		r.Errorf("cancelled: %s", got.State)
	}
	r.wants("cancel again", r.control(run, "cancel"), fault.Conflict)
}

func testRetry(r *rig) {
	flaky := runStep("a")
	flaky.Run.Retry = work.RetrySpec{MaxAttempts: 3, BackoffMs: 2000}
	run := r.submit(acme, plan(nil, flaky))
	r.session(acme, "s")
	g := r.claim(acme, "s", 5, 1)[0]
	r.must("report", r.report("s", g, work.Failed))
	s := r.step(run, "a")
	if s.State != work.Retrying || s.Timer < r.now()+2*second {
		r.Fatalf("after a failure: %+v", s)
	}
	next, err := r.Tick(r.ctx(), 10)
	if err != nil || next != s.Timer {
		r.Errorf("Tick says %s, %v; the retry is due at %s", next, err, s.Timer)
	}
	r.claim(acme, "s", 5, 0) // not before its time
	r.advance(s.Timer - r.now())
	_, err = r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if g := r.claim(acme, "s", 5, 1)[0]; g.Attempt != 2 || g.Token.Epoch <= s.Epoch {
		r.Errorf("the second attempt: %+v", g)
	} else {
		r.must("report", r.report("s", g, work.Succeeded))
	}
}

func testDeadLetter(r *rig) {
	flaky := runStep("a")
	flaky.Run.Retry = work.RetrySpec{MaxAttempts: 2, BackoffMs: 0}
	kill := func() work.Run {
		run := r.submit(acme, plan(nil, flaky))
		for range 2 {
			r.advance(second)
			_, err := r.Tick(r.ctx(), 10)
			r.must("tick", err)
			r.must("report", r.report("s", r.claim(acme, "s", 1, 1)[0], work.Failed))
		}
		if s := r.step(run, "a"); s.State != work.Dead {
			r.Fatalf("with every attempt used up: %+v", s)
		}
		return run
	}
	r.session(acme, "s")
	first, second := kill(), kill()
	letters, err := r.DeadLetters(r.ctx(), acme, 10)
	if err != nil || len(letters) != 2 || letters[0].Run != first.ID || letters[0].RunName != first.Name || letters[0].Attempt != 2 {
		r.Fatalf("dead letters: %+v, %v", letters, err)
	}
	for range 2 { // the second is the same command sent again
		r.must("resolve", r.ResolveDeadLetter(r.ctx(), acme, first.ID, "a", work.Actor{Name: "ann"}))
	}
	retry := r.submission(acme, plan(nil, runStep("a")))
	retry.Run.RetryOf = second.ID
	r.must("retry", r.Submit(r.ctx(), []store.Submission{retry})[0].Err)
	if letters, err = r.DeadLetters(r.ctx(), acme, 10); err != nil || len(letters) != 0 {
		r.Errorf("after both were dealt with: %+v, %v", letters, err)
	}
}

func testSessions(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a")))
	r.must("session", r.OpenSession(r.ctx(), store.Session{ID: "s", Worker: "w", Tenant: acme, Expires: r.now() + 10*second}))
	for crash := 1; crash <= 3; crash++ {
		g := r.claim(acme, "s", 1, 1)[0]
		r.advance(5 * second)
		if _, err := r.Heartbeat(r.ctx(), "s", r.now()+10*second); err != nil {
			r.Fatal(err)
		}
		r.advance(9 * second)
		next, err := r.Tick(r.ctx(), 10)
		if err != nil || r.step(run, "a").Lease == nil || next != r.now()+second {
			r.Fatalf("before its session expired the lease was taken, or next is %s: %v", next, err)
		}
		r.advance(second)
		_, err = r.Tick(r.ctx(), 10)
		r.must("tick", err)
		s := r.step(run, "a")
		if s.Lease != nil || s.Crashes != crash {
			r.Fatalf("after crash %d: %+v", crash, s)
		}
		r.wants("a report of the past", r.reportFrom(g), fault.Stale)
		_, err = r.Heartbeat(r.ctx(), "s", r.now()+10*second)
		r.wants("a heartbeat of an ended session", err, fault.NotFound)
		_, err = r.Exchange(r.ctx(), request(acme, "s", 1))
		r.wants("a claim of an ended session", err, fault.NotFound)
		r.must("session", r.OpenSession(r.ctx(), store.Session{ID: "s", Worker: "w", Tenant: acme, Expires: r.now() + 10*second}))
	}
	if s := r.step(run, "a"); s.State != work.Dead {
		r.Errorf("a step that took its worker down three times is %s", s.State)
	}
}

func (r *rig) reportFrom(g store.Grant) error { return r.report("s", g, work.Succeeded) }

func testDeadline(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 1, 1)[0]
	r.advance(g.Deadline - r.now() - 1)
	_, err := r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if r.step(run, "a").Lease == nil {
		r.Fatal("the lease was taken before the deadline")
	}
	r.advance(1)
	_, err = r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if s := r.step(run, "a"); s.State != work.TimedOut {
		r.Errorf("over its deadline: %+v", s)
	}
	r.wants("a late report", r.report("s", g, work.Succeeded), fault.Stale)
	late := r.submit(acme, plan(nil, runStep("a")))
	g = r.claim(acme, "s", 1, 1)[0]
	r.advance(g.Deadline - r.now() + second)
	r.must("a report after the deadline, but before anybody noticed", r.report("s", g, work.Succeeded))
	if got := r.run(acme, late.ID); got.State != work.Succeeded {
		r.Errorf("it counts: %s", got.State)
	}
}

func testRunTimeout(r *rig) {
	run := r.submit(acme, plan(func(p *work.Plan) { p.TimeoutMs = 5000 }, runStep("a")))
	next, err := r.Tick(r.ctx(), 10)
	if err != nil || next != run.Due {
		r.Errorf("next %s, %v; due %s", next, err, run.Due)
	}
	r.advance(5 * second)
	if _, err = r.Tick(r.ctx(), 10); err != nil {
		r.Fatal(err)
	}
	if got := r.run(acme, run.ID); got.State != work.TimedOut {
		r.Errorf("over its time: %s", got.State)
	}
	if next, err = r.Tick(r.ctx(), 10); err != nil || next != 0 {
		r.Errorf("nothing is due any more, but next is %s, %v", next, err)
	}
}

func testRecover(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b")))
	r.session(acme, "local")
	r.must("session", r.OpenSession(r.ctx(), store.Session{ID: "remote", Worker: "w", Tenant: acme, Expires: r.now() + 3600*second}))
	mine, theirs := r.claim(acme, "local", 1, 1)[0], r.claim(acme, "remote", 1, 1)[0]
	r.must("recover", r.Recover(r.ctx()))
	if s := r.step(run, mine.Step); s.State != work.Queued || s.Crashes != 0 || s.Failures != 0 {
		r.Errorf("the step of the process that is gone: %+v", s)
	}
	if s := r.step(run, theirs.Step); s.Lease == nil {
		r.Errorf("the step of a worker elsewhere: %+v", s)
	}
	r.wants("a report of the process that is gone", r.report("local", mine, work.Succeeded), fault.Stale)
	r.must("a report from elsewhere", r.report("remote", theirs, work.Succeeded))
	r.must("recover again", r.Recover(r.ctx()))
}

func linesOf(texts ...string) []work.LogLine {
	out := make([]work.LogLine, len(texts))
	for i, text := range texts {
		out[i] = work.LogLine{Time: start, Level: "info", EventType: "step.stdout", Message: text}
	}
	return out
}

func testLines(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b")))
	r.session(acme, "s")
	grants := r.claim(acme, "s", 2, 2)
	send := func(g store.Grant, from int64, texts ...string) error {
		return r.AppendLines(r.ctx(), []store.LinesCommand{{Session: "s", Tenant: acme, Run: g.Run, Step: g.Step, Token: g.Token, From: from, Lines: linesOf(texts...)}})[0]
	}
	r.must("lines", send(grants[0], 1, "a1", "a2"))
	r.must("lines", send(grants[1], 1, "b1"))
	r.must("the same lines again", send(grants[0], 1, "a1", "a2"))
	r.must("lines that are there in part", send(grants[0], 2, "a2", "a3"))
	r.wants("lines after a gap", send(grants[0], 7, "a7"), fault.Conflict)
	stale := grants[0]
	stale.Token.Epoch++
	r.wants("lines under another token", send(stale, 4, "x"), fault.Stale)
	got, err := r.Lines(r.ctx(), acme, run.ID, 1, 0)
	r.must("lines", err)
	var texts []string
	for i, l := range got {
		if l.Seq != int64(i+1) || l.Run != run.ID || l.Attempt != 1 {
			r.Errorf("line %d: %+v", i+1, l)
		}
		texts = append(texts, string(l.Step)+":"+l.Message)
	}
	if joined := strings.Join(texts, " "); joined != "a:a1 a:a2 b:b1 a:a3" {
		r.Errorf("lines: %s", joined)
	}
	if page, err := r.Lines(r.ctx(), acme, run.ID, 2, 2); err != nil || len(page) != 2 || page[0].Seq != 2 {
		r.Errorf("a page: %+v, %v", page, err)
	}
}

func testAttach(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a")))
	attach := func(data string) error { return r.Attach(r.ctx(), acme, run.ID, "attestation", []byte(data)) }
	r.must("attach", attach("one"))
	r.must("attach again", attach("one"))
	r.wants("attach something else", attach("two"), fault.Conflict)
	if got, err := r.Document(r.ctx(), acme, run.ID, "attestation"); err != nil || string(got) != "one" {
		r.Errorf("attached: %q, %v", got, err)
	}
	if got, err := r.Document(r.ctx(), acme, run.ID, "nothing"); err != nil || got != nil {
		r.Errorf("nothing attached: %q, %v", got, err)
	}
}

func testCache(r *rig) {
	r.session(acme, "s")
	for i := range 2 {
		r.submit(acme, plan(nil, runStep("a")))
		g := r.claim(acme, "s", 1, 1)[0]
		c := reportOf(g, work.Succeeded)
		c.Report.CacheKey, c.Report.Outputs = digestOf('c'), fmt.Appendf(nil, `{"n":%d}`, i)
		reply, err := r.Exchange(r.ctx(), request(acme, "s", 0, c))
		r.must("report", errors.Join(append(reply.Errs, err)...))
	}
	got, err := r.Cached(r.ctx(), acme, digestOf('c'))
	if err != nil || got == nil || string(got.Outputs) != `{"n":0}` || got.Origin.Attempt != 1 {
		r.Errorf("cached: %+v, %v", got, err)
	}
	if got, err := r.Cached(r.ctx(), zenith, digestOf('c')); err != nil || got != nil {
		r.Errorf("another tenant's: %+v, %v", got, err)
	}
}
