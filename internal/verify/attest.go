package verify

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// The types below say what an attestation holds. The verifier fills them from the history alone; what the attestor signed
// must be the same bytes.

type packRunDocument struct {
	RunID       work.RunID   `json:"runId"`
	Tenant      work.Tenant  `json:"tenant"`
	PackName    string       `json:"packName"`
	PackVersion string       `json:"packVersion"`
	PackDigest  work.Digest  `json:"packDigest"`
	PlanHash    work.Digest  `json:"planHash"`
	Status      work.State   `json:"status"`
	Inputs      []inputLine  `json:"inputs"`
	Outputs     []outputLine `json:"outputs"`
	Steps       []statusLine `json:"steps"`
	CompletedAt work.Time    `json:"completedAt"`
}

type inputLine struct {
	Name   string      `json:"name"`
	Digest work.Digest `json:"digest,omitempty"`
	Secret bool        `json:"secret,omitempty"`
}

type outputLine struct {
	Step   work.StepID `json:"step,omitempty"`
	Name   string      `json:"name,omitempty"`
	Path   string      `json:"path,omitempty"`
	Digest work.Digest `json:"digest"`
}

type statusLine struct {
	ID     work.StepID `json:"id"`
	Status work.State  `json:"status"`
}

type runDocument struct {
	RunID        work.RunID     `json:"runId"`
	Name         string         `json:"name"`
	Tenant       work.Tenant    `json:"tenant"`
	Pack         work.PackRef   `json:"pack"`
	PlanHash     work.Digest    `json:"planHash"`
	InputsDigest work.Digest    `json:"inputsDigest"`
	Request      work.Digest    `json:"request,omitempty"`
	Submitter    string         `json:"submitter"`
	SubmitterKey string         `json:"submitterKey,omitempty"`
	RetryOf      work.RunID     `json:"retryOf,omitempty"`
	Status       work.State     `json:"status"`
	Reason       work.Reason    `json:"reason"`
	SubmittedAt  work.Time      `json:"submittedAt"`
	StartedAt    work.Time      `json:"startedAt,omitzero"`
	EndedAt      work.Time      `json:"endedAt"`
	Steps        []stepLine     `json:"steps"`
	Approvals    []approvalLine `json:"approvals"`
	Policies     []policyLine   `json:"policies"`
	Outputs      work.Digest    `json:"outputs,omitempty"`
	Ledger       ledgerLine     `json:"ledger"`
}

type stepLine struct {
	ID        work.StepID     `json:"id"`
	Kind      work.StepKind   `json:"kind"`
	Status    work.State      `json:"status"`
	Reason    work.Reason     `json:"reason"`
	Carried   *carriedLine    `json:"carried,omitempty"`
	Outputs   work.Digest     `json:"outputs,omitempty"`
	Artifacts []work.Artifact `json:"artifacts,omitempty"`
	EndedAt   work.Time       `json:"endedAt,omitzero"`
	Attempts  []attemptLine   `json:"attempts,omitempty"`
}

type carriedLine struct {
	Run     work.RunID `json:"run"`
	Attempt int        `json:"attempt"`
}

type attemptLine struct {
	Attempt     int               `json:"attempt"`
	Worker      string            `json:"worker"`
	Token       work.Token        `json:"token"`
	Bindings    work.Digest       `json:"bindings"`
	ClaimedAt   work.Time         `json:"claimedAt"`
	ClosedAt    work.Time         `json:"closedAt,omitzero"`
	Result      string            `json:"result"`
	Reason      work.Reason       `json:"reason"`
	ExitCode    int               `json:"exitCode"`
	StartedAt   work.Time         `json:"startedAt,omitzero"`
	EndedAt     work.Time         `json:"endedAt,omitzero"`
	Rendered    work.Digest       `json:"rendered,omitempty"`
	Transcript  *work.Transcript  `json:"transcript,omitempty"`
	Outputs     work.Digest       `json:"outputs,omitempty"`
	Artifacts   []work.Artifact   `json:"artifacts,omitempty"`
	Protections json.RawMessage   `json:"protections,omitempty"`
	Egress      work.Digest       `json:"egress,omitempty"`
	Usage       *work.Usage       `json:"usage,omitempty"`
	CacheKey    work.Digest       `json:"cacheKey,omitempty"`
	CachedFrom  *work.CacheOrigin `json:"cachedFrom,omitempty"`
}

