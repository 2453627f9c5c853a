package work

import (
	"encoding/json"
	"maps"
	"slices"
)

// PlanVersion is the version of the plan document. It is part of the hash.
const PlanVersion = "orrery.plan/v1"

// Plan is the normalised graph of a pack with resolved inputs. Its canonical JSON (RFC 8785) is hashed to the planHash.
// It holds no text that is only for display, no floating-point number and no secret value.
type Plan struct {
	Version string  `json:"planVersion"`
	Pack    PackRef `json:"pack"`
	Inputs  []Input `json:"inputs,omitempty"` // sorted by name
	Files   []File  `json:"files,omitempty"`  // what travels with the pack, sorted by path

	// Steps in topological order, ties broken by id; a container comes before what it contains, finally steps come last.
	Steps   []PlanStep  `json:"steps"`
	Outputs []RunOutput `json:"outputs,omitempty"` // sorted by name

	MaxParallel     int          `json:"maxParallel,omitempty"` // 0 means no limit of the run's own
	ContinueOnError bool         `json:"continueOnError,omitempty"`
	TimeoutMs       int64        `json:"timeoutMs,omitempty"`
	Concurrency     *Concurrency `json:"concurrency,omitempty"`
	Sealed          bool         `json:"sealed,omitempty"`
}

// PackRef names one version of a pack. Digest is over the manifest and all files that travel with it.
type PackRef struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  Digest `json:"digest"`
}

