package evidence

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// packRun is the attestation of T9: the short one.
type packRun struct {
	RunID       work.RunID     `json:"runId"`
	Tenant      work.Tenant    `json:"tenant"`
	PackName    string         `json:"packName"`
	PackVersion string         `json:"packVersion"`
	PackDigest  work.Digest    `json:"packDigest"`
	PlanHash    work.Digest    `json:"planHash"`
	Status      work.State     `json:"status"`
	Inputs      []inputDigest  `json:"inputs"`
	Outputs     []outputDigest `json:"outputs"`
	Steps       []stepStatus   `json:"steps"`
	CompletedAt work.Time      `json:"completedAt"`
}

type inputDigest struct {
	Name   string      `json:"name"`
	Digest work.Digest `json:"digest,omitempty"`
	Secret bool        `json:"secret,omitempty"`
}

// outputDigest names a file, or with Path "" the values of a step or, with Step "", of the run.
type outputDigest struct {
	Step   work.StepID `json:"step,omitempty"`
	Name   string      `json:"name,omitempty"`
	Path   string      `json:"path,omitempty"`
	Digest work.Digest `json:"digest"`
}

type stepStatus struct {
	ID     work.StepID `json:"id"`
	Status work.State  `json:"status"`
}

// runPredicate is https://orrery.example/attestation/run/v1: the whole story.
type runPredicate struct {
	RunID        work.RunID       `json:"runId"`
	Name         string           `json:"name"`
	Tenant       work.Tenant      `json:"tenant"`
	Pack         work.PackRef     `json:"pack"`
	PlanHash     work.Digest      `json:"planHash"`
	InputsDigest work.Digest      `json:"inputsDigest"`
	Request      work.Digest      `json:"request,omitempty"`
	Submitter    string           `json:"submitter"`
	SubmitterKey string           `json:"submitterKey,omitempty"`
	RetryOf      work.RunID       `json:"retryOf,omitempty"`
	Status       work.State       `json:"status"`
	Reason       work.Reason      `json:"reason"`
	SubmittedAt  work.Time        `json:"submittedAt"`
	StartedAt    work.Time        `json:"startedAt,omitzero"`
	EndedAt      work.Time        `json:"endedAt"`
	Steps        []*stepRecord    `json:"steps"`
	Approvals    []approvalRecord `json:"approvals"`
	Policies     []policyRecord   `json:"policies"`
	Outputs      work.Digest      `json:"outputs,omitempty"`
	Ledger       ledgerRecord     `json:"ledger"`
}

type ledgerRecord struct {
	Origin string      `json:"origin"`
	Index  int64       `json:"index"`
	Leaf   work.Digest `json:"leaf"` // SHA-256 of audit/leaf.json
	Events int64       `json:"events"`
	Head   work.Digest `json:"head"`
}

func (h *history) packRun() ([]byte, error) {
	r := h.record.Run
	doc := packRun{
		RunID: r.ID, Tenant: r.Tenant, PackName: h.plan.Pack.Name, PackVersion: h.plan.Pack.Version, PackDigest: h.plan.Pack.Digest,
		PlanHash: r.PlanHash, Status: h.ended.State, Inputs: []inputDigest{}, Outputs: []outputDigest{}, Steps: []stepStatus{},
		CompletedAt: h.times.ended,
	}
	for _, in := range h.plan.Inputs {
		doc.Inputs = append(doc.Inputs, inputDigest{Name: in.Name, Digest: digestOf(in.Value), Secret: in.Secret != ""})
	}
	if d := digestOf(h.ended.Outputs); d != "" {
		doc.Outputs = append(doc.Outputs, outputDigest{Digest: d})
	}
	for _, s := range h.steps {
		doc.Steps = append(doc.Steps, stepStatus{s.ID, s.Status})
		if s.Outputs != "" {
			doc.Outputs = append(doc.Outputs, outputDigest{Step: s.ID, Digest: s.Outputs})
		}
		for _, a := range s.Artifacts {
			doc.Outputs = append(doc.Outputs, outputDigest{Step: s.ID, Name: a.Name, Path: a.Path, Digest: a.Digest})
		}
	}
	return canonical.MarshalUpTo(doc, maxDocument)
}

func (h *history) runStatement() ([]byte, error) {
	r, s, seal := h.record.Run, h.submitted, h.record.Seal.Position
	return canonical.MarshalUpTo(Statement[runPredicate]{
		Type: StatementType, PredicateType: RunPredicate,
		Subject: append([]Subject{
			{PlanFile, digestSet(r.PlanHash)}, {TimelineFile, digestSet(canonical.Digest(h.timeline))},
		}, h.products()...),
		Predicate: runPredicate{
			RunID: r.ID, Name: s.Name, Tenant: r.Tenant, Pack: h.plan.Pack, PlanHash: r.PlanHash, InputsDigest: s.InputsHash,
			Request: s.Request, Submitter: s.Submitter, SubmitterKey: s.SubmitterKey, RetryOf: s.RetryOf,
			Status: h.ended.State, Reason: h.ended.Reason, SubmittedAt: h.times.submitted, StartedAt: h.times.started, EndedAt: h.times.ended,
			Steps: h.steps, Approvals: h.approvals, Policies: h.policies, Outputs: digestOf(h.ended.Outputs),
			Ledger: ledgerRecord{Origin: seal.Origin, Index: seal.Index, Leaf: canonical.Digest(h.leaf), Events: r.Seq, Head: r.Head},
		},
	}, maxDocument)
}