type approvalLine struct {
	Gate      work.StepID `json:"gate"`
	Decision  string      `json:"decision"`
	Approver  string      `json:"approver"`
	Key       string      `json:"key"`
	DecidedAt work.Time   `json:"decidedAt"`
	Statement work.Digest `json:"statement,omitempty"`
	File      string      `json:"file,omitempty"`
}

type policyLine struct {
	Gate        work.StepID       `json:"gate"`
	Allowed     bool              `json:"allowed"`
	RulesDigest work.Digest       `json:"rulesDigest"`
	Input       work.Digest       `json:"input"`
	Results     []work.RuleResult `json:"results"`
	Engine      *engineLine       `json:"engine,omitempty"`
	File        string            `json:"file"`
}

type engineLine struct {
	Name       string              `json:"name"`
	Path       string              `json:"path"`
	DecisionID string              `json:"decisionId,omitempty"`
	Result     work.Digest         `json:"result,omitempty"`
	Bundles    []work.PolicyBundle `json:"bundles,omitempty"`
}

func engineOf(a *work.EngineAnswer) *engineLine {
	if a == nil {
		return nil
	}
	l := &engineLine{a.Name, a.Path, a.DecisionID, a.Digest, a.Bundles}
	if a.Result != nil {
		l.Result = named(a.Result)
	}
	return l
}

type ledgerLine struct {
	Origin string      `json:"origin"`
	Index  int64       `json:"index"`
	Leaf   work.Digest `json:"leaf"`
	Events int64       `json:"events"`
	Head   work.Digest `json:"head"`
}

// named returns the digest of a recorded value, "" for none.
func named(raw json.RawMessage) work.Digest {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return ""
	}
	return canonical.Digest(raw)
}

// same verifies an attestation and compares it with what it must say.
func (b *bundle) same(name, payloadType string, want any) (string, error) {
	payload, key, err := b.signed(name, payloadType, keyring.Attest, b.hist.overAt)
	if err != nil {
		return "", err
	}
	expected, err := canonical.MarshalUpTo(want, maxDocument)
	if err != nil {
		return "", wrong("what %s must say has no canonical form: %s", name, err)
	}
	if !bytes.Equal(payload, expected) {
		return "", wrong("%s says something else than the history, from %q on", name, differs(payload, expected))
	}
	return fmt.Sprintf("signed by %s, says what the history says", key.Name), nil
}

// differs returns a little of a around the first byte in which it differs from b.
func differs(a, b []byte) []byte {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return a[max(0, i-24):min(len(a), i+40)]
}

func (b *bundle) checkPackRun() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know what it must say")
	}
	p, h := b.plan.Pack, b.hist
	doc := packRunDocument{
		RunID: b.manifest.RunID, Tenant: b.manifest.Tenant, PackName: p.Name, PackVersion: p.Version, PackDigest: p.Digest,
		PlanHash: b.manifest.PlanHash, Status: h.ended.State, CompletedAt: h.overAt,
		Inputs: []inputLine{}, Outputs: []outputLine{}, Steps: []statusLine{},
	}
	for _, in := range b.plan.Inputs {
		doc.Inputs = append(doc.Inputs, inputLine{in.Name, named(in.Value), in.Secret != ""})
	}
	if d := named(h.ended.Outputs); d != "" {
		doc.Outputs = append(doc.Outputs, outputLine{Digest: d})
	}
	for _, s := range h.steps {
		end := s.ending()
		doc.Steps = append(doc.Steps, statusLine{s.id, end.State})
		if d := named(end.Outputs); d != "" {
			doc.Outputs = append(doc.Outputs, outputLine{Step: s.id, Digest: d})
		}
		for _, a := range end.Artifacts {
			doc.Outputs = append(doc.Outputs, outputLine{s.id, a.Name, a.Path, a.Digest})
		}
	}
	return b.same("attestations/pack-run.dsse.json", "application/vnd.stellaops.pack-run+json", doc)
}

// ending returns how the step ended, empty when it did not.
func (s *step) ending() work.EndedData {
	if s.end == nil {
		return work.EndedData{}
	}
	return *s.end
}

