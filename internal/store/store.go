// Package store is the contract of the ledger: runs, steps, leases, events, logs and seals, changed by whole commands in batches.
//
// A command is durable when it returns without error: nothing is acknowledged before it is on disk. Every command of a batch
// succeeds or fails by itself; a batch never fails because of one of its commands. A lost reply means "unknown": every command
// may be sent again and then has no second effect.
//
// Work is granted by a lease taken inside a transaction and fenced by a token of incarnation and epoch; no clock decides
// who owns it. Time only decides when Tick may try to revoke.
package store

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/work"
)

// Store is everything a driver offers.
type Store interface {
	Runs
	Leases
	Reader
	History
	Feed
	Log
	Records
	Flows
	Retention
	Lists
	Close() error
}

// Runs is what people and their tools ask for.
type Runs interface {
	// Submit creates runs. A Submission whose RunToken the tenant has used returns that run, unchanged, with Existed set; with
	// another plan it is fault.Conflict. Errors per command: fault.PlanMismatch for a plan that is not what its hash says. The answer of
	// ctx, if there is one, is kept in the same transaction.
	Submit(ctx context.Context, batch []Submission) []Submitted

	// Decide records decisions at gates. Errors per command: as engine.Decide, and fault.NotFound.
	Decide(ctx context.Context, batch []DecideCommand) []error

	// Control cancels, pauses and resumes runs. Errors per command: fault.NotFound, fault.Conflict.
	Control(ctx context.Context, batch []ControlCommand) []error

	// Acknowledge notes that the submitter has seen the end of a run. Errors: fault.NotFound.
	Acknowledge(ctx context.Context, tenant work.Tenant, run work.RunID) error

	// ResolveDeadLetter marks the dead steps of a run as dealt with by another run or by a person.
	ResolveDeadLetter(ctx context.Context, tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error

	// Attach stores a document beside a run: its signed request, an attestation. A kind is written once; the same bytes again are no error.
	Attach(ctx context.Context, tenant work.Tenant, run work.RunID, kind string, data []byte) error
}

// Leases is what workers ask for.
type Leases interface {
	// OpenSession starts or renews a worker's session until expires. Sessions are random per process start.
	OpenSession(ctx context.Context, s Session) error

	// Exchange reports ended attempts and asks for new ones in one transaction, so that a chain of steps costs one commit a step.
	Exchange(ctx context.Context, req ExchangeRequest) (ExchangeReply, error)

	// Ack notes that workers began. Errors per command: fault.Stale.
	Ack(ctx context.Context, batch []AckCommand) []error

	// Heartbeat renews a session and tells what its worker must stop. Errors: fault.NotFound for a session that has ended.
	Heartbeat(ctx context.Context, session string, expires work.Time) (Orders, error)

	// AppendLines appends output, numbered by the run. Errors per command: fault.Stale.
	AppendLines(ctx context.Context, batch []LinesCommand) []error

	// Tick acts on everything whose time has come by the store's clock: retries, expiries, deadlines, ended sessions. It handles at
	// most limit things and returns when the next is due, zero for never.
	Tick(ctx context.Context, limit int) (next work.Time, err error)

	// Recover ends every session of a worker that ran inside a process that is gone, without charging their steps. Only the one
	// process that has the store to itself may call it, before anything else.
	Recover(ctx context.Context) error
}

// Reader answers questions about runs from what is committed.
type Reader interface {
	// Run returns a run by id or by name. Errors: fault.NotFound.
	Run(ctx context.Context, tenant work.Tenant, idOrName string) (work.Run, error)

	// Find returns runs, newest first.
	Find(ctx context.Context, tenant work.Tenant, q RunQuery) ([]work.Run, error)

	// Steps returns the rows of a run in order of their ids, after the given one. Steps without a row are not in it.
	Steps(ctx context.Context, tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error)

	// DeadLetters returns dead steps that nobody has dealt with, oldest first.
	DeadLetters(ctx context.Context, tenant work.Tenant, limit int) ([]DeadLetter, error)

	// Plan returns the canonical plan with the given hash. Errors: fault.NotFound.
	Plan(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error)

	// Document returns what Attach stored, nil when there is none.
	Document(ctx context.Context, tenant work.Tenant, run work.RunID, kind string) ([]byte, error)

	// Cached returns an earlier result under a cache key, nil when there is none.
	Cached(ctx context.Context, tenant work.Tenant, key work.Digest) (*CachedResult, error)
}

// History answers with what happened, and wakes those who follow.
type History interface {
	// Events returns the history of a run from sequence number from (the first is 1).
	Events(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error)

	// Lines returns the output of a run from sequence number from (the first is 1).
	Lines(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error)

	// Watch returns a channel that gets a value after commits. It is a hint: it may come late, twice or merged, and followers
	// look for themselves. The channel is closed when ctx ends.
	Watch(ctx context.Context) <-chan struct{}
}

// Log is the Merkle log of ended runs and of the audit stream, one per tenant.
type Log interface {
	// Unsealed returns ended runs that are not in the log, in the order of their ends.
	Unsealed(ctx context.Context, tenant work.Tenant, limit int) ([]work.Run, error)

	// LogSize returns how many leaves the log has and its newest checkpoint, nil before the first.
	LogSize(ctx context.Context, tenant work.Tenant) (size int64, checkpoint []byte, err error)

	// LogHashes returns stored node hashes by their index (see golang.org/x/mod/sumdb/tlog).
	LogHashes(ctx context.Context, tenant work.Tenant, indexes []int64) ([][32]byte, error)

	// AppendLog adds leaves after the first size ones, with the hashes they add and the checkpoint over all. Errors: fault.Conflict when
	// the log has another size by now.
	AppendLog(ctx context.Context, tenant work.Tenant, a LogAppend) error

	// Leaf returns the leaf of a run and its index. Errors: fault.Incomplete when the run is not sealed.
	Leaf(ctx context.Context, tenant work.Tenant, run work.RunID) (leaf []byte, index int64, err error)
}

// Submission creates one run. Canonical is the plan's canonical JSON; the store checks that it hashes to Run.PlanHash.
type Submission struct {
	// Run has its identity only: Tenant, ID, Name, PlanHash, Pack, Submitter, SubmitterKey, Note, RunToken, RetryOf, TraceParent,
	// Labels, ConcurrencyKey, Project, NotBefore.
	Run       work.Run
	Names     []string // to take, in this order, when another run has Run.Name
	Canonical []byte
	Data      work.SubmittedData // Name is set by the store
	Request   []byte             // the signed submission, may be nil

	// Refused is set for one that is in the batch only so that the answer to its request has it in its place: why no run is made.
	Refused error
}

// Submitted is the answer to a Submission.
type Submitted struct {
	Run     work.Run
	Existed bool
	Err     error
}

// DecideCommand is a decision for a run: of a person, or with Ruling of a policy engine.
type DecideCommand struct {
	Tenant   work.Tenant
	Run      work.RunID
	Decision work.Decision
	Ruling   *Ruling
}

// Ruling is what a policy engine answered, or why it did not.
type Ruling struct {
	Gate        work.StepID
	Answer      *work.EngineAnswer
	Unavailable string // without an answer
}

// AskKind is the kind of records, of the installation, that name the gates which wait for a policy engine. The store writes and deletes
// them with the gates.
const AskKind = "ask"

// Ask names one such gate. It is the document of the record.
type Ask struct {
	Tenant work.Tenant `json:"tenant"`
	Run    work.RunID  `json:"run"`
	Gate   work.StepID `json:"gate"`
}

// ID is the id of its record.
func (a Ask) ID() string { return string(a.Tenant) + "/" + string(a.Run) + "/" + string(a.Gate) }

// ControlCommand changes how a run goes on. Verb is cancel, pause or resume.
type ControlCommand struct {
	Tenant work.Tenant
	Run    work.RunID
	Verb   string
	Actor  work.Actor
}

// Session is a worker process.
type Session struct {
	ID      string      `json:"id"`
	Worker  string      `json:"worker"`
	Tenant  work.Tenant `json:"tenant"` // whose work it takes; Installation for that of every tenant, in fair shares
	Expires work.Time   `json:"expires"`
	Local   bool        `json:"local"` // runs inside the process that has the store to itself
	Offer   Offer       `json:"offer,omitzero"`
}

// Offer is what a worker can run. It is for people: a claim goes by what its own request offers.
type Offer struct {
	Runners []string          `json:"runners,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Tier    int               `json:"tier,omitempty"` // of the strongest sandbox, 0 to 3
}

// Lacks says what of a step's needs an offer does not have, "" when it has all: a runner, a label, a sandbox.
func (o *Offer) Lacks(spec *work.RunSpec) string {
	if !slices.Contains(o.Runners, spec.Runner) {
		return "runner " + spec.Runner
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Labels)) {
		if v := spec.Labels[k]; o.Labels[k] != v {
			return "label " + k + "=" + v
		}
	}
	if t := spec.Sandbox.MinTier; len(t) == 2 && int(t[1]-'0') > o.Tier {
		return "sandbox " + t
	}
	return ""
}

// ExchangeRequest ends attempts and asks for up to Max new ones that the worker can run. Max 0 asks for none.
type ExchangeRequest struct {
	Session string
	Tenant  work.Tenant // that of the session
	Reports []ReportCommand
	Runners []string // runner kinds the worker offers
	Labels  map[string]string
	MinTier int // the strongest tier it can enforce
	Max     int

	// Resync is set when the reply to an earlier request got lost, and with it perhaps grants: leases of the session that are
	// not in Holding are given back, without a charge, to be granted again.
	Resync  bool
	Holding []AckCommand
}

// ReportCommand is the end of an attempt. Only the session that has the lease may report it.
type ReportCommand struct {
	Tenant work.Tenant // "" for that of the request
	Run    work.RunID
	Step   work.StepID
	Report work.ReportedData
}

// ExchangeReply answers each report and grants leases. Errs has one entry per report, fault.Stale where it was refused.
type ExchangeReply struct {
	Errs   []error
	Grants []Grant
}

// Grant is a lease with what its worker needs.
type Grant struct {
	Session    string // that it was granted to
	Tenant     work.Tenant
	Run        work.RunID
	RunName    string
	PlanHash   work.Digest
	Step       work.StepID
	Attempt    int
	Token      work.Token
	Deadline   work.Time
	Trace      string // W3C trace context for the attempt
	TraceState string
	Baggage    string
	Bindings   *engine.Bindings
	Request    []byte // the signed request of the run; nil when there is none, or it has to be asked for
}

// AckCommand notes the begin of an attempt, by the session that has the lease.
type AckCommand struct {
	Session string
	Tenant  work.Tenant
	Run     work.RunID
	Step    work.StepID
	Token   work.Token
}

// Orders is what a worker is told with its heartbeat.
type Orders struct {
	Cancel []AckCommand // attempts to stop
	Drain  bool
}

// LinesCommand appends output of an attempt. Lines have no sequence number yet.
type LinesCommand struct {
	Session string // that has the lease
	Tenant  work.Tenant
	Run     work.RunID
	Step    work.StepID
	Token   work.Token

	// From is the number of the first line within its attempt, from 1. Lines that are there already are passed over, so that a
	// command may be sent again; a gap is fault.Conflict. With 0 the lines are appended whatever is there.
	From  int64
	Lines []work.LogLine
}

// RunQuery selects runs. Zero fields select all.
type RunQuery struct {
	States   []work.State
	Pack     string
	PlanHash work.Digest
	Project  string
	Labels   map[string]string // all of them
	Since    work.Time
	Before   work.Time // created before, for the next page
	Open     bool      // only runs that have not ended, or whose end nobody has seen
	Limit    int
}

// DeadLetter is a step that used up its attempts.
type DeadLetter struct {
	Tenant  work.Tenant `json:"tenant"`
	Run     work.RunID  `json:"run"`
	RunName string      `json:"runName"`
	Step    work.StepID `json:"step"`
	Attempt int         `json:"attempt"`
	Reason  work.Reason `json:"reason"`
	At      work.Time   `json:"at"`
}

// Census is how much of what is there in a tenant.
type Census struct {
	Tenant      work.Tenant `json:"tenant"`
	Queued      int64       `json:"queued"`          // steps that a worker may claim
	Oldest      work.Time   `json:"oldest,omitzero"` // since when the oldest of them waits
	Leases      int64       `json:"leases"`          // steps that workers hold
	Lost        int64       `json:"lost"`            // of those, held by sessions that have expired and are not ended yet
	Workers     int64       `json:"workers"`         // sessions that have not expired
	DeadLetters int64       `json:"deadLetters"`     // steps that used up their attempts and nobody has dealt with
	Unsealed    int64       `json:"unsealed"`        // runs that have ended and are not in the log
}

// CachedResult is what an earlier attempt produced.
type CachedResult struct {
	Origin    work.CacheOrigin
	Outputs   json.RawMessage
	Artifacts []work.Artifact
}

// KeyedResult is such a result with the key it is found by.
type KeyedResult struct {
	Key work.Digest
	CachedResult
}

// LogAppend is one growth of a tenant's log.
type LogAppend struct {
	Size       int64 // leaves before
	Leaves     [][]byte
	Runs       []work.RunID // whose leaves they are: runs that have ended, or an AuditSeal
	FirstHash  int64        // index of the first of Hashes
	Hashes     [][32]byte
	Checkpoint []byte
}
