package work

import (
	"encoding/json"
	"slices"
	"strings"
)

// Run is the row of a run: the one place where its steps are serialised. It stays small whatever the plan's size.
type Run struct {
	Tenant   Tenant  `json:"tenant"`
	ID       RunID   `json:"id"`
	Name     string  `json:"name"` // two words for people, unique among the tenant's runs
	PlanHash Digest  `json:"planHash"`
	Pack     PackRef `json:"pack"`

	Submitter    string            `json:"submitter"`              // the person, as signed
	SubmitterKey string            `json:"submitterKey,omitempty"` // key id of the signature over the submission
	Note         string            `json:"note,omitempty"`         // why, in the submitter's words
	RunToken     string            `json:"runToken,omitempty"`     // the submitter's idempotency token
	RetryOf      RunID             `json:"retryOf,omitempty"`      // the run whose results this one carries on
	TraceParent  string            `json:"traceParent,omitempty"`  // W3C trace context, kept over retries
	TraceState   string            `json:"traceState,omitempty"`   // what tracing systems add to it
	Baggage      string            `json:"baggage,omitempty"`      // W3C baggage, handed on to every step
	Labels       map[string]string `json:"labels,omitempty"`
	Project      string            `json:"project,omitempty"`  // within the tenant; "" for none
	NotBefore    Time              `json:"notBefore,omitzero"` // it starts no sooner

	State    State  `json:"state"`
	Reason   Reason `json:"reason"`
	Paused   *Actor `json:"paused,omitempty"`
	Cancel   *Actor `json:"cancel,omitempty"`
	Phase    Phase  `json:"phase"`
	Stopping bool   `json:"stopping,omitempty"` // nothing new starts: a step failed, or the run is cancelled or out of time
	Outcome  State  `json:"outcome,omitempty"`  // what the state will be once the finally steps are through

	Next   int `json:"next"`   // the next step of the phase without needs that has not been looked at
	Left   int `json:"left"`   // steps at the top of the phase that have not ended
	Active int `json:"active"` // steps that have a row and have not ended
	Slots  int `json:"slots"`  // run steps that may be claimed or are claimed
	Held   int `json:"held"`   // run steps that wait for a slot of the run

	ConcurrencyKey string `json:"concurrencyKey,omitempty"`

	Seq    int64  `json:"seq"`    // events so far
	Head   Digest `json:"head"`   // hash of the last event
	LogSeq int64  `json:"logSeq"` // log lines so far

	Created Time `json:"created"`
	Started Time `json:"started,omitzero"`
	Ended   Time `json:"ended,omitzero"`
	Updated Time `json:"updated"`      // never earlier than the last event
	Due     Time `json:"due,omitzero"` // when the run times out, or while it is delayed, when it starts

	Outputs      json.RawMessage `json:"outputs,omitempty"`
	Acknowledged bool            `json:"acknowledged,omitempty"` // its submitter has seen the end
}

// Trace is where a run belongs in the traces of whoever asked for it: W3C traceparent, tracestate and baggage, each "" for none.
type Trace struct {
	Parent  string
	State   string
	Baggage string
}

// Phase is which part of the plan runs.
type Phase string

// The phases.
const (
	PhaseDelayed   Phase = "delayed"   // waits for its time
	PhaseAdmission Phase = "admission" // waits for the run's concurrency key
	PhaseMain      Phase = "main"
	PhaseFinally   Phase = "finally"
	PhaseEnded     Phase = "ended"
)

// Actor is who did something, and why.
type Actor struct {
	Name   string `json:"name"`
	Key    string `json:"key,omitempty"` // key id, when it was signed
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
	At     Time   `json:"at"`
}

// Step is the row of a step that something has happened to. A step of the plan without a row is pending.
type Step struct {
	Tenant Tenant `json:"tenant"`
	Run    RunID  `json:"run"`
	ID     StepID `json:"id"`
	State  State  `json:"state"`
	Reason Reason `json:"reason"`

	Unmet int  `json:"unmet,omitempty"` // steps it needs that have not ended
	Held  bool `json:"held,omitempty"`  // queued, but without a slot of the run

	Attempt  int    `json:"attempt,omitempty"`  // attempts started
	Failures int    `json:"failures,omitempty"` // attempts that used up the retry budget
	Crashes  int    `json:"crashes,omitempty"`  // attempts lost with their worker
	Epoch    int64  `json:"epoch,omitempty"`    // rises with every claim and every revocation
	Lease    *Lease `json:"lease,omitempty"`    // while running

	Queue *QueueEntry `json:"queue,omitempty"` // while queued and not held
	Timer Time        `json:"timer,omitzero"`  // retry, gate expiry or the attempt's deadline

	// Of a container.
	Total    int             `json:"total,omitempty"`
	Next     int             `json:"next,omitempty"` // the next child without a row
	Open     int             `json:"open,omitempty"` // children that have a row and have not ended
	Done     int             `json:"done,omitempty"`
	Bad      int             `json:"bad,omitempty"` // of those done, how many failed
	Stopping bool            `json:"stopping,omitempty"`
	Items    json.RawMessage `json:"items,omitempty"`  // of a map
	Inputs   json.RawMessage `json:"inputs,omitempty"` // of a sub-pack

	Outputs    json.RawMessage `json:"outputs,omitempty"`   // object of values
	Artifacts  []Artifact      `json:"artifacts,omitempty"` // sorted by name, then path
	Decisions  []Decision      `json:"decisions,omitempty"` // of a gate
	CarriedRun RunID           `json:"carriedRun,omitempty"`

	Created Time `json:"created"`
	Started Time `json:"started,omitzero"`
	Ended   Time `json:"ended,omitzero"`
}

