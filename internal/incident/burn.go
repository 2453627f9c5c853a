package incident

import (
	"context"
	"strconv"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// cell counts what happened in some time.
type cell struct {
	Ended  int `json:"ended,omitempty"` // runs, cancelled ones left out
	Failed int `json:"failed,omitempty"`
	Lost   int `json:"lost,omitempty"` // leases, with their workers
}

func (c *cell) add(d cell) {
	c.Ended, c.Failed, c.Lost = c.Ended+d.Ended, c.Failed+d.Failed, c.Lost+d.Lost
}

// counts are cells of ten minutes for a day, and of days for a month, by the number of the cell since the epoch.
type counts struct {
	Fine map[string]cell `json:"fine"`
	Days map[string]cell `json:"days"`
}

const (
	minute    work.Time = 60 * 1_000_000
	hour                = 60 * minute
	day                 = 24 * hour
	fine                = 10 * minute
	fineKept            = int64(day / fine)
	daysKept            = 30
	least               = 10 // runs in a window, for its burn to mean something
	kindCount           = "incident-counts"
)

// add counts what happened at a time, and forgets what is older than the longest window.
func (c *counts) add(at work.Time, d cell) {
	if c.Fine == nil {
		c.Fine, c.Days = map[string]cell{}, map[string]cell{}
	}
	for _, ring := range []struct {
		cells map[string]cell
		of    work.Time
		kept  int64
	}{{c.Fine, fine, fineKept}, {c.Days, day, daysKept}} {
		n := int64(at / ring.of)
		key := strconv.FormatInt(n, 10)
		one := ring.cells[key]
		one.add(d)
		ring.cells[key] = one
		for old := range ring.cells {
			if m, err := strconv.ParseInt(old, 10, 64); err != nil || m <= n-ring.kept {
				delete(ring.cells, old)
			}
		}
	}
}

// within adds up the cells of a window that ends at a time. A window of more than a day is counted in days.
func (c *counts) within(at, window work.Time) (sum cell) {
	cells, of := c.Fine, fine
	if window > day {
		cells, of = c.Days, day
	}
	for n := int64(at / of); n > int64((at-window)/of); n-- {
		sum.add(cells[strconv.FormatInt(n, 10)])
	}
	return sum
}

// Burn is how fast an error budget is used up: 1 uses it up in its time. Ended is how many runs say so.
type Burn struct {
	Window string  `json:"window"`
	Burn   float64 `json:"burn"`
	Ended  int     `json:"ended"`
	Failed int     `json:"failed"`
}

func (c *counts) burn(at, window work.Time, name string, objective float64) Burn {
	sum := c.within(at, window)
	b := Burn{Window: name, Ended: sum.Ended, Failed: sum.Failed}
	if sum.Ended > 0 {
		b.Burn = float64(sum.Failed) / float64(sum.Ended) / (1 - objective)
	}
	return b
}

// Burns returns the burn of a tenant's error budget over an hour, six hours, a day and thirty days.
func (s *Service) Burns(ctx context.Context, tenant work.Tenant) ([]Burn, error) {
	p, err := s.Policy(ctx, tenant)
	if err != nil {
		return nil, err
	}
	c, _, err := s.counts(ctx, tenant)
	at := s.Now()
	var out []Burn
	for _, w := range []struct {
		name string
		long work.Time
	}{{"1h", hour}, {"6h", 6 * hour}, {"24h", day}, {"30d", 30 * day}} {
		out = append(out, c.burn(at, w.long, w.name, p.Objective))
	}
	return out, err
}

func (s *Service) counts(ctx context.Context, tenant work.Tenant) (c counts, version int64, err error) {
	r, err := s.Store.Record(ctx, tenant, kindCount, kindCount)
	if fault.CodeOf(err) == fault.NotFound {
		return c, 0, nil
	}
	if err != nil {
		return c, 0, err
	}
	return c, r.Version, decode(&r, &c)
}

// Committed counts what ended with a commit of this server. It returns at once: a writer of the store calls it.
func (s *Service) Committed(c kernel.Commit) {
	for i := range c.Changes {
		x := &c.Changes[i]
		switch d := x.Data.(type) {
		case work.EndedData:
			switch {
			case x.Type != work.RunEnded || d.State == work.Cancelled:
			case d.State == work.Failed || d.State == work.TimedOut:
				s.note(x.Run.Tenant, cell{Ended: 1, Failed: 1})
			default:
				s.note(x.Run.Tenant, cell{Ended: 1})
			}
		case work.RevokedData:
			if d.Reason.Code == work.EndedByWorkerLoss {
				s.note(x.Run.Tenant, cell{Lost: 1})
			}
		}
	}
}

func (s *Service) note(tenant work.Tenant, d cell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tally == nil {
		s.tally = map[work.Tenant]cell{}
	}
	one := s.tally[tenant]
	one.add(d)
	s.tally[tenant] = one
}

// written adds what was counted here since the last look to what all servers have counted, and returns that.
func (s *Service) written(ctx context.Context, tenant work.Tenant) (counts, error) {
	c, version, err := s.counts(ctx, tenant)
	if err != nil {
		return c, err
	}
	s.mu.Lock()
	d := s.tally[tenant]
	delete(s.tally, tenant)
	s.mu.Unlock()
	if d == (cell{}) {
		return c, nil
	}
	c.add(s.Now(), d)
	if err := s.Store.Change(ctx, put(tenant, kindCount, kindCount, version, 0, c)); err != nil {
		s.note(tenant, d) // with the next look
		return c, conflictIsFine(err)
	}
	return c, nil
}
