package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

func mustUpdate(t testing.TB, d kernel.Driver, fn func(kernel.Tx) error) {
	t.Helper()
	if err := d.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func plainRun(tenant work.Tenant, id work.RunID) *work.Run {
	return &work.Run{Tenant: tenant, ID: id, Name: "name of " + string(id), PlanHash: digestOf('a'), State: work.Running, Phase: work.PhaseMain, Created: 1, Updated: 1}
}

func plainStep(run *work.Run, id work.StepID) *work.Step {
	return &work.Step{Tenant: run.Tenant, Run: run.ID, ID: id, State: work.Queued, Created: 1, Queue: &work.QueueEntry{At: 1, Runner: "process"}}
}

// rollback: an error and a panic leave nothing behind, and the driver goes on.
func rollback(t *testing.T, d kernel.Driver) {
	w := small()
	row := plainRun("acme", "run_1")
	mustUpdate(t, d, func(tx kernel.Tx) error { return tx.PutRun(row) })
	before := mustDump(t, d, w)
	everything := func(tx kernel.Tx) error {
		moved := *row
		moved.State, moved.Phase, moved.Ended, moved.Seq = work.Succeeded, work.PhaseEnded, 5, 2
		return errors.Join(
			tx.PutRun(&moved), tx.PutRun(plainRun("acme", "run_2")), tx.PutStep(plainStep(row, "a")),
			tx.AppendEvents("acme", "run_1", []work.Event{{Tenant: "acme", Run: "run_1", Seq: 1, Type: work.RunStarted}}),
			tx.AppendLines("acme", "run_1", []work.LogLine{{Run: "run_1", Seq: 1, Message: "hello"}}),
			tx.PutPlan("acme", w.digests[0], []byte("plan")), tx.PutDocument("acme", "run_1", "request", []byte("r")),
			tx.PutCached("acme", w.digests[0], store.CachedResult{}), tx.PutSession(store.Session{ID: "s1", Expires: 3}),
			tx.PutDeadLetter(store.DeadLetter{Tenant: "acme", Run: "run_1", Step: "a", At: 1}),
			tx.PutRecord(store.Record{Tenant: "acme", Kind: w.kinds[0], ID: w.keys[0], Version: 1, Doc: []byte(`{}`), Expires: 9}),
			tx.AppendLog("acme", store.LogAppend{Runs: []work.RunID{"run_1"}, Leaves: [][]byte{{1}}, Hashes: [][32]byte{{1}}}),
		)
	}
	err := d.Update(context.Background(), func(tx kernel.Tx) error {
		if err := everything(tx); err != nil {
			t.Fatal(err)
		}
		return errTest
	})
	if !errors.Is(err, errTest) {
		t.Fatalf("the error of the function came back as %v", err)
	}
	if diff := sameDump(before, mustDump(t, d, w)); diff != "" {
		t.Fatalf("an error left something behind:\n%s", diff)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("a panic was swallowed")
			}
		}()
		_ = d.Update(context.Background(), func(tx kernel.Tx) error {
			if err := everything(tx); err != nil {
				t.Fatal(err)
			}
			panic("at the disco")
		})
	}()
	if diff := sameDump(before, mustDump(t, d, w)); diff != "" {
		t.Fatalf("a panic left something behind:\n%s", diff)
	}
	mustUpdate(t, d, everything)
	if diff := sameDump(before, mustDump(t, d, w)); diff == "" {
		t.Fatal("the same changes without an error changed nothing: the comparison is blind")
	}
}

func readsSeeWrites(t *testing.T, d kernel.Driver) {
	mustUpdate(t, d, func(tx kernel.Tx) error {
		row := plainRun("acme", "run_1")
		if err := errors.Join(tx.PutRun(row), tx.PutStep(plainStep(row, "a"))); err != nil {
			return err
		}
		ready, err := tx.Ready("acme", []string{"process"}, nil, nil, 10)
		if err != nil || len(ready) != 1 {
			t.Fatalf("ready within the transaction: %v, %v", ready, err)
		}
		moved := plainStep(row, "a")
		moved.State, moved.Queue, moved.Lease = work.Running, nil, &work.Lease{Session: "s1"}
		if err := tx.PutStep(moved); err != nil {
			return err
		}
		ready, err = tx.Ready("acme", []string{"process"}, nil, nil, 10)
		if err != nil || len(ready) != 0 {
			t.Fatalf("a claimed step is still ready: %v, %v", ready, err)
		}
		held, err := tx.LeasesBySession("s1")
		if err != nil || len(held) != 1 {
			t.Fatalf("leases within the transaction: %v, %v", held, err)
		}
		return nil
	})
}

