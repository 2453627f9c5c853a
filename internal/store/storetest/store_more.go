package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func testFind(r *rig) {
	r.session(acme, "s")
	var ids []work.RunID
	for range 5 {
		ids = append(ids, r.submit(acme, plan(nil, runStep("a"))).ID)
		r.advance(second)
	}
	ended := r.claim(acme, "s", 2, 2)
	for _, g := range ended {
		r.must("report", r.report("s", g, work.Succeeded))
	}
	r.must("acknowledge", r.Acknowledge(r.ctx(), acme, ids[0]))
	slices.Reverse(ids) // newest first
	for what, c := range map[string]struct {
		q    store.RunQuery
		want []work.RunID
	}{
		"all":          {store.RunQuery{}, ids},
		"a page":       {store.RunQuery{Limit: 2}, ids[:2]},
		"the next":     {store.RunQuery{Limit: 2, Before: start + 3*second}, ids[2:4]},
		"since":        {store.RunQuery{Since: start + 3*second}, ids[:2]},
		"running":      {store.RunQuery{States: []work.State{work.Running}}, ids[:3]},
		"succeeded":    {store.RunQuery{States: []work.State{work.Succeeded}}, ids[3:]},
		"open":         {store.RunQuery{Open: true}, ids[:4]},
		"of the pack":  {store.RunQuery{Pack: "suite"}, ids},
		"another pack": {store.RunQuery{Pack: "other"}, nil},
	} {
		runs, err := r.Find(r.ctx(), acme, c.q)
		r.must(what, err)
		var got []work.RunID
		for _, run := range runs {
			got = append(got, run.ID)
		}
		if !slices.Equal(got, c.want) {
			r.Errorf("%s: %v, not %v", what, got, c.want)
		}
	}
}

func testLog(r *rig) {
	r.session(acme, "s")
	for range 2 {
		r.submit(acme, plan(nil, runStep("a")))
	}
	for _, g := range r.claim(acme, "s", 2, 2) {
		r.advance(second)
		r.must("report", r.report("s", g, work.Succeeded))
	}
	unsealed, err := r.Unsealed(r.ctx(), acme, 10)
	if err != nil || len(unsealed) != 2 || unsealed[0].Ended >= unsealed[1].Ended {
		r.Fatalf("unsealed: %v, %v", unsealed, err)
	}
	run := unsealed[0].ID
	_, _, err = r.Leaf(r.ctx(), acme, run)
	r.wants("the leaf of a run that is not sealed", err, fault.Incomplete)
	grow := store.LogAppend{Runs: []work.RunID{run}, Leaves: [][]byte{[]byte("leaf")}, Hashes: [][32]byte{{1}}, Checkpoint: []byte("c1")}
	r.must("append", r.AppendLog(r.ctx(), acme, grow))
	r.wants("append again", r.AppendLog(r.ctx(), acme, grow), fault.Conflict)
	leaf, index, err := r.Leaf(r.ctx(), acme, run)
	if err != nil || string(leaf) != "leaf" || index != 0 {
		r.Errorf("leaf %q at %d, %v", leaf, index, err)
	}
	// The audit stream is sealed beside runs, once up to an entry.
	audit := store.LogAppend{Size: 1, FirstHash: 1, Runs: []work.RunID{store.AuditSeal(7)}, Leaves: [][]byte{[]byte("seven")}, Hashes: [][32]byte{{2}}, Checkpoint: []byte("c2")}
	r.must("seal the audit stream", r.AppendLog(r.ctx(), acme, audit))
	audit.Size, audit.FirstHash = 2, 2
	r.wants("seal it up to there again", r.AppendLog(r.ctx(), acme, audit), fault.Conflict)
	audit.Runs = []work.RunID{store.AuditSeal(8), "run_nobody"}
	audit.Leaves, audit.Hashes = append(audit.Leaves, nil), append(audit.Hashes, [32]byte{3})
	r.wants("with a run that is none", r.AppendLog(r.ctx(), acme, audit), fault.Conflict)
	if leaf, index, err := r.Leaf(r.ctx(), acme, store.AuditSeal(7)); err != nil || string(leaf) != "seven" || index != 1 {
		r.Errorf("the seal of the audit stream is %q at %d, %v", leaf, index, err)
	}
	_, _, err = r.Leaf(r.ctx(), acme, store.AuditSeal(8))
	r.wants("a seal that was refused", err, fault.Incomplete)
	r.must("acknowledge", r.Acknowledge(r.ctx(), acme, run)) // a change of the run does not unseal it
	if left, err := r.Unsealed(r.ctx(), acme, 10); err != nil || len(left) != 1 || left[0].ID == run {
		r.Errorf("unsealed: %v, %v", left, err)
	}
	size, checkpoint, err := r.LogSize(r.ctx(), acme)
	if err != nil || size != 2 || string(checkpoint) != "c2" {
		r.Errorf("size %d, checkpoint %q, %v", size, checkpoint, err)
	}
}

