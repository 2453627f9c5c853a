package api

import "encoding/json"

// Run is one execution of one plan. Times are RFC 3339 in UTC with six digits, absent when not yet.
type Run struct {
	ID           string            `json:"id"`
	RunID        string            `json:"runId"` // the same as id
	Name         string            `json:"name"`  // two words for people; stands for the id everywhere
	Tenant       string            `json:"tenant"`
	PlanHash     string            `json:"planHash"`
	Pack         PackRef           `json:"pack"`
	Submitter    string            `json:"submitter"`
	SubmitterKey string            `json:"submitterKey,omitempty"`
	Note         string            `json:"note,omitempty"`
	RunToken     string            `json:"runToken,omitempty"`
	RetryOf      string            `json:"retryOf,omitempty"`
	TraceParent  string            `json:"traceParent,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Project      string            `json:"project,omitempty"`
	NotBefore    string            `json:"notBefore,omitempty"`
	State        string            `json:"state"` // pending, queued, running, waiting, succeeded, failed, timed-out, cancelled, …
	Reason       Reason            `json:"reason"`
	Paused       *Actor            `json:"paused,omitempty"`
	Cancel       *Actor            `json:"cancel,omitempty"`
	Phase        string            `json:"phase"` // admission, main, finally, ended
	Seq          int64             `json:"seq"`   // events so far
	Head         string            `json:"head"`  // hash of the last event
	LogSeq       int64             `json:"logSeq"`
	Created      string            `json:"created"`
	Started      string            `json:"started,omitempty"`
	Ended        string            `json:"ended,omitempty"`
	Updated      string            `json:"updated"`
	Due          string            `json:"due,omitempty"`
	Outputs      json.RawMessage   `json:"outputs,omitempty"`
	Acknowledged bool              `json:"acknowledged,omitempty"`
}

// RunDetail is a run with what moves: its steps that something has happened to, and the gates that wait for people.
type RunDetail struct {
	Run
	Steps   []Step   `json:"steps"`
	Pending []string `json:"pendingGates"`
}

// PackRef names one version of a pack.
type PackRef struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Reason says why something waits or how it ended.
type Reason struct {
	Code    string `json:"code"`
	Subject string `json:"subject,omitempty"`
	Message string `json:"message,omitempty"`
	Until   string `json:"until,omitempty"`
}

// Actor is who did something, and why.
type Actor struct {
	Name   string `json:"name"`
	Key    string `json:"key,omitempty"`
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
	At     string `json:"at,omitempty"`
}

// Step is a step that something has happened to. A step of the plan that is not listed is pending.
type Step struct {
	ID         string          `json:"id"`
	Run        string          `json:"run"`
	State      string          `json:"state"`
	Reason     Reason          `json:"reason"`
	Attempt    int             `json:"attempt,omitempty"`
	Failures   int             `json:"failures,omitempty"`
	Crashes    int             `json:"crashes,omitempty"`
	Lease      *Lease          `json:"lease,omitempty"`
	Timer      string          `json:"timer,omitempty"`
	Total      int             `json:"total,omitempty"`
	Done       int             `json:"done,omitempty"`
	Bad        int             `json:"bad,omitempty"`
	Outputs    json.RawMessage `json:"outputs,omitempty"`
	Artifacts  []Artifact      `json:"artifacts,omitempty"`
	Decisions  []Decision      `json:"decisions,omitempty"`
	CarriedRun string          `json:"carriedRun,omitempty"`
	Created    string          `json:"created"`
	Started    string          `json:"started,omitempty"`
	Ended      string          `json:"ended,omitempty"`
}

// Lease is who works on a step.
type Lease struct {
	Worker   string `json:"worker"`
	Granted  string `json:"granted"`
	Acked    string `json:"acked,omitempty"`
	Deadline string `json:"deadline"`
	Cancel   bool   `json:"cancel,omitempty"`
}

// Artifact is bytes named by their digest, as an output of a step.
type Artifact struct {
	Name       string `json:"name"`
	Path       string `json:"path"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
}

// RunArtifact is an artifact with where it comes from and where it can be read.
type RunArtifact struct {
	Artifact
	Step       string `json:"step"`
	Type       string `json:"type"`       // file
	Status     string `json:"status"`     // captured
	StoredPath string `json:"storedPath"` // below the address of the API
}

// Decision is one person's answer at a gate.
type Decision struct {
	Gate      string          `json:"gate"`
	Decision  string          `json:"decision"`
	Approver  string          `json:"approver"`
	Key       string          `json:"key"`
	PlanHash  string          `json:"planHash"`
	Reason    string          `json:"reason"`
	Ticket    string          `json:"ticket,omitempty"`
	DecidedAt string          `json:"decidedAt"`
	Statement json.RawMessage `json:"statement"`
}

// Event is one entry of a run's history, as it is hashed.
type Event struct {
	Tenant  string          `json:"tenant"`
	Run     string          `json:"run"`
	Seq     int64           `json:"seq"`
	Time    string          `json:"time"`
	Type    string          `json:"type"`
	Step    string          `json:"step,omitempty"`
	Attempt int             `json:"attempt,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Prev    string          `json:"prev"`
	Hash    string          `json:"hash,omitempty"`
}

// LogLine is one line of output, in the order of the run.
type LogLine struct {
	RunID     string `json:"runId"`
	Sequence  int64  `json:"sequence"`
	Timestamp string `json:"timestamp"`
	Level     string `json:"level"`
	EventType string `json:"eventType"`
	StepID    string `json:"stepId,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`
	Message   string `json:"message"`
}