func (b *bundle) checkRunAttestation() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know what it must say")
	}
	leaf, err := b.file("audit/leaf.json")
	if err != nil {
		return "", err
	}
	at, err := b.position()
	if err != nil {
		return "", err
	}
	h, m := b.hist, b.manifest
	doc := statement[runDocument]{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://orrery.example/attestation/run/v1",
		Subject: append([]subject{about("plan.json", m.PlanHash), b.subject("timeline.ndjson")}, h.products()...),
		Predicate: runDocument{
			RunID: m.RunID, Name: h.submitted.Name, Tenant: m.Tenant, Pack: b.plan.Pack, PlanHash: m.PlanHash,
			InputsDigest: h.submitted.InputsHash, Request: h.submitted.Request, Submitter: h.submitted.Submitter,
			SubmitterKey: h.submitted.SubmitterKey, RetryOf: h.submitted.RetryOf, Status: h.ended.State, Reason: h.ended.Reason,
			SubmittedAt: h.submittedAt, StartedAt: h.startedAt, EndedAt: h.overAt, Outputs: named(h.ended.Outputs),
			Ledger: ledgerLine{at.Origin, at.Index, canonical.Digest(leaf), b.report.Events, b.report.Head},
		},
	}
	for _, s := range h.steps {
		doc.Predicate.Steps = append(doc.Predicate.Steps, s.line())
	}
	doc.Predicate.Approvals, doc.Predicate.Policies = b.decisions()
	return b.same("attestations/run.dsse.json", "application/vnd.in-toto+json", doc)
}

func (b *bundle) subject(name string) subject {
	m := b.files[name]
	if m == nil {
		return subject{Name: name}
	}
	return subject{name, digestSet{m.sum}}
}

func (s *step) line() stepLine {
	end := s.ending()
	l := stepLine{
		ID: s.id, Kind: s.spec.Kind, Status: end.State, Reason: end.Reason, Outputs: named(end.Outputs), Artifacts: end.Artifacts, EndedAt: s.endedAt,
	}
	if s.carried != nil {
		l.Carried = &carriedLine{s.carried.Run, s.carried.Attempt}
	}
	for _, a := range s.attempts {
		t := attemptLine{
			Attempt: a.n, Worker: a.claim.Worker, Token: a.claim.Token, Bindings: a.claim.Bindings, ClaimedAt: a.claimedAt, ClosedAt: a.closedAt,
		}
		switch r := a.report; {
		case r != nil:
			t.Result, t.Reason, t.ExitCode, t.StartedAt, t.EndedAt = string(r.State), r.Reason, r.ExitCode, r.StartedAt, r.EndedAt
			t.Rendered, t.Transcript, t.Outputs, t.Artifacts = r.Rendered, &r.Transcript, named(r.Outputs), r.Artifacts
			t.Protections, t.Egress, t.Usage = r.Protections, named(r.Egress), r.Usage
			t.CacheKey, t.CachedFrom = r.CacheKey, r.CachedFrom
		case a.revoked != nil:
			t.Result, t.Reason = "revoked", a.revoked.Reason
		default:
			t.Result = "open"
		}
		l.Attempts = append(l.Attempts, t)
	}
	return l
}

// decisions returns the lines of all gates in the order of the history.
func (b *bundle) decisions() (approvals []approvalLine, policies []policyLine) {
	at := map[work.StepID]int{}
	for _, e := range b.timeline {
		s := b.hist.byID[e.Step]
		switch e.Type {
		case work.GateDecided:
			a := s.answers[at[s.id]]
			at[s.id]++
			l := approvalLine{Gate: a.Gate, Decision: a.Decision.Decision, Approver: a.Approver, Key: a.Key, DecidedAt: a.DecidedAt, Statement: named(a.Statement)}
			if l.Statement != "" {
				l.File = fmt.Sprintf("approvals/%s.%d.dsse.json", stepFile(s.id), at[s.id])
			}
			approvals = append(approvals, l)
		case work.PolicyDecided:
			p := s.policies[at[s.id]]
			at[s.id]++
			policies = append(policies, policyLine{
				s.id, p.Allowed, p.RulesDigest, named(p.Input), p.Results, engineOf(p.Engine), fmt.Sprintf("policy/%s.%d.json", stepFile(s.id), at[s.id]),
			})
		}
	}
	return approvals, policies
}