func testWatch(r *rig) {
	ctx, cancel := context.WithCancel(r.ctx())
	hints := r.Watch(ctx)
	r.submit(acme, plan(nil, runStep("a")))
	if _, open := <-hints; !open {
		r.Error("the channel was closed")
	}
	cancel()
	for range hints { // until it is closed
	}
}

// testAnnounce: what happens in a tenant without a run is a chain of events in its feed, each written with the changes it tells of or not at all.
func testAnnounce(r *rig) {
	put := func(id string, version int64) store.RecordChange {
		return store.RecordChange{Record: store.Record{Tenant: acme, Kind: "thing", ID: id, Version: version, Doc: []byte(`{}`)}}
	}
	data := map[string]string{"id": "one"}
	entry := &store.Audit{Tenant: acme, Action: "openThing", Actor: "ada", Kind: "user"}
	r.must("announce", r.Announce(store.WithAudit(r.ctx(), entry), acme, "thing.opened", data, put("a", 0), put("b", 0)))
	if end, err := r.AuditEnd(r.ctx(), acme); err != nil || end.Seq != 1 || !entry.Written() {
		r.Errorf("the audit entry: %+v, %v", end, err)
	}
	r.wants("to announce what has changed meanwhile", r.Announce(r.ctx(), acme, "thing.closed", data, put("b", 1), put("a", 7)), fault.Conflict)
	if row, err := r.Record(r.ctx(), acme, "thing", "b"); err != nil || row.Version != 1 {
		r.Errorf("a refused announcement changed something: %+v, %v", row, err)
	}
	run := r.submit(acme, plan(nil, runStep("x")))
	r.must("announce without a change", r.Announce(r.ctx(), acme, "thing.closed", data))
	r.must("announce elsewhere", r.Announce(r.ctx(), zenith, "thing.opened", data, store.RecordChange{Record: store.Record{Tenant: zenith, Kind: "thing", ID: "a", Doc: []byte(`{}`)}}))
	events, err := r.Events(r.ctx(), acme, store.IncidentStream, 1, 10)
	r.must("read", err)
	if len(events) != 2 || events[0].Type != "thing.opened" || string(events[0].Data) != `{"id":"one"}` || events[1].Prev != events[0].Hash || events[1].Seq != 2 {
		r.Errorf("the history is %+v", events)
	}
	if _, n, err := ledger.VerifyChain(withoutError(events)); err != nil || n != 2 {
		r.Errorf("the chain is broken: %d, %v", n, err)
	}
	page, err := r.Feed(r.ctx(), acme, -1, 100)
	r.must("feed", err)
	var told []string
	for i := range page.Events {
		if e := &page.Events[i]; e.Run == store.IncidentStream || e.Type == work.RunSubmitted && e.Run == run.ID {
			told = append(told, string(e.Type))
		}
	}
	if want := []string{"thing.opened", "run.submitted", "thing.closed"}; !slices.Equal(told, want) {
		r.Errorf("the feed has %v, not %v", told, want)
	}
}

