package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/work"
)

// view is a history that watches how the engine treats it: which rows it reads, and that it saves what it changes.
type view struct {
	*replay.History
	reads int
	saved map[work.StepID]string // the rows as they were after the last transition
	dirty map[work.StepID]bool   // saved in this one
	read  map[work.StepID]bool
}

func (v *view) Step(id work.StepID) *work.Step {
	v.reads++
	if v.read != nil {
		v.read[id] = true
	}
	return v.History.Step(id)
}

func (v *view) Save(row *work.Step) {
	if v.dirty != nil {
		v.dirty[row.ID] = true
	}
	v.History.Save(row)
}

// lost returns rows that the engine changed in the last transition without saving them: a store would have forgotten it.
func (v *view) lost() []string {
	var out []string
	for id := range v.read {
		row := v.History.Step(id)
		if row == nil {
			continue
		}
		raw, _ := json.Marshal(row) // cannot fail: a plain struct
		if !v.dirty[id] && v.saved[id] != string(raw) {
			out = append(out, fmt.Sprintf("%s was changed and not saved: %s is now %s", id, v.saved[id], raw))
		}
		v.saved[id] = string(raw)
	}
	for id := range v.dirty {
		raw, _ := json.Marshal(v.History.Step(id)) // cannot fail: a plain struct
		v.saved[id] = string(raw)
	}
	clear(v.read)
	clear(v.dirty)
	return out
}

// player drives one run with whatever the pick decides.
type player struct {
	plan      *work.Plan
	canonical []byte
	graph     *engine.Graph
	view      *view
	now       work.Time
	luck      uint64
	gentle    bool // nothing that makes the end depend on the schedule
	findings  []string
}

func newPlayer(plan *work.Plan, luck uint64, watch bool) (*player, error) {
	raw, g, err := prepare(plan)
	if err != nil {
		return nil, err
	}
	p := &player{plan: plan, canonical: raw, graph: g, now: epoch, luck: luck}
	run := work.Run{Tenant: "t", ID: "run_1", Name: "bold-owl", PlanHash: g.Hash, Pack: plan.Pack, Submitter: "ann"}
	p.view = &view{History: replay.NewHistory(run)}
	if watch {
		p.view.saved, p.view.dirty, p.view.read = map[work.StepID]string{}, map[work.StepID]bool{}, map[work.StepID]bool{}
	}
	return p, nil
}

func (p *player) submit(busy bool) {
	run := p.view.Run()
	engine.Submit(p.graph, p.view, p.now, work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, ReplayToken: "r",
		InputsHash: canonical.Digest(nil), Incarnation: 1,
	}, busy)
	p.check("submit")
}

// check audits the rows after a transition.
func (p *player) check(what string) {
	for _, f := range replay.Audit(p.graph.Plan, p.view.Run(), p.view.Steps()) {
		p.findings = append(p.findings, "after "+what+": "+f)
	}
	for _, f := range p.view.lost() {
		p.findings = append(p.findings, "after "+what+": "+f)
	}
	if err := p.view.Err(); err != nil {
		p.findings = append(p.findings, "after "+what+": "+err.Error())
	}
}

// by returns the steps in one of the states that a filter likes, in order of ids.
func (p *player) by(state work.State, like func(*work.Step) bool) []work.StepID {
	var out []work.StepID
	for _, id := range p.view.Live() {
		if row := p.view.History.Step(id); row.State == state && (like == nil || like(row)) {
			out = append(out, id)
		}
	}
	return out
}

func leased(row *work.Step) bool { return row.Lease != nil }
func free(row *work.Step) bool   { return !row.Held && row.Queue != nil }

// move does one thing that could happen now, and reports false when nothing came of the choice.
func (p *player) move(pick func(n int) int) bool {
	p.now += work.Time(1 + pick(2_000_000))
	switch choice := pick(20); {
	case choice < 7:
		return p.one(pick, "claim", p.by(work.Queued, free), func(id work.StepID) error {
			_, err := engine.Claim(p.graph, p.view, p.now, id, "s", "w", 1)
			return err
		})
	case choice < 13:
		return p.one(pick, "report", p.by(work.Running, leased), p.report)
	case choice == 13:
		return p.one(pick, "ack", p.by(work.Running, leased), func(id work.StepID) error {
			return engine.Ack(p.graph, p.view, p.now, id, p.token(id), 1)
		})
	case choice == 14:
		return p.one(pick, "lose", p.by(work.Running, leased), func(id work.StepID) error {
			return engine.Revoke(p.graph, p.view, p.now, id, work.RevokedData{
				Token: p.token(id), Reason: work.Reason{Code: work.EndedByWorkerLoss}, Charge: !p.gentle,
			}, 1)
		})
	case choice == 15:
		return p.one(pick, "wake", p.by(work.Retrying, nil), p.due)
	case choice == 16:
		return p.one(pick, "decide", p.by(work.Waiting, nil), func(id work.StepID) error { return p.decide(id, pick(3)) })
	case choice == 17:
		return p.pauseOrResume(pick)
	default:
		return !p.gentle && p.rough(pick)
	}
}

