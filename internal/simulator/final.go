package simulator

import (
	"context"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// durable checks, right after a power cut, that the disk has everything that was acknowledged (I8).
func (c *checker) durable() {
	for _, key := range c.books.sorted() {
		var stored int64
		if run, err := c.w.servers[0].peek(key); err == nil {
			stored = run.Seq
		}
		if want := c.books.runs[key].row.Seq; stored != want {
			c.w.violate("I8: run %s had %d events on the disk, after the power cut it has %d", key.run, want, stored)
			return
		}
	}
}

// peek reads the row of a run from the disk.
func (s *server) peek(key runKey) (work.Run, error) {
	return s.kernel.Run(context.Background(), key.tenant, string(key.run))
}

// final checks, when all is over, what only the whole shows: every acknowledged run has ended (I8), its history is
// unbroken (I6) and is what its stimuli lead to (I12), what the store answers is what was committed, no line that was
// acknowledged is missing (I4).
func (c *checker) final() {
	s := c.w.servers[0]
	ctx := context.Background()
	for _, key := range c.books.sorted() {
		a := c.books.runs[key]
		run, err := s.kernel.Run(ctx, key.tenant, string(key.run))
		if err != nil || run.State != a.row.State || run.Seq != a.row.Seq {
			c.w.violate("I8: run %s is %s in the books and %s in the store: %v", key.run, a.row.State, run.State, err)
			continue
		}
		if c.books.acked[key] && !run.State.Terminal() {
			c.w.violate("I8: run %s is still %s in phase %s, %s after the faults ended", key.run, run.State, run.Phase, c.w.o.Heal)
		}
		events, err := s.kernel.Events(ctx, key.tenant, key.run, 1, 1_000_000)
		if err != nil {
			c.w.violate("I6: run %s: %v", key.run, err)
			continue
		}
		c.history(key, &run, events)
		c.output(key, a)
	}
	for i := range c.w.o.Tenants {
		if _, err := s.kernel.Run(ctx, tenantName(i), "run_nobody"); fault.CodeOf(err) != fault.NotFound {
			c.w.violate("I5: a run that does not exist: %v", err)
		}
		c.letters(tenantName(i))
	}
}

func (c *checker) history(key runKey, run *work.Run, events []work.Event) {
	head, n, err := ledger.VerifyChain(func(yield func(work.Event, error) bool) {
		for i := range events {
			if !yield(events[i], nil) {
				return
			}
		}
	})
	if err != nil || n != run.Seq || head != run.Head {
		c.w.violate("I6: run %s has %d of %d events with head %s: %v", key.run, n, run.Seq, head.Short(), err)
		return
	}
	r, err := replay.Scheduler(c.w.plans[run.PlanHash].canonical, events)
	if err != nil {
		c.w.violate("I12: run %s: %v", key.run, err)
	} else if !r.Identical() {
		c.w.violate("I12: run %s does not replay: %s", key.run, r.Divergence)
	}
	c.w.cover["histories replayed"]++
}

// output checks the lines of a run: those of each attempt stand once and in order, and what was acknowledged is there.
func (c *checker) output(key runKey, a *account) {
	lines, err := c.w.servers[0].kernel.Lines(context.Background(), key.tenant, key.run, 1, 1_000_000)
	if err != nil || int64(len(lines)) != a.lineCount {
		c.w.violate("I4: run %s has %d lines, of %d that were committed: %v", key.run, len(lines), a.lineCount, err)
		return
	}
	seen := map[string]bool{}
	for i := range lines {
		if lines[i].Seq != int64(i+1) || lines[i].Message != a.lines[int64(i+1)] {
			c.w.violate("I4: line %d of run %s is %d: %s", i+1, key.run, lines[i].Seq, lines[i].Message)
		}
		if seen[lines[i].Message] {
			c.w.violate("I4: run %s has the line %q twice", key.run, lines[i].Message)
		}
		seen[lines[i].Message] = true
	}
	for id, m := range a.marks {
		for token, n := range m.linesAcked {
			for i := 1; i <= n; i++ {
				if text := lineFor(key.run, id, token, i); !seen[text] {
					c.w.violate("I4: the line %q was acknowledged and is gone", text)
				}
			}
		}
	}
}

// letters checks that the dead letters of a tenant are its dead steps that nobody has retried.
func (c *checker) letters(tenant work.Tenant) {
	stored, err := c.w.servers[0].kernel.DeadLetters(context.Background(), tenant, 1_000_000)
	if err != nil {
		c.w.violate("I9: dead letters of %s: %v", tenant, err)
		return
	}
	retried := map[work.RunID]bool{}
	for key, a := range c.books.runs {
		if key.tenant == tenant && a.row.RetryOf != "" {
			retried[a.row.RetryOf] = true
		}
	}
	for _, key := range c.books.sorted() {
		if key.tenant != tenant {
			continue
		}
		for id, row := range c.books.runs[key].steps {
			listed := slices.ContainsFunc(stored, func(l store.DeadLetter) bool { return l.Run == key.run && l.Step == id })
			if dead := row.State == work.Dead; dead != listed && !(dead && retried[key.run]) {
				c.w.violate("I9: step %s of run %s is %s, and among the dead letters: %t", id, key.run, row.State, listed)
			}
			c.w.cover["dead steps"] += one(row.State == work.Dead)
		}
	}
}
