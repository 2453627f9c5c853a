package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

var errTest = errors.New("storetest: give up")

// RunDriver tests a driver. Open returns an empty one and may be called often; reopen, when it is not nil, closes a driver and
// opens what it has kept.
func RunDriver(t *testing.T, open func(testing.TB) kernel.Driver, reopen func(testing.TB, kernel.Driver) kernel.Driver) {
	t.Run("SameAsModel", func(t *testing.T) { sameAsModel(t, open, reopen) })
	t.Run("Rollback", func(t *testing.T) { rollback(t, open(t)) })
	t.Run("ReadsSeeWrites", func(t *testing.T) { readsSeeWrites(t, open(t)) })
	t.Run("Rows are the caller's", func(t *testing.T) { rowsBelongToTheCaller(t, open(t)) })
	t.Run("Uniqueness", func(t *testing.T) { uniqueness(t, open(t)) })
	t.Run("EveryField", func(t *testing.T) { everyField(t, open(t)) })
	t.Run("LongValues", func(t *testing.T) { longValues(t, open(t)) })
	t.Run("LongHistory", func(t *testing.T) { longHistory(t, open(t)) })
	t.Run("Feed", func(t *testing.T) { feed(t, open(t)) })
	t.Run("Census", func(t *testing.T) { census(t, open(t)) })
	t.Run("Log", func(t *testing.T) { growLog(t, open(t)) })
	t.Run("Cancelled", func(t *testing.T) { cancelled(t, open(t)) })
}

// sameAsModel applies random transactions to the driver and to the model and compares everything that can be asked.
func sameAsModel(t *testing.T, open func(testing.TB) kernel.Driver, reopen func(testing.TB, kernel.Driver) kernel.Driver) {
	rapid.Check(t, func(rt *rapid.T) {
		g := gen{rt, small()}
		model, driver := kernel.Driver(memory.New()), open(t)
		defer func() { mustClose(rt, driver) }()
		for range g.number("transactions", 1, 6) {
			changes := drawChanges(g, model)
			if g.number("give up", 0, 2) == 0 { // the same rows come again afterwards
				transact(g, model, driver, changes, errTest)
			}
			transact(g, model, driver, changes, nil)
			if reopen != nil && g.number("reopen", 0, 9) == 0 {
				driver = reopen(t, driver)
			}
			want, err := takeDump(model, g.w)
			if err != nil {
				rt.Fatal(err)
			}
			got, err := takeDump(driver, g.w)
			if err != nil {
				rt.Fatal(err)
			}
			if diff := sameDump(want, got); diff != "" {
				rt.Fatalf("after the transaction (-model +driver):\n%s", diff)
			}
		}
	})
}

// transact makes the changes on both sides and compares what a transaction sees of itself. With an end that is an error it gives up.
func transact(g gen, model, driver kernel.Driver, changes []func(kernel.Tx) error, end error) {
	var inside [2]dump
	for i, d := range []kernel.Driver{model, driver} {
		err := d.Update(context.Background(), func(tx kernel.Tx) error {
			for _, change := range changes {
				if err := change(tx); err != nil {
					return err
				}
			}
			var err error
			if inside[i], err = dumpOf(tx, g.w); err != nil {
				return err
			}
			return end
		})
		if !errors.Is(err, end) {
			g.Fatalf("driver %d: %v", i, err)
		}
	}
	if diff := sameDump(inside[0], inside[1]); diff != "" {
		g.Fatalf("within the transaction (-model +driver):\n%s", diff)
	}
}

func mustClose(t tb, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// drawChanges draws a transaction that both sides accept, with a scratch copy of the model to see what there is by then.
func drawChanges(g gen, model kernel.Driver) []func(kernel.Tx) error {
	scratch := model.(*memory.Driver).Clone()
	var out []func(kernel.Tx) error
	for range g.number("changes", 1, 5) {
		var change func(kernel.Tx) error
		err := scratch.Update(context.Background(), func(tx kernel.Tx) error {
			change = g.change(tx)
			return change(tx)
		})
		switch {
		case err == nil:
			out = append(out, change)
		case fault.CodeOf(err) != fault.Conflict:
			g.Fatal(err)
		}
	}
	return out
}

// change draws one change of rows that may be there already.
func (g gen) change(now kernel.Tx) func(kernel.Tx) error {
	tenant, run := g.tenant(), g.run()
	old, err := now.Run(tenant, run)
	if err != nil {
		g.Fatal(err)
	}
	switch g.number("kind of change", 0, 10) {
	case 0, 1:
		if old == nil {
			old = g.newRun(tenant, run)
		} else {
			g.moveRun(old)
		}
		return func(tx kernel.Tx) error { return tx.PutRun(old) }
	case 2, 3:
		row := g.newStep(tenant, run, g.step())
		return func(tx kernel.Tx) error { return tx.PutStep(row) }
	case 4:
		had, _ := now.Events(tenant, run, 1, 0)
		events := g.events(tenant, run, len(had))
		return func(tx kernel.Tx) error { return tx.AppendEvents(tenant, run, events) }
	case 5:
		had, _ := now.Lines(tenant, run, 1, 0)
		lines := g.lines(run, len(had))
		return func(tx kernel.Tx) error { return tx.AppendLines(tenant, run, lines) }
	case 6:
		s := g.session()
		if g.yes("end it") {
			return func(tx kernel.Tx) error { return tx.DeleteSession(s.ID) }
		}
		return func(tx kernel.Tx) error { return tx.PutSession(s) }
	case 7:
		return g.documentChange(tenant, run)
	case 8:
		return g.letterChange(tenant, run)
	case 9:
		return g.recordChange(tenant)
	default:
		size, _, _ := now.LogSize(tenant)
		a := store.LogAppend{
			Size: size, FirstHash: size, Runs: []work.RunID{run}, Leaves: [][]byte{[]byte("leaf of " + run)},
			Hashes: [][32]byte{{byte(size), 1}}, Checkpoint: []byte(fmt.Sprint("checkpoint ", size)),
		}
		return func(tx kernel.Tx) error { return tx.AppendLog(tenant, a) }
	}
}

func (g gen) documentChange(tenant work.Tenant, run work.RunID) func(kernel.Tx) error {
	hash, body := pick(g, "digest", g.w.digests...), []byte(g.text("body"))
	switch g.number("kind of document", 0, 2) {
	case 0:
		return func(tx kernel.Tx) error { return tx.PutPlan(tenant, hash, body) }
	case 1:
		kind := pick(g, "document", g.w.kinds...)
		return func(tx kernel.Tx) error { return tx.PutDocument(tenant, run, kind, body) }
	default:
		c := store.CachedResult{
			Origin: work.CacheOrigin{Run: run, Step: "a", Attempt: g.number("origin", 1, 2)}, Outputs: g.json("cached"), Artifacts: g.artifacts(),
		}
		return func(tx kernel.Tx) error { return tx.PutCached(tenant, hash, c) }
	}
}

func (g gen) letterChange(tenant work.Tenant, run work.RunID) func(kernel.Tx) error {
	step := g.step()
	if g.yes("resolve") {
		by := work.Actor{Name: "ann", At: g.time("resolved")}
		which := pick(g, "which", step, "")
		return func(tx kernel.Tx) error { return tx.ResolveDeadLetters(tenant, run, which, by) }
	}
	l := store.DeadLetter{
		Tenant: tenant, Run: run, RunName: g.text("name"), Step: step, Attempt: g.number("letter", 1, 2), Reason: g.reason(), At: g.time("died"),
	}
	return func(tx kernel.Tx) error { return tx.PutDeadLetter(l) }
}
