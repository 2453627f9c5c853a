package storetest

import (
	"fmt"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// change changes the flow of a tenant.
func (r *rig) change(tenant work.Tenant, kind, name, verb string, n int) {
	r.Helper()
	_, err := r.ChangeFlow(r.ctx(), store.FlowChange{
		Tenant: tenant, Kind: kind, Name: name, Verb: verb, N: n, Actor: work.Actor{Name: "ann", Reason: "maintenance"},
	})
	r.must(verb+" "+kind+" "+name, err)
}

func inQueue(s work.PlanStep, queue string) work.PlanStep {
	s.Run.Queue = queue
	return s
}

// everybody asks for work of every tenant.
func (r *rig) everybody(session string, most int) []store.Grant {
	r.Helper()
	reply, err := r.Exchange(r.ctx(), request(store.Installation, session, most))
	r.must("claim", err)
	return reply.Grants
}

func (r *rig) end(grants ...store.Grant) {
	r.Helper()
	for _, g := range grants {
		c := reportOf(g, work.Succeeded)
		c.Tenant = g.Tenant
		req := request(g.Tenant, g.Session, 0, c)
		if g.Session == "every" {
			req.Tenant = store.Installation
		}
		reply, err := r.Exchange(r.ctx(), req)
		r.must("report", err)
		r.must("report of "+string(g.Step), reply.Errs[0])
	}
}

// testPauses: what is paused gives nothing to a claim that comes after, what runs goes on, and resuming gives it back.
func testPauses(r *rig) {
	for i, what := range [][2]string{{store.FlowTenant, ""}, {store.FlowQueue, "exports"}, {store.FlowPack, "test"}, {store.FlowWorker, "w-s"}} {
		p := plan(nil, inQueue(runStep("a"), "exports"), inQueue(runStep("b"), "exports"))
		what := what
		if what[0] == store.FlowPack {
			what[1] = p.Pack.Name
		}
		r.submit(acme, p)
		r.session(acme, "s")
		first := r.claim(acme, "s", 1, 1)
		hold, free := "pause", "resume"
		if what[0] == store.FlowWorker {
			hold, free = "cordon", "uncordon"
		}
		r.change(acme, what[0], what[1], hold, 0)
		r.claim(acme, "s", 5, 0)
		r.must("a report while it is held back", r.report("s", first[0], work.Succeeded))
		_, err := r.ChangeFlow(r.ctx(), store.FlowChange{Tenant: acme, Kind: what[0], Name: what[1], Verb: hold, Actor: work.Actor{Name: "bob"}})
		r.wants("the same again", err, fault.Conflict)
		f, err := r.Flow(r.ctx(), acme)
		r.must("flow", err)
		for _, by := range []*work.Actor{f.Paused, f.Queues["exports"].Paused, f.Packs[p.Pack.Name].Paused, f.Worker("w-s").Paused} {
			if by != nil && (by.Name != "ann" || by.Reason != "maintenance" || by.At == 0) {
				r.Errorf("it is held back by %+v", by)
			}
		}
		if what[0] != store.FlowTenant && what[0] != store.FlowWorker {
			r.chained(what[0], what[1])
		}
		// Another tenant is not held back.
		r.submit(zenith, p)
		r.session(zenith, "z")
		r.end(r.claim(zenith, "z", 5, 2)...)
		r.change(acme, what[0], what[1], free, 0)
		r.end(r.claim(acme, "s", 5, 1)...)
		if f, _ := r.Flow(r.ctx(), acme); f.Paused != nil || len(f.Queues)+len(f.Packs)+len(f.Workers) > 0 {
			r.Errorf("case %d: something is still held back: %+v", i, f)
		}
	}
}

// chained: what a report makes ready is held back as well by what is paused, although the same request asks for more.
func (r *rig) chained(kind, name string) {
	r.Helper()
	after := inQueue(runStep("after"), "exports")
	after.Needs = []work.StepID{"before"}
	p := plan(nil, inQueue(runStep("before"), "exports"), after)
	r.change(acme, kind, name, "resume", 0)
	left := r.claim(acme, "s", 5, 1)
	r.submit(acme, p)
	g := r.claim(acme, "s", 5, 1)[0]
	r.change(acme, kind, name, "pause", 0)
	reply, err := r.Exchange(r.ctx(), request(acme, "s", 5, reportOf(g, work.Succeeded)))
	r.must("a report that asks for more", err)
	r.must("the report", reply.Errs[0])
	if len(reply.Grants) > 0 {
		r.Errorf("%s is granted while %s %s is paused", reply.Grants[0].Step, kind, name)
	}
	r.change(acme, kind, name, "resume", 0)
	r.end(r.claim(acme, "s", 5, 1)...)
	r.end(left...)
	r.submit(acme, plan(nil, inQueue(runStep("b"), "exports")))
	r.change(acme, kind, name, "pause", 0)
}

// testAside: the steps of a paused pack are set aside as they are met, and what stands behind them is found; nothing of it shows, and when the
// pack goes on they come in their order.
func testAside(r *rig) {
	const most = 600
	var steps []work.PlanStep
	for i := range most {
		steps = append(steps, inQueue(runStep(work.StepID(fmt.Sprintf("s%04d", i))), "exports"))
	}
	held := r.submit(acme, plan(func(p *work.Plan) { p.Pack.Name = "held" }, steps...))
	free := r.submit(acme, plan(nil, inQueue(runStep("free"), "exports")))
	r.session(acme, "s")
	r.change(acme, store.FlowPack, "held", "pause", 0)
	var grants []store.Grant
	for range 3 {
		if grants = append(grants, r.some(acme, "s", 5)...); len(grants) > 0 {
			break
		}
	}
	if len(grants) != 1 || grants[0].Run != free.ID {
		r.Fatalf("behind a paused pack %d steps were granted", len(grants))
	}
	r.end(grants...)
	depths, err := r.Depths(r.ctx(), acme)
	r.must("depths", err)
	if len(depths) != 1 || depths[0].Queue != "exports" || depths[0].Ready != most {
		r.Errorf("the queues are %+v", depths)
	}
	rows, err := r.Steps(r.ctx(), acme, held.ID, "", 0)
	r.must("steps", err)
	for i := range rows {
		if rows[i].Queue == nil || rows[i].Queue.Queue != "exports" {
			r.Fatalf("%s stands in %+v", rows[i].ID, rows[i].Queue)
		}
	}
	// A pause of its queue holds for what was set aside, too, and so does its limit.
	r.change(acme, store.FlowQueue, "exports", "pause", 0)
	r.change(acme, store.FlowPack, "held", "resume", 0)
	for range 3 {
		r.claim(acme, "s", 5, 0)
	}
	r.change(acme, store.FlowQueue, "exports", "resume", 0)
	r.change(acme, store.FlowQueue, "exports", "limit", 7)
	for i, g := range r.some(acme, "s", 50) {
		if want := work.StepID(fmt.Sprintf("s%04d", i)); g.Step != want || i >= 7 {
			r.Fatalf("grant %d is %s", i, g.Step)
		}
		grants = append(grants, g)
	}
	if len(grants) != 8 {
		r.Errorf("%d steps were granted, not the one and the seven", len(grants))
	}
	if depths, err = r.Depths(r.ctx(), acme); err != nil || len(depths) != 1 || depths[0].Running != 7 || depths[0].Ready != most-7 {
		r.Errorf("the queues are %+v, %v", depths, err)
	}
}

// some asks for work, whatever comes.
func (r *rig) some(tenant work.Tenant, session string, most int) []store.Grant {
	r.Helper()
	reply, err := r.Exchange(r.ctx(), request(tenant, session, most))
	r.must("claim", err)
	return reply.Grants
}

// testLimits: no more steps run at once than the tenant and the queue may, whoever asks, and an end makes room.
func testLimits(r *rig) {
	var steps []work.PlanStep
	for i := range 12 {
		s := runStep(work.StepID(fmt.Sprintf("s%02d", i)))
		if i%2 == 0 {
			s = inQueue(s, "slow")
		}
		steps = append(steps, s)
	}
	r.submit(acme, plan(nil, steps...))
	r.session(acme, "s")
	r.session(acme, "t")
	r.change(acme, store.FlowQueue, "slow", "limit", 2)
	r.change(acme, store.FlowTenant, "", "limit", 5)
	queueOf := func(g store.Grant) bool { return (int(g.Step[2])-'0')%2 == 0 }
	first := r.claim(acme, "s", 4, 4)
	second := r.claim(acme, "t", 9, 1)
	all := append(first, second...)
	slow := slices.DeleteFunc(slices.Clone(all), func(g store.Grant) bool { return !queueOf(g) })
	if len(slow) != 2 {
		r.Fatalf("%d steps of the queue run, not 2", len(slow))
	}
	depths, err := r.Depths(r.ctx(), acme)
	r.must("depths", err)
	if len(depths) != 2 || depths[0].Queue != work.DefaultQueue || depths[0].Running != 3 || depths[1].Queue != "slow" || depths[1].Running != 2 || depths[1].Ready != 4 {
		r.Errorf("the queues are %+v", depths)
	}
	r.claim(acme, "s", 9, 0)
	r.end(slow[0])
	next := r.claim(acme, "t", 9, 1)
	if !queueOf(next[0]) {
		r.Errorf("%s was granted: the first in line is of the queue that has room", next[0].Step)
	}
	r.change(acme, store.FlowTenant, "", "limit", 0)
	r.claim(acme, "s", 9, 3) // the rest of the default queue, and nothing of the full one
	r.change(acme, store.FlowQueue, "slow", "limit", 3)
	r.claim(acme, "s", 9, 1)
}

// testShares: a tenant with very much work does not keep another one waiting, and weights are kept.
func testShares(r *rig) {
	many := func(tenant work.Tenant, n int) {
		var steps []work.PlanStep
		for i := range n {
			steps = append(steps, runStep(work.StepID(fmt.Sprintf("s%04d", i))))
		}
		r.submit(tenant, plan(nil, steps...))
	}
	many(acme, 300)
	r.session(store.Installation, "every")
	r.end(r.everybody("every", 10)...)
	many(zenith, 40)
	// One slot: they take turns. The other one has waited for one lease at most.
	waited := 0
	for range 20 {
		g := r.everybody("every", 1)
		if len(g) != 1 {
			r.Fatalf("%d grants", len(g))
		}
		if waited++; g[0].Tenant == zenith {
			waited = 0
		}
		if waited > 1 {
			r.Fatalf("the other tenant has waited for %d leases", waited)
		}
		r.end(g...)
	}
	// Many slots: half of them each.
	grants := r.everybody("every", 20)
	if n := grantsOf(grants, zenith); n != 10 {
		r.Errorf("%d of 20 slots are the other tenant's", n)
	}
	r.end(grants...)
	r.change(acme, store.FlowTenant, "", "weight", 3)
	grants = r.everybody("every", 20)
	if n := grantsOf(grants, zenith); n != 5 {
		r.Errorf("with a weight of 3 to 1, %d of 20 slots are the other tenant's", n)
	}
	// Who is held back takes no part.
	r.end(grants...)
	r.change(acme, store.FlowTenant, "", "pause", 0)
	if n := grantsOf(r.everybody("every", 4), acme); n != 0 {
		r.Errorf("%d steps of a paused tenant", n)
	}
}

func grantsOf(grants []store.Grant, tenant work.Tenant) int {
	n := 0
	for _, g := range grants {
		if g.Tenant == tenant {
			n++
		}
	}
	return n
}

// testQuota: a submission beyond the quota is refused, and an end makes room.
func testQuota(r *rig) {
	_, err := r.ChangeFlow(r.ctx(), store.FlowChange{Tenant: acme, Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Runs: 2}})
	r.must("quota", err)
	r.submit(acme, plan(nil, runStep("a")))
	out := r.Submit(r.ctx(), []store.Submission{r.submission(acme, plan(nil, runStep("a"))), r.submission(acme, plan(nil, runStep("a")))})
	r.must("the second run", out[0].Err)
	r.wants("the third run", out[1].Err, fault.Exhausted)
	r.submit(zenith, plan(nil, runStep("a")))
	r.session(acme, "s")
	r.end(r.claim(acme, "s", 1, 1)...)
	r.submit(acme, plan(nil, runStep("a")))
	_, err = r.ChangeFlow(r.ctx(), store.FlowChange{Tenant: acme, Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Steps: 3}})
	r.must("quota", err)
	r.submit(acme, plan(nil, runStep("a"), runStep("b")))
	out = r.Submit(r.ctx(), []store.Submission{r.submission(acme, plan(nil, runStep("a")))})
	r.wants("a run while enough steps wait", out[0].Err, fault.Exhausted)
	_, err = r.ChangeFlow(r.ctx(), store.FlowChange{Tenant: acme, Kind: store.FlowTenant, Verb: "quota", Quota: store.Quota{Bytes: 1000}})
	r.must("quota", err)
	r.submit(acme, plan(nil, runStep("a"))) // nobody has counted
	usage := store.Record{Tenant: acme, Kind: store.UsageKind, ID: store.UsageKind, Doc: []byte(`{"counted":900,"from":50,"added":149}`)}
	r.must("count", r.Change(r.ctx(), store.RecordChange{Record: usage}))
	r.submit(acme, plan(nil, runStep("a")))
	usage.Version, usage.Doc = 1, []byte(`{"counted":900,"from":50,"added":150}`)
	r.must("count", r.Change(r.ctx(), store.RecordChange{Record: usage}))
	out = r.Submit(r.ctx(), []store.Submission{r.submission(acme, plan(nil, runStep("a")))})
	r.wants("a run of a tenant that stores as much as it may", out[0].Err, fault.OverQuota)
	r.submit(zenith, plan(nil, runStep("a")))
}

