package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

// find returns the n-th event of a type, optionally of a step.
func find(events []work.Event, kind work.EventType, step work.StepID, n int) int {
	for i, e := range events {
		if e.Type == kind && (step == "" || e.Step == step) {
			if n == 0 {
				return i
			}
			n--
		}
	}
	panic("the test looks for an event that is not there: " + string(kind))
}

func drop(kind work.EventType, step work.StepID, n int) func([]work.Event) []work.Event {
	return func(e []work.Event) []work.Event {
		i := find(e, kind, step, n)
		return slices.Delete(slices.Clone(e), i, i+1)
	}
}

// move puts one event before another, with the other's time.
func move(kind work.EventType, step work.StepID, before work.EventType, beforeStep work.StepID) func([]work.Event) []work.Event {
	return func(e []work.Event) []work.Event {
		from, to := find(e, kind, step, 0), find(e, before, beforeStep, 0)
		moved := e[from]
		moved.Time = e[to].Time
		e = slices.Delete(slices.Clone(e), from, from+1)
		return slices.Insert(e, find(e, before, beforeStep, 0), moved)
	}
}

func set(kind work.EventType, step work.StepID, old, new string) func(*work.Event) {
	return func(e *work.Event) {
		if e.Type == kind && e.Step == step {
			if !bytes.Contains(e.Data, []byte(old)) {
				panic("the test changes nothing: " + old + " is not in " + string(e.Data))
			}
			e.Data = bytes.Replace(e.Data, []byte(old), []byte(new), 1)
		}
	}
}

