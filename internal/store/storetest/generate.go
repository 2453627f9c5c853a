package storetest

import (
	"encoding/json"
	"fmt"
	"strings"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// small is a world in which random things meet often.
func small() world {
	return world{
		tenants:  []work.Tenant{"acme", "zenith"},
		keys:     []string{"db", "gpu"},
		records:  []string{"d", "db", "db%", "dbx", "é/1"},
		runners:  []string{"process", "shell", "http"},
		sessions: []string{"s1", "s2"},
		digests:  []work.Digest{digestOf('a'), digestOf('b'), "not-a-digest"},
		kinds:    []string{"request", "attestation"},
		now:      10,
	}
}

func digestOf(c byte) work.Digest {
	b := make([]byte, 64)
	for i := range b {
		b[i] = c
	}
	return work.Digest("sha256:" + string(b))
}

// gen draws values of a world.
type gen struct {
	*rapid.T
	w world
}

func pick[T any](g gen, label string, from ...T) T { return rapid.SampledFrom(from).Draw(g.T, label) }

func (g gen) tenant() work.Tenant { return pick(g, "tenant", g.w.tenants...) }
func (g gen) run() work.RunID     { return work.RunID(fmt.Sprintf("run_%d", g.number("run", 1, 5))) }
func (g gen) step() work.StepID {
	return pick(g, "step", work.StepID("a"), "b", "b/c", "m[2]::d", "m[10]::d", "ü")
}
func (g gen) number(label string, from, to int) int { return rapid.IntRange(from, to).Draw(g.T, label) }
func (g gen) time(label string) work.Time           { return work.Time(g.number(label, 0, 14)) }
func (g gen) yes(label string) bool                 { return rapid.Bool().Draw(g.T, label) }

// text is awkward on purpose: quotes, markup, a NUL, nothing.
func (g gen) text(label string) string {
	return pick(g, label, "", "plain", `"quoted" \ and <b>&amp;</b>`, "zwei\nZeilen", "NUL\x00inside", "漢字 ü")
}

// json is valid, but not always spelt as an encoder would.
func (g gen) json(label string) json.RawMessage {
	s := pick(g, label, "", `{}`, `{"a":"<b>","n":1}`, "{ \"spaced\" :\n [1, 2] }", `"text"`, long("0"), long("1"))
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// long is a value that a driver may keep apart from its row; for every digit it has the same length.
func long(digit string) string { return "[" + strings.Repeat(digit+", ", 400) + digit + "]" }

func (g gen) reason() work.Reason {
	return pick(g, "reason", work.Reason{}, work.Reason{Code: work.EndedWell},
		work.Reason{Code: work.WaitsForSteps, Subject: g.text("subject"), Message: g.text("message"), Until: g.time("until")})
}

func (g gen) actor() *work.Actor {
	if g.yes("nobody") {
		return nil
	}
	return &work.Actor{Name: g.text("name"), Key: "k", Reason: g.text("why"), At: g.time("at")}
}

func (g gen) artifacts() []work.Artifact {
	if g.yes("no artifacts") {
		return nil
	}
	return []work.Artifact{{Name: "bin", Path: g.text("path"), Digest: digestOf('c'), Size: 7, Executable: true}}
}

// newRun is a run that has just been created.
func (g gen) newRun(tenant work.Tenant, id work.RunID) *work.Run {
	r := &work.Run{
		Tenant: tenant, ID: id, Name: pick(g, "run name", "amber-fox", "blue-owl", "calm-elk", string(id)),
		PlanHash: pick(g, "plan", g.w.digests...), Pack: work.PackRef{Name: pick(g, "pack", "alpha", "beta"), Version: "1", Digest: digestOf('d')},
		Submitter: g.text("submitter"), Note: g.text("note"), RunToken: pick(g, "token", "", "", "t1", "t2"),
		RetryOf: pick(g, "retry of", "", work.RunID("run_1")), ConcurrencyKey: pick(g, "key", "", "db", "gpu"),
		TraceState: pick(g, "trace state", "", "v=1"), Baggage: pick(g, "baggage", "", "team=blue"),
		Project: pick(g, "project", "", "", "shop"), NotBefore: pick(g, "not before", 0, 0, work.Time(7)),
		Created: g.time("created"), State: work.Queued, Phase: work.PhaseAdmission,
	}
	if g.yes("labels") {
		r.Labels = map[string]string{"k": pick(g, "label", "v", "w"), "": "empty"}
		if g.yes("another label") {
			r.Labels["env"] = "prod"
		}
	}
	g.moveRun(r)
	return r
}

// moveRun changes what may change. An end is final.
func (g gen) moveRun(r *work.Run) {
	r.Reason, r.Paused, r.Cancel = g.reason(), g.actor(), g.actor()
	r.Stopping, r.Outcome = g.yes("stopping"), pick(g, "outcome", "", work.Failed)
	r.Next, r.Left, r.Active, r.Slots, r.Held = g.number("next", 0, 9), g.number("left", 0, 9), 1, 0, g.number("held", 0, 300)
	r.Seq, r.Head, r.LogSeq = int64(g.number("seq", 0, 9)), pick(g, "head", g.w.digests...), int64(g.number("log seq", 0, 9))
	r.Started, r.Updated, r.Due = g.time("started"), g.time("updated"), g.time("due")
	if r.Phase == work.PhaseEnded {
		r.Acknowledged = r.Acknowledged || g.yes("acknowledged")
		r.Outputs = g.json("outputs")
		return
	}
	r.State, r.Phase = work.Running, pick(g, "phase", work.PhaseDelayed, work.PhaseAdmission, work.PhaseMain, work.PhaseFinally, work.PhaseEnded)
	if r.Phase == work.PhaseEnded {
		r.State, r.Ended, r.Due = pick(g, "end", work.Succeeded, work.Failed, work.Cancelled), g.time("ended")+1, 0
		r.Outputs = g.json("outputs")
	}
}

func (g gen) newStep(tenant work.Tenant, run work.RunID, id work.StepID) *work.Step {
	s := &work.Step{
		Tenant: tenant, Run: run, ID: id, Reason: g.reason(), Timer: g.time("timer"),
		State: pick(g, "state", work.Pending, work.Queued, work.Queued, work.Throttled, work.Running, work.Waiting, work.Retrying, work.Succeeded, work.Dead),
		Unmet: g.number("unmet", 0, 2), Held: g.yes("held"), Attempt: g.number("attempt", 0, 3), Failures: 1, Crashes: g.number("crashes", 0, 2),
		Epoch: int64(g.number("epoch", 0, 1000)), Total: g.number("total", 0, 2), Next: 3, Open: 4, Done: g.number("done", 0, 5), Bad: 1,
		Stopping: g.yes("stopping"), Items: g.json("items"), Inputs: g.json("inputs"), Outputs: g.json("step outputs"),
		Artifacts: g.artifacts(), CarriedRun: pick(g, "carried", "", work.RunID("run_9")),
		Created: g.time("created"), Started: g.time("started"), Ended: g.time("ended"),
	}
	queue := pick(g, "queue", "", "", "exports", "shop/default", work.LanesAside("nightly")+"exports", work.LanesAside("nightly"))
	if g.yes("leased") {
		s.Lease = &work.Lease{
			Session: pick(g, "session", g.w.sessions...), Worker: g.text("worker"), Granted: g.time("granted"), Acked: g.time("acked"),
			Deadline: g.time("deadline"), Concurrency: pick(g, "lease key", "", "db", "gpu"), Cancel: g.yes("cancel"), Queue: queue,
		}
	}
	if g.yes("in the queue") {
		s.Queue = &work.QueueEntry{
			Priority: g.number("priority", -1, 1), At: g.time("at"), Runner: pick(g, "runner", g.w.runners...),
			Concurrency: pick(g, "queue key", "", "db"), Max: g.number("max", 0, 2), Queue: queue,
		}
	}
	if g.yes("decided") {
		s.Decisions = []work.Decision{{
			Gate: id, Decision: "approved", Approver: g.text("approver"), Key: "k", PlanHash: digestOf('e'), DecidedAt: g.time("decided"),
			Statement: g.json("statement"),
		}}
	}
	return s
}

func (g gen) events(tenant work.Tenant, run work.RunID, had int) []work.Event {
	out := make([]work.Event, g.number("events", 1, 3))
	for i := range out {
		out[i] = work.Event{
			Tenant: tenant, Run: run, Seq: int64(had + i + 1), Time: g.time("event time"), Step: pick(g, "event step", "", work.StepID("a")),
			Type: pick(g, "event type", work.RunSubmitted, work.StepEnded, "later.kind"), Attempt: g.number("event attempt", 0, 2),
			Data: g.json("data"), Prev: digestOf('0'), Hash: pick(g, "hash", digestOf('1'), "odd"),
		}
	}
	return out
}

func (g gen) lines(run work.RunID, had int) []work.LogLine {
	out := make([]work.LogLine, g.number("lines", 1, 3))
	for i := range out {
		out[i] = work.LogLine{
			Run: run, Seq: int64(had + i + 1), Time: g.time("line time"), Level: "info", EventType: "step.stdout",
			Step: "a", Attempt: g.number("line attempt", 0, 2), Message: g.text("message"),
		}
	}
	return out
}

func (g gen) session() store.Session {
	return store.Session{
		ID: pick(g, "session", g.w.sessions...), Worker: g.text("worker"), Tenant: g.tenant(), Expires: g.time("expires") + 1, Local: g.yes("local"),
		Offer: store.Offer{Runners: []string{g.text("runner")}, Labels: map[string]string{g.text("label"): g.text("value")}, Tier: g.number("tier", 0, 3)},
	}
}

func (g gen) recordChange(tenant work.Tenant) func(kernel.Tx) error {
	kind, id := pick(g, "kind of record", g.w.kinds...), pick(g, "id of record", g.w.records...)
	switch g.number("what happens to the record", 0, 5) {
	case 0:
		return func(tx kernel.Tx) error { return tx.DeleteRecord(tenant, kind, id) }
	case 1:
		now, limit := g.time("pruned"), g.number("how many", 0, 2)
		return func(tx kernel.Tx) error {
			_, err := tx.PruneRecords(now, limit)
			return err
		}
	default:
		r := store.Record{Tenant: tenant, Kind: kind, ID: id, Version: int64(g.number("version", 1, 3)), Doc: []byte(`{ "as":"it  is" }`)}
		if g.yes("expires") {
			r.Expires = g.time("expiry")
		}
		return func(tx kernel.Tx) error { return tx.PutRecord(r) }
	}
}
