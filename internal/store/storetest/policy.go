package storetest

import (
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func engineStep(id work.StepID, onUnavailable string) work.PlanStep {
	return work.PlanStep{ID: id, Kind: work.KindPolicy, Policy: &work.PolicySpec{FailAction: "halt", Engine: &work.EngineSpec{
		Name: "opa", Path: "release/allow", OnUnavailable: onUnavailable, TTLMs: 3600_000,
	}}}
}

// testPolicyEngine: a gate that waits for a policy engine stands in a list for as long as it waits, and passes by the first clear yes to
// the question that it asks.
func testPolicyEngine(r *rig) {
	waiting := func() []store.Ask {
		rows, err := r.Records(r.ctx(), store.Installation, store.AskKind, "", "", 0)
		r.must("asks", err)
		asks := make([]store.Ask, len(rows))
		for i := range rows {
			r.must("ask", json.Unmarshal(rows[i].Doc, &asks[i]))
		}
		return asks
	}
	rule := func(run work.Run, ruling store.Ruling) error {
		return r.Decide(r.ctx(), []store.DecideCommand{{Tenant: run.Tenant, Run: run.ID, Ruling: &ruling}})[0]
	}
	run := r.submit(acme, plan(nil, engineStep("ask", "wait"), runStep("after", "ask")))
	row := r.step(run, "ask")
	if got := waiting(); len(got) != 1 || got[0] != (store.Ask{Tenant: acme, Run: run.ID, Gate: "ask"}) || row.State != work.Waiting || row.Reason.Code != work.WaitsForPolicy {
		r.Fatalf("the gate is %s, %+v; asked is %v", row.State, row.Reason, got)
	}
	answer := func(result string) *work.EngineAnswer {
		return &work.EngineAnswer{Name: "opa", Path: "release/allow", Input: canonical.Digest(row.Inputs), Result: json.RawMessage(result)}
	}
	other := answer("true")
	other.Input = digestOf('f')
	r.wants("an answer to something else", rule(run, store.Ruling{Gate: "ask", Answer: other}), fault.Conflict)
	r.wants("an answer at a step", rule(run, store.Ruling{Gate: "after", Answer: answer("true")}), fault.NotFound)
	r.wants("a fraction", rule(run, store.Ruling{Gate: "ask", Answer: answer("0.5")}), fault.Invalid)
	r.wants("a person's decision", r.Decide(r.ctx(), []store.DecideCommand{{Tenant: acme, Run: run.ID, Decision: work.Decision{
		Gate: "ask", Decision: "approved", Approver: "bob", PlanHash: run.PlanHash,
	}}})[0], fault.NotFound)
	r.wants("no answer", rule(run, store.Ruling{Gate: "ask", Unavailable: "down"}), "")
	if got := r.step(run, "ask"); got.State != work.Waiting || got.Reason.Message != "down" || len(waiting()) != 1 {
		r.Errorf("without an answer the gate is %s, %+v; asked is %v", got.State, got.Reason, waiting())
	}
	r.wants("a yes", rule(run, store.Ruling{Gate: "ask", Answer: answer("true")}), "")
	r.wants("another yes", rule(run, store.Ruling{Gate: "ask", Answer: answer("true")}), fault.Conflict)
	if got := r.step(run, "ask"); got.State != work.Succeeded || string(got.Outputs) != `{"allowed":true}` || len(waiting()) != 0 {
		r.Errorf("after a yes the gate is %s with %s; asked is %v", got.State, got.Outputs, waiting())
	}

	for name, c := range map[string]struct {
		onUnavailable string
		ruling        func() store.Ruling
		code          work.ReasonCode
	}{
		"no":        {"wait", func() store.Ruling { return store.Ruling{Gate: "ask", Answer: answer("false")} }, work.EndedByPolicy},
		"undefined": {"wait", func() store.Ruling { return store.Ruling{Gate: "ask", Answer: answer("")} }, work.EndedByPolicy},
		"a word":    {"wait", func() store.Ruling { return store.Ruling{Gate: "ask", Answer: answer(`"true"`)} }, work.EndedByPolicy},
		"an object": {"wait", func() store.Ruling { return store.Ruling{Gate: "ask", Answer: answer(`{"allow":"true"}`)} }, work.EndedByPolicy},
		"down":      {"fail", func() store.Ruling { return store.Ruling{Gate: "ask", Unavailable: "down"} }, work.PolicyUnanswered},
	} {
		run := r.submit(acme, plan(nil, engineStep("ask", c.onUnavailable)))
		row = r.step(run, "ask")
		ruling := c.ruling()
		if ruling.Answer != nil && len(ruling.Answer.Result) == 0 {
			ruling.Answer.Result = nil
		}
		r.wants(name, rule(run, ruling), "")
		if got := r.step(run, "ask"); got.State != work.Failed || got.Reason.Code != c.code {
			r.Errorf("%s: the gate is %s, %+v", name, got.State, got.Reason)
		}
	}
	cancelled, expired := r.submit(acme, plan(nil, engineStep("ask", "wait"))), r.submit(zenith, plan(nil, engineStep("ask", "wait")))
	r.must("cancel", r.control(cancelled, "cancel"))
	if got := waiting(); len(got) != 1 || got[0].Run != expired.ID {
		r.Errorf("after a cancel asked is %v", got)
	}
	row = r.step(expired, "ask")
	r.advance(row.Timer - r.now())
	r.wants("a late yes", rule(expired, store.Ruling{Gate: "ask", Answer: answer("true")}), fault.Conflict)
	_, err := r.Tick(r.ctx(), 10)
	r.must("tick", err)
	if got := r.step(expired, "ask"); got.State != work.TimedOut || len(waiting()) != 0 {
		r.Errorf("a gate that nobody decided is %s; asked is %v", got.State, waiting())
	}
}
