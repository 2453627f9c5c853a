package kernel

import (
	"context"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Commit is one transaction of this process as it ended, for those who count and measure.
type Commit struct {
	Commands int           // that shared it
	Took     time.Duration // from its begin until it was on disk
	Err      error         // why nothing of it counts
	Changes  []Change      // in order; none with Err
}

// Change is an event that is committed now.
type Change struct {
	Run     *work.Run // as it stands after the commit; may be looked at until the observer returns
	Type    work.EventType
	Step    work.StepID
	Attempt int
	At      work.Time
	Since   work.Time // of a claim: when the step was queued; of a report or a revocation: when the lease was granted; else zero
	Data    any       // as the engine gave it, see work.EventType
}

// note keeps an event for the observer.
func (h *hot) note(e *work.Event, data any) {
	c := Change{Run: h.run, Type: e.Type, Step: e.Step, Attempt: e.Attempt, At: e.Time, Data: data}
	if e.Type == work.StepReported || e.Type == work.StepRevoked {
		if s := h.steps[e.Step]; s != nil && s.row != nil && s.row.Lease != nil {
			c.Since = s.row.Lease.Granted
		}
	}
	h.u.changes = append(h.u.changes, c)
}

// waited says since when the step of the last claim was queued.
func (u *unit) waited(since work.Time) {
	if n := len(u.changes); n > 0 && u.changes[n-1].Type == work.StepClaimed {
		u.changes[n-1].Since = since
	}
}

// Census counts what is there now, by tenant.
func (s *Store) Census(ctx context.Context) ([]store.Census, error) {
	return read(ctx, s, func(r Reader) ([]store.Census, error) { return r.Census(s.now()) })
}