// testDelayed: a run starts at its time and not before; one with a concurrency key stands in line only then.
func testDelayed(r *rig) {
	delayed := r.submission(acme, plan(func(p *work.Plan) { p.Concurrency = &work.Concurrency{Key: "db", Max: 1} }, runStep("a")))
	delayed.Run.NotBefore = r.now() + 60*second
	run := r.Submit(r.ctx(), []store.Submission{delayed})[0].Run
	if run.Phase != work.PhaseDelayed || run.Reason.Code != work.WaitsForTime || run.Reason.Until != delayed.Run.NotBefore {
		r.Fatalf("the run is %s, %+v", run.Phase, run.Reason)
	}
	r.session(acme, "s")
	r.claim(acme, "s", 5, 0)
	now := r.submit(acme, plan(func(p *work.Plan) { p.Concurrency = &work.Concurrency{Key: "db", Max: 1} }, runStep("a")))
	if now.State != work.Running {
		r.Fatalf("a run that may start is %s: the delayed one has its key", now.State)
	}
	next, err := r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if next > delayed.Run.NotBefore {
		r.Errorf("the next thing to do is at %s, after %s", next, delayed.Run.NotBefore)
	}
	r.advance(61 * second)
	_, err = r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if got := r.run(acme, run.ID); got.Phase != work.PhaseAdmission || got.Reason.Code != work.WaitsForConcurrency {
		r.Errorf("at its time the run is %s, %+v", got.Phase, got.Reason)
	}
	r.session(acme, "s")
	r.end(r.claim(acme, "s", 5, 1)...)
	if got := r.run(acme, run.ID); got.State != work.Running {
		r.Errorf("with the key free the run is %s", got.State)
	}
	r.end(r.claim(acme, "s", 5, 1)...)
	plain := r.submission(acme, plan(nil, runStep("a")))
	plain.Run.NotBefore = r.now() + 5*second
	run = r.Submit(r.ctx(), []store.Submission{plain})[0].Run
	r.advance(5 * second)
	_, err = r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if got := r.run(acme, run.ID); got.State != work.Running {
		r.Errorf("at its time the run is %s", got.State)
	}
}

