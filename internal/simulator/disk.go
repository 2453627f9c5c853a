package simulator

import (
	"context"
	"errors"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// disk is the one database behind all servers, with the faults of a machine.
type disk struct {
	w      *world
	rows   *memory.Driver
	synced *memory.Driver // what a power cut leaves, when a bug acknowledges before the disk has it
	backup *memory.Driver
	books  *books // of the checker, as they were at the backup

	incarnation int64
}

func newDisk(w *world) *disk {
	d := &disk{w: w, rows: memory.New(), incarnation: 1}
	d.rows.Shared = true
	if w.o.Bug != nil && w.o.Bug.LateSync {
		d.synced = d.rows.Clone()
		w.every(4e9, func() { d.synced = d.rows.Clone() })
	}
	return d
}

// backupOrRestore takes a backup, or goes back to the last one: whatever happened since is gone, and every token that was
// given out is of an earlier incarnation.
func (d *disk) backupOrRestore() {
	w := d.w
	if d.backup == nil {
		d.backup, d.books = d.rows.Clone(), w.checker.books.clone()
		w.tell("backup")
		return
	}
	incarnation := d.rows.Incarnation()
	d.rows, d.backup = d.backup, nil
	w.checker.books = d.books
	if w.o.Bug == nil || !w.o.Bug.SameIncarnation {
		for d.rows.Incarnation() <= incarnation {
			_ = d.rows.RaiseIncarnation(context.Background()) // memory does not fail
		}
	}
	d.incarnation = d.rows.Incarnation()
	w.checker.restored(d.incarnation)
	w.cover["restores"]++
	if w.checker.leased() > 0 {
		w.cover["restores with leases"]++
	}
	w.tell("restore, incarnation %d", d.incarnation)
	for _, s := range w.servers { // nobody may keep what it remembers of the lost rows
		s.crash("for the restore")
	}
}

// powerCut loses what the disk does not have.
func (d *disk) powerCut() {
	d.w.cover["power cuts"]++
	if d.synced != nil {
		d.rows = d.synced.Clone()
		d.w.checker.durable()
	}
}

// port is the disk as one server sees it.
type port struct {
	d *disk
	s *server
}

var _ kernel.Driver = port{}

var errPower = errors.New("the power is gone")

// Update implements kernel.Driver.
func (p port) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	w := p.d.w
	if p.s.down {
		return errPower
	}
	before, after := false, false
	if w.per(10_000, w.o.CommitFault) {
		before = w.rng.IntN(2) == 0
		after = !before
	}
	var seen *recorder
	err := p.d.rows.Update(ctx, func(tx kernel.Tx) error {
		seen = &recorder{Tx: tx}
		top := kernel.Tx(seen)
		if w.o.Bug != nil && w.o.Bug.Tx != nil {
			top = w.o.Bug.Tx(p.s.index, top)
		}
		if err := fn(top); err != nil {
			return err
		}
		if before {
			return errPower
		}
		return nil
	})
	if err == nil {
		w.checker.committed(seen)
	} else if !before {
		w.violate("server %d could not commit: %v", p.s.index, err)
	}
	if before || after {
		w.cover["power cut before commit"] += one(before)
		w.cover["power cut after commit"] += one(after)
		p.s.crash("in a commit")
		p.d.powerCut()
		return errPower
	}
	return err
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// View implements kernel.Driver.
func (p port) View(ctx context.Context, fn func(kernel.Reader) error) error {
	return p.d.rows.View(ctx, fn)
}

// Exclusive implements kernel.Driver.
func (p port) Exclusive() bool { return p.d.w.o.Exclusive }

// Incarnation implements kernel.Driver.
func (p port) Incarnation() int64 { return p.d.incarnation }

// Settled implements kernel.Driver.
func (p port) Settled(ctx context.Context) (int64, error) { return p.d.rows.Settled(ctx) }

// Close implements kernel.Driver.
func (p port) Close() error { return nil }

// recorder notes what a transaction writes.
type recorder struct {
	kernel.Tx
	writes []any // in order: *work.Run, *work.Step, store.Session, endedSession, []work.Event, newLines, store.DeadLetter, store.Record
}

type endedSession string

type newLines struct {
	tenant work.Tenant
	run    work.RunID
	lines  []work.LogLine
}

// PutRun implements kernel.RowWriter.
func (r *recorder) PutRun(run *work.Run) error {
	c := *run
	r.writes = append(r.writes, &c)
	return r.Tx.PutRun(run)
}

// PutStep implements kernel.RowWriter.
func (r *recorder) PutStep(step *work.Step) error {
	c := *step
	if step.Lease != nil {
		lease := *step.Lease
		c.Lease = &lease
	}
	r.writes = append(r.writes, &c)
	return r.Tx.PutStep(step)
}

// PutRecord implements kernel.RecordWriter.
func (r *recorder) PutRecord(row store.Record) error {
	if row.Kind == store.FlowKind {
		r.writes = append(r.writes, row)
	}
	return r.Tx.PutRecord(row)
}

// PutSession implements kernel.RowWriter.
func (r *recorder) PutSession(s store.Session) error {
	r.writes = append(r.writes, s)
	return r.Tx.PutSession(s)
}

// DeleteSession implements kernel.RowWriter.
func (r *recorder) DeleteSession(id string) error {
	r.writes = append(r.writes, endedSession(id))
	return r.Tx.DeleteSession(id)
}

// AppendEvents implements kernel.HistoryWriter.
func (r *recorder) AppendEvents(tenant work.Tenant, run work.RunID, events []work.Event) error {
	r.writes = append(r.writes, append([]work.Event(nil), events...))
	return r.Tx.AppendEvents(tenant, run, events)
}

// AppendLines implements kernel.HistoryWriter.
func (r *recorder) AppendLines(tenant work.Tenant, run work.RunID, lines []work.LogLine) error {
	r.writes = append(r.writes, newLines{tenant, run, append([]work.LogLine(nil), lines...)})
	return r.Tx.AppendLines(tenant, run, lines)
}

// PutDeadLetter implements kernel.DocumentWriter.
func (r *recorder) PutDeadLetter(l store.DeadLetter) error {
	r.writes = append(r.writes, l)
	return r.Tx.PutDeadLetter(l)
}
