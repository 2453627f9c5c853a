// Package evidencetest makes ended runs with everything that evidence is about: signed people, gates, retries, a map, logs
// and a log of runs. Tests change a run before it is sealed, so that what they break is consistent in every other way.
package evidencetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// Start is when the run is submitted.
const Start = work.Time(1_767_323_045_000_000)

// World is everybody's keys, and who trusts them.
type World struct {
	Alice, Bob, Carol, Attestor, Log, Worker *keyring.Private
	Trust                                    keyring.Trust
}

// NewWorld makes fresh keys: alice submits and approves, bob and carol approve.
func NewWorld(t testing.TB) *World {
	t.Helper()
	w := &World{}
	for _, k := range []struct {
		into  **keyring.Private
		name  string
		a     keyring.Algorithm
		usage []keyring.Usage
	}{
		{&w.Alice, "alice", keyring.Ed25519, []keyring.Usage{keyring.Submit, keyring.Approve}},
		{&w.Bob, "bob", keyring.Ed25519, []keyring.Usage{keyring.Approve}},
		{&w.Carol, "carol", keyring.Ed25519, []keyring.Usage{keyring.Approve}},
		{&w.Attestor, "attestor", keyring.ECDSAP256, []keyring.Usage{keyring.Attest}},
		{&w.Log, "log", keyring.Ed25519, []keyring.Usage{keyring.Log}},
		{&w.Worker, "worker", keyring.ECDSAP256, []keyring.Usage{keyring.Worker}},
	} {
		p, err := keyring.Generate(k.name, k.a, k.usage, Start-1_000_000)
		must(t, err)
		*k.into = p
		w.Trust, err = w.Trust.With(p.Key)
		must(t, err)
	}
	return w
}

// Case says what kind of run to make.
type Case struct {
	Tenant  work.Tenant // "acme" when empty
	Run     work.RunID
	Items   int  // of the map step; 2 when zero
	Failed  bool // the map's first item fails for good
	Cancel  bool // a person cancels while the gate is open
	Signer  func(c *Case, a evidence.Answer, by *keyring.Private) json.RawMessage
	Request func(s *evidence.Submission) // changes what alice signs
	Batch   int                          // of how many requests hers is the last that are signed at once; one by itself when zero
	Forge   func(e *dsse.Envelope)       // changes the signed request before it is recorded
	Data    func(e *work.Event)          // changes an event before it is linked
	Events  func([]work.Event) []work.Event
	Plan    func(*work.Plan)
	Sign    func([]evidence.Result) error // what its worker does with the reports
	Worker  string                        // "w1" when empty

	t     testing.TB
	w     *World
	hash  work.Digest
	now   work.Time
	out   []work.Event
	lines []work.LogLine
}

const digestForm = "sha256:%064x"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func digest(n int) work.Digest { return work.Digest(fmt.Sprintf(digestForm, n)) }

// Plan returns the plan of the runs: build, a policy gate, an approval by two, a map, and a finally step.
func Plan() work.Plan {
	run := func() *work.RunSpec {
		return &work.RunSpec{
			Runner: "process", Command: []string{"make"}, TimeoutMs: 60_000, GraceMs: 1000, Retry: work.RetrySpec{MaxAttempts: 2},
			Sandbox: work.SandboxSpec{MinTier: "t2", Egress: []work.Egress{{Host: "example.com", Port: 443}}},
		}
	}
	return work.Plan{
		Version: work.PlanVersion, Pack: work.PackRef{Name: "release", Version: "1.2.3", Digest: digest(1)},
		Inputs: []work.Input{
			{Name: "token", Type: "secret", Secret: "env:TOKEN"}, {Name: "version", Type: "string", Value: json.RawMessage(`"1.2.3"`)},
		},
		Files: []work.File{{Path: "build.sh", Digest: digest(2), Size: 10, Executable: true}},
		Steps: []work.PlanStep{
			{ID: "build", Kind: work.KindRun, Run: run()},
			{ID: "check", Kind: work.KindPolicy, Needs: []work.StepID{"build"}, Policy: &work.PolicySpec{
				Rules:      []work.Rule{{ID: "small", Require: "steps.build.outputs.size < 100"}, {ID: "named", Require: `inputs.version == "1.2.3"`}},
				FailAction: "halt",
			}},
			{ID: "release/approve", Kind: work.KindApproval, Needs: []work.StepID{"check"}, Approval: &work.ApprovalSpec{
				Required: 2, TTLMs: 3_600_000, Approvers: []string{"alice", "bob", "carol"},
			}},
			{ID: "shard", Kind: work.KindMap, Needs: []work.StepID{"release/approve"}, Map: &work.MapSpec{
				Range: &work.Range{End: 100_000, Step: 1}, Item: "item", Index: "i", MaxItems: 100_000,
			}},
			{ID: "shard[*]::x", Kind: work.KindRun, Parent: "shard", Run: run()},
			{ID: "cleanup", Kind: work.KindRun, Finally: true, Run: run()},
		},
		Outputs: []work.RunOutput{{Name: "version", Value: "${{ inputs.version }}"}},
	}
}

