package engine_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/work"
)

// command does what one line of a script says. A millisecond passes before each.
func (s *script) command(words []string) (string, error) {
	s.now += 1000
	verb, words := words[0], words[1:]
	var step work.StepID
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		step, words = work.StepID(words[0]), words[1:]
	}
	o, err := parseOptions(words)
	if err != nil {
		return "", err
	}
	text, err := s.perform(verb, step, o)
	if unknown := o.done(); err == nil && unknown != nil {
		err = unknown
	}
	return text, err
}

func (s *script) perform(verb string, step work.StepID, o *options) (string, error) {
	actor := work.Actor{Name: "ann", Reason: o.text("reason")}
	if by := o.text("by"); by != "" {
		actor.Name = by
	}
	switch verb {
	case "submit":
		s.submit(step == "busy", o)
	case "admit":
		engine.Admit(s.graph, s.history, s.now)
	case "wait":
		d, err := time.ParseDuration(string(step))
		if err != nil {
			return "", err
		}
		s.now += work.Time(d.Microseconds())
	case "claim":
		return s.claim(step, o)
	case "ack":
		return "", engine.Ack(s.graph, s.history, s.now, step, s.token(step, o), 1)
	case "report":
		return "", s.report(step, o)
	case "lost":
		return "", engine.Revoke(s.graph, s.history, s.now, step, work.RevokedData{
			Token: s.token(step, o), Reason: work.Reason{Code: work.EndedByWorkerLoss, Subject: "w1"}, Charge: !o.flag("free"),
		}, 1)
	case "due":
		if step == "run" {
			engine.Due(s.graph, s.history, s.now)
		} else {
			engine.DueStep(s.graph, s.history, s.now, step, 1)
		}
	case "approve", "reject":
		return "", s.decide(verb, step, actor, o)
	case "cancel":
		return "", engine.Cancel(s.graph, s.history, s.now, actor)
	case "pause":
		return "", engine.Pause(s.graph, s.history, s.now, actor)
	case "resume":
		return "", engine.Resume(s.graph, s.history, s.now, actor)
	case "rows":
		return s.rows(), nil
	case "run":
		return s.run(), nil
	default:
		return "", fmt.Errorf("there is no command %q", verb)
	}
	return "", nil
}

func (s *script) submit(busy bool, o *options) {
	s.runs++
	run := work.Run{
		Tenant: "t", ID: work.RunID(fmt.Sprintf("run_%d", s.runs)), Name: "bold-owl", PlanHash: s.graph.Hash, Pack: s.graph.Plan.Pack,
		Submitter: "ann", SubmitterKey: "key-ann",
	}
	data := work.SubmittedData{
		Name: run.Name, PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, SubmitterKey: run.SubmitterKey,
		ReplayToken: "replay", InputsHash: canonical.Digest(nil), Incarnation: 1,
	}
	if c := s.graph.Plan.Concurrency; c != nil {
		run.ConcurrencyKey, data.Concurrency = c.Key, c.Key
	}
	for _, id := range o.list("carried") {
		data.Carried = append(data.Carried, work.Carried{
			Step: work.StepID(id), Run: "run_0", Attempt: 2, Outputs: json.RawMessage(`{"from":"before"}`),
		})
	}
	s.history, s.shown = replay.NewHistory(run), 0
	engine.Submit(s.graph, s.history, s.now, data, busy)
}

func (s *script) claim(step work.StepID, o *options) (string, error) {
	b, err := engine.Claim(s.graph, s.history, s.now, step, "s1", "w1", 1)
	if err != nil || !o.flag("show") {
		return "", err
	}
	raw, err := canonical.Marshal(b)
	return "  " + strings.ReplaceAll(string(raw), string(s.graph.Hash), "HASH") + "\n", err
}

// token is the current one of a step, or one with another epoch.
func (s *script) token(step work.StepID, o *options) work.Token {
	t := work.Token{Incarnation: 1}
	if row := s.history.Step(step); row != nil {
		t.Epoch = row.Epoch
	}
	if n, err := strconv.ParseInt(o.text("epoch"), 10, 64); err == nil {
		t.Epoch = n
	}
	t.Incarnation = int64(o.number("incarnation", 1))
	return t
}

func (s *script) report(step work.StepID, o *options) error {
	data := work.ReportedData{
		Token: s.token(step, o), Worker: "w1", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell},
		StartedAt: s.now - 500, EndedAt: s.now,
	}
	if v := o.text("outputs"); v != "" {
		data.Outputs = json.RawMessage(v)
	}
	if exit := o.number("exit", 0); exit != 0 {
		data.State, data.ExitCode, data.Class = work.Failed, exit, "exit"
		data.Reason = work.Reason{Code: work.EndedByExit, Message: fmt.Sprintf("exit code %d", exit)}
	}
	if class := o.text("class"); class != "" {
		data.State, data.Class, data.Reason = work.Failed, class, work.Reason{Code: work.EndedByLimit, Subject: class}
	}
	if code := o.text("code"); code != "" {
		data.State, data.Class, data.Reason = work.Failed, "worker", work.Reason{Code: work.ReasonCode(code)}
	}
	if o.flag("stopped") {
		data.State, data.Reason = work.Cancelled, work.Reason{Code: work.EndedByCancel}
	}
	return engine.Report(s.graph, s.history, s.now, step, data, 1)
}

func (s *script) decide(verb string, step work.StepID, actor work.Actor, o *options) error {
	d := work.Decision{
		Gate: step, Decision: verb + "d", Approver: actor.Name, Key: "key-" + actor.Name, PlanHash: s.graph.Hash,
		Reason: actor.Reason, DecidedAt: s.now, Statement: json.RawMessage(`{}`),
	}
	if verb == "reject" {
		d.Decision = "rejected"
	}
	if o.flag("otherPlan") {
		d.PlanHash = canonical.Digest([]byte("another"))
	}
	if key := o.text("key"); key != "" {
		d.Key = key
	}
	return engine.Decide(s.graph, s.history, s.now, d)
}

// rows prints where every step stands that something has happened to.
func (s *script) rows() string {
	var out strings.Builder
	for _, row := range s.history.Steps() {
		fmt.Fprintf(&out, "  %-24s %s", row.ID, row.State)
		if row.Reason.Code != "" && row.Reason.Code != work.EndedWell {
			fmt.Fprintf(&out, " %s", row.Reason.Code)
			if row.Reason.Subject != "" {
				fmt.Fprintf(&out, " (%s)", row.Reason.Subject)
			}
		}
		if row.Lease != nil && row.Lease.Cancel {
			out.WriteString(", told to stop")
		}
		if row.Total > 0 {
			fmt.Fprintf(&out, ", %d of %d done", row.Done, row.Total)
		}
		out.WriteString("\n")
	}
	return out.String()
}

func (s *script) run() string {
	r := s.history.Run()
	text := fmt.Sprintf("  %s in %s, active %d, slots %d, held %d", r.State, r.Phase, r.Active, r.Slots, r.Held)
	if r.Reason.Code != "" {
		text += fmt.Sprintf(", %s", r.Reason.Code)
	}
	if r.Reason.Subject != "" {
		text += fmt.Sprintf(" (%s)", r.Reason.Subject)
	}
	if len(r.Outputs) > 0 {
		text += ", outputs " + string(r.Outputs)
	}
	return text + "\n"
}