func testClaim(r *rig) {
	urgent, labelled, strong, other := runStep("urgent"), runStep("labelled"), runStep("strong"), runStep("other")
	urgent.Run.Priority = 5
	labelled.Run.Labels = map[string]string{"gpu": "yes"}
	strong.Run.Sandbox.MinTier = "t3"
	other.Run.Runner = "http"
	first := r.submit(acme, plan(nil, runStep("plain")))
	r.advance(second)
	run := r.submit(acme, plan(nil, urgent, labelled, strong, other))
	r.session(acme, "s")
	weak := request(acme, "s", 10)
	weak.MinTier = 1
	reply, err := r.Exchange(r.ctx(), weak)
	r.must("claim", err)
	if len(reply.Grants) != 2 || reply.Grants[0].Step != "urgent" || reply.Grants[1].Run != first.ID {
		r.Errorf("granted: %+v", reply.Grants)
	}
	for _, id := range []work.StepID{"labelled", "strong"} {
		if s := r.step(run, id); s.Reason.Code != work.WaitsForCapability {
			r.Errorf("%s waits for %+v", id, s.Reason)
		}
	}
	able := request(acme, "s", 10)
	able.Labels, able.Runners = map[string]string{"gpu": "yes"}, []string{"http", "process"}
	if reply, err = r.Exchange(r.ctx(), able); err != nil || len(reply.Grants) != 3 {
		r.Errorf("a worker that can do everything gets %+v, %v", reply.Grants, err)
	}
	r.session(zenith, "z")
	_, err = r.Exchange(r.ctx(), request(acme, "z", 10))
	r.wants("a session of another tenant", err, fault.NotFound)
}

func testResync(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), runStep("b")))
	r.session(acme, "s")
	grants := r.claim(acme, "s", 2, 2)
	again := request(acme, "s", 0)
	again.Resync, again.Holding = true, []store.AckCommand{ackOf(grants[0])}
	if _, err := r.Exchange(r.ctx(), again); err != nil {
		r.Fatal(err)
	}
	if s := r.step(run, grants[0].Step); s.Lease == nil {
		r.Errorf("what the worker holds was taken: %+v", s)
	}
	if s := r.step(run, grants[1].Step); s.State != work.Queued || s.Crashes != 0 {
		r.Errorf("what it never heard of: %+v", s)
	}
}

// testFencing: under every token but the current one everything is refused, and nothing changes.
func testFencing(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 1, 1)[0]
	for what, token := range map[string]work.Token{
		"an older epoch": {Incarnation: 1, Epoch: 0}, "a newer epoch": {Incarnation: 1, Epoch: 2},
		"an older incarnation": {Incarnation: 0, Epoch: 1}, "a newer incarnation": {Incarnation: 2, Epoch: 1}, "none": {},
	} {
		forged := g
		forged.Token = token
		before := r.run(acme, run.ID)
		r.wants("ack under "+what, r.Ack(r.ctx(), []store.AckCommand{ackOf(forged)})[0], fault.Stale)
		r.wants("report under "+what, r.report("s", forged, work.Succeeded), fault.Stale)
		r.wants("lines under "+what, r.AppendLines(r.ctx(), []store.LinesCommand{{Session: "s", Tenant: acme, Run: g.Run, Step: g.Step, Token: token, Lines: linesOf("x")}})[0], fault.Stale)
		if after := r.run(acme, run.ID); after.Seq != before.Seq || after.LogSeq != before.LogSeq {
			r.Errorf("%s changed something", what)
		}
	}
	r.must("report", r.report("s", g, work.Succeeded))
	r.wants("the report again", r.report("s", g, work.Succeeded), fault.Stale)
	r.wants("an ack after the report", r.Ack(r.ctx(), []store.AckCommand{ackOf(g)})[0], fault.Stale)
}

