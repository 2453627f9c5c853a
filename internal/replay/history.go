package replay

import (
	"encoding/json"
	"maps"
	"slices"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// History is a run held in memory: its row, the rows of its steps and its events. It is the engine.View of replay, and
// wherever a run is to be driven without a store. It is not safe for concurrent use.
type History struct {
	run    work.Run
	steps  map[work.StepID]*work.Step
	live   []work.StepID // sorted
	held   []work.StepID // sorted
	events []work.Event
	err    error
}

var _ engine.View = (*History)(nil)

// NewHistory returns a run to which nothing has happened yet. Run has its identity only.
func NewHistory(run work.Run) *History {
	return &History{run: run, steps: map[work.StepID]*work.Step{}}
}

// Run returns the row of the run. The engine changes it in place; anybody else only reads it.
func (h *History) Run() *work.Run { return &h.run }

// Step returns the row of a step, nil when nothing has happened to it.
func (h *History) Step(id work.StepID) *work.Step { return h.steps[id] }

// Save notes the row of a step as it is now.
func (h *History) Save(row *work.Step) {
	h.steps[row.ID] = row
	h.live = member(h.live, row.ID, live(row.State))
	h.held = member(h.held, row.ID, row.State == work.Queued && row.Held)
}

func live(s work.State) bool { return s != work.Pending && !s.Terminal() }

// member puts an id into a sorted set or takes it out.
func member(set []work.StepID, id work.StepID, in bool) []work.StepID {
	at, found := slices.BinarySearch(set, id)
	switch {
	case in && !found:
		return slices.Insert(set, at, id)
	case !in && found:
		return slices.Delete(set, at, at+1)
	default:
		return set
	}
}

// Live returns the steps that are queued, throttled, running, waiting or retrying, in order of their ids.
func (h *History) Live() []work.StepID { return slices.Clone(h.live) }

// NextHeld returns the first step that waits for a slot of the run, "" for none.
func (h *History) NextHeld() work.StepID {
	if len(h.held) == 0 {
		return ""
	}
	return h.held[0]
}

// Emit appends an event, linked to the one before it.
func (h *History) Emit(kind work.EventType, step work.StepID, attempt int, data any) {
	e := work.Event{
		Tenant: h.run.Tenant, Run: h.run.ID, Seq: h.run.Seq + 1, Time: h.run.Updated, Type: kind, Step: step, Attempt: attempt,
	}
	if data != nil {
		raw, err := json.Marshal(data)
		h.fail(err)
		e.Data = raw
	}
	if err := ledger.Link(h.run.Head, &e); err != nil {
		h.fail(fault.Wrap(fault.Internal, err, "event %d (%s)", e.Seq, kind))
		return
	}
	h.run.Seq, h.run.Head = e.Seq, e.Hash
	h.events = append(h.events, e)
}

func (h *History) fail(err error) {
	if h.err == nil {
		h.err = err
	}
}

// Err returns why an event could not become part of the history, nil when all did.
func (h *History) Err() error { return h.err }

// Events returns what has happened so far. The caller must not change it.
func (h *History) Events() []work.Event { return h.events }

// Steps returns the rows of all steps that something has happened to, in order of their ids. The rows are copies of the
// first level; what they point to must not be changed.
func (h *History) Steps() []work.Step {
	out := make([]work.Step, 0, len(h.steps))
	for _, id := range slices.Sorted(maps.Keys(h.steps)) {
		out = append(out, *h.steps[id])
	}
	return out
}