// Output is the bytes of the artifact that the build leaves.
const Output = "the release\n"

// Record makes the record of an ended run.
func (w *World) Record(t testing.TB, c Case) *evidence.Record {
	t.Helper()
	c.t, c.w, c.now = t, w, Start
	if c.Tenant == "" {
		c.Tenant = "acme"
	}
	if c.Run == "" {
		c.Run = "run_01jbx2m8q3t4v5w6x7y8z9a0bc"
	}
	if c.Worker == "" {
		c.Worker = "w1"
	}
	if c.Items == 0 {
		c.Items = 2
	}
	plan := Plan()
	if c.Plan != nil {
		c.Plan(&plan)
	}
	hash, raw, err := canonical.DigestOf(plan)
	must(t, err)
	c.hash = hash
	request := c.submit(&plan)
	c.body()
	c.sign()
	r := &evidence.Record{Plan: raw, Request: request, Trust: w.Trust}
	r.Events = c.link()
	last := r.Events[len(r.Events)-1]
	var end work.EndedData
	must(t, json.Unmarshal(last.Data, &end))
	r.Run = work.Run{
		Tenant: c.Tenant, ID: c.Run, PlanHash: hash, State: end.State, Seq: last.Seq, Head: last.Hash, Ended: last.Time,
	}
	r.Log = each(c.lines)
	r.Outputs = evidence.Outputs{Limit: 1 << 20, Fetch: func(work.Digest) ([]byte, error) { return []byte(Output), nil }}
	w.Seal(t, r)
	return r
}