// testTenants: whoever asks under another tenant is told exactly what is told of things that never were.
func testTenants(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a"), gateStep("gate")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 1, 1)[0]
	r.must("attach", r.Attach(r.ctx(), acme, run.ID, "kind", []byte("secret")))
	r.must("lines", r.AppendLines(r.ctx(), []store.LinesCommand{{Session: "s", Tenant: acme, Run: g.Run, Step: g.Step, Token: g.Token, Lines: linesOf("secret")}})[0])
	before := mustDump(r.tb, r.driver, small())
	never := work.RunID("run_" + strings.Repeat("9", 26))
	for what, ask := range map[string]func(id work.RunID, name string, hash work.Digest) any{
		"Run":         func(id work.RunID, _ string, _ work.Digest) any { return answer(r.Run(r.ctx(), zenith, string(id))) },
		"Run by name": func(_ work.RunID, name string, _ work.Digest) any { return answer(r.Run(r.ctx(), zenith, name)) },
		"Steps":       func(id work.RunID, _ string, _ work.Digest) any { return answer(r.Steps(r.ctx(), zenith, id, "", 0)) },
		"Events":      func(id work.RunID, _ string, _ work.Digest) any { return answer(r.Events(r.ctx(), zenith, id, 1, 0)) },
		"Lines":       func(id work.RunID, _ string, _ work.Digest) any { return answer(r.Lines(r.ctx(), zenith, id, 1, 0)) },
		"Document": func(id work.RunID, _ string, _ work.Digest) any {
			return answer(r.Document(r.ctx(), zenith, id, "kind"))
		},
		"Plan": func(_ work.RunID, _ string, hash work.Digest) any { return answer(r.Plan(r.ctx(), zenith, hash)) },
		"Leaf": func(id work.RunID, _ string, _ work.Digest) any {
			_, _, err := r.Leaf(r.ctx(), zenith, id)
			return fmt.Sprint(err)
		},
		"Acknowledge": func(id work.RunID, _ string, _ work.Digest) any { return r.Acknowledge(r.ctx(), zenith, id) },
		"Attach": func(id work.RunID, _ string, _ work.Digest) any {
			return r.Attach(r.ctx(), zenith, id, "kind", []byte("x"))
		},
		"Control": func(id work.RunID, _ string, _ work.Digest) any {
			return r.control(work.Run{Tenant: zenith, ID: id}, "cancel")
		},
		"Decide": func(id work.RunID, _ string, hash work.Digest) any {
			d := work.Decision{Gate: "gate", Decision: "approved", Approver: "bob", PlanHash: hash}
			return r.Decide(r.ctx(), []store.DecideCommand{{Tenant: zenith, Run: id, Decision: d}})[0]
		},
		"Resolve": func(id work.RunID, _ string, _ work.Digest) any {
			return r.ResolveDeadLetter(r.ctx(), zenith, id, "a", work.Actor{Name: "eve"})
		},
		"Ack": func(id work.RunID, _ string, _ work.Digest) any {
			return r.Ack(r.ctx(), []store.AckCommand{{Session: "s", Tenant: zenith, Run: id, Step: "a", Token: g.Token}})[0]
		},
		"AppendLines": func(id work.RunID, _ string, _ work.Digest) any {
			return r.AppendLines(r.ctx(), []store.LinesCommand{{Session: "s", Tenant: zenith, Run: id, Step: "a", Token: g.Token, Lines: linesOf("x")}})[0]
		},
		"Report": func(id work.RunID, _ string, _ work.Digest) any {
			c := reportOf(g, work.Succeeded)
			c.Run = id
			reply, err := r.Exchange(r.ctx(), request(zenith, "z", 0, c))
			return fmt.Sprint(reply.Errs, err)
		},
		"AppendLog": func(id work.RunID, _ string, _ work.Digest) any {
			err := r.AppendLog(r.ctx(), zenith, store.LogAppend{Runs: []work.RunID{id}, Leaves: [][]byte{{1}}, Hashes: [][32]byte{{1}}})
			return fault.CodeOf(err)
		},
	} {
		foreign := fmt.Sprint(ask(run.ID, run.Name, run.PlanHash))
		missing := fmt.Sprint(ask(never, "never-was", digestOf('9')))
		for _, blank := range []struct{ real, other string }{
			{string(run.ID), string(never)}, {run.Name, "never-was"}, {string(run.PlanHash), string(digestOf('9'))}, {run.PlanHash.Short(), digestOf('9').Short()},
		} {
			foreign = strings.ReplaceAll(foreign, blank.real, blank.other)
		}
		if foreign != missing {
			r.Errorf("%s tells another tenant's from what never was:\n%s\n%s", what, foreign, missing)
		}
	}
	r.session(zenith, "z")
	r.claim(zenith, "z", 10, 0)
	for what, n := range map[string]int{
		"Find": count(r.Find(r.ctx(), zenith, store.RunQuery{})), "DeadLetters": count(r.DeadLetters(r.ctx(), zenith, 0)), "Unsealed": count(r.Unsealed(r.ctx(), zenith, 0)),
	} {
		if n != 0 {
			r.Errorf("%s: another tenant sees %d", what, n)
		}
	}
	after := mustDump(r.tb, r.driver, small())
	if diff := sameDump(dump{Tenants: map[work.Tenant]*tenantDump{acme: before.Tenants[acme]}}, dump{Tenants: map[work.Tenant]*tenantDump{acme: after.Tenants[acme]}}); diff != "" {
		r.Errorf("another tenant changed something:\n%s", diff)
	}
}

