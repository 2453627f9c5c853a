package work

import "encoding/json"

// Event is one entry of a run's history. Its canonical JSON without Hash, together with Prev, is hashed to Hash; so the
// last hash stands for the whole history. An event says either what came from outside (a stimulus) or what the engine
// decided because of it; replay feeds the stimuli to the engine again and compares the decisions byte for byte.
type Event struct {
	Tenant  Tenant          `json:"tenant"`
	Run     RunID           `json:"run"`
	Seq     int64           `json:"seq"` // from 1, without gaps
	Time    Time            `json:"time"`
	Type    EventType       `json:"type"`
	Step    StepID          `json:"step,omitempty"`
	Attempt int             `json:"attempt,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"` // an object; its shape depends on Type
	Prev    Digest          `json:"prev"`           // "" for the first
	Hash    Digest          `json:"hash,omitempty"`
}

// EventType is the closed list of what happens to a run. The comment names the type of Data.
type EventType string

// Stimuli: what came from outside.
const (
	RunSubmitted   EventType = "run.submitted"    // SubmittedData
	RunAdmitted    EventType = "run.admitted"     // none
	RunCancelAsked EventType = "run.cancel-asked" // Actor
	RunPaused      EventType = "run.paused"       // Actor
	RunResumed     EventType = "run.resumed"      // Actor
	RunDue         EventType = "run.due"          // none: the run's time limit passed, or while it is delayed, its time has come and its key is taken
	StepClaimed    EventType = "step.claimed"     // ClaimedData
	StepUnbound    EventType = "step.unbound"     // none: a worker asked for it, but its values cannot be evaluated
	StepAcked      EventType = "step.acked"       // AckedData
	StepReported   EventType = "step.reported"    // ReportedData
	StepRevoked    EventType = "step.revoked"     // RevokedData: the lease ended without a report
	StepDue        EventType = "step.due"         // none: retry, gate expiry or deadline
	GateDecided    EventType = "gate.decided"     // Decision

	PolicyUnavailable EventType = "policy.unavailable" // ReasonData: a policy engine gave no answer
)

// Decisions: what the engine made of it.
const (
	RunQueued       EventType = "run.queued"        // ReasonData
	RunStarted      EventType = "run.started"       // none
	RunStopping     EventType = "run.stopping"      // ReasonData
	RunEnded        EventType = "run.ended"         // EndedData
	StepQueued      EventType = "step.queued"       // QueuedData
	StepStarted     EventType = "step.started"      // none: a container
	StepExpanded    EventType = "step.expanded"     // ExpandedData: a map knows its items
	StepWaiting     EventType = "step.waiting"      // WaitingData: a gate opened for decisions
	StepRetrying    EventType = "step.retrying"     // RetryingData
	StepEnded       EventType = "step.ended"        // EndedData
	StepCarried     EventType = "step.carried"      // CarriedData: taken over from an earlier run
	StepCancelAsked EventType = "step.cancel-asked" // none: the worker will be told
	PolicyAsked     EventType = "policy.asked"      // AskedData: a gate waits for a policy engine
	PolicyDecided   EventType = "policy.decided"    // PolicyData: of the rules, or a stimulus where an engine has answered
)