// rowsBelongToTheCaller: what a caller does to a row it was given or has saved does not reach the driver.
func rowsBelongToTheCaller(t *testing.T, d kernel.Driver) {
	w := small()
	row := plainRun("acme", "run_1")
	row.Labels, row.Paused = map[string]string{"k": "v"}, &work.Actor{Name: "ann"}
	step := plainStep(row, "a")
	step.Lease, step.Artifacts = &work.Lease{Session: "s1"}, []work.Artifact{{Name: "bin"}}
	mustUpdate(t, d, func(tx kernel.Tx) error { return errors.Join(tx.PutRun(row), tx.PutStep(step)) })
	before := mustDump(t, d, w)
	spoil := func(r *work.Run, s *work.Step) {
		r.State, r.Labels["k"], r.Paused.Name = work.Failed, "x", "bob"
		s.Lease.Session, s.Queue.Runner, s.Artifacts[0].Name = "s2", "shell", "x"
	}
	spoil(row, step)
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		gotRun, err := r.Run("acme", "run_1")
		if err != nil {
			return err
		}
		gotStep, err := r.Step("acme", "run_1", "a")
		if err != nil {
			return err
		}
		spoil(gotRun, gotStep)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := sameDump(before, mustDump(t, d, w)); diff != "" {
		t.Fatalf("a caller changed the driver's rows:\n%s", diff)
	}
}