// Blocker is a step with the reason it waits for or ended with.
type Blocker struct {
	Step    string `json:"step"`
	State   string `json:"state"`
	Reason  Reason `json:"reason"`
	Since   string `json:"since,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Next    string `json:"next,omitempty"`
}

// Why is why a run stands where it stands.
type Why struct {
	Run       string    `json:"run"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Reason    Reason    `json:"reason"`
	BlockedBy []Blocker `json:"blockedBy"`
	Failed    []Blocker `json:"failed,omitempty"`
}

// GraphNode is a step of the plan with the state of what became of it.
type GraphNode struct {
	ID     string   `json:"id"`
	Kind   string   `json:"kind"`
	Parent string   `json:"parent,omitempty"`
	Needs  []string `json:"needs,omitempty"`
	State  string   `json:"state"`
}

// Graph is a plan as a graph.
type Graph struct {
	Nodes []GraphNode `json:"nodes"`
}

// Approval is a gate that waits for people.
type Approval struct {
	Run      string `json:"run"`
	RunName  string `json:"runName"`
	Gate     string `json:"gate"`
	PlanHash string `json:"planHash"`
	Pack     string `json:"pack"`
	Since    string `json:"since,omitempty"`
	Expires  string `json:"expires,omitempty"`
	Given    int    `json:"given"` // approvals so far
}

// DeadLetter is a step that used up its attempts.
type DeadLetter struct {
	Tenant  string `json:"tenant"`
	Run     string `json:"run"`
	RunName string `json:"runName"`
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
	Reason  Reason `json:"reason"`
	At      string `json:"at"`

	Pack  string       `json:"pack,omitempty"`
	State string       `json:"state"`           // open, acknowledged, redriven or discarded
	By    *Actor       `json:"by,omitempty"`    // who acknowledged, redrove or discarded it, and why
	Again string       `json:"again,omitempty"` // the run that it was redriven as, where that is known
	Notes []LetterNote `json:"notes,omitempty"` // oldest first
}

// LetterNote is what a person says of a dead letter.
type LetterNote struct {
	By   string `json:"by"`
	At   string `json:"at"`
	Text string `json:"text"`
}

// LetterNoteRequest adds a note.
type LetterNoteRequest struct {
	Step string `json:"step,omitempty"` // one dead step of the run; all of them without
	Text string `json:"text"`
}

// LetterRequest acknowledges or discards dead steps of a run.
type LetterRequest struct {
	Step   string `json:"step,omitempty"`   // one of them; all without
	Reason string `json:"reason,omitempty"` // demanded where they are discarded
}

// LetterQuery selects dead letters that nobody has dealt with. Without anything it selects all.
type LetterQuery struct {
	Pack   string   `json:"pack,omitempty"`
	Step   string   `json:"step,omitempty"`   // an id, perhaps with wildcards
	Code   string   `json:"code,omitempty"`   // of the reason
	Since  string   `json:"since,omitempty"`  // dead since then
	Before string   `json:"before,omitempty"` // dead before
	Labels []string `json:"labels,omitempty"` // KEY=VALUE, of the run; all of them
	State  string   `json:"state,omitempty"`  // open or acknowledged
}

// RedriveRequest retries the runs of dead letters.
type RedriveRequest struct {
	LetterQuery
	Limit  int    `json:"limit,omitempty"`  // runs, 1 to 100
	DryRun bool   `json:"dryRun,omitempty"` // only say which
	Reason string `json:"reason,omitempty"`
}

// Redriven is a run that was retried because of its dead steps, or would be.
type Redriven struct {
	Run       string   `json:"run"`
	RunName   string   `json:"runName"`
	Steps     []string `json:"steps"`               // those that were selected
	Again     string   `json:"again,omitempty"`     // the run that retries it
	AgainName string   `json:"againName,omitempty"` // and its name
	Error     *Error   `json:"error,omitempty"`     // why it was not retried
}

// RedriveReply is what a redrive did, and for how many more runs it can be asked again.
type RedriveReply struct {
	Items  []Redriven `json:"items"`
	Left   int        `json:"left"`
	DryRun bool       `json:"dryRun,omitempty"`
}

// The lists. NextPageToken is absent on the last page.
type (
	// RunList is a page of runs, newest first.
	RunList struct {
		Items         []Run  `json:"items"`
		NextPageToken string `json:"next_page_token,omitempty"`
	}
	// StepList is a page of steps by id.
	StepList struct {
		Items         []Step `json:"items"`
		NextPageToken string `json:"next_page_token,omitempty"`
	}
	// EventList is a page of a history.
	EventList struct {
		Items         []Event `json:"items"`
		NextPageToken string  `json:"next_page_token,omitempty"`
	}
	// LogList is a page of output.
	LogList struct {
		Items         []LogLine `json:"items"`
		NextPageToken string    `json:"next_page_token,omitempty"`
	}
	// ArtifactList is the outputs of a run.
	ArtifactList struct {
		Items []RunArtifact `json:"items"`
	}
	// ApprovalList is gates that wait.
	ApprovalList struct {
		Items []Approval `json:"items"`
	}
	// DeadLetterList is dead steps that nobody has dealt with.
	DeadLetterList struct {
		Items []DeadLetter `json:"items"`
	}
)