// SubmittedData opens a history.
type SubmittedData struct {
	Name         string            `json:"name"`
	PlanHash     Digest            `json:"planHash"`
	Pack         PackRef           `json:"pack"`
	Submitter    string            `json:"submitter"`
	SubmitterKey string            `json:"submitterKey,omitempty"`
	Note         string            `json:"note,omitempty"`
	RunToken     string            `json:"runToken,omitempty"`
	ReplayToken  string            `json:"replayToken"`
	InputsHash   Digest            `json:"inputsHash"`
	RetryOf      RunID             `json:"retryOf,omitempty"`
	TraceParent  string            `json:"traceParent,omitempty"`
	TraceState   string            `json:"traceState,omitempty"`
	Baggage      string            `json:"baggage,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Request      Digest            `json:"request,omitempty"` // of the signed submission
	Carried      []Carried         `json:"carried,omitempty"`
	Concurrency  string            `json:"concurrency,omitempty"` // evaluated key of the run
	Incarnation  int64             `json:"incarnation"`
	Project      string            `json:"project,omitempty"`
	NotBefore    Time              `json:"notBefore,omitzero"`
}

// Carried is a result taken over from an earlier run of which this one is a retry.
type Carried struct {
	Step      StepID          `json:"step"`
	Run       RunID           `json:"run"`
	Attempt   int             `json:"attempt"`
	Outputs   json.RawMessage `json:"outputs,omitempty"`
	Artifacts []Artifact      `json:"artifacts,omitempty"`
}

// ClaimedData grants a lease.
type ClaimedData struct {
	Token    Token  `json:"token"`
	Session  string `json:"session"`
	Worker   string `json:"worker"`
	Bindings Digest `json:"bindings"` // of the values the step's templates are rendered with
}

// AckedData is the worker's word that it checked the plan and made a sandbox.
type AckedData struct {
	Token Token `json:"token"`
}

// ReportedData is how an attempt ended, as its worker saw it.
type ReportedData struct {
	Token       Token            `json:"token"`
	Worker      string           `json:"worker"`
	State       State            `json:"state"` // succeeded, failed, timed-out, cancelled
	Reason      Reason           `json:"reason"`
	Class       string           `json:"class,omitempty"` // error class, for retry rules
	ExitCode    int              `json:"exitCode"`
	StartedAt   Time             `json:"startedAt"`
	EndedAt     Time             `json:"endedAt"`
	Rendered    Digest           `json:"rendered,omitempty"` // of the command, environment names and files that ran
	Outputs     json.RawMessage  `json:"outputs,omitempty"`
	Artifacts   []Artifact       `json:"artifacts,omitempty"`
	Transcript  Transcript       `json:"transcript"`
	Protections json.RawMessage  `json:"protections,omitempty"` // sandbox.Protections
	Egress      json.RawMessage  `json:"egress,omitempty"`      // list of sandbox.EgressRecord
	Usage       *Usage           `json:"usage,omitempty"`
	CacheKey    Digest           `json:"cacheKey,omitempty"`
	CachedFrom  *CacheOrigin     `json:"cachedFrom,omitempty"`
	Signed      *ResultSignature `json:"signed,omitempty"` // nil for a worker without a key
}

// ResultSignature is a worker's signature of what it reports, alone or together with other results. Who signs shows either by the id of a
// key or by a certificate.
type ResultSignature struct {
	Key         string       `json:"key,omitempty"`
	Certificate []byte       `json:"certificate,omitempty"` // X.509, DER
	Sig         []byte       `json:"sig"`
	Batch       *ResultBatch `json:"batch,omitempty"` // nil for a result that was signed alone
}

// ResultBatch is the place of a result among those that one signature is for: its number from 0, of how many, and the nodes of SHA-256 beside
// the way from it to the root, from the leaf on.
type ResultBatch struct {
	Index int64    `json:"index"`
	Size  int64    `json:"size"`
	Proof [][]byte `json:"proof"`
}

// Transcript binds the log of one attempt: Digest is SHA-256 over the kept text of its lines in order, each followed by a newline.
type Transcript struct {
	Lines   int64  `json:"lines"`
	Digest  Digest `json:"digest,omitempty"`
	Dropped int64  `json:"dropped,omitempty"` // bytes beyond the limit
}

// Usage is what an attempt took.
type Usage struct {
	WallMs      int64 `json:"wallMs"`
	CPUMs       int64 `json:"cpuMs"`
	MaxRSSBytes int64 `json:"maxRssBytes"`
}

// CacheOrigin is the attempt whose result was used again.
type CacheOrigin struct {
	Run     RunID  `json:"run"`
	Step    StepID `json:"step"`
	Attempt int    `json:"attempt"`
}

// RevokedData ends a lease without a report.
type RevokedData struct {
	Token  Token  `json:"token"`
	Reason Reason `json:"reason"`
	Charge bool   `json:"charge"` // whether it counts as a crash of the step
}

// ReasonData carries a reason.
type ReasonData struct {
	Reason Reason `json:"reason"`
}

// QueuedData puts a step before the workers.
type QueuedData struct {
	Attempt int         `json:"attempt"` // the attempt that will run
	Held    bool        `json:"held,omitempty"`
	Queue   *QueueEntry `json:"queue,omitempty"`
}

// ExpandedData fixes what a map runs over.
type ExpandedData struct {
	Total int             `json:"total"`
	Items json.RawMessage `json:"items"`
}

// WaitingData opens a gate.
type WaitingData struct {
	Required  int      `json:"required"`
	Approvers []string `json:"approvers,omitempty"`
	PlanHash  Digest   `json:"planHash"`
	Expires   Time     `json:"expires"`
}

// RetryingData schedules the next attempt.
type RetryingData struct {
	Reason  Reason `json:"reason"` // of the attempt that failed
	At      Time   `json:"at"`
	Attempt int    `json:"attempt"` // the next one
	Of      int    `json:"of"`
}

// EndedData is an end of a step or a run.
type EndedData struct {
	State     State           `json:"state"`
	Reason    Reason          `json:"reason"`
	Outputs   json.RawMessage `json:"outputs,omitempty"`
	Artifacts []Artifact      `json:"artifacts,omitempty"`
}

// CarriedData says where a step's result comes from.
type CarriedData struct {
	Run       RunID           `json:"run"`
	Attempt   int             `json:"attempt"`
	Outputs   json.RawMessage `json:"outputs,omitempty"`
	Artifacts []Artifact      `json:"artifacts,omitempty"`
}

// PolicyData is what the rules of a policy gate said, or its policy engine.
type PolicyData struct {
	RulesDigest Digest          `json:"rulesDigest"`
	Input       json.RawMessage `json:"input"`
	Allowed     bool            `json:"allowed"`
	Results     []RuleResult    `json:"results"`
	Engine      *EngineAnswer   `json:"engine,omitempty"`
}

// AskedData is a question to a policy engine. The input itself comes with the answer.
type AskedData struct {
	Engine  string `json:"engine"`
	Path    string `json:"path"`
	Input   Digest `json:"input"`
	Expires Time   `json:"expires"`
}

// EngineAnswer is what a policy engine answered, as it said it.
type EngineAnswer struct {
	Name       string          `json:"name"`
	Path       string          `json:"path"`
	Input      Digest          `json:"input"`                  // of what it was asked about
	Result     json.RawMessage `json:"result,omitempty"`       // nothing where the policy has no result
	Digest     Digest          `json:"resultDigest,omitempty"` // of the bytes that it sent, where they cannot stand in a history
	DecisionID string          `json:"decisionId,omitempty"`   // in the decision log of the engine
	Version    string          `json:"version,omitempty"`      // of the engine
	Bundles    []PolicyBundle  `json:"bundles,omitempty"`      // sorted by name
}

// PolicyBundle is a set of policies that an engine decided by.
type PolicyBundle struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
}

// RuleResult is the answer of one rule.
type RuleResult struct {
	ID      string `json:"id"`
	Allowed bool   `json:"allowed"`
	Message string `json:"message,omitempty"`
}

// LogLine is one line of output, in the order of the run.
type LogLine struct {
	Run       RunID  `json:"runId"`
	Seq       int64  `json:"sequence"`
	Time      Time   `json:"timestamp"`
	Level     string `json:"level"`     // trace, debug, info, warn, error
	EventType string `json:"eventType"` // step.stdout, step.stderr, step.truncated, step.progress
	Step      StepID `json:"stepId,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`
	Message   string `json:"message"`
}
