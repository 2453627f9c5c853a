package simulator_test

import (
	"context"
	"testing"
	"time"

	"orrery.example/orrery/internal/simulator"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// mutantSeeds is how many seeds a bug may survive.
const mutantSeeds = 50

// TestMutants breaks the system in one way at a time. The checker must notice every one of them: a checker that does not
// would not notice the same mistake in the code either.
func TestMutants(t *testing.T) {
	t.Run("engine", func(t *testing.T) { hunt(t, bugs(), func(o *simulator.Options) { o.Operators, o.Shared = false, 0 }) })
	t.Run("flow", func(t *testing.T) { hunt(t, flowBugs(), func(o *simulator.Options) { o.Operators = true }) })
}

func hunt(t *testing.T, bugs []func() *simulator.Bug, where func(*simulator.Options)) {
	for _, make := range bugs {
		name := make().Name
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= mutantSeeds; seed++ {
				o := simulator.Expand(seed)
				where(&o)
				o.Bug = make()
				if o.Exclusive { // most of these bugs are about rows that somebody else changes
					o.Exclusive, o.Servers = false, 2
				}
				if o.Bug.SameIncarnation { // it shows only when a restore takes what a worker has ended already
					o.Restore = 30 * time.Second
				}
				if r := simulator.Run(o); len(r.Violations) > 0 {
					t.Logf("seed %d, after %s: %s", seed, r.Simulated, r.Violations[0])
					return
				}
			}
			t.Errorf("nobody noticed within %d seeds", mutantSeeds)
		})
	}
}

// bugs returns a constructor for each bug, because some remember things from one transaction to the next.
func bugs() []func() *simulator.Bug {
	return []func() *simulator.Bug{
		func() *simulator.Bug { return &simulator.Bug{Name: "server-clock-lease", ServerClock: true} },
		func() *simulator.Bug { return &simulator.Bug{Name: "ack-before-durable", LateSync: true} },
		func() *simulator.Bug { return &simulator.Bug{Name: "fence-without-incarnation", SameIncarnation: true} },
		onStore("no-fence", func(s store.Store) store.Store { return noFence{s} }),
		onStore("dead-session-heartbeat", func(s store.Store) store.Store { return immortal{s} }),
		onStore("grants-lost-with-the-reply", func(s store.Store) store.Store { return noResync{s} }),
		onStore("lines-twice", func(s store.Store) store.Store { return unnumbered{s} }),
		onStore("orders-not-heard", func(s store.Store) store.Store { return deaf{s} }),
		onTx("rescue-from-snapshot", func() wrapTx {
			stale := map[string]store.Session{}
			return func(_ int, tx kernel.Tx) kernel.Tx { return oldSessions{tx, stale} }
		}),
		onTx("quota-read-then-write", func() wrapTx {
			seen := map[string]counted{}
			return func(server int, tx kernel.Tx) kernel.Tx { return oldCount{tx, seen} }
		}),
		onTx("run-quota-read-then-write", func() wrapTx {
			seen := map[string]counted{}
			return func(server int, tx kernel.Tx) kernel.Tx { return oldRuns{tx, seen} }
		}),
		onTx("claim-without-tenant", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return anyTenant{tx} } }),
		onTx("retry-forever", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return forgetful{tx} } }),
		onTx("join-counts-twice", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return eager{tx} } }),
		onTx("cancel-then-claim", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return uncancelled{tx} } }),
		onTx("ledger-seq-per-server", func() wrapTx {
			heads := map[int]map[work.RunID]work.Run{}
			return func(server int, tx kernel.Tx) kernel.Tx {
				if heads[server] == nil {
					heads[server] = map[work.RunID]work.Run{}
				}
				return ownSeq{tx, heads[server]}
			}
		}),
		onTx("duplicate-submit-creates-two", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return noTokens{tx} } }),
		onTx("log-lines-lost", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return leaky{tx} } }),
		onTx("timer-lost", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return noTimers{tx} } }),
		onTx("dead-letter-lost", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return noLetters{tx} } }),
		onTx("clock-of-the-row", func() wrapTx { return func(_ int, tx kernel.Tx) kernel.Tx { return backwards{tx} } }),
	}
}