func uniqueness(t *testing.T, d kernel.Driver) {
	first := plainRun("acme", "run_1")
	first.Name, first.RunToken = "amber-fox", "token"
	mustUpdate(t, d, func(tx kernel.Tx) error { return tx.PutRun(first) })
	before := mustDump(t, d, small())
	for what, change := range map[string]func(*work.Run){
		"name of another run":  func(r *work.Run) { r.Name = "amber-fox" },
		"token of another run": func(r *work.Run) { r.RunToken = "token" },
		"another name":         func(r *work.Run) { r.ID = "run_1" },
		"another creation":     func(r *work.Run) { r.ID, r.Name, r.RunToken, r.Created = "run_1", "amber-fox", "token", 7 },
	} {
		row := plainRun("acme", "run_2")
		change(row)
		if err := d.Update(context.Background(), func(tx kernel.Tx) error { return tx.PutRun(row) }); fault.CodeOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	if diff := sameDump(before, mustDump(t, d, small())); diff != "" {
		t.Errorf("a refused row left something behind:\n%s", diff)
	}
	other := plainRun("zenith", "run_1")
	other.Name, other.RunToken = "amber-fox", "token"
	mustUpdate(t, d, func(tx kernel.Tx) error { return tx.PutRun(other) }) // another tenant may
}

// longValues: a value that a driver may keep apart from its row changes, goes and comes back with it.
func longValues(t *testing.T, d kernel.Driver) {
	row := plainStep(plainRun("acme", "run_1"), "map")
	for _, value := range []string{long("0"), long("0"), long("1"), "", long("1"), "[1]", long("0")} {
		row.Items, row.Inputs = []byte(value), []byte(value)
		mustUpdate(t, d, func(tx kernel.Tx) error { return tx.PutStep(row) })
		if err := d.View(context.Background(), func(r kernel.Reader) error {
			got, err := r.Step("acme", "run_1", "map")
			if err == nil && (string(got.Items) != value || string(got.Inputs) != value) {
				t.Errorf("put %.10s, got items %.10s and inputs %.10s", value, got.Items, got.Inputs)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// longHistory: what does not fit into one stored piece comes back in order, from anywhere.
func longHistory(t *testing.T, d kernel.Driver) {
	const n = 1500
	events := make([]work.Event, n)
	lines := make([]work.LogLine, n)
	for i := range n {
		events[i] = work.Event{Tenant: "acme", Run: "run_1", Seq: int64(i + 1), Time: work.Time(i), Type: work.StepDue, Data: []byte(fmt.Sprintf(`{"n":%d}`, i))}
		lines[i] = work.LogLine{Run: "run_1", Seq: int64(i + 1), Time: work.Time(n - i), Message: fmt.Sprint("line ", i)}
	}
	mustUpdate(t, d, func(tx kernel.Tx) error {
		return errors.Join(tx.AppendEvents("acme", "run_1", events[:1000]), tx.AppendLines("acme", "run_1", lines[:1]))
	})
	mustUpdate(t, d, func(tx kernel.Tx) error {
		return errors.Join(tx.AppendEvents("acme", "run_1", events[1000:]), tx.AppendLines("acme", "run_1", lines[1:]))
	})
	for _, at := range []struct {
		from  int64
		limit int
		want  int
	}{{1, 0, n}, {0, 0, n}, {1, 10, 10}, {255, 5, 5}, {1000, 300, 300}, {1001, 1, 1}, {n, 10, 1}, {n + 1, 10, 0}} {
		if err := d.View(context.Background(), func(r kernel.Reader) error {
			gotEvents, err := r.Events("acme", "run_1", at.from, at.limit)
			if err != nil {
				return err
			}
			gotLines, err := r.Lines("acme", "run_1", at.from, at.limit)
			if err != nil {
				return err
			}
			first := int(max(at.from, 1)) - 1
			same := slices.EqualFunc(gotEvents, events[first:first+at.want], func(a, b work.Event) bool {
				return a.Seq == b.Seq && a.Time == b.Time && string(a.Data) == string(b.Data)
			})
			if !same || !slices.Equal(gotLines, lines[first:first+at.want]) {
				t.Errorf("from %d, at most %d: %d events and %d lines", at.from, at.limit, len(gotEvents), len(gotLines))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []work.RunID{"run_1", "run_2"} { // a gap is refused where the driver can see it, a repetition always
		if err := d.Update(context.Background(), func(tx kernel.Tx) error {
			return tx.AppendEvents("acme", run, []work.Event{events[0], events[2]})
		}); err == nil {
			t.Errorf("events with a gap were taken for %s", run)
		}
	}
	if err := d.Update(context.Background(), func(tx kernel.Tx) error { return tx.AppendEvents("acme", "run_1", events[:1]) }); err == nil {
		t.Error("the first event was taken twice")
	}
}

// growLog: leaves follow each other, one a run, only of runs that have ended.
func growLog(t *testing.T, d kernel.Driver) {
	for i := range 3 {
		row := plainRun("acme", work.RunID(fmt.Sprintf("run_%d", i)))
		if i < 2 {
			row.State, row.Phase, row.Ended = work.Succeeded, work.PhaseEnded, work.Time(10-i)
		}
		mustUpdate(t, d, func(tx kernel.Tx) error { return tx.PutRun(row) })
	}
	grow := func(size int64, hashes int, run work.RunID) error {
		return d.Update(context.Background(), func(tx kernel.Tx) error {
			return tx.AppendLog("acme", store.LogAppend{
				Size: size, FirstHash: 2 * size, Runs: []work.RunID{run}, Leaves: [][]byte{[]byte(run)}, Hashes: make([][32]byte, hashes), Checkpoint: []byte{byte(size)},
			})
		})
	}
	if err := grow(0, 2, "run_1"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"an old size": grow(0, 2, "run_0"), "a run that is sealed": grow(1, 2, "run_1"),
		"a run that goes on": grow(1, 2, "run_2"), "no run": grow(1, 2, "run_9"),
	} {
		if fault.CodeOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := grow(1, 2, "run_0"); err != nil {
		t.Fatal(err)
	}
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		size, checkpoint, err := r.LogSize("acme")
		if err != nil || size != 2 || string(checkpoint) != "\x01" {
			t.Errorf("size %d, checkpoint %v, %v", size, checkpoint, err)
		}
		leaf, index, err := r.Leaf("acme", "run_0")
		if err != nil || string(leaf) != "run_0" || index != 1 {
			t.Errorf("leaf %q at %d, %v", leaf, index, err)
		}
		if unsealed, err := r.Unsealed("acme", 0); err != nil || len(unsealed) != 0 {
			t.Errorf("unsealed: %v, %v", unsealed, err)
		}
		if hashes, err := r.LogHashes("acme", []int64{3, 0}); err != nil || len(hashes) != 2 {
			t.Errorf("hashes: %v, %v", hashes, err)
		}
		if _, err := r.LogHashes("acme", []int64{4}); err == nil {
			t.Error("a hash that is not there was returned")
		}
		if size, _, err := r.LogSize("zenith"); err != nil || size != 0 {
			t.Errorf("another tenant's log has %d leaves, %v", size, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func cancelled(t *testing.T, d kernel.Driver) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Update(ctx, func(kernel.Tx) error { t.Error("a cancelled Update ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v", err)
	}
	if err := d.View(ctx, func(kernel.Reader) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("View: %v", err)
	}
}