// Histories that are chained, sealed and signed by everybody, but tell of something that must not have happened.
func TestImpossibleHistories(t *testing.T) {
	w := evidencetest.NewWorld(t)
	for name, c := range map[string]struct {
		evidencetest.Case
		check, says string
	}{
		"starts before its need ended": {evidencetest.Case{Events: move(work.StepStarted, "shard", work.StepWaiting, "")}, "history", "before \"release/approve\" has ended well"},
		"gate never asked":             {evidencetest.Case{Events: drop(work.StepWaiting, "", 0)}, "history", "not open"},
		"one approval removed":         {evidencetest.Case{Events: drop(work.GateDecided, "", 1)}, "history", "ends well without"},
		"rejection counted as yes":     {evidencetest.Case{Data: set(work.GateDecided, "release/approve", `"decision":"approved"`, `"decision":"rejected"`)}, "history", "ends well without"},
		"decided after expiry": {evidencetest.Case{Events: func(e []work.Event) []work.Event {
			for i := find(e, work.GateDecided, "", 0); i < len(e); i++ {
				e[i].Time += 3_700_000_000
			}
			return e
		}}, "history", "not open at that time"},
		"never claimed":        {evidencetest.Case{Events: drop(work.StepClaimed, "cleanup", 0)}, "history", "holds no lease"},
		"never queued":         {evidencetest.Case{Events: drop(work.StepQueued, "cleanup", 0)}, "history", "without being offered"},
		"end without a report": {evidencetest.Case{Events: drop(work.StepReported, "cleanup", 0)}, "history", "ends while an attempt runs"},
		"an attempt left out":  {evidencetest.Case{Data: func(e *work.Event) { renumber(e, "build", 2, 3) }}, "history", "follows attempt 1"},
		"token does not rise":  {evidencetest.Case{Data: func(e *work.Event) { epoch(e, "build", 2, `"epoch":4`, `"epoch":2`) }}, "history", "does not rise"},
		"report by another":    {evidencetest.Case{Data: set(work.StepReported, "cleanup", `"worker":"w1"`, `"worker":"w2"`)}, "history", "w2 reports"},
		"report under another": {evidencetest.Case{Data: set(work.StepReported, "cleanup", `"epoch":2`, `"epoch":3`)}, "history", "another token"},
		"outputs swapped":      {evidencetest.Case{Data: lastEnd("build", `"outputs":{"size":12}`, `"outputs":{"size":13}`)}, "history", "not those of its last attempt"},
		"artifact swapped":     {evidencetest.Case{Data: lastEnd("build", `dist/release.txt`, `dist/evil.txt`)}, "history", "not those of its last attempt"},
		"failure called good":  {evidencetest.Case{Failed: true, Data: endsWell("shard[0]::x")}, "history", "ends well without"},
		"block called good":    {evidencetest.Case{Failed: true, Data: endsWell("shard")}, "history", "ends well without"},
		"run called good":      {evidencetest.Case{Failed: true, Data: endsWell("")}, "history", "did not succeed"},
		"more items":           {evidencetest.Case{Data: set(work.StepExpanded, "shard", `"total":2`, `"total":1`)}, "history", "has 1 items"},
		"fewer items":          {evidencetest.Case{Data: set(work.StepExpanded, "shard", `"total":2`, `"total":3`)}, "history", "ends well without"},
		"step of no plan":      {evidencetest.Case{Data: restep("cleanup", "backdoor")}, "history", "no such step"},
		"finally too early":    {evidencetest.Case{Events: move(work.StepQueued, "cleanup", work.StepQueued, "shard[0]::x")}, "history", "finally step begins while"},
		"no start":             {evidencetest.Case{Events: drop(work.RunStarted, "", 0)}, "history", "has not started"},
		"no end of a step":     {evidencetest.Case{Events: drop(work.StepEnded, "cleanup", 0)}, "history", "have begun and not ended"},
		"events after an end":  {evidencetest.Case{Events: move(work.StepEnded, "build", work.StepClaimed, "cleanup")}, "history", "before"},
		"time goes back":       {evidencetest.Case{Data: func(e *work.Event) { e.Time -= bool2time(e.Step == "cleanup") * 1e9 }}, "history", "time goes back"},
		"unknown field":        {evidencetest.Case{Data: set(work.StepClaimed, "cleanup", `"session"`, `"also":1,"session"`)}, "history", "nobody defined"},
		"unknown event":        {evidencetest.Case{Data: func(e *work.Event) { retype(e, work.StepDue, "step.blessed") }}, "history", "no such event"},
		"other rules":          {evidencetest.Case{Data: set(work.PolicyDecided, "check", `"rulesDigest":"sha256:`, `"rulesDigest":"sha256:0`)}, "history", "other rules"},
		"rule forgotten":       {evidencetest.Case{Data: set(work.PolicyDecided, "check", `,{"allowed":true,"id":"named"}`, ``)}, "history", "other rules"},
		"answer not of rules":  {evidencetest.Case{Data: set(work.PolicyDecided, "check", `"allowed":true,"id":"small"`, `"allowed":false,"id":"small"`)}, "history", "not that of its rules"},
		"policy said no":       {evidencetest.Case{Data: policySaysNo}, "history", "ends well without"},
		"policy input bent":    {evidencetest.Case{Data: set(work.PolicyDecided, "check", `"size":12`, `"size":120`)}, "policy", "gives false"},
		"transcript cut":       {evidencetest.Case{Data: set(work.StepReported, "cleanup", `"lines":2`, `"lines":3`)}, "attempts", "reported 3"},
		"transcript other":     {evidencetest.Case{Data: set(work.StepReported, "cleanup", `"transcript":{"digest":"sha256:`, `"transcript":{"digest":"sha256:0`)}, "attempts", "not the one"},
	} {
		r := judgeForged(t, w, c.Case)
		found := slices.ContainsFunc(r.Checks, func(k verify.Check) bool {
			return k.Name == c.check && k.Result == verify.Fail && strings.Contains(k.Detail, c.says)
		})
		if r.Verdict != verify.Invalid || !found {
			t.Errorf("%s: %s", name, r.Verdict)
			show(t, r)
		}
	}
}

func judgeCase(t *testing.T, w *evidencetest.World, c evidencetest.Case) *verify.Report {
	t.Helper()
	return judge(pack(t, w.Record(t, c), w.Attestor), w.Trust)
}

// judgeForged is judgeCase also for a history that the producer refuses to attest: it is put into the bundle of a run that
// went well, and the manifest is signed anew.
func judgeForged(t *testing.T, w *evidencetest.World, c evidencetest.Case) *verify.Report {
	t.Helper()
	record := w.Record(t, c)
	b, err := evidence.Build(context.Background(), record, w.Attestor)
	if err == nil {
		var out bytes.Buffer
		if _, err := b.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		return judge(out.Bytes(), w.Trust)
	}
	if fault.CodeOf(err) != fault.Unverified {
		t.Fatal(err)
	}
	m, at := unpack(t, pack(t, w.Record(t, evidencetest.Case{Failed: c.Failed}), w.Attestor))
	var timeline []byte
	for i := range record.Events {
		line, err := ledger.Encode(nil, &record.Events[i])
		if err != nil {
			t.Fatal(err)
		}
		timeline = append(append(timeline, line...), '\n')
	}
	m["timeline.ndjson"] = timeline
	m.sign(t, w.Attestor)
	return judge(m.pack(t, at), w.Trust)
}

func bool2time(b bool) work.Time {
	if b {
		return 1
	}
	return 0
}