// QueueEntry orders a step among everything that is ready.
type QueueEntry struct {
	Priority    int    `json:"priority,omitempty"`
	At          Time   `json:"at"` // first come, first served; ties by run and step
	Runner      string `json:"runner"`
	Concurrency string `json:"concurrency,omitempty"` // evaluated key
	Max         int    `json:"max,omitempty"`
	Queue       string `json:"queue,omitempty"` // "" for the default queue of no project; see QueueName and SetAside
}

// aside separates the parts of the lane in which a step is set aside. No name has it.
const aside = "\x1f"

// LanesAside is how the names of the lanes begin in which steps of a pack are set aside while the pack is paused.
func LanesAside(pack string) string { return aside + pack + aside }

// SetAside puts a step into the lane of its pack, where a claim need not look as long as the pack is paused.
func (q *QueueEntry) SetAside(pack string) { q.Queue = LanesAside(pack) + q.Name() }

// Name is the queue that a step stands in, also while it is set aside.
func (q *QueueEntry) Name() string { return q.Queue[strings.LastIndex(q.Queue, aside)+1:] }

// Left reports whether a lane is left out by names of queues and beginnings of lanes that are set aside.
func Left(out []string, lane string) bool {
	return slices.ContainsFunc(out, func(name string) bool {
		return name == lane || strings.HasSuffix(name, aside) && strings.HasPrefix(lane, name)
	})
}

// DefaultQueue is what the queue of a step that names none is called.
const DefaultQueue = "default"

// QueueName is the full name of a queue: a project has queues of its own, which nobody outside of it shares. The default queue of no
// project is "" in rows and DefaultQueue for people.
func QueueName(project, queue string) string {
	if queue == "" {
		queue = DefaultQueue
	}
	if project != "" {
		return project + "/" + queue
	}
	if queue == DefaultQueue {
		return ""
	}
	return queue
}

// Lease is a worker's right to run one attempt. It is held until its session ends, the deadline passes and somebody
// revokes it, or the attempt is reported; only a store transaction grants or ends it.
type Lease struct {
	Session     string `json:"session"`
	Worker      string `json:"worker"`
	Granted     Time   `json:"granted"`
	Acked       Time   `json:"acked,omitzero"`
	Deadline    Time   `json:"deadline"` // of the attempt: time limit, grace and the time to report
	Concurrency string `json:"concurrency,omitempty"`
	Queue       string `json:"queue,omitempty"`  // where it was claimed from
	Cancel      bool   `json:"cancel,omitempty"` // the worker is told with its next heartbeat
	Incarnation int64  `json:"incarnation"`      // under which it was granted; after a restore it is no longer the store's
	Lines       int64  `json:"lines,omitempty"`  // of output, as far as the worker numbers them
}

// Token fences one attempt: a write is accepted only while both numbers are current. Incarnation rises with every restore
// of the store, epoch with every claim, so that a worker from before either is refused.
type Token struct {
	Incarnation int64 `json:"incarnation"`
	Epoch       int64 `json:"epoch"`
}

// Artifact is bytes named by their digest, as an output of a step.
type Artifact struct {
	Name       string `json:"name"` // of the declared output
	Path       string `json:"path"` // in the workspace
	Digest     Digest `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
}

// Decision is one person's answer at a gate. Statement is the signed document; the rest is what it says.
type Decision struct {
	Gate      StepID          `json:"gate"`
	Decision  string          `json:"decision"` // approved or rejected
	Approver  string          `json:"approver"`
	Key       string          `json:"key"`
	PlanHash  Digest          `json:"planHash"`
	Reason    string          `json:"reason"`
	Ticket    string          `json:"ticket,omitempty"`
	DecidedAt Time            `json:"decidedAt"` // as the person claims
	Statement json.RawMessage `json:"statement"` // a DSSE envelope
}