func each(lines []work.LogLine) iter.Seq2[work.LogLine, error] {
	return func(yield func(work.LogLine, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// link applies the changes of the case and makes the chain.
func (c *Case) link() []work.Event {
	if c.Events != nil {
		c.out = c.Events(c.out)
	}
	var chain ledger.Chain
	for i := range c.out {
		if c.Data != nil {
			c.Data(&c.out[i])
		}
		must(c.t, chain.Append(&c.out[i]))
	}
	return c.out
}

// Seal puts the run as the third of five leaves into a log and signs its checkpoint.
func (w *World) Seal(t testing.TB, r *evidence.Record) {
	t.Helper()
	var stored ledger.Hashes
	for i := range int64(5) {
		leaf := evidence.Leaf(r.Run)
		if i != 2 {
			leaf.Run = work.RunID(fmt.Sprintf("run_%d", i))
		}
		raw, err := leaf.Encode()
		must(t, err)
		hashes, err := ledger.Append(i, raw, stored)
		must(t, err)
		stored = append(stored, hashes...)
	}
	root, err := ledger.Root(5, stored)
	must(t, err)
	proof, err := ledger.ProveInclusion(5, 2, stored)
	must(t, err)
	pub, err := w.Log.Key.LogKey()
	must(t, err)
	origin := ledger.Origin(r.Run.Tenant)
	r.Seal.Position = ledger.Position{Origin: origin, Index: 2, Size: 5, Proof: proof}
	r.Seal.Checkpoint, err = ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: 5, Root: root}, pub, w.Log.SignCheckpoint)
	must(t, err)
}

func (c *Case) emit(kind work.EventType, step work.StepID, attempt int, data any) {
	c.t.Helper()
	c.now += 1000
	e := work.Event{Tenant: c.Tenant, Run: c.Run, Time: c.now, Type: kind, Step: step, Attempt: attempt}
	if data != nil {
		raw, err := canonical.Marshal(data)
		must(c.t, err)
		e.Data = raw
	}
	c.out = append(c.out, e)
}

// sign lets the worker sign every report, all at once.
func (c *Case) sign() {
	if c.Sign == nil {
		return
	}
	var results []evidence.Result
	var at []int
	for i := range c.out {
		if e := &c.out[i]; e.Type == work.StepReported {
			d := &work.ReportedData{}
			must(c.t, json.Unmarshal(e.Data, d))
			results, at = append(results, evidence.Result{Tenant: e.Tenant, Run: e.Run, Step: e.Step, Report: d}), append(at, i)
		}
	}
	must(c.t, c.Sign(results))
	for i, r := range results {
		raw, err := canonical.Marshal(r.Report)
		must(c.t, err)
		c.out[at[i]].Data = raw
	}
}

func (c *Case) submit(plan *work.Plan) []byte {
	inputs, err := evidence.InputsDigest(plan.Inputs)
	must(c.t, err)
	doc := evidence.Submission{
		Tenant: c.Tenant, Run: c.Run, RunToken: "token-1", Pack: plan.Pack, InputsDigest: inputs, PlanHash: c.hash,
		Nonce: "0123456789abcdef", IssuedAt: c.now, Note: "release day",
	}
	if c.Request != nil {
		c.Request(&doc)
	}
	payloads := make([][]byte, max(1, c.Batch))
	for i := range payloads {
		one := doc
		if i < len(payloads)-1 {
			one.Nonce = fmt.Sprintf("nonce of number %d", i)
		}
		payloads[i], err = evidence.SubmissionOf(one, c.w.Alice.Name())
		must(c.t, err)
	}
	all, err := evidence.SignSubmissions(context.Background(), payloads, c.w.Alice)
	must(c.t, err)
	e := all[len(all)-1]
	if c.Forge != nil {
		c.Forge(&e)
	}
	c.emit(work.RunSubmitted, "", 0, work.SubmittedData{
		Name: "amber-heron", PlanHash: c.hash, Pack: plan.Pack, Submitter: "alice", SubmitterKey: c.w.Alice.KeyID(), Note: "release day",
		RunToken: "token-1", ReplayToken: "r", InputsHash: inputs, Request: canonical.Digest(e.Encode()),
	})
	return e.Encode()
}

// attempt makes one try of a run step, with two lines of output.
func (c *Case) attempt(step work.StepID, n int, state work.State, outputs string, artifacts []work.Artifact) work.EndedData {
	token := work.Token{Incarnation: 1, Epoch: int64(2 * n)}
	c.emit(work.StepQueued, step, n, work.QueuedData{Attempt: n, Queue: &work.QueueEntry{At: c.now, Runner: "process"}})
	c.emit(work.StepClaimed, step, n, work.ClaimedData{Token: token, Session: "s1", Worker: c.Worker, Bindings: digest(n)})
	c.emit(work.StepAcked, step, n, work.AckedData{Token: token})
	sum := sha256.New()
	for i := range 2 {
		line := work.LogLine{
			Run: c.Run, Seq: int64(len(c.lines) + 1), Time: c.now, Level: "info", EventType: "step.stdout", Step: step, Attempt: n,
			Message: fmt.Sprintf("line %d of %s <&>", i, step),
		}
		c.lines = append(c.lines, line)
		sum.Write([]byte(line.Message + "\n"))
	}
	d := work.ReportedData{
		Token: token, Worker: c.Worker, State: state, Reason: work.Reason{Code: work.EndedWell}, StartedAt: c.now, EndedAt: c.now + 1000,
		Rendered: digest(7), Outputs: json.RawMessage(outputs), Artifacts: artifacts,
		Transcript:  work.Transcript{Lines: 2, Digest: work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))},
		Protections: json.RawMessage(`{"label":"t2","layers":{"landlock":"abi 7"},"tier":2}`),
		Egress:      json.RawMessage(`[{"bytesDown":5,"bytesUp":3,"decision":"allowed","host":"example.com","port":443}]`),
		Usage:       &work.Usage{WallMs: 5},
	}
	if outputs == "" {
		d.Outputs = nil
	}
	if state != work.Succeeded {
		d.Reason, d.ExitCode, d.Class = work.Reason{Code: work.EndedByExit}, 1, "exit"
	}
	c.emit(work.StepReported, step, n, d)
	return work.EndedData{State: state, Reason: d.Reason, Outputs: d.Outputs, Artifacts: d.Artifacts}
}