func retype(e *work.Event, from, to work.EventType) {
	if e.Type == from {
		e.Type = to
	}
}

func restep(from, to work.StepID) func(*work.Event) {
	return func(e *work.Event) {
		if e.Step == from {
			e.Step = to
		}
	}
}

func renumber(e *work.Event, step work.StepID, from, to int) {
	if e.Step == step && e.Attempt == from {
		e.Attempt = to
	}
}

func epoch(e *work.Event, step work.StepID, attempt int, from, to string) {
	if e.Step == step && e.Attempt == attempt {
		e.Data = bytes.Replace(e.Data, []byte(from), []byte(to), 1)
	}
}

func lastEnd(step work.StepID, old, new string) func(*work.Event) {
	return set(work.StepEnded, step, old, new)
}

func endsWell(step work.StepID) func(*work.Event) {
	return func(e *work.Event) {
		if e.Step != step || e.Type != work.StepEnded && e.Type != work.RunEnded {
			return
		}
		e.Data = json.RawMessage(`{"reason":{"code":"SUCCEEDED"},"state":"succeeded"}`)
	}
}

func policySaysNo(e *work.Event) {
	if e.Type == work.PolicyDecided {
		e.Data = bytes.ReplaceAll(e.Data, []byte(`"allowed":true`), []byte(`"allowed":false`))
	}
}

// Decisions that are signed and chained, but not for this gate, run, plan or tenant, or not by whom they may be.
func TestApprovalsThatDoNotCount(t *testing.T) {
	w := evidencetest.NewWorld(t)
	stranger := evidencetest.NewWorld(t)
	change := func(f func(*evidence.Answer), by *keyring.Private) func(*evidencetest.Case, evidence.Answer, *keyring.Private) json.RawMessage {
		return func(_ *evidencetest.Case, a evidence.Answer, asked *keyring.Private) json.RawMessage {
			if asked.Name() != "carol" {
				return nil
			}
			f(&a)
			e, err := evidence.SignApproval(context.Background(), a, by)
			if err != nil {
				t.Fatal(err)
			}
			return e.Encode()
		}
	}
	same := func(*evidence.Answer) {}
	for name, c := range map[string]struct {
		evidencetest.Case
		want verify.Verdict
	}{
		"of another gate":      {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.Gate = "other" }, w.Carol)}, verify.Invalid},
		"of another run":       {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.Run = "run_other" }, w.Carol)}, verify.Invalid},
		"of another tenant":    {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.Tenant = "other" }, w.Carol)}, verify.Invalid},
		"of another plan":      {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.PlanHash = work.Digest("sha256:" + strings.Repeat("0", 64)) }, w.Carol)}, verify.Invalid},
		"a rejection":          {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.Decision = "rejected" }, w.Carol)}, verify.Invalid},
		"another reason":       {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.Reason = "bribed" }, w.Carol)}, verify.Invalid},
		"another time":         {evidencetest.Case{Signer: change(func(a *evidence.Answer) { a.DecidedAt++ }, w.Carol)}, verify.Invalid},
		"signed by another":    {evidencetest.Case{Signer: change(same, w.Bob)}, verify.Invalid},
		"signed by a stranger": {evidencetest.Case{Signer: change(same, stranger.Carol)}, verify.NotTrusted},
		"signed by a service":  {evidencetest.Case{Signer: change(same, w.Attestor)}, verify.NotTrusted},
		"somebody's own run": {evidencetest.Case{Signer: change(same, w.Alice), Data: func(e *work.Event) {
			if e.Type == work.GateDecided {
				e.Data = bytes.ReplaceAll(e.Data, []byte(`"approver":"carol"`), []byte(`"approver":"alice"`))
				e.Data = bytes.ReplaceAll(e.Data, []byte(w.Carol.KeyID()+`","`), []byte(w.Alice.KeyID()+`","`))
			}
		}}, verify.Invalid},
		"not on the list": {evidencetest.Case{
			Plan: func(p *work.Plan) { p.Steps[2].Approval.Approvers = []string{"alice", "bob"} },
			Data: set(work.StepWaiting, "release/approve", `,"carol"`, ``),
		}, verify.Invalid},
		"one person twice": {evidencetest.Case{Events: func(e []work.Event) []work.Event {
			i, j := find(e, work.GateDecided, "", 0), find(e, work.GateDecided, "", 1)
			e[j].Data = e[i].Data
			return e
		}}, verify.Invalid},
		"unsigned": {evidencetest.Case{Data: func(e *work.Event) {
			if e.Type == work.GateDecided {
				var d work.Decision
				if err := json.Unmarshal(e.Data, &d); err != nil {
					t.Fatal(err)
				}
				d.Statement = json.RawMessage("null")
				e.Data, _ = json.Marshal(d)
			}
		}}, verify.Incomplete},
		"by the rules": {evidencetest.Case{Signer: change(same, w.Carol)}, verify.Valid},
	} {
		if r := judgeCase(t, w, c.Case); r.Verdict != c.want {
			t.Errorf("%s: %s, expected %s", name, r.Verdict, c.want)
			show(t, r)
		}
	}
}

