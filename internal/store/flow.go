package store

import (
	"context"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Flow is how the work of a tenant flows: what is paused, by whom and why, and how much may run at once. The zero value holds nothing back.
// Limits count live leases, so that there is no counter that could be wrong.
type Flow struct {
	Paused  *work.Actor      `json:"paused,omitempty"` // the whole tenant
	Max     int              `json:"max,omitempty"`    // steps that run at once, 0 for no limit
	Weight  int              `json:"weight,omitempty"` // share of workers that serve several tenants, 0 for 1
	Quota   Quota            `json:"quota,omitzero"`
	Queues  map[string]Valve `json:"queues,omitempty"`  // by full name, DefaultQueue for the default one
	Packs   map[string]Valve `json:"packs,omitempty"`   // by name
	Workers map[string]Valve `json:"workers,omitempty"` // by the name that they are listed with; Paused means cordoned
}

// Valve holds back one queue, pack or worker.
type Valve struct {
	Paused *work.Actor `json:"paused,omitempty"`
	Max    int         `json:"max,omitempty"`   // of a queue: steps that run at once, 0 for no limit
	Drain  bool        `json:"drain,omitempty"` // of a worker: it is to end when what it runs has ended
}

// Quota is what a tenant may have at most; 0 means no limit. A submission that goes beyond it is refused with fault.Exhausted.
type Quota struct {
	Runs  int   `json:"runs,omitempty"`  // that have not ended
	Steps int   `json:"steps,omitempty"` // that wait for a worker
	Bytes int64 `json:"bytes,omitempty"` // of stored files
}

// UsageKind is the kind, and the id, of the record that says how many bytes a tenant stores.
const UsageKind = "usage"

// Usage is how many bytes a tenant stores, as a count of all and what came after it.
type Usage struct {
	Counted int64 `json:"counted"` // bytes, when they were counted last
	From    int64 `json:"from"`    // what had been added by then
	Added   int64 `json:"added"`   // bytes that were ever added
}

// Bytes is how many there are.
func (u *Usage) Bytes() int64 { return u.Counted + u.Added - u.From }

// What a FlowChange is about.
const (
	FlowTenant = "tenant"
	FlowQueue  = "queue"
	FlowPack   = "pack"
	FlowWorker = "worker"
)

// FlowChange changes one thing. Verb is pause, resume, limit, weight or quota; of a worker cordon, uncordon or drain.
type FlowChange struct {
	Tenant work.Tenant
	Verb   string
	Kind   string // FlowTenant, FlowQueue, FlowPack or FlowWorker
	Name   string // of the queue, pack or worker
	N      int    // of limit and weight
	Quota  Quota
	Actor  work.Actor
}

// Subject names what a change is about, for the audit trail.
func (c *FlowChange) Subject() string {
	if c.Name == "" {
		return c.Kind + " " + c.Verb
	}
	return c.Kind + " " + c.Name + " " + c.Verb
}

// QueueDepth is what stands in a queue.
type QueueDepth struct {
	Tenant  work.Tenant `json:"tenant"`
	Queue   string      `json:"queue"`           // full name, DefaultQueue for the default one
	Ready   int         `json:"ready"`           // steps that wait for a worker
	Running int         `json:"running"`         // steps under a lease
	Oldest  work.Time   `json:"oldest,omitzero"` // since when the first of those that wait does
}

// Holder is who has a concurrency key.
type Holder struct {
	Run     work.RunID  `json:"run"`
	RunName string      `json:"runName"`
	Step    work.StepID `json:"step,omitempty"`
	Worker  string      `json:"worker,omitempty"`
	Since   work.Time   `json:"since"`
}

// Flows steers what workers are given.
type Flows interface {
	// Flow returns how the work of a tenant flows.
	Flow(ctx context.Context, tenant work.Tenant) (Flow, error)

	// ChangeFlow changes that. When it returns, no claim goes by what was before. Steps that run go on. Errors: fault.Invalid, and
	// fault.Conflict for what is so already.
	ChangeFlow(ctx context.Context, c FlowChange) (Flow, error)

	// Holders returns who has a concurrency key: steps under a lease, and runs under way, where the step is "". At most a hundred.
	Holders(ctx context.Context, tenant work.Tenant, key string) ([]Holder, error)

	// Workers returns the sessions that take work of a tenant and have not expired, those of workers of every tenant too, by worker and id.
	Workers(ctx context.Context, tenant work.Tenant) ([]Session, error)

	// Depths counts what waits and runs in each queue of a tenant, by name. At most some ten thousand of each are counted.
	Depths(ctx context.Context, tenant work.Tenant) ([]QueueDepth, error)
}

// FlowKind is the kind of the record that keeps the Flow of a tenant, and its id.
const FlowKind = "flow"

// Names of queues, packs and workers, and limits, are not longer or larger.
const (
	maxFlowName = 256
	maxFlowN    = 1_000_000
	maxValves   = 1_000
)

// Apply makes a change. Errors: fault.Invalid; fault.Conflict for what is so already.
func (f *Flow) Apply(c FlowChange) error {
	if c.Kind == FlowTenant {
		return f.applyTenant(&c)
	}
	if c.Name == "" || len(c.Name) > maxFlowName {
		return fault.New(fault.Invalid, "a %s has a name of at most %d bytes", c.Kind, maxFlowName)
	}
	var valves *map[string]Valve
	switch c.Kind {
	case FlowQueue:
		valves = &f.Queues
	case FlowPack:
		valves = &f.Packs
	case FlowWorker:
		valves = &f.Workers
	default:
		return fault.New(fault.Invalid, "there is no %q to hold back", c.Kind).WithHint("tenant, queue, pack or worker")
	}
	v := (*valves)[c.Name]
	if err := v.apply(&c); err != nil {
		return err
	}
	if v == (Valve{}) {
		delete(*valves, c.Name)
		return nil
	}
	if *valves == nil {
		*valves = map[string]Valve{}
	}
	if (*valves)[c.Name] = v; len(*valves) > maxValves {
		return fault.New(fault.Exhausted, "at most %d of each kind can be held back", maxValves)
	}
	return nil
}

func (f *Flow) applyTenant(c *FlowChange) error {
	switch c.Verb {
	case "limit":
		return bounded(&f.Max, c.N)
	case "weight":
		if c.N < 1 {
			return fault.New(fault.Invalid, "a weight is at least 1")
		}
		return bounded(&f.Weight, c.N)
	case "quota":
		if q := c.Quota; q.Runs < 0 || q.Steps < 0 || q.Bytes < 0 {
			return fault.New(fault.Invalid, "a quota is not negative; 0 means no limit")
		}
		f.Quota = c.Quota
		return nil
	case "pause", "resume":
		return pause(&f.Paused, c)
	default:
		return fault.New(fault.Invalid, "a tenant can be paused, resumed and limited, not %q", c.Verb)
	}
}

func (v *Valve) apply(c *FlowChange) error {
	switch {
	case c.Kind == FlowQueue && c.Verb == "limit":
		return bounded(&v.Max, c.N)
	case c.Kind != FlowWorker && (c.Verb == "pause" || c.Verb == "resume"):
		return pause(&v.Paused, c)
	case c.Kind != FlowWorker:
		return fault.New(fault.Invalid, "a %s can be paused and resumed, not %q", c.Kind, c.Verb)
	case c.Verb == "uncordon":
		v.Drain = false
		return pause(&v.Paused, c)
	case c.Verb == "drain" && !v.Drain:
		v.Drain, v.Paused = true, &c.Actor
		return nil
	case c.Verb == "cordon", c.Verb == "drain":
		return pause(&v.Paused, c)
	default:
		return fault.New(fault.Invalid, "a worker can be cordoned, uncordoned and drained, not %q", c.Verb)
	}
}

func pause(at **work.Actor, c *FlowChange) error {
	on := c.Verb != "resume" && c.Verb != "uncordon"
	if on == (*at != nil) {
		state := "not held back"
		if on {
			state = "held back already, by " + (*at).Name
		}
		return fault.New(fault.Conflict, "the %s %s is %s", c.Kind, c.Name, state)
	}
	if *at = nil; on {
		*at = &c.Actor
	}
	return nil
}

func bounded(at *int, n int) error {
	if n < 0 || n > maxFlowN {
		return fault.New(fault.Invalid, "a limit is 0, for none, to %d", maxFlowN)
	}
	*at = n
	return nil
}

// queueKey is the name of a queue in a Flow.
func queueKey(queue string) string {
	if queue == "" {
		return work.DefaultQueue
	}
	return queue
}

// Queue returns what holds back a queue, by its name in a row.
func (f *Flow) Queue(queue string) Valve { return f.Queues[queueKey(queue)] }

// Worker returns what holds back a worker: what is said of it, or of all workers with its certificate, whose name comes before a slash.
func (f *Flow) Worker(name string) Valve {
	if v, ok := f.Workers[name]; ok {
		return v
	}
	for i := len(name) - 1; i > 0; i-- {
		if v, ok := f.Workers[name[:i]]; ok && name[i] == '/' {
			return v
		}
	}
	return Valve{}
}

// Limited reports whether leases have to be counted before one is granted.
func (f *Flow) Limited() bool {
	if f.Max > 0 {
		return true
	}
	for _, v := range f.Queues {
		if v.Max > 0 {
			return true
		}
	}
	return false
}

// Shut returns the queues, by their names in rows, that are paused.
func (f *Flow) Shut() []string {
	var out []string
	for name, v := range f.Queues {
		if v.Paused != nil {
			out = append(out, work.QueueName("", name))
		}
	}
	return out
}
