package api

// Retention is how long the runs of a tenant stay, and what must not go.
type Retention struct {
	RetentionPolicy
	Holds []Hold `json:"holds"`
}

// RetentionPolicy says how long runs stay after their end. Without anything they stay for ever.
type RetentionPolicy struct {
	Days map[string]int `json:"days,omitempty"` // by how it ended: succeeded, failed, timed-out, cancelled; * for the others
	Keep int            `json:"keep,omitempty"` // the newest of each pack stay whatever their age
}

// Hold is a legal hold.
type Hold struct {
	On string `json:"on"` // run/ID, pack/NAME or label/KEY=VALUE
	By Actor  `json:"by"`
}

// HoldRequest sets or releases a legal hold.
type HoldRequest struct {
	On      string `json:"on"`
	Release bool   `json:"release,omitempty"`
	Reason  string `json:"reason"`
}

// ExpiredRun is a run whose time is over by the policy.
type ExpiredRun struct {
	Run   string `json:"run"`
	Name  string `json:"name"`
	Pack  string `json:"pack"`
	State string `json:"state"`
	Ended string `json:"ended"`
	Held  string `json:"held,omitempty"` // the legal hold that keeps it
}

// ExpiredRuns is a list of such runs, newest first.
type ExpiredRuns struct {
	Items []ExpiredRun `json:"items"`
}

// Amount is a number of files and their bytes.
type Amount struct {
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// CollectRequest asks for a collection of files that nothing names.
type CollectRequest struct {
	DryRun bool `json:"dryRun,omitempty"` // only say what would go
}

// Collection is what a collection of files found and did.
type Collection struct {
	Kept    Amount `json:"kept"`           // something names them
	Waiting Amount `json:"waiting"`        // nothing does, but not for long enough
	Freed   Amount `json:"freed"`          // they are gone; with dryRun, they would be
	Held    string `json:"held,omitempty"` // why nothing goes at the moment
	At      string `json:"at"`
	DryRun  bool   `json:"dryRun,omitempty"`
}

// ErasedRun is what stays of a run that was deleted, beside its leaf in the log and its evidence.
type ErasedRun struct {
	Run      string  `json:"run"`
	Name     string  `json:"name"`
	Pack     PackRef `json:"pack"`
	PlanHash string  `json:"planHash"`
	State    string  `json:"state"`
	Created  string  `json:"created"`
	Ended    string  `json:"ended"`
	Evidence string  `json:"evidence"` // digest of its bundle
	Begun    string  `json:"begun"`
	Done     bool    `json:"done"` // nothing of it is left
}

// ErasedRuns is a list of such runs, by id.
type ErasedRuns struct {
	Items []ErasedRun `json:"items"`
}
