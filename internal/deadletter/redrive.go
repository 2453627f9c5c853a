package deadletter

import (
	"context"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Outcome is what became of one run whose letters were to be redriven.
type Outcome struct {
	Run   work.Run
	Steps []work.StepID // its dead steps that were selected
	Again work.Run      // the run that retries it; zero with a plan
	Err   error
}

// Token is the run token of the retry of a run by a redrive: a redrive that is sent again, or by two people at once, makes one run.
func Token(run work.RunID) string { return "redrive:" + string(run) }

// Plan returns the runs with the selected letters, the one with the oldest letter first: at most limit of them, and how many there are
// beyond that.
func (s *Service) Plan(ctx context.Context, tenant work.Tenant, q Query, limit int) (planned []Outcome, left int, err error) {
	cases, err := s.List(ctx, tenant, q)
	if err != nil {
		return nil, 0, err
	}
	at := map[work.RunID]int{}
	for i := range cases {
		c := &cases[i]
		if n, known := at[c.Run]; known {
			if n < len(planned) {
				planned[n].Steps = append(planned[n].Steps, c.Step)
			}
			continue
		}
		at[c.Run] = len(at)
		if len(planned) == limit {
			left++
			continue
		}
		run, err := s.Store.Run(ctx, tenant, string(c.Run))
		if err != nil {
			return nil, 0, err
		}
		planned = append(planned, Outcome{Run: run, Steps: []work.StepID{c.Step}})
	}
	return planned, left, nil
}

// Redrive retries one run after the other, each with a commit of its own, and notes who did it. retry makes the run that retries another,
// under Token. One that fails does not keep the others from their turn.
func (s *Service) Redrive(ctx context.Context, planned []Outcome, by work.Actor, retry func(context.Context, work.Run) (work.Run, error)) error {
	by.At = s.Now()
	for i := range planned {
		o := &planned[i]
		if err := ctx.Err(); err != nil {
			return fault.Wrap(fault.Interrupted, err, "redrive")
		}
		if o.Again, o.Err = retry(ctx, o.Run); o.Err != nil {
			continue
		}
		// The retry has dealt with every dead step of the run; a note that is missing costs who did it, no more.
		steps, err := s.of(ctx, o.Run, "", Redriven)
		if err != nil {
			o.Err = err
			continue
		}
		o.Err = s.change(store.WithAudit(ctx, nil), o.Run, steps, func(f *file) error {
			f.State, f.By, f.Again = Redriven, &by, o.Again.ID
			return nil
		})
	}
	return nil
}