func answer[T any](v T, err error) string { return fmt.Sprintf("%v %v", v, err) }

func count[T any](v []T, err error) int {
	if err != nil {
		return -1
	}
	return len(v)
}

func testClosed(r *rig) {
	run := r.submit(acme, plan(nil, runStep("a")))
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		r.Fatal(err)
	}
	r.wants("a command", r.Acknowledge(r.ctx(), acme, run.ID), fault.Unavailable)
}

// testIncarnation: after a restore no token of the time before is worth anything.
func testIncarnation(t *testing.T, h Harness) {
	if h.Raise == nil {
		t.Skip("this kind of driver is never restored")
	}
	d := h.Open(t)
	r := newRig(t, d)
	r.submit(acme, plan(nil, runStep("a")))
	r.session(acme, "s")
	g := r.claim(acme, "s", 1, 1)[0]
	h.Raise(t, d)
	r.wants("a report from before the restore", r.report("s", g, work.Succeeded), fault.Stale)
	r.wants("an ack from before the restore", r.Ack(r.ctx(), []store.AckCommand{ackOf(g)})[0], fault.Stale)
	r.must("recover", r.Recover(r.ctx()))
	r.session(acme, "s2")
	again := r.claim(acme, "s2", 1, 1)[0]
	if again.Token.Incarnation <= g.Token.Incarnation {
		t.Errorf("the token after the restore is %+v, before it was %+v", again.Token, g.Token)
	}
	r.must("report", r.report("s2", again, work.Succeeded))
	Audit(t, d, acme)
}

// testNames: a run takes the first of its names that is free, and its history says which.
func testNames(r *rig) {
	first := r.submission(acme, plan(nil, runStep("a")))
	r.must("submit", r.Submit(r.ctx(), []store.Submission{first})[0].Err)
	next, last := r.submission(acme, plan(nil, runStep("a"))), r.submission(acme, plan(nil, runStep("a")))
	for _, s := range []*store.Submission{&next, &last} {
		s.Run.Name, s.Names = first.Run.Name, []string{first.Run.Name, "second-choice"}
	}
	out := r.Submit(r.ctx(), []store.Submission{next, last})
	r.must("submit", out[0].Err)
	r.wants("a run without a free name", out[1].Err, fault.Conflict)
	found, err := r.Run(r.ctx(), acme, "second-choice")
	r.must("find", err)
	events, err := r.Events(r.ctx(), acme, found.ID, 1, 1)
	r.must("history", err)
	if found.ID != next.Run.ID || out[0].Run.Name != found.Name || !strings.Contains(string(events[0].Data), `"second-choice"`) {
		r.Errorf("run %s is called %s in the answer and begins with %s", found.ID, out[0].Run.Name, events[0].Data)
	}
}

// answerTo is an answer that names the runs it is about.
func answerTo(key string, version int64) *store.Answer {
	return &store.Answer{
		Record: store.Record{Tenant: acme, Kind: "answer", ID: key, Version: version, Expires: start + 60*second},
		Render: func(made []store.Submitted) json.RawMessage {
			var ids []work.RunID
			for i := range made {
				ids = append(ids, made[i].Run.ID)
			}
			raw, _ := json.Marshal(ids) // texts
			return raw
		},
	}
}

