package api

// Flow is how the work of a tenant flows: what is paused, by whom and why, how much may run at once, and what waits and runs.
type Flow struct {
	Paused  *Actor           `json:"paused,omitempty"`
	Max     int              `json:"max,omitempty"`    // steps that run at once, 0 for no limit
	Weight  int              `json:"weight,omitempty"` // share of workers that serve several tenants, 0 for 1
	Quota   *Quota           `json:"quota,omitempty"`
	Queues  map[string]Valve `json:"queues,omitempty"`
	Packs   map[string]Valve `json:"packs,omitempty"`
	Workers map[string]Valve `json:"workers,omitempty"` // paused means cordoned
	Depths  []QueueDepth     `json:"depths"`

	StoredBytes int64 `json:"storedBytes"` // of files
}

// Valve holds back one queue, pack or worker.
type Valve struct {
	Paused *Actor `json:"paused,omitempty"`
	Max    int    `json:"max,omitempty"`   // of a queue: steps that run at once, 0 for no limit
	Drain  bool   `json:"drain,omitempty"` // of a worker: it is to end when what it runs has ended
}

// Quota is what a tenant may have at most; 0 means no limit. A submission that goes beyond it is refused with status 429, and so are files
// that go beyond its bytes, with status 413.
type Quota struct {
	Runs  int   `json:"runs,omitempty"`  // that have not ended
	Steps int   `json:"steps,omitempty"` // that wait for a worker
	Bytes int64 `json:"bytes,omitempty"` // of stored files
}

// QueueDepth is what stands in a queue.
type QueueDepth struct {
	Queue   string `json:"queue"`
	Ready   int    `json:"ready"`            // steps that wait for a worker; from 10000 on it is not counted further
	Running int    `json:"running"`          // steps under a lease
	Oldest  string `json:"oldest,omitempty"` // since when the first of those that wait does
}

// FlowControl holds something back or lets it go on. Steps that run go on in any case.
type FlowControl struct {
	Kind   string `json:"kind"`           // tenant, queue, pack or worker
	Name   string `json:"name,omitempty"` // of the queue, pack or worker
	Verb   string `json:"verb"`           // pause or resume; of a worker cordon, uncordon or drain
	Reason string `json:"reason"`
}

// FlowLimit changes one limit.
type FlowLimit struct {
	Kind   string `json:"kind"`             // tenant or queue
	Name   string `json:"name,omitempty"`   // of the queue
	Max    *int   `json:"max,omitempty"`    // steps that run at once, 0 for no limit
	Weight *int   `json:"weight,omitempty"` // of a tenant: share of workers that serve several tenants
	Quota  *Quota `json:"quota,omitempty"`  // of a tenant
}