type wrapTx = func(server int, tx kernel.Tx) kernel.Tx

func onStore(name string, wrap func(store.Store) store.Store) func() *simulator.Bug {
	return func() *simulator.Bug { return &simulator.Bug{Name: name, Store: wrap} }
}

func onTx(name string, wrap func() wrapTx) func() *simulator.Bug {
	return func() *simulator.Bug { return &simulator.Bug{Name: name, Tx: wrap()} }
}

// noFence accepts a report under any token.
type noFence struct{ store.Store }

func (s noFence) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	for i := range req.Reports {
		r := &req.Reports[i]
		steps, err := s.Steps(ctx, req.Tenant, r.Run, "", 0)
		if err != nil {
			continue
		}
		for j := range steps {
			if row := &steps[j]; row.ID == r.Step && row.Lease != nil {
				r.Report.Token = work.Token{Incarnation: row.Lease.Incarnation, Epoch: row.Epoch}
			}
		}
	}
	return s.Store.Exchange(ctx, req)
}

// immortal lets a worker go on whose session was declared dead, as if it still had its leases.
type immortal struct{ store.Store }

func (s immortal) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	for i := range req.Reports {
		r := &req.Reports[i]
		steps, err := s.Steps(ctx, req.Tenant, r.Run, "", 0)
		for j := range steps {
			if row := &steps[j]; err == nil && row.ID == r.Step && row.Lease != nil && row.Epoch > r.Report.Token.Epoch {
				r.Report.Token.Epoch = row.Epoch // the epoch is not looked at, only the step
			}
		}
	}
	return s.Store.Exchange(ctx, req)
}

// noResync ignores that the worker missed a reply.
type noResync struct{ store.Store }

func (s noResync) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	req.Resync = false
	return s.Store.Exchange(ctx, req)
}

// unnumbered appends lines again that are sent again.
type unnumbered struct{ store.Store }

func (s unnumbered) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	batch = append([]store.LinesCommand(nil), batch...)
	for i := range batch {
		batch[i].From = 0
	}
	return s.Store.AppendLines(ctx, batch)
}

// deaf does not tell workers what to stop.
type deaf struct{ store.Store }

func (s deaf) Heartbeat(ctx context.Context, session string, expires work.Time) (store.Orders, error) {
	orders, err := s.Store.Heartbeat(ctx, session, expires)
	orders.Cancel = nil
	return orders, err
}

// oldSessions decides who is dead from what it read some time ago.
type oldSessions struct {
	kernel.Tx
	stale map[string]store.Session
}

func (t oldSessions) PutSession(s store.Session) error {
	if _, ok := t.stale[s.ID]; !ok {
		t.stale[s.ID] = s
	}
	return t.Tx.PutSession(s)
}

func (t oldSessions) Sessions(id string, now work.Time) ([]store.Session, error) {
	if id != "" {
		return t.Tx.Sessions(id, now)
	}
	var out []store.Session
	for _, s := range t.stale {
		if s.Expires <= now {
			out = append(out, s)
			delete(t.stale, s.ID)
			break
		}
	}
	return out, nil
}

// counted is a number that was read some time ago, and how often it may be used.
type counted struct{ n, uses int }

func remembered(seen map[string]counted, key string, read func() (int, error)) (int, error) {
	c := seen[key]
	if c.uses == 0 {
		n, err := read()
		if err != nil {
			return 0, err
		}
		c = counted{n, 3}
	}
	c.uses--
	seen[key] = c
	return c.n, nil
}

// oldCount counts leases outside of the transaction that takes one.
type oldCount struct {
	kernel.Tx
	seen map[string]counted
}