func (h *history) products() []subject {
	var out []subject
	for _, s := range h.steps {
		for _, a := range s.ending().Artifacts {
			out = append(out, about(string(s.id)+"/"+a.Name+"/"+a.Path, a.Digest))
		}
	}
	return out
}

type provenanceDocument struct {
	BuildDefinition struct {
		BuildType          string `json:"buildType"`
		ExternalParameters struct {
			Workflow string       `json:"workflow"`
			PlanHash work.Digest  `json:"planHash"`
			Inputs   []work.Input `json:"inputs"`
		} `json:"externalParameters"`
		InternalParameters struct {
			Tenant  work.Tenant `json:"tenant"`
			Sealed  bool        `json:"sealed"`
			Sandbox []string    `json:"sandbox"`
			Egress  work.Digest `json:"egress"`
		} `json:"internalParameters"`
		ResolvedDependencies []subject `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string `json:"invocationId"`
			StartedOn    string `json:"startedOn"`
			FinishedOn   string `json:"finishedOn"`
		} `json:"metadata"`
		Byproducts []subject `json:"byproducts"`
	} `json:"runDetails"`
}

func (b *bundle) checkProvenance() (string, error) {
	const name = "attestations/provenance.dsse.json"
	if b.hist == nil {
		return "", absent("it takes the history to know what it must say")
	}
	h, m := b.hist, b.manifest
	if h.ended.State != work.Succeeded {
		if b.files[name] != nil {
			return "", wrong("a run that did not succeed has no provenance")
		}
		return "none: the run did not succeed", nil
	}
	doc := statement[provenanceDocument]{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1", Subject: h.products(),
	}
	if len(doc.Subject) == 0 {
		doc.Subject = []subject{b.subject("timeline.ndjson")}
	}
	d, r, pack := &doc.Predicate.BuildDefinition, &doc.Predicate.RunDetails, b.plan.Pack
	d.BuildType = "https://orrery.example/buildtypes/workflow/v1"
	d.ExternalParameters.Workflow = pack.Name + "@" + string(pack.Digest)
	d.ExternalParameters.PlanHash = m.PlanHash
	d.ExternalParameters.Inputs = append([]work.Input{}, b.plan.Inputs...)
	d.InternalParameters.Tenant, d.InternalParameters.Sealed = m.Tenant, b.plan.Sealed
	d.InternalParameters.Egress = work.Digest("sha256:" + b.subject("egress.ndjson").Digest.SHA256)
	d.ResolvedDependencies = []subject{about("plan.json", m.PlanHash), about("pack:"+pack.Name+"@"+pack.Version, pack.Digest)}
	for _, f := range b.plan.Files {
		d.ResolvedDependencies = append(d.ResolvedDependencies, about("pack-file:"+f.Path, f.Digest))
	}
	approvals, _ := b.decisions()
	for _, a := range approvals {
		if a.File != "" {
			d.ResolvedDependencies = append(d.ResolvedDependencies, about(a.File, a.Statement))
		}
	}
	weakest := ""
	d.InternalParameters.Sandbox, weakest = h.protections()
	if b.plan.Sealed {
		weakest = "sealed-" + weakest
	}
	r.Builder.ID = "https://orrery.example/builder/" + weakest
	r.Metadata.InvocationID, r.Metadata.StartedOn, r.Metadata.FinishedOn = string(m.RunID), h.startedAt.String(), h.overAt.String()
	r.Byproducts = []subject{b.subject("timeline.ndjson"), b.subject("egress.ndjson")}
	return b.same(name, "application/vnd.in-toto+json", doc)
}

// protections returns the labels of the sandboxes that attempts ran in, sorted, and that of the weakest.
func (h *history) protections() (labels []string, weakest string) {
	type sandbox struct {
		Tier  int    `json:"tier"`
		Label string `json:"label"`
	}
	var all []sandbox
	for _, s := range h.steps {
		for _, a := range s.attempts {
			if a.report == nil || a.report.CachedFrom != nil {
				continue
			}
			var p sandbox
			if json.Unmarshal(a.report.Protections, &p) != nil || p.Label == "" {
				p = sandbox{-1, "unknown"}
			}
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return []string{}, "none"
	}
	weakest = slices.MinFunc(all, func(a, b sandbox) int { return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Label, b.Label)) }).Label
	for _, p := range all {
		labels = append(labels, p.Label)
	}
	slices.Sort(labels)
	return slices.Compact(labels), weakest
}
