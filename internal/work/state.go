package work

// State is where a run or a step stands. Terminal states are final.
type State string

// The states, in the order a step passes through them. The words and glyphs for people are in States.
const (
	Pending   State = "pending"   // waits for steps before it
	Queued    State = "queued"    // ready, no slot or worker yet
	Throttled State = "throttled" // held back by a rate, quota or breaker
	Running   State = "running"
	Waiting   State = "waiting"  // a gate waits for people
	Retrying  State = "retrying" // waits for its next attempt
	Succeeded State = "succeeded"
	Failed    State = "failed"
	TimedOut  State = "timed-out"
	Cancelled State = "cancelled"
	Skipped   State = "skipped"
	Dead      State = "dead" // failed with every attempt used up; kept for review
)

// Terminal reports whether the state is final.
func (s State) Terminal() bool {
	switch s {
	case Succeeded, Failed, TimedOut, Cancelled, Skipped, Dead:
		return true
	default:
		return false
	}
}

// Failure reports whether the state is an end that counts against what contains the step.
func (s State) Failure() bool {
	switch s {
	case Failed, TimedOut, Cancelled, Dead:
		return true
	default:
		return false
	}
}

// StateWord is how a state is shown: a word, a glyph and a letter for terminals without it. Never colour alone.
type StateWord struct {
	State State
	Word  string
	Glyph string
	ASCII string
}

// States lists every state in the order of a step's life.
func States() []StateWord {
	return []StateWord{
		{Pending, "Pending", "○", "o"},
		{Queued, "Queued", "◷", "q"},
		{Throttled, "Throttled", "≋", "~"},
		{Running, "Running", "◐", "*"},
		{Waiting, "Waiting for approval", "⏸", "?"},
		{Retrying, "Retrying", "↻", "r"},
		{Succeeded, "Succeeded", "✓", "+"},
		{Failed, "Failed", "✗", "x"},
		{TimedOut, "Timed out", "⧖", "t"},
		{Cancelled, "Cancelled", "⊘", "c"},
		{Skipped, "Skipped", "⤼", "-"},
		{Dead, "Dead-lettered", "☒", "D"},
	}
}

// Word returns how the state is shown.
func (s State) Word() StateWord {
	for _, w := range States() {
		if w.State == s {
			return w
		}
	}
	return StateWord{s, string(s), "·", "."}
}

// Reason says why something waits or how it ended: a code from the closed list below, the thing it is about, and a
// sentence for people. It never holds a secret.
type Reason struct {
	Code    ReasonCode `json:"code"`
	Subject string     `json:"subject,omitempty"` // a step, gate, key, worker label, person
	Message string     `json:"message,omitempty"`
	Until   Time       `json:"until,omitzero"` // when the wait ends by itself, if it does
}

// ReasonCode is the closed list of causes.
type ReasonCode string

// Causes of a wait.
const (
	WaitsForSteps       ReasonCode = "WAITS_FOR_STEPS"
	WaitsForWorker      ReasonCode = "WAITS_FOR_WORKER"      // no worker has asked for it yet
	WaitsForCapability  ReasonCode = "WAITS_FOR_CAPABILITY"  // no worker offers the kind, label or tier
	WaitsForParallelism ReasonCode = "WAITS_FOR_PARALLELISM" // maxParallel of the run or block
	WaitsForConcurrency ReasonCode = "WAITS_FOR_CONCURRENCY" // a concurrency key is full
	WaitsForApproval    ReasonCode = "WAITS_FOR_APPROVAL"
	WaitsForPolicy      ReasonCode = "WAITS_FOR_POLICY" // a policy engine has not answered
	WaitsForRetry       ReasonCode = "WAITS_FOR_RETRY"
	WaitsForResume      ReasonCode = "WAITS_FOR_RESUME" // paused by a person: the run, or its pack, queue or tenant
	WaitsForTime        ReasonCode = "WAITS_FOR_TIME"   // not before a time
	WaitsForQueue       ReasonCode = "WAITS_FOR_QUEUE"  // as many steps of the queue run as may
	WaitsForTenant      ReasonCode = "WAITS_FOR_TENANT" // as many steps of the tenant run as may
)

// Causes of an end.
const (
	EndedWell           ReasonCode = "SUCCEEDED"
	EndedByExit         ReasonCode = "EXIT_CODE"
	EndedBySignal       ReasonCode = "SIGNALED"
	EndedByTimeout      ReasonCode = "TIMEOUT"
	EndedByRunTimeout   ReasonCode = "RUN_TIMEOUT"
	EndedByLimit        ReasonCode = "LIMIT"
	EndedBySandbox      ReasonCode = "SANDBOX"
	SandboxUnavailable  ReasonCode = "SANDBOX_UNAVAILABLE"
	EndedByCancel       ReasonCode = "CANCELLED"
	EndedByWorkerLoss   ReasonCode = "WORKER_LOST"
	EndedByRejection    ReasonCode = "REJECTED"
	EndedByExpiry       ReasonCode = "EXPIRED"
	EndedByPolicy       ReasonCode = "POLICY"
	PolicyUnanswered    ReasonCode = "POLICY_UNAVAILABLE"
	EndedByExpression   ReasonCode = "EXPRESSION"
	EndedByOutput       ReasonCode = "OUTPUT" // a declared output is missing or wrong
	EndedByInput        ReasonCode = "INPUT"  // something the step needs could not be put in place
	EndedByPlanMismatch ReasonCode = "PLAN_MISMATCH"
	EndedByDistrust     ReasonCode = "UNTRUSTED"   // nobody whom the worker trusts has signed for the run
	EndedByStepFailure  ReasonCode = "STEP_FAILED" // a step inside, or of the run
	SkippedByCondition  ReasonCode = "CONDITION"
	SkippedByUpstream   ReasonCode = "UPSTREAM_FAILED"
	SkippedByRunEnd     ReasonCode = "RUN_ENDED"
	RetriesExhausted    ReasonCode = "RETRIES_EXHAUSTED"
	CrashesExhausted    ReasonCode = "CRASHES_EXHAUSTED"
)