// File is one file of the pack.
type File struct {
	Path       string `json:"path"` // relative, slashes, clean
	Digest     Digest `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
}

// Input is one resolved input. Value is canonical JSON: a string, integer, boolean, list or map; a number with a fraction
// is the string that was given. A secret has no value, only the reference where a worker finds it ("env:NAME", "file:/path").
type Input struct {
	Name   string          `json:"name"`
	Type   string          `json:"type"` // string, integer, number, boolean, list, map, secret
	Value  json.RawMessage `json:"value,omitempty"`
	Secret string          `json:"secret,omitempty"`
}

// RunOutput is a named result of the run: an expression over the outputs of its steps, evaluated at the end.
type RunOutput struct {
	Name  string `json:"name"`
	Value string `json:"value"` // a template
}

// StepKind says what a step is.
type StepKind string

// The kinds.
const (
	KindRun      StepKind = "run"
	KindParallel StepKind = "parallel"
	KindMap      StepKind = "map"
	KindPack     StepKind = "pack" // a sub-pack, or a plain group of steps
	KindApproval StepKind = "gate.approval"
	KindPolicy   StepKind = "gate.policy"
)

// Container reports whether steps of this kind contain other steps.
func (k StepKind) Container() bool { return k == KindParallel || k == KindMap || k == KindPack }

// PlanStep is one node of the graph. Exactly the field that its Kind names is set.
type PlanStep struct {
	ID              StepID        `json:"id"`
	Kind            StepKind      `json:"kind"`
	Parent          StepID        `json:"parent,omitempty"` // the container, "" at the top
	Needs           []StepID      `json:"needs,omitempty"`  // siblings that must have ended well, sorted
	When            string        `json:"when,omitempty"`   // an expression; false skips the step and satisfies what needs it
	Finally         bool          `json:"finally,omitempty"`
	ContinueOnError bool          `json:"continueOnError,omitempty"` // a failure of this step fails nothing else
	Run             *RunSpec      `json:"run,omitempty"`
	Parallel        *ParallelSpec `json:"parallel,omitempty"`
	Map             *MapSpec      `json:"map,omitempty"`
	Pack            *GroupSpec    `json:"pack,omitempty"`
	Approval        *ApprovalSpec `json:"approval,omitempty"`
	Policy          *PolicySpec   `json:"policy,omitempty"`
}

// RunSpec is one invocation of a runner. Strings marked "template" may hold ${{ expression }}.
type RunSpec struct {
	Runner  string                     `json:"runner"`            // process, shell, python, bundle.ingest, http, noop
	Command []string                   `json:"command,omitempty"` // process: argv, templates
	Script  string                     `json:"script,omitempty"`  // shell, python: the text as it is, never a template; "" for a file
	File    string                     `json:"file,omitempty"`    // python: a file of the pack
	Args    []string                   `json:"args,omitempty"`    // shell, python: templates
	With    map[string]json.RawMessage `json:"with,omitempty"`    // built-ins: their parameters, strings are templates
	Env     map[string]string          `json:"env,omitempty"`     // templates
	Secrets map[string]string          `json:"secrets,omitempty"` // environment name -> name of a secret input
	Dir     string                     `json:"dir,omitempty"`     // working directory inside the workspace

	Artifacts   []ArtifactUse     `json:"artifacts,omitempty"`
	Outputs     []StepOutput      `json:"outputs,omitempty"` // sorted by name
	Sandbox     SandboxSpec       `json:"sandbox"`
	TimeoutMs   int64             `json:"timeoutMs"`
	GraceMs     int64             `json:"graceMs"`
	Retry       RetrySpec         `json:"retry"`
	Cache       *CacheSpec        `json:"cache,omitempty"`
	Concurrency *Concurrency      `json:"concurrency,omitempty"`
	Priority    int               `json:"priority,omitempty"` // higher goes first
	Labels      map[string]string `json:"labels,omitempty"`   // what a worker must offer
	Queue       string            `json:"queue,omitempty"`    // where it waits for a worker; "" for the default queue
}

// ArtifactUse places an output of an earlier step into the workspace. From a map step it places one entry per item.
type ArtifactUse struct {
	Step   StepID `json:"step"` // as written in the plan
	Output string `json:"output"`
	To     string `json:"to"`             // a path in the workspace; a folder when it ends in a slash
	Base   string `json:"base,omitempty"` // the folder of a sub-pack, which the paths of its files do not begin with in To
}

// StepOutput is a declared result of a step: a file when Path is set (a glob in the workspace), else a value that the
// step writes to the file named by $ORRERY_OUTPUT, as NAME=value lines or one JSON object.
type StepOutput struct {
	Name     string `json:"name"`
	Path     string `json:"path,omitempty"`
	Type     string `json:"type,omitempty"` // of a value: string (default), integer, boolean, json
	Optional bool   `json:"optional,omitempty"`
}

// SandboxSpec is what the step may see and use.
type SandboxSpec struct {
	MinTier     string   `json:"minTier"` // t0 … t3
	ReadOnly    []string `json:"readOnly,omitempty"`
	Egress      []Egress `json:"egress,omitempty"` // sorted
	CPUMs       int64    `json:"cpuMs,omitempty"`
	MemoryBytes int64    `json:"memoryBytes,omitempty"`
	Processes   int      `json:"processes,omitempty"`
	FileBytes   int64    `json:"fileBytes,omitempty"`
	DiskBytes   int64    `json:"diskBytes,omitempty"`
	OutputBytes int64    `json:"outputBytes,omitempty"`
}

// Egress is one host and port that a step may reach.
type Egress struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// RetrySpec says when a failed attempt is tried again. The n-th wait is BackoffMs × Factor^(n-1), at most MaxBackoffMs,
// and with Jitter a part of it that the run, step and attempt determine.
type RetrySpec struct {
	MaxAttempts  int      `json:"maxAttempts"` // 1 means no retry
	BackoffMs    int64    `json:"backoffMs,omitempty"`
	FactorMilli  int64    `json:"factorMilli,omitempty"` // 2000 doubles
	MaxBackoffMs int64    `json:"maxBackoffMs,omitempty"`
	Jitter       bool     `json:"jitter,omitempty"`
	OnExit       []int    `json:"onExit,omitempty"`  // only these exit codes, sorted; empty means any
	OnClass      []string `json:"onClass,omitempty"` // only these error classes, sorted; empty means any
}

// CacheSpec reuses the result of an earlier attempt whose rendered step, files and input artifacts have the same digest.
type CacheSpec struct {
	Key string `json:"key,omitempty"` // a template that is added to the digest
}

// Concurrency bounds how many run at once under one key in a tenant. For a step the slots are live leases; for a run, live runs.
type Concurrency struct {
	Key string `json:"key"` // a template
	Max int    `json:"max"`
}

// ParallelSpec is a block of steps that do not depend on each other.
type ParallelSpec struct {
	MaxParallel     int  `json:"maxParallel,omitempty"`
	ContinueOnError bool `json:"continueOnError,omitempty"`
}

// MapSpec runs its template once for each item. One of Static, Range and Expression is set.
type MapSpec struct {
	Static          []json.RawMessage `json:"static,omitempty"`
	Range           *Range            `json:"range,omitempty"`
	Expression      string            `json:"expression,omitempty"` // yields a list, perhaps only at run time
	Item            string            `json:"item"`                 // what the element is called in expressions
	Index           string            `json:"index"`                // what its position is called
	MaxItems        int               `json:"maxItems"`
	MaxParallel     int               `json:"maxParallel,omitempty"`
	ContinueOnError bool              `json:"continueOnError,omitempty"`
}

// Range counts from Start towards End, without reaching it.
type Range struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	Step  int64 `json:"step"`
}

// GroupSpec is a sub-pack. Its steps see With as their inputs; Secrets maps a secret input of the sub-pack to one outside.
type GroupSpec struct {
	Ref             *PackRef          `json:"ref,omitempty"`
	With            map[string]string `json:"with,omitempty"` // templates
	Secrets         map[string]string `json:"secrets,omitempty"`
	Outputs         []RunOutput       `json:"outputs,omitempty"`
	ContinueOnError bool              `json:"continueOnError,omitempty"`
}

// ApprovalSpec is a gate that people open by signature.
type ApprovalSpec struct {
	Required       int      `json:"required"`
	TTLMs          int64    `json:"ttlMs"`
	Approvers      []string `json:"approvers,omitempty"` // names of people; empty means anyone trusted to approve. Sorted
	AllowSubmitter bool     `json:"allowSubmitter,omitempty"`
}

// PolicySpec is a gate that rules open, or a policy engine elsewhere. Every rule is an expression that must be true.
type PolicySpec struct {
	Rules      []Rule      `json:"rules,omitempty"`
	Engine     *EngineSpec `json:"engine,omitempty"`
	FailAction string      `json:"failAction"` // halt or continue
}

// EngineSpec is a question to a policy engine. Where it is reached is no matter of a pack: whoever runs the server or the command line
// has engines by name.
type EngineSpec struct {
	Name          string            `json:"name"`
	Path          string            `json:"path"`                 // of the decision, words with slashes between them
	Parameters    map[string]string `json:"parameters,omitempty"` // templates; part of the input of the decision
	OnUnavailable string            `json:"onUnavailable"`        // wait or fail, while the engine gives no answer
	TTLMs         int64             `json:"ttlMs"`                // how long the gate waits at most
}

// Rule is one rule of a policy gate.
type Rule struct {
	ID      string `json:"id"`
	Require string `json:"require"`
	Message string `json:"message,omitempty"`
}

// Templates returns every text of the invocation that may hold expressions, in a fixed order.
func (r *RunSpec) Templates() []string {
	out := append([]string(nil), r.Command...)
	out = append(out, r.Args...)
	for _, k := range slices.Sorted(maps.Keys(r.Env)) {
		out = append(out, r.Env[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.With)) {
		var v any
		if json.Unmarshal(r.With[k], &v) == nil {
			out = texts(out, v)
		}
	}
	if r.Cache != nil {
		out = append(out, r.Cache.Key)
	}
	return out
}

// texts appends every string inside a JSON value, the keys of objects in order.
func texts(out []string, v any) []string {
	switch x := v.(type) {
	case string:
		return append(out, x)
	case []any:
		for _, e := range x {
			out = texts(out, e)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(x)) {
			out = texts(out, x[k])
		}
	}
	return out
}