// products returns the files that the run left, as subjects.
func (h *history) products() []Subject {
	var out []Subject
	for _, s := range h.steps {
		for _, a := range s.Artifacts {
			out = append(out, Subject{fmt.Sprintf("%s/%s/%s", s.ID, a.Name, a.Path), digestSet(a.Digest)})
		}
	}
	return out
}

// provenance is https://slsa.dev/provenance/v1.
type provenance struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   externalParameters `json:"externalParameters"`
	InternalParameters   internalParameters `json:"internalParameters"`
	ResolvedDependencies []Subject          `json:"resolvedDependencies"`
}

type externalParameters struct {
	Workflow string       `json:"workflow"` // name@digest
	PlanHash work.Digest  `json:"planHash"`
	Inputs   []work.Input `json:"inputs"`
}

type internalParameters struct {
	Tenant  work.Tenant `json:"tenant"`
	Sealed  bool        `json:"sealed"`
	Sandbox []string    `json:"sandbox"` // labels of the protections that were in force, sorted
	Egress  work.Digest `json:"egress"`  // of egress.ndjson
}

type runDetails struct {
	Builder    builder   `json:"builder"`
	Metadata   metadata  `json:"metadata"`
	Byproducts []Subject `json:"byproducts"`
}

type builder struct {
	ID string `json:"id"`
}

type metadata struct {
	InvocationID string `json:"invocationId"`
	StartedOn    string `json:"startedOn"`
	FinishedOn   string `json:"finishedOn"`
}

func (h *history) provenance() ([]byte, error) {
	r := h.record.Run
	about := h.products()
	if len(about) == 0 {
		about = []Subject{{TimelineFile, digestSet(canonical.Digest(h.timeline))}}
	}
	inputs := h.plan.Inputs
	if inputs == nil {
		inputs = []work.Input{}
	}
	from := []Subject{{PlanFile, digestSet(r.PlanHash)}, {"pack:" + h.plan.Pack.Name + "@" + h.plan.Pack.Version, digestSet(h.plan.Pack.Digest)}}
	for _, f := range h.plan.Files {
		from = append(from, Subject{"pack-file:" + f.Path, digestSet(f.Digest)})
	}
	for _, a := range h.approvals {
		if a.File != "" {
			from = append(from, Subject{a.File, digestSet(a.Statement)})
		}
	}
	labels, id := h.mode()
	return canonical.MarshalUpTo(Statement[provenance]{
		Type: StatementType, PredicateType: SLSAPredicate, Subject: about,
		Predicate: provenance{
			BuildDefinition: buildDefinition{
				BuildType: BuildType,
				ExternalParameters: externalParameters{
					Workflow: h.plan.Pack.Name + "@" + string(h.plan.Pack.Digest), PlanHash: r.PlanHash, Inputs: inputs,
				},
				InternalParameters: internalParameters{
					Tenant: r.Tenant, Sealed: h.plan.Sealed, Sandbox: labels, Egress: canonical.Digest(h.egress),
				},
				ResolvedDependencies: from,
			},
			RunDetails: runDetails{
				Builder:  builder{ID: id},
				Metadata: metadata{string(r.ID), h.times.started.String(), h.times.ended.String()},
				Byproducts: []Subject{
					{TimelineFile, digestSet(canonical.Digest(h.timeline))}, {EgressFile, digestSet(canonical.Digest(h.egress))},
				},
			},
		},
	}, maxDocument)
}

// mode returns the labels of the protections that were in force, sorted, and the builder's identity: that of the weakest.
// SLSA demands different identities for modes that differ in security.
func (h *history) mode() (labels []string, id string) {
	type protection struct {
		Tier  int    `json:"tier"`
		Label string `json:"label"`
	}
	labels = []string{}
	weakest := protection{Tier: 1 << 30, Label: "none"}
	for _, s := range h.steps {
		for _, a := range s.Attempts {
			if a.Transcript == nil || a.CachedFrom != nil {
				continue // nothing ran
			}
			p := protection{Tier: -1, Label: "unknown"}
			if len(a.Protections) > 0 {
				if err := json.Unmarshal(a.Protections, &p); err != nil || p.Label == "" {
					p = protection{Tier: -1, Label: "unknown"}
				}
			}
			labels = append(labels, p.Label)
			if cmp.Or(cmp.Compare(p.Tier, weakest.Tier), cmp.Compare(p.Label, weakest.Label)) < 0 {
				weakest = p
			}
		}
	}
	slices.Sort(labels)
	labels = slices.Compact(labels)
	sealed := ""
	if h.plan.Sealed {
		sealed = "sealed-"
	}
	return labels, BuilderPrefix + sealed + weakest.Label
}
