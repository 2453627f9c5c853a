package api

import "encoding/json"

// PackSource says what is planned: an uploaded pack, or the text of a manifest that needs no files.
type PackSource struct {
	Pack     string `json:"pack,omitempty"`     // digest of an uploaded pack, or name@version
	Manifest string `json:"manifest,omitempty"` // YAML
}

// PlanRequest asks what would run.
type PlanRequest struct {
	PackSource
	Inputs map[string]json.RawMessage `json:"inputs,omitempty"` // a secret is a reference that the worker resolves: "env:NAME", "file:/path", "age:/path" or "vault:path#field"
}

// PlanReply is a plan. The SHA-256 of Plan, as it stands here, is the plan hash.
type PlanReply struct {
	PlanHash string          `json:"planHash"`
	Plan     json.RawMessage `json:"plan"`
}

// LintReply says what is wrong with a pack.
type LintReply struct {
	Valid    bool      `json:"valid"`
	Problems []Problem `json:"problems,omitempty"`
}

// Preview is what a step would do.
type Preview struct {
	Step    string   `json:"step"`
	Kind    string   `json:"kind"`
	Outlook string   `json:"outlook"`
	Reason  string   `json:"reason,omitempty"`
	Needs   []string `json:"needs,omitempty"`
	Gates   []string `json:"gates,omitempty"`
	Outputs []string `json:"outputs,omitempty"`
	Egress  []string `json:"egress,omitempty"`
	Secrets []string `json:"secrets,omitempty"`
}

// Simulation is a dry run.
type Simulation struct {
	PlanHash string    `json:"planHash"`
	Steps    []Preview `json:"steps"`
}

// DiffRequest names two plans: each by its hash or by a run.
type DiffRequest struct {
	Before PlanRef `json:"before"`
	After  PlanRef `json:"after"`
}

// PlanRef is one side of a diff.
type PlanRef struct {
	Run  string       `json:"run,omitempty"`
	Plan string       `json:"plan,omitempty"` // hash
	Pack *PlanRequest `json:"pack,omitempty"`
}

// DiffReply says in words what is different.
type DiffReply struct {
	Changes []Change `json:"changes"`
}

// Change is one difference.
type Change struct {
	Kind     string `json:"kind"`
	Step     string `json:"step,omitempty"`
	Severity string `json:"severity"`
	Text     string `json:"text"`
}

// SubmitRequest asks for a run. With Request, the submission that its author has signed, the run is the author's; without it the server
// signs with the key that it keeps for the account of the token.
type SubmitRequest struct {
	PackSource
	Inputs   map[string]json.RawMessage `json:"inputs,omitempty"`
	PlanHash string                     `json:"planHash,omitempty"` // refuse when the plan has another
	Note     string                     `json:"note,omitempty"`
	RunToken string                     `json:"runToken,omitempty"` // the same token again gives the same run
	Labels   map[string]string          `json:"labels,omitempty"`
	Project  string                     `json:"project,omitempty"`   // within the tenant
	At       string                     `json:"notBefore,omitempty"` // it starts no sooner, like 2026-01-02T03:04:05.000000Z
	Request  json.RawMessage            `json:"request,omitempty"`   // a DSSE envelope
}

// SubmitReply names the run.
type SubmitReply struct {
	RunID    string `json:"runId"`
	Name     string `json:"name"`
	PlanHash string `json:"planHash"`
	State    string `json:"state"`
}

// BatchRequest asks for many runs of one pack. What can be created is created in one transaction.
type BatchRequest struct {
	PackSource
	Runs []BatchRun `json:"runs"` // at most 500
}

// BatchRun is one run of a batch. With Request it is its author's, as in SubmitRequest.
type BatchRun struct {
	Inputs   map[string]json.RawMessage `json:"inputs,omitempty"`
	PlanHash string                     `json:"planHash,omitempty"` // refuse when the plan has another
	Note     string                     `json:"note,omitempty"`
	RunToken string                     `json:"runToken,omitempty"`
	Labels   map[string]string          `json:"labels,omitempty"`
	Project  string                     `json:"project,omitempty"`   // within the tenant
	At       string                     `json:"notBefore,omitempty"` // it starts no sooner, like 2026-01-02T03:04:05.000000Z
	Request  json.RawMessage            `json:"request,omitempty"`
}

// BatchReply has one entry for each run of the request, in its order.
type BatchReply struct {
	Runs []BatchEntry `json:"runs"`
}

// BatchEntry names the run that was created, or says why it was not.
type BatchEntry struct {
	SubmitReply
	Error *Error `json:"error,omitempty"`
}

// RetryRequest asks for another run that keeps what still holds, or for a rerun that keeps nothing.
type RetryRequest struct {
	From     []string                   `json:"from,omitempty"` // steps to repeat with all that builds on them; may have wildcards
	Source   *PackSource                `json:"source,omitempty"`
	Inputs   map[string]json.RawMessage `json:"inputs,omitempty"`
	Note     string                     `json:"note,omitempty"`
	RunToken string                     `json:"runToken,omitempty"`
	Labels   map[string]string          `json:"labels,omitempty"`
	Request  json.RawMessage            `json:"request,omitempty"`
}

// RetryReply names the new run and what it does again.
type RetryReply struct {
	SubmitReply
	RetryOf string   `json:"retryOf"`
	Carried []string `json:"carried"`
	Again   []string `json:"again"`
}

// ControlRequest cancels, pauses or resumes.
type ControlRequest struct {
	Reason string `json:"reason,omitempty"`
}

// ApproveRequest decides at a gate: with the statement that the approver signed, or by a token that is bound to run, gate and plan hash.
type ApproveRequest struct {
	Gate      string          `json:"gate,omitempty"`
	Decision  string          `json:"decision,omitempty"` // approved (also without one) or rejected
	PlanHash  string          `json:"planHash,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	Ticket    string          `json:"ticket,omitempty"`
	Statement json.RawMessage `json:"statement,omitempty"` // a DSSE envelope with an approval
	Token     string          `json:"token,omitempty"`     // instead of all that: a JWT of the type orrery-approval+jwt
}

// Pack is an uploaded pack.
type Pack struct {
	Digest   string     `json:"digest"`
	Name     string     `json:"name"`
	Version  string     `json:"version"`
	Manifest string     `json:"manifest"` // its path in the pack
	Files    []PackFile `json:"files"`
	Uploaded string     `json:"uploaded"`
	By       string     `json:"by"`
}

// PackFile is one file of a pack.
type PackFile struct {
	Path       string `json:"path"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
}

// PackList is a page of packs by digest.
type PackList struct {
	Items         []Pack `json:"items"`
	NextPageToken string `json:"next_page_token,omitempty"`
}