// rough does what makes a run end otherwise than its steps decide.
func (p *player) rough(pick func(n int) int) bool {
	switch choice := pick(12); choice {
	case 0:
		err := engine.Cancel(p.graph, p.view, p.now, work.Actor{Name: "ann"})
		p.check("cancel")
		return err == nil
	case 1:
		if due := p.view.Run().Due; due != 0 {
			p.now = max(p.now, due)
			engine.Due(p.graph, p.view, p.now)
			p.check("run timeout")
			return true
		}
		return false
	case 2:
		return p.one(pick, "expire", p.by(work.Waiting, nil), p.due)
	case 3:
		return p.one(pick, "miss the deadline of", p.by(work.Running, leased), p.due)
	default:
		return false
	}
}

func (p *player) one(pick func(n int) int, what string, from []work.StepID, act func(work.StepID) error) bool {
	if len(from) == 0 {
		return false
	}
	id := from[pick(len(from))]
	if err := act(id); err != nil {
		p.findings = append(p.findings, fmt.Sprintf("%s %s: %v", what, id, err))
	}
	p.check(what + " " + string(id))
	return true
}

func (p *player) token(id work.StepID) work.Token {
	return work.Token{Incarnation: 1, Epoch: p.view.History.Step(id).Epoch}
}

func (p *player) report(id work.StepID) error {
	row := p.view.History.Step(id)
	d := work.ReportedData{
		Token: p.token(id), Worker: "w", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, StartedAt: p.now, EndedAt: p.now,
	}
	if fails(p.luck, id, row.Failures) {
		d.State, d.ExitCode, d.Class, d.Reason = work.Failed, 1, "exit", work.Reason{Code: work.EndedByExit}
	} else {
		d.Outputs = json.RawMessage(`{"items":[` + strings.TrimSuffix(strings.Repeat(`"x",`, items(p.luck, id)), ",") + `]}`)
	}
	return engine.Report(p.graph, p.view, p.now, id, d, 1)
}

func (p *player) due(id work.StepID) error {
	p.now = max(p.now, p.view.History.Step(id).Timer)
	engine.DueStep(p.graph, p.view, p.now, id, 1)
	return nil
}

func (p *player) decide(id work.StepID, person int) error {
	row := p.view.History.Step(id)
	d := work.Decision{
		Gate: id, Decision: "approved", Approver: fmt.Sprint("person", person), Key: fmt.Sprint("key", person), PlanHash: p.graph.Hash,
		Statement: json.RawMessage(`{}`),
	}
	if rejects(p.luck, id) {
		d.Decision = "rejected"
	}
	for _, earlier := range row.Decisions {
		if earlier.Approver == d.Approver {
			return nil
		}
	}
	if p.now >= row.Timer {
		return p.due(id)
	}
	return engine.Decide(p.graph, p.view, p.now, d)
}

func (p *player) pauseOrResume(pick func(n int) int) bool {
	if p.view.Run().Paused != nil {
		err := engine.Resume(p.graph, p.view, p.now, work.Actor{Name: "ann"})
		p.check("resume")
		return err == nil
	}
	if pick(4) > 0 {
		return false
	}
	err := engine.Pause(p.graph, p.view, p.now, work.Actor{Name: "ann"})
	p.check("pause")
	return err == nil
}

// finish lets everything come to its end: a worker for whatever is queued, a report for every attempt, a decision at every
// gate, time for every timer. It reports false when the run does not end by it.
func (p *player) finish(steps int) bool {
	zero := func(int) int { return 0 }
	for range steps {
		if p.view.Run().State.Terminal() {
			return true
		}
		p.now += 1000
		switch run := p.view.Run(); {
		case run.Paused != nil:
			p.pauseOrResume(zero)
		case run.Phase == work.PhaseAdmission:
			engine.Admit(p.graph, p.view, p.now)
			p.check("admit")
		case p.one(zero, "report", p.by(work.Running, leased), p.report):
		case p.one(zero, "claim", p.by(work.Queued, free), func(id work.StepID) error {
			_, err := engine.Claim(p.graph, p.view, p.now, id, "s", "w", 1)
			return err
		}):
		case p.one(zero, "wake", p.by(work.Retrying, nil), p.due):
		case p.one(zero, "decide", p.by(work.Waiting, nil), func(id work.StepID) error {
			return p.decide(id, len(p.view.History.Step(id).Decisions)+3)
		}):
		default:
			return false
		}
	}
	return p.view.Run().State.Terminal()
}
