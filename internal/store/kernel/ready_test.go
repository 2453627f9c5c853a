package kernel_test

import (
	"errors"
	"slices"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

func (c counting) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	c.g.mu.Lock()
	c.g.looked++
	c.g.mu.Unlock()
	return c.Tx.Ready(tenant, runners, except, after, limit)
}

func (c counting) PutStep(row *work.Step) error {
	c.g.mu.Lock()
	c.g.put++
	c.g.mu.Unlock()
	return c.Tx.PutStep(row)
}

// counted returns how often the driver was asked for ready steps and how many rows of steps it got, and forgets it.
func (g *gated) counted() (looked, put int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	looked, put = g.looked, g.put
	g.looked, g.put = 0, 0
	return looked, put
}

// submitChain submits a run of n steps one after the other, with a priority.
func (f *fixture) submitChain(run, n, priority int) {
	f.Helper()
	p := plan(n)
	for i := range p.Steps {
		p.Steps[i].Run.Priority = priority
		if i > 0 {
			p.Steps[i].Needs = []work.StepID{p.Steps[i-1].ID}
		}
	}
	hash, raw, err := canonical.DigestOf(p)
	if err != nil {
		f.Fatal(err)
	}
	sub := f.submission(run, n)
	sub.Canonical, sub.Run.PlanHash, sub.Data.PlanHash = raw, hash, hash
	if got := f.store.Submit(ctx, []store.Submission{sub})[0]; got.Err != nil {
		f.Fatal(got.Err)
	}
}

// exchanged reports a step and claims up to max others.
func (f *fixture) exchanged(g *store.Grant, max int) []store.Grant {
	f.Helper()
	reply, err := f.store.Exchange(ctx, store.ExchangeRequest{
		Session: g.Session, Tenant: "t", Runners: []string{"noop"}, Max: max, Reports: []store.ReportCommand{succeeded(g, "")},
	})
	if err != nil || reply.Errs[0] != nil {
		f.Fatal(err, reply.Errs)
	}
	return reply.Grants
}

// TestWrittenOnce: a step that is made ready by a report and claimed in the same exchange is written once, and nobody looks for others
// where none can be.
func TestWrittenOnce(t *testing.T) {
	f := open(t)
	f.submitChain(1, 5, 0)
	f.session("s")
	grants := f.claim("s", 10)
	for i := 1; i < 5; i++ {
		f.driver.counted()
		if len(grants) != 1 {
			t.Fatalf("%d steps were granted at once", len(grants))
		}
		grants = f.exchanged(&grants[0], 10)
		looked, put := f.driver.counted()
		if put != 2 {
			t.Errorf("exchange %d wrote %d rows of steps, not that of the one that ended and of the one that begins", i, put)
		}
		if i > 1 && looked != 0 {
			t.Errorf("exchange %d looked for ready steps %d times in a store that has none", i, looked)
		}
	}
}

// TestFreshInOrder: what a report makes ready takes its place among what waits already, and is granted to one only.
func TestFreshInOrder(t *testing.T) {
	f := open(t)
	f.session("s")
	f.submitChain(1, 2, 5)
	first := f.claim("s", 1)
	f.clock.advance(second)
	f.submitChain(2, 1, 9)
	f.submitChain(3, 1, 5)
	f.clock.advance(second)
	f.submitChain(4, 1, 1)

	var order []work.RunID
	for _, g := range f.exchanged(&first[0], 3) { // run 1 is behind run 3: it was made ready later
		order = append(order, g.Run)
	}
	for _, g := range f.claim("s", 10) {
		order = append(order, g.Run)
	}
	if want := []work.RunID{"run_2", "run_3", "run_1", "run_4"}; !slices.Equal(order, want) {
		t.Errorf("the order was %v, want %v", order, want)
	}
}

// TestFoundAgain: a queue that was found empty is looked at again when something is in it: of a new run, of what a claim left over, and
// after a commit that did not happen.
func TestFoundAgain(t *testing.T) {
	f := open(t)
	f.session("s")
	if got := f.claim("s", 10); len(got) != 0 {
		t.Fatal(got)
	}
	f.submit(1, 3)
	if got := f.claim("s", 1); len(got) != 1 {
		t.Fatalf("%d of a new run were granted", len(got))
	}
	f.driver.mu.Lock()
	f.driver.fail = errors.New("the disk is gone")
	f.driver.mu.Unlock()
	if _, err := f.store.Exchange(ctx, store.ExchangeRequest{Session: "s", Tenant: "t", Runners: []string{"noop"}, Max: 10}); err == nil {
		t.Fatal("the commit did not fail")
	}
	if got := f.claim("s", 10); len(got) != 2 {
		t.Fatalf("%d of two that were left over were granted", len(got))
	}
	if got := f.claim("s", 10); len(got) != 0 {
		t.Fatalf("%d were granted twice", len(got))
	}
}

// TestFreshInPausedQueue: what a report makes ready is not granted from a queue that is paused, and is there when it goes on.
func TestFreshInPausedQueue(t *testing.T) {
	f := open(t)
	f.session("s")
	f.submitChain(1, 3, 0)
	first := f.claim("s", 10)
	if _, err := f.store.ChangeFlow(ctx, store.FlowChange{Tenant: "t", Verb: "pause", Kind: store.FlowQueue, Name: work.DefaultQueue, Actor: work.Actor{Name: "ann"}}); err != nil {
		t.Fatal(err)
	}
	if got := f.exchanged(&first[0], 10); len(got) != 0 {
		t.Fatalf("%d steps of a paused queue were granted", len(got))
	}
	if _, err := f.store.ChangeFlow(ctx, store.FlowChange{Tenant: "t", Verb: "resume", Kind: store.FlowQueue, Name: work.DefaultQueue, Actor: work.Actor{Name: "ann"}}); err != nil {
		t.Fatal(err)
	}
	if got := f.claim("s", 10); len(got) != 1 {
		t.Fatalf("%d steps were granted after the pause", len(got))
	}
}
