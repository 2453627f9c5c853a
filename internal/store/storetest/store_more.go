package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
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
	r.must("acknowledge", r.Acknowledge(r.ctx(), acme, run)) // a change of the run does not unseal it
	if left, err := r.Unsealed(r.ctx(), acme, 10); err != nil || len(left) != 1 || left[0].ID == run {
		r.Errorf("unsealed: %v, %v", left, err)
	}
	size, checkpoint, err := r.LogSize(r.ctx(), acme)
	if err != nil || size != 1 || string(checkpoint) != "c1" {
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
