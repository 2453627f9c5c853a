package kernel_test

import (
	"errors"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// breaking is a transaction that loses its connection at one of the rows of steps that it is asked for.
type breaking struct {
	kernel.Tx
	left *int // rows until then, 0 for never
}

func (t breaking) Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error) {
	if *t.left > 0 {
		if *t.left--; *t.left == 0 {
			return nil, fault.New(fault.Unavailable, "the connection is lost")
		}
	}
	return t.Tx.Step(tenant, run, id)
}

// TestLostBetweenRows: whichever row a driver does not get to, the command fails as a whole, and works when it is given again.
func TestLostBetweenRows(t *testing.T) {
	p := &work.Plan{Version: work.PlanVersion}
	p.Steps = append(p.Steps, work.PlanStep{ID: "block", Kind: work.KindParallel, Parallel: &work.ParallelSpec{}})
	for _, s := range plan(2).Steps {
		s.Parent = "block"
		p.Steps = append(p.Steps, s)
	}
	hash, raw, err := canonical.DigestOf(p)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for n := 1; ; n++ {
		f := open(t)
		left := 0
		f.driver.wrap = func(tx kernel.Tx) kernel.Tx { return breaking{tx, &left} }
		one := f.submission(1, 1)
		one.Run.PlanHash, one.Data.PlanHash, one.Canonical = hash, hash, raw
		if got := f.store.Submit(ctx, []store.Submission{one})[0]; got.Err != nil {
			t.Fatal(got.Err)
		}
		f.session("s")
		grants := f.claim("s", 2)
		if len(grants) != 2 {
			t.Fatalf("%d grants", len(grants))
		}
		f.driver.mu.Lock()
		f.driver.fail = errors.New("the rows in memory are forgotten with a commit that fails")
		f.driver.mu.Unlock()
		if err := f.store.OpenSession(ctx, store.Session{ID: "other", Worker: "w", Tenant: "t", Expires: f.clock.Now() + second}); err == nil {
			t.Fatal("the commit did not fail")
		}
		left = n
		req := store.ExchangeRequest{Session: "s", Tenant: "t", Reports: []store.ReportCommand{succeeded(&grants[0], ""), succeeded(&grants[1], "")}}
		_, err := f.store.Exchange(ctx, req)
		if left > 0 { // it was not asked for so many
			break
		}
		if fault.CodeOf(err) != fault.Unavailable {
			t.Fatalf("lost at row %d: %v", n, err)
		}
		lost++
		reply, err := f.store.Exchange(ctx, req)
		if err != nil || reply.Errs[0] != nil || reply.Errs[1] != nil {
			t.Fatalf("given again after row %d: %v, %v", n, reply.Errs, err)
		}
		if run, err := f.store.Run(ctx, "t", "run_1"); err != nil || run.State != work.Succeeded {
			t.Errorf("after row %d the run is %s, %v", n, run.State, err)
		}
	}
	if lost < 3 {
		t.Errorf("void: %d rows were asked for", lost)
	}
}