func (t oldCount) LeasesByKey(tenant work.Tenant, key string) (int, error) {
	return remembered(t.seen, string(tenant)+key, func() (int, error) { return t.Tx.LeasesByKey(tenant, key) })
}

// oldRuns does the same with runs.
type oldRuns struct {
	kernel.Tx
	seen map[string]counted
}

func (t oldRuns) ActiveRuns(tenant work.Tenant, key string) (int, error) {
	return remembered(t.seen, string(tenant)+key, func() (int, error) { return t.Tx.ActiveRuns(tenant, key) })
}

// anyTenant looks for work in the wrong place when there is none at home.
type anyTenant struct{ kernel.Tx }

func (t anyTenant) Ready(tenant work.Tenant, runners, except []string, after *kernel.ReadyStep, limit int) ([]kernel.ReadyStep, error) {
	ready, err := t.Tx.Ready(tenant, runners, except, after, limit)
	if err == nil && len(ready) == 0 && after == nil {
		for _, other := range []work.Tenant{"tenant0", "tenant1"} {
			if ready, err = t.Tx.Ready(other, runners, nil, nil, limit); err != nil || len(ready) > 0 {
				return ready, err
			}
		}
	}
	return ready, err
}

// forgetful does not keep how often a step has failed.
type forgetful struct{ kernel.Tx }

func (t forgetful) PutStep(row *work.Step) error {
	row.Failures, row.Crashes = 0, 0
	return t.Tx.PutStep(row)
}

// eager counts one need twice where a step has several.
type eager struct{ kernel.Tx }

func (t eager) Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error) {
	row, err := t.Tx.Step(tenant, run, id)
	if row != nil && row.State == work.Pending && row.Unmet > 1 {
		row.Unmet--
	}
	return row, err
}

// uncancelled writes the row of a run as it was before the cancel: a lost update.
type uncancelled struct{ kernel.Tx }

func (t uncancelled) PutRun(run *work.Run) error {
	if run.Cancel != nil && run.Phase == work.PhaseMain {
		c := *run
		c.Stopping, c.Outcome, c.Cancel = false, "", nil
		run = &c
	}
	return t.Tx.PutRun(run)
}

// ownSeq numbers events by what this server remembers of a run.
type ownSeq struct {
	kernel.Tx
	heads map[work.RunID]work.Run
}

func (t ownSeq) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	row, err := t.Tx.Run(tenant, id)
	if known, ok := t.heads[id]; ok && row != nil {
		row.Seq, row.Head = known.Seq, known.Head
	}
	return row, err
}

func (t ownSeq) PutRun(run *work.Run) error {
	t.heads[run.ID] = *run
	return t.Tx.PutRun(run)
}

// noTokens does not look whether a submission was made before.
type noTokens struct{ kernel.Tx }

func (t noTokens) RunByToken(work.Tenant, string) (*work.Run, error) { return nil, nil }

// leaky drops the last line of a batch of several.
type leaky struct{ kernel.Tx }

func (t leaky) AppendLines(tenant work.Tenant, run work.RunID, lines []work.LogLine) error {
	if len(lines) > 2 {
		lines = lines[:len(lines)-1]
	}
	return t.Tx.AppendLines(tenant, run, lines)
}

// noTimers does not find the timers of steps.
type noTimers struct{ kernel.Tx }

func (t noTimers) DueSteps(work.Time, int) ([]kernel.StepRef, error) { return nil, nil }

// noLetters does not keep dead letters.
type noLetters struct{ kernel.Tx }

func (t noLetters) PutDeadLetter(store.DeadLetter) error { return nil }

// backwards forgets when a run was last changed, so that its events follow the clock wherever that jumps.
type backwards struct{ kernel.Tx }

func (t backwards) Run(tenant work.Tenant, id work.RunID) (*work.Run, error) {
	row, err := t.Tx.Run(tenant, id)
	if row != nil {
		row.Updated = 0
	}
	return row, err
}
