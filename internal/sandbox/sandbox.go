// Package sandbox is the contract of isolated execution: what one step may see and use, what the machine can enforce, and what came out.
//
// A driver never runs a step with less than its Policy asks for. Where a layer is missing the step is refused with
// fault.SandboxUnavailable and the layer's name; nothing is retried on a lower tier.
package sandbox

import (
	"context"
	"io"
	"time"
)

// Tier is how strongly a step is held apart from the machine. Higher is stronger.
type Tier int

// The tiers. A policy names the least tier it accepts; a driver may run stronger, never weaker.
const (
	T0 Tier = iota // no isolation beyond a process group; only where the operator allowed it and the plan asks for it
	T1             // Landlock, system-call filter, rlimits; shares the machine's process table
	T2             // all namespaces, private root, Landlock, system-call filter, rlimits; the default
	T3             // a second kernel (gVisor)
)

// Policy says what one step may do. It is part of the signed plan.
type Policy struct {
	MinTier  Tier
	ReadOnly []string // absolute host paths the step may read, besides the driver's base system (/usr, /lib, /bin, …)
	Egress   []Endpoint
	Limits   Limits
}

// Endpoint is one host and port a step may reach through the recording proxy. Host is a name or an address, without wildcards.
type Endpoint struct {
	Host string
	Port int
}

// Limits bound one step. Zero means the driver's documented default, never "unlimited".
type Limits struct {
	Wall        time.Duration // real time until the whole tree is killed
	CPU         time.Duration // processor time of one process
	MemoryBytes int64
	Processes   int
	FileBytes   int64         // the largest single file the step may write
	DiskBytes   int64         // everything the step may leave in its work folder
	OutputBytes int64         // stdout and stderr together; what exceeds it is dropped and counted
	Grace       time.Duration // between the polite signal and the kill
}

// Spec is one execution.
type Spec struct {
	Name    string   // for messages and process titles only
	Command []string // argv; Command[0] is looked up in PATH of Env inside the sandbox
	Env     []string // the whole environment, NAME=value; nothing else is inherited
	Dir     string   // host path of the step's private work folder; it is the working directory and the only writable place besides /tmp
	Policy  Policy
	Stdin   io.Reader // nil means empty
	Stdout  io.Writer // each Write is one chunk in the order it was read; never called concurrently with Stderr
	Stderr  io.Writer
}

// Cause says how an execution ended.
type Cause string

// The causes. Exited covers every exit code; the others name who ended the step.
const (
	Exited    Cause = "exited"
	Signaled  Cause = "signaled" // by itself or the kernel, for example a filter violation
	TimedOut  Cause = "timed-out"
	Cancelled Cause = "cancelled"
	OverLimit Cause = "over-limit" // memory, disk or processes: Result.Limit names it
)

// Result is what one execution did.
type Result struct {
	Cause         Cause
	ExitCode      int    // 128+n when ended by signal n
	Limit         string // "memory", "disk", "processes", "cpu", "file-size"; empty unless OverLimit
	OutputDropped int64  // bytes of stdout and stderr beyond Limits.OutputBytes
	Usage         Usage
	Protections   Protections
	Egress        []EgressRecord // every attempt in order, allowed or refused
}

// Usage is what the execution took, as far as the machine can tell.
type Usage struct {
	Wall, User, System time.Duration
	MaxRSSBytes        int64
}

// Protections are the layers that were in force for one execution. It goes into the evidence as it is.
type Protections struct {
	Tier   Tier              `json:"tier"`
	Label  string            `json:"label"`  // "t2", "t2-nolimits", …: a driver must not call a weaker set by a stronger name
	Layers map[string]string `json:"layers"` // "landlock": "abi 7", "seccomp": "sha256:…", "network": "none", …
}

// EgressRecord is one connection attempt of a step.
type EgressRecord struct {
	Time      time.Time `json:"time"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	Address   string    `json:"address,omitempty"` // the address that was dialled, after the name was resolved outside
	Decision  string    `json:"decision"`          // "allowed" or "refused"
	Reason    string    `json:"reason,omitempty"`
	BytesUp   int64     `json:"bytesUp"`
	BytesDown int64     `json:"bytesDown"`
}

// Layer is one thing a probe tried by doing it.
type Layer struct {
	Name      string `json:"name"` // "user-namespace", "mount-namespace", "network-namespace", "pivot-root", "landlock", "seccomp", "cgroup", "gvisor", …
	Available bool   `json:"available"`
	Detail    string `json:"detail"` // an ABI or version when available, what refused and how to get it when not
}

// Capability is what a driver proved it can enforce on this machine.
type Capability struct {
	Tier   Tier    `json:"tier"`
	Label  string  `json:"label"`
	Layers []Layer `json:"layers"`
}

// Driver runs steps in isolation. All methods are safe for concurrent use.
type Driver interface {
	// Probe tries every layer by using it and says what holds. It never fails: a layer that cannot be tried is not available.
	Probe(ctx context.Context) Capability

	// Run executes spec and returns when the whole process tree is gone. A step that ran, however it ended, is a Result
	// and no error. Errors: fault.SandboxUnavailable when the machine lacks a layer the policy needs (nothing was started),
	// fault.Invalid for an impossible spec, fault.Sandbox when the sandbox itself failed.
	// When ctx is cancelled the tree gets the polite signal, Limits.Grace, then the kill; Cause is Cancelled.
	Run(ctx context.Context, spec Spec) (Result, error)
}
