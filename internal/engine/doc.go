// Package engine is the state machine of a run: a stimulus and the neighbourhood of one step in, new rows and events out.
//
// It is told the time and never asks for it; it does no input or output, starts no goroutine and uses no randomness. The
// same history gives the same decisions byte for byte, and that is what replay, simulation and the property tests rest on.
//
// A transition touches the step it is about, the steps that need it, the blocks it is inside of and the row of the run;
// never the whole run. A step of the plan has no row until something happens to it.
package engine

import "orrery.example/orrery/internal/work"

// View is the part of a run that a transition reads and changes. A store backs it with rows inside one transaction,
// replay and simulation with maps. Rows are shared: what Run and Step return may be changed in place and is then saved.
type View interface {
	// Run returns the row of the run.
	Run() *work.Run

	// Step returns the row of a step, nil when nothing has happened to it yet.
	Step(id work.StepID) *work.Step

	// Save creates a row or marks it as changed.
	Save(step *work.Step)

	// Live returns the steps that are queued, running, waiting or retrying, in order of their ids. It is called only when a run
	// or block stops early, never on the way of a step that goes well.
	Live() []work.StepID

	// NextHeld returns the first step in order of ids that waits for a slot of the run, "" for none.
	NextHeld() work.StepID

	// Emit appends an event to the history. Data is nil or marshals to an object.
	Emit(kind work.EventType, step work.StepID, attempt int, data any)
}

// MaxCrashes is how often a step may take its worker down with it before it is put aside.
const MaxCrashes = 3

// window bounds how many children of one block have rows at a time where the plan sets no bound of its own, so that the
// start of a wide fan-out stays a small transaction.
const window = 1000
