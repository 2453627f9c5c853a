package incident

import (
	"context"
	"fmt"
	"slices"
	"time"

	"orrery.example/orrery/internal/work"
)

// Bounds of looks.
const (
	deadLettersRead = 1000
	behindLong      = 2 * minute // that events wait for a broker before somebody is told
	awayLong        = minute     // likewise that the store is away
	every           = 15 * time.Second
)

// Run looks at the tenants until ctx ends. Tenants returns the names of all of them, of which home is told of the store itself.
func (s *Service) Run(ctx context.Context, home work.Tenant, tenants func(context.Context) ([]work.Tenant, error)) {
	for {
		if err := s.round(ctx, home, tenants); err != nil && ctx.Err() == nil {
			s.Log.Error("incidents", "error", err)
		}
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// round looks at every tenant, and notes whether the store answers.
func (s *Service) round(ctx context.Context, home work.Tenant, tenants func(context.Context) ([]work.Tenant, error)) error {
	all, err := tenants(ctx)
	var away work.Time // that is over now
	if err == nil {
		away = s.back()
	} else if ctx.Err() == nil {
		s.gone()
	}
	verbose := false
	for _, tenant := range all {
		since := work.Time(0)
		if tenant == home {
			since = away
		}
		on, failed := s.Look(ctx, tenant, since)
		if verbose = verbose || on; failed != nil && ctx.Err() == nil {
			s.gone()
			err = failed
			break
		}
	}
	if err == nil && s.Verbose != nil {
		s.Verbose(verbose)
	}
	return err
}

// gone notes that the store does not answer.
func (s *Service) gone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == 0 {
		s.away = s.Now()
	}
}

// back returns since when the store was away, zero when it was not or only for a moment.
func (s *Service) back() work.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.away
	s.away = 0
	if since == 0 || s.Now()-since < awayLong {
		return 0
	}
	return since
}

// Look finds out what needs people in a tenant, and returns whether incident mode is on. Away is since when the store was away until now, zero
// when it was not.
func (s *Service) Look(ctx context.Context, tenant work.Tenant, away work.Time) (bool, error) {
	p, err := s.Policy(ctx, tenant)
	if err != nil {
		return false, err
	}
	c, err := s.written(ctx, tenant)
	if err != nil {
		return false, err
	}
	var now []condition
	last := c.burn(s.Now(), hour, "1h", p.Objective)
	if last.Ended >= least && last.Burn >= p.Reset {
		now = append(now, condition{
			cause: ErrorBudget, opens: last.Burn >= p.Threshold, closes: fmt.Sprintf("a burn over an hour below %v for %d minutes", p.Reset, p.Cooldown),
			message: fmt.Sprintf("the error budget burns %.1f times too fast: %d of %d runs of the last hour failed", last.Burn, last.Failed, last.Ended),
		})
	}
	if lost := c.within(s.Now(), 2*fine).Lost; lost > 0 {
		now = append(now, condition{
			cause: WorkerLost, opens: true, closes: fmt.Sprintf("no lease lost for %d minutes", p.Cooldown), message: work.Count(lost, "lease") + " ended because their workers were lost",
		})
	}
	if away != 0 {
		now = append(now, condition{
			cause: StoreDown, opens: true, closes: fmt.Sprintf("the store answers for %d minutes", p.Cooldown),
			message: fmt.Sprintf("the store did not answer from %s to %s", away, s.Now()),
		})
	}
	dead, err := s.dead(ctx, tenant, &p)
	if err != nil {
		return false, err
	}
	behind, err := s.behind(ctx, tenant, &p)
	if err != nil {
		return false, err
	}
	if err := s.settle(ctx, tenant, &p, slices.Concat(now, dead, behind)); err != nil {
		return false, err
	}
	return s.decide(ctx, tenant, &p, last)
}

// dead finds dead letters that nobody has dealt with, by the reason of their end.
func (s *Service) dead(ctx context.Context, tenant work.Tenant, p *Policy) ([]condition, error) {
	letters, err := s.Store.DeadLetters(ctx, tenant, deadLettersRead)
	if err != nil || len(letters) < p.DeadLetters {
		return nil, err
	}
	classes := map[string]int{}
	for i := range letters {
		classes[string(letters[i].Reason.Code)]++
	}
	var out []condition
	for class, n := range classes {
		if n >= p.DeadLetters {
			out = append(out, condition{
				cause: DeadLetters, subject: class, opens: true, closes: fmt.Sprintf("fewer than %d dead letters of the class for %d minutes", p.DeadLetters, p.Cooldown),
				message: work.Count(n, "step") + " used up their attempts, all ended by " + class,
			})
		}
	}
	return out, nil
}

// behind finds brokers that do not get what they are to get.
func (s *Service) behind(ctx context.Context, tenant work.Tenant, p *Policy) ([]condition, error) {
	if s.Behind == nil {
		return nil, nil
	}
	waiting, err := s.Behind(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var out []condition
	for target, long := range waiting {
		if long >= behindLong {
			out = append(out, condition{
				cause: PublisherDown, subject: target, opens: true, closes: fmt.Sprintf("events wait less than 2 minutes, for %d minutes", p.Cooldown),
				message: fmt.Sprintf("events have waited for %s for %s", target, time.Duration(long)*time.Microsecond),
			})
		}
	}
	return out, nil
}