// testAnswer: the answer to a request is kept with its runs, once. A request that is answered makes no more runs; one of whose runs
// some were refused is answered, one that made none is not.
func testAnswer(r *rig) {
	submit := func(a *store.Answer, subs ...store.Submission) []store.Submitted {
		return r.Submit(store.WithAnswer(r.ctx(), a), subs)
	}
	one, two := r.submission(acme, plan(nil, runStep("a"))), r.submission(acme, plan(nil, runStep("a")))
	first := answerTo("k", 0)
	for _, made := range submit(first, one, two) {
		r.must("submit", made.Err)
	}
	kept, err := r.Record(r.ctx(), acme, "answer", "k")
	r.must("the answer", err)
	if want := fmt.Sprintf(`["%s","%s"]`, one.Run.ID, two.Run.ID); !first.Kept() || string(kept.Doc) != want || kept.Version != 1 {
		r.Errorf("the answer is %s, version %d, not %s", kept.Doc, kept.Version, want)
	}
	again := answerTo("k", 0)
	late := r.submission(acme, plan(nil, runStep("a")))
	r.wants("a request that is answered", submit(again, late)[0].Err, fault.Conflict)
	if _, err := r.Run(r.ctx(), acme, string(late.Run.ID)); fault.CodeOf(err) != fault.NotFound || again.Kept() {
		r.Errorf("it made a run: %v", err)
	}
	twice := r.submission(acme, plan(nil, runStep("a")))
	twice.Run.ID = one.Run.ID
	part := answerTo("part", 0)
	out := submit(part, twice, late)
	r.wants("an id that is taken", out[0].Err, fault.Conflict)
	r.must("the other", out[1].Err)
	kept, err = r.Record(r.ctx(), acme, "answer", "part")
	r.must("the answer to a batch", err)
	if want := fmt.Sprintf(`["","%s"]`, late.Run.ID); string(kept.Doc) != want || !part.Kept() {
		r.Errorf("the answer to a batch of which one was refused is %s, not %s", kept.Doc, want)
	}
	none := answerTo("none", 0)
	r.wants("an id that is taken", submit(none, twice)[0].Err, fault.Conflict)
	if _, err := r.Record(r.ctx(), acme, "answer", "none"); fault.CodeOf(err) != fault.NotFound || none.Kept() {
		r.Errorf("the answer to a request that made nothing was kept: %v", err)
	}
	r.advance(61 * second)
	over, next := answerTo("k", 0), answerTo("k", 1)
	over.Expires, next.Expires = start+3600*second, start+3600*second
	r.must("when the answer has expired", submit(over, r.submission(acme, plan(nil, runStep("a"))))[0].Err)
	r.must("in place of an answer", submit(next, r.submission(acme, plan(nil, runStep("a"))))[0].Err)
}

// testAnswerAtOnce: of requests with one key that come at once one makes a run. A commit that fails leaves neither the run nor the answer, and
// one whose reply is lost both.
func testAnswerAtOnce(t *testing.T, h Harness) {
	d := &shaky{Driver: h.Open(t)}
	r := newRig(t, d)
	const callers = 12
	answers, results := make([]*store.Answer, callers), make([]error, callers)
	var group sync.WaitGroup
	for i := range callers {
		s := r.submission(acme, plan(nil, runStep("a")))
		answers[i] = answerTo("same", 0)
		group.Go(func() { results[i] = r.Submit(store.WithAnswer(r.ctx(), answers[i]), []store.Submission{s})[0].Err })
	}
	group.Wait()
	made := 0
	for i, err := range results {
		if err == nil {
			made++
		} else {
			r.wants("another caller", err, fault.Conflict)
		}
		if answers[i].Kept() != (err == nil) {
			t.Errorf("caller %d got %v and thinks %t of its answer", i, err, answers[i].Kept())
		}
	}
	count := func() int { return len(must(r.Find(r.ctx(), acme, store.RunQuery{}))) }
	if made != 1 || count() != 1 {
		t.Fatalf("%d callers of %d made a run, and there are %d", made, callers, count())
	}
	for _, c := range []struct {
		what   string
		breaks *atomic.Bool
		stays  bool
	}{{"before", &d.before, false}, {"after", &d.after, true}} {
		runs := count()
		c.breaks.Store(true)
		a := answerTo(c.what, 0)
		if out := r.Submit(store.WithAnswer(r.ctx(), a), []store.Submission{r.submission(acme, plan(nil, runStep("a")))}); out[0].Err == nil || a.Kept() {
			t.Errorf("a commit that broke %s it was made is acknowledged", c.what)
		}
		_, err := r.Record(r.ctx(), acme, "answer", c.what)
		if answered, more := err == nil, count() > runs; answered != c.stays || more != c.stays {
			t.Errorf("broken %s the commit: the answer is there: %t, the run is: %t", c.what, answered, more)
		}
	}
	Audit(t, d, acme)
	mustClose(t, r.Store)
}