// testBound: who has learned the token of a lease is still not the one that it was granted to.
func testBound(r *rig) {
	r.submit(acme, plan(nil, runStep("a")))
	r.session(acme, "s")
	r.session(acme, "thief")
	g := r.claim(acme, "s", 1, 1)[0]
	stolen := g
	stolen.Session = "thief"
	r.wants("a report of another session", r.report("thief", g, work.Succeeded), fault.Stale)
	r.wants("an ack of another session", r.Ack(r.ctx(), []store.AckCommand{ackOf(stolen)})[0], fault.Stale)
	r.wants("lines of another session", r.AppendLines(r.ctx(), []store.LinesCommand{{
		Session: "thief", Tenant: acme, Run: g.Run, Step: g.Step, Token: g.Token, Lines: linesOf("x"),
	}})[0], fault.Stale)
	r.must("the report of its own session", r.report("s", g, work.Succeeded))
}

// testErase: a run that may go is gone from every list with the first command, piece by piece from the store, and its leaf stays; what is
// held, runs, is not sealed or has no evidence stays.
func testErase(r *rig) {
	sub := r.submission(acme, plan(nil, runStep("a"), runStep("b"), runStep("c")))
	sub.Run.Labels = map[string]string{"case": "7"}
	run := r.Submit(r.ctx(), []store.Submission{sub})[0].Run
	other := r.submit(acme, plan(nil, runStep("a")))
	erase := func(limit int) (bool, error) { return r.Erase(r.ctx(), acme, run.ID, limit) }
	_, err := erase(2)
	r.wants("to erase a run under way", err, fault.Conflict)
	r.session(acme, "s")
	r.drain(acme, "s")
	_, err = erase(2)
	r.wants("to erase a run that is not sealed", err, fault.Incomplete)
	r.must("seal", r.AppendLog(r.ctx(), acme, store.LogAppend{
		Runs: []work.RunID{run.ID}, Leaves: [][]byte{[]byte("leaf")}, Hashes: [][32]byte{{1}}, Checkpoint: []byte("c"),
	}))
	_, err = erase(2)
	r.wants("to erase a run without evidence", err, fault.Incomplete)
	r.must("evidence", r.Attach(r.ctx(), acme, run.ID, "evidence", []byte("sha256:00")))
	for _, on := range []string{"run/" + string(run.ID), "pack/suite", "label/case=7"} {
		hold := store.Record{Tenant: acme, Kind: store.HoldKind, ID: on, Doc: []byte(`{}`)}
		r.must("hold", r.Change(r.ctx(), store.RecordChange{Record: hold}))
		_, err = erase(2)
		r.wants("to erase a run with a hold on "+on, err, fault.Conflict)
		hold.Version = 1
		r.must("release", r.Change(r.ctx(), store.RecordChange{Record: hold, Delete: true}))
	}
	all := store.Record{Tenant: acme, Kind: store.HoldKind, ID: store.HoldAll, Doc: []byte(`{}`), Expires: r.now() + second}
	r.must("hold everything for a second", r.Change(r.ctx(), store.RecordChange{Record: all}))
	_, err = erase(2)
	r.wants("to erase a run while everything is held", err, fault.Conflict)
	r.advance(second)
	_, err = r.Erase(r.ctx(), zenith, run.ID, 2)
	r.wants("to erase another tenant's run", err, fault.NotFound)
	for n := 0; ; n++ {
		left, err := erase(2)
		r.must("erase", err)
		_, err = r.Run(r.ctx(), acme, string(run.ID))
		r.wants("the run after the first command", err, fault.NotFound)
		if !left {
			if n == 0 {
				r.Error("everything went with one command of two rows")
			}
			break
		}
	}
	if left, err := erase(2); left || err != nil {
		r.Errorf("the command sent again: %t, %v", left, err)
	}
	steps, err := r.Steps(r.ctx(), acme, run.ID, "", 0)
	r.must("steps", err)
	events, err := r.Events(r.ctx(), acme, run.ID, 1, 0)
	r.must("events", err)
	found, err := r.Find(r.ctx(), acme, store.RunQuery{Labels: map[string]string{"case": "7"}})
	r.must("find", err)
	if len(steps)+len(events)+len(found) > 0 {
		r.Errorf("%d steps, %d events and %d labels are left", len(steps), len(events), len(found))
	}
	leaf, _, err := r.Leaf(r.ctx(), acme, run.ID)
	if err != nil || string(leaf) != "leaf" {
		r.Errorf("its leaf is %q, %v", leaf, err)
	}
	if got := r.run(acme, other.ID); got.State != work.Succeeded {
		r.Errorf("the other run is %s", got.State)
	}
	record, err := r.Record(r.ctx(), acme, store.ErasedKind, string(run.ID))
	r.must("what stays", err)
	if !strings.Contains(string(record.Doc), run.Name) || !strings.Contains(string(record.Doc), "sha256:00") {
		r.Errorf("what stays of it is %s", record.Doc)
	}
	r.submit(acme, plan(nil, runStep("a"))) // the store goes on
}