func TestRequestsThatDoNotCount(t *testing.T) {
	w := evidencetest.NewWorld(t)
	for name, c := range map[string]struct {
		change func(*evidence.Submission)
		want   verify.Verdict
	}{
		"another tenant":  {func(s *evidence.Submission) { s.Tenant = "other" }, verify.Invalid},
		"another run":     {func(s *evidence.Submission) { s.Run = "run_other" }, verify.Invalid},
		"another plan":    {func(s *evidence.Submission) { s.PlanHash = work.Digest("sha256:" + strings.Repeat("0", 64)) }, verify.Invalid},
		"another pack":    {func(s *evidence.Submission) { s.Pack.Version = "9" }, verify.Invalid},
		"other inputs":    {func(s *evidence.Submission) { s.InputsDigest = s.PlanHash }, verify.Invalid},
		"another token":   {func(s *evidence.Submission) { s.RunToken = "x" }, verify.Invalid},
		"another note":    {func(s *evidence.Submission) { s.Note = "x" }, verify.Invalid},
		"expired":         {func(s *evidence.Submission) { s.IssuedAt, s.ExpiresAt = s.IssuedAt-20, s.IssuedAt-10 }, verify.Invalid},
		"no run named":    {func(s *evidence.Submission) { s.Run = "" }, verify.Valid},
		"not yet expired": {func(s *evidence.Submission) { s.ExpiresAt = s.IssuedAt + 1e9 }, verify.Valid},
	} {
		if r := judgeCase(t, w, evidencetest.Case{Request: c.change}); r.Verdict != c.want {
			t.Errorf("%s: %s, expected %s", name, r.Verdict, c.want)
			show(t, r)
		}
	}
}

// What the attestor signs must be what the verifier computes for itself.
func TestAttestationsThatLie(t *testing.T) {
	w := evidencetest.NewWorld(t)
	record := w.Record(t, evidencetest.Case{})
	whole, at := unpack(t, pack(t, record, w.Attestor))
	for name, c := range map[string]struct{ file, typ, old, new string }{
		"exit code":   {"attestations/run.dsse.json", evidence.PayloadStatement, `"exitCode":1`, `"exitCode":0`},
		"worker":      {"attestations/run.dsse.json", evidence.PayloadStatement, `"worker":"w1"`, `"worker":"w9"`},
		"protections": {"attestations/run.dsse.json", evidence.PayloadStatement, `"tier":2`, `"tier":3`},
		"subject":     {"attestations/run.dsse.json", evidence.PayloadStatement, `"name":"plan.json"`, `"name":"plan"`},
		"status":      {"attestations/pack-run.dsse.json", evidence.PayloadPackRun, `"status":"succeeded"`, `"status":"failed"`},
		"more fields": {"attestations/pack-run.dsse.json", evidence.PayloadPackRun, `{"completedAt"`, `{"a":1,"completedAt"`},
		"builder":     {"attestations/provenance.dsse.json", evidence.PayloadStatement, `builder/t2`, `builder/t3`},
		"dependency":  {"attestations/provenance.dsse.json", evidence.PayloadStatement, `pack-file:build.sh`, `pack-file:other.sh`},
	} {
		payload := payloadOf(t, whole[c.file])
		if !bytes.Contains(payload, []byte(c.old)) {
			t.Fatalf("%s: %q is not in %s", name, c.old, payload)
		}
		e, err := w.Attestor.Sign(context.Background(), c.typ, bytes.Replace(payload, []byte(c.old), []byte(c.new), 1))
		if err != nil {
			t.Fatal(err)
		}
		m := members{}
		for k, v := range whole {
			m[k] = v
		}
		m[c.file] = e.Encode()
		m.sign(t, w.Attestor)
		if r := judge(m.pack(t, at), w.Trust); r.Verdict != verify.Invalid {
			t.Errorf("%s: %s", name, r.Verdict)
			show(t, r)
		}
	}
}

func payloadOf(t *testing.T, envelope []byte) []byte {
	t.Helper()
	var e struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	return e.Payload
}