func (c *Case) approve(by *keyring.Private) {
	a := evidence.Answer{
		Tenant: c.Tenant, Run: c.Run, Gate: "release/approve", PlanHash: c.hash, Decision: "approved", Reason: "looks right",
		DecidedAt: c.now, Nonce: fmt.Sprintf("nonce-%d-%s-0123456789", len(c.out), by.Name()),
	}
	var raw json.RawMessage
	if c.Signer != nil {
		raw = c.Signer(c, a, by)
	}
	if raw == nil {
		e, err := evidence.SignApproval(context.Background(), a, by)
		must(c.t, err)
		raw = e.Encode()
	}
	c.emit(work.GateDecided, "release/approve", 0, work.Decision{
		Gate: a.Gate, Decision: a.Decision, Approver: by.Name(), Key: by.KeyID(), PlanHash: a.PlanHash, Reason: a.Reason,
		DecidedAt: a.DecidedAt, Statement: raw,
	})
}

// body is everything between submission and end.
func (c *Case) body() {
	c.emit(work.RunStarted, "", 0, nil)
	c.attempt("build", 1, work.Failed, "", nil)
	c.emit(work.StepRetrying, "build", 1, work.RetryingData{Reason: work.Reason{Code: work.EndedByExit}, At: c.now + 5000, Attempt: 2, Of: 2})
	c.emit(work.StepDue, "build", 1, nil)
	sum := sha256.Sum256([]byte(Output))
	c.emit(work.StepEnded, "build", 2, c.attempt("build", 2, work.Succeeded, `{"size":12}`, []work.Artifact{
		{Name: "dist", Path: "dist/release.txt", Digest: work.Digest("sha256:" + hex.EncodeToString(sum[:])), Size: int64(len(Output))},
	}))
	rules, _, err := canonical.DigestOf(Plan().Steps[1].Policy)
	must(c.t, err)
	c.emit(work.PolicyDecided, "check", 0, work.PolicyData{
		RulesDigest: rules, Allowed: true, Results: []work.RuleResult{{ID: "small", Allowed: true}, {ID: "named", Allowed: true}},
		Input: json.RawMessage(`{"inputs":{"version":"1.2.3"},"run":{},"steps":{"build":{"outputs":{"size":12},"status":"succeeded"}},"vars":{}}`),
	})
	c.emit(work.StepEnded, "check", 0, work.EndedData{State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, Outputs: json.RawMessage(`{"allowed":true}`)})
	c.emit(work.StepWaiting, "release/approve", 0, work.WaitingData{
		Required: 2, Approvers: []string{"alice", "bob", "carol"}, PlanHash: c.hash, Expires: c.now + 1000 + 3_600_000_000,
	})
	c.approve(c.w.Bob)
	if c.Cancel {
		c.cancel()
		return
	}
	c.approve(c.w.Carol)
	c.emit(work.StepEnded, "release/approve", 0, work.EndedData{State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell, Subject: "carol"}})
	c.mapped()
}

func (c *Case) mapped() {
	c.emit(work.StepStarted, "shard", 0, nil)
	c.emit(work.StepExpanded, "shard", 0, work.ExpandedData{Total: c.Items})
	end := work.EndedData{State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, Outputs: json.RawMessage(`{"version":"1.2.3"}`)}
	shard := work.EndedData{State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}}
	for i := range c.Items {
		id := work.StepID(fmt.Sprintf("shard[%d]::x", i))
		state := work.Succeeded
		if c.Failed && i == 0 {
			state = work.Failed
			shard = work.EndedData{State: work.Failed, Reason: work.Reason{Code: work.EndedByStepFailure}}
			end = work.EndedData{State: work.Failed, Reason: work.Reason{Code: work.EndedByStepFailure, Subject: "shard"}}
		}
		c.emit(work.StepEnded, id, 1, c.attempt(id, 1, state, "", nil))
	}
	c.emit(work.StepEnded, "shard", 0, shard)
	c.emit(work.StepEnded, "cleanup", 1, c.attempt("cleanup", 1, work.Succeeded, "", nil))
	c.emit(work.RunEnded, "", 0, end)
}

func (c *Case) cancel() {
	actor := work.Actor{Name: "alice", Reason: "wrong day", At: c.now}
	reason := work.Reason{Code: work.EndedByCancel, Subject: "alice"}
	c.emit(work.RunCancelAsked, "", 0, actor)
	c.emit(work.RunStopping, "", 0, work.ReasonData{Reason: reason})
	c.emit(work.StepEnded, "release/approve", 0, work.EndedData{State: work.Cancelled, Reason: reason})
	c.emit(work.StepEnded, "cleanup", 1, c.attempt("cleanup", 1, work.Succeeded, "", nil))
	c.emit(work.RunEnded, "", 0, work.EndedData{State: work.Cancelled, Reason: reason})
}
