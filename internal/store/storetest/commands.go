package storetest

import (
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// commands draws what people and workers ask of a store. It remembers what was granted, so that reports are right as often as wrong.
type commands struct {
	gen
	submitted []work.Run
	grants    []store.Grant
}

// plans are small and have one of everything that waits.
func plans() []*work.Plan {
	flaky, keyed := runStep("a"), runStep("b")
	flaky.Run.Retry = work.RetrySpec{MaxAttempts: 2, BackoffMs: 1000}
	keyed.Run.Concurrency = &work.Concurrency{Key: "db", Max: 1}
	keyed.Run.Runner = "shell"
	cleanup := runStep("clean")
	cleanup.Finally = true
	mapped := work.PlanStep{ID: "m", Kind: work.KindMap, Map: &work.MapSpec{
		Static: []json.RawMessage{[]byte(`1`), []byte(`2`), []byte(`3`)}, Item: "item", Index: "index", MaxItems: 10, MaxParallel: 2,
	}}
	item := runStep("m[*]::d")
	item.Parent = "m"
	return []*work.Plan{
		plan(nil, flaky, runStep("c", "a")),
		plan(func(p *work.Plan) { p.MaxParallel = 1 }, flaky, keyed, cleanup),
		plan(func(p *work.Plan) { p.Concurrency = &work.Concurrency{Key: "gpu", Max: 1} }, keyed),
		plan(func(p *work.Plan) { p.TimeoutMs = 20_000 }, gateStep("gate"), runStep("after", "gate")),
		plan(nil, mapped, item),
	}
}

// draw returns a command as a function that gives it to a store and returns the whole answer as text.
func (c *commands) draw() func(*rig) string {
	if len(c.submitted) == 0 {
		return c.submit()
	}
	run := pick(c.gen, "run", c.submitted...)
	switch c.number("command", 0, 11) {
	case 0, 1:
		return c.submit()
	case 2, 3, 4:
		return c.claim(run.Tenant)
	case 5, 6, 7:
		if len(c.grants) > 0 {
			return c.report()
		}
		return c.claim(run.Tenant)
	case 8:
		verb := pick(c.gen, "verb", "cancel", "pause", "resume", "nonsense")
		return func(r *rig) string { return fmt.Sprint(r.control(run, verb)) }
	case 9:
		d := work.Decision{Gate: "gate", Decision: pick(c.gen, "decision", "approved", "rejected"), Approver: "bob", PlanHash: run.PlanHash, Statement: []byte(`{}`)}
		return func(r *rig) string {
			return fmt.Sprint(r.Decide(r.ctx(), []store.DecideCommand{{Tenant: run.Tenant, Run: run.ID, Decision: d}}))
		}
	case 10:
		by := work.Time(c.number("seconds", 0, 40)) * second
		return func(r *rig) string {
			r.advance(by)
			return answer(r.Tick(r.ctx(), 3))
		}
	default:
		return c.smallThings(run)
	}
}

func (c *commands) submit() func(*rig) string {
	batch := make([]store.Submission, c.number("batch", 1, 3))
	for i := range batch {
		batch[i] = submissionOf(c.T, c.tenant(), pick(c.gen, "plan", plans()...), c.number("run number", 1, 8))
		batch[i].Run.RunToken = pick(c.gen, "token", "", "", "t1", "t2")
		batch[i].Data.RunToken = batch[i].Run.RunToken
		c.submitted = append(c.submitted, batch[i].Run)
	}
	return func(r *rig) string {
		text := ""
		for _, s := range r.Submit(r.ctx(), batch) {
			text += fmt.Sprintf("%s %s %v %v\n", s.Run.ID, s.Run.State, s.Existed, s.Err)
		}
		return text
	}
}

func (c *commands) claim(tenant work.Tenant) func(*rig) string {
	session := pick(c.gen, "session", "s1", "s2")
	most := c.number("most", 1, 3)
	local := c.yes("local")
	return func(r *rig) string {
		if err := r.OpenSession(r.ctx(), store.Session{ID: session, Worker: "w", Tenant: tenant, Expires: r.now() + 30*second, Local: local}); err != nil {
			return err.Error()
		}
		req := request(tenant, session, most)
		req.Runners = []string{"process", "shell"}
		reply, err := r.Exchange(r.ctx(), req)
		c.grants = append(c.grants, reply.Grants...)
		text, broken := json.Marshal(reply.Grants)
		return fmt.Sprint(string(text), broken, err)
	}
}

func (c *commands) report() func(*rig) string {
	g := pick(c.gen, "grant", c.grants...)
	state := pick(c.gen, "end", work.Succeeded, work.Succeeded, work.Failed)
	ack, lines := c.yes("ack"), c.number("lines", 0, 2)
	return func(r *rig) string {
		text := ""
		if ack {
			text += fmt.Sprintln(r.Ack(r.ctx(), []store.AckCommand{ackOf(g)}))
		}
		if lines > 0 {
			text += fmt.Sprintln(r.AppendLines(r.ctx(), []store.LinesCommand{{
				Session: g.Session, Tenant: g.Tenant, Run: g.Run, Step: g.Step, Token: g.Token, Lines: linesOf("one", "two")[:lines],
			}}))
		}
		reply, err := r.Exchange(r.ctx(), request(g.Tenant, "s1", 0, reportOf(g, state)))
		return fmt.Sprint(text, reply.Errs, err)
	}
}

func (c *commands) smallThings(run work.Run) func(*rig) string {
	switch c.number("small thing", 0, 4) {
	case 0:
		return func(r *rig) string { return fmt.Sprint(r.Acknowledge(r.ctx(), run.Tenant, run.ID)) }
	case 1:
		data := pick(c.gen, "data", "x", "y")
		return func(r *rig) string {
			return fmt.Sprint(r.Attach(r.ctx(), run.Tenant, run.ID, "attestation", []byte(data)))
		}
	case 2:
		return func(r *rig) string { return answer(r.Heartbeat(r.ctx(), "s1", r.now()+30*second)) }
	case 3:
		return func(r *rig) string { return fmt.Sprint(r.Recover(r.ctx())) }
	default:
		return func(r *rig) string {
			return fmt.Sprint(r.ResolveDeadLetter(r.ctx(), run.Tenant, run.ID, "", work.Actor{Name: "ann"}))
		}
	}
}
