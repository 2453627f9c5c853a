package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/storetest"
	"orrery.example/orrery/internal/work"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func hash(n, salt int) work.Digest { return work.Digest(fmt.Sprintf("sha256:%032x%032x", n, salt)) }

// life is one run with one step, as the kernel writes it: submitted, claimed, acknowledged, reported. Each is a row of the step, a
// chunk of events and the row of the run.
type life struct {
	run  work.Run
	step work.Step
}

func newLife(n int) *life {
	l := &life{}
	at := work.Time(1_790_000_000_000_000 + n*1000)
	l.run = work.Run{
		Tenant: "local", ID: work.RunID(fmt.Sprintf("run_%026d", n)), Name: fmt.Sprintf("amber-fox-%d", n), PlanHash: hash(1, 1),
		Pack:      work.PackRef{Name: "bench", Version: "1.0.0", Digest: hash(2, 2)},
		Submitter: "ann@example.org", SubmitterKey: "SHA256:abcdefghijk", State: work.Running, Phase: work.PhaseMain,
		Created: at, Started: at, Updated: at, Left: 1, Active: 1, Slots: 1,
	}
	l.step = work.Step{
		Tenant: "local", Run: l.run.ID, ID: "build", State: work.Queued, Created: at,
		Reason: work.Reason{Code: work.WaitsForWorker}, Queue: &work.QueueEntry{At: at, Runner: "process"},
	}
	return l
}

func (l *life) emit(kinds ...work.EventType) []work.Event {
	events := make([]work.Event, len(kinds))
	for i, kind := range kinds {
		next := hash(int(l.run.Created), int(l.run.Seq))
		events[i] = work.Event{
			Tenant: l.run.Tenant, Run: l.run.ID, Seq: l.run.Seq + 1, Time: l.run.Updated, Type: kind, Step: "build", Attempt: 1,
			Data: []byte(`{"token":{"incarnation":1,"epoch":1},"worker":"w-1","state":"succeeded","exitCode":0,"rendered":"` + string(next) + `"}`),
			Prev: l.run.Head, Hash: next,
		}
		l.run.Seq, l.run.Head = l.run.Seq+1, next
	}
	l.run.Updated += 1000
	return events
}

func (l *life) put(tx kernel.Tx, kinds ...work.EventType) error {
	return errors.Join(tx.PutStep(&l.step), tx.AppendEvents(l.run.Tenant, l.run.ID, l.emit(kinds...)), tx.PutRun(&l.run))
}

func (l *life) submit(tx kernel.Tx) error {
	named, err := tx.RunByName(l.run.Tenant, l.run.Name)
	if err != nil {
		return err
	}
	other, err := tx.Run(l.run.Tenant, l.run.ID)
	if err != nil {
		return err
	}
	if named != nil || other != nil {
		return errors.New("there is such a run already")
	}
	if err := tx.PutPlan(l.run.Tenant, l.run.PlanHash, []byte(`{}`)); err != nil {
		return err
	}
	return l.put(tx, work.RunSubmitted, work.RunStarted, work.StepQueued)
}

func (l *life) claim(tx kernel.Tx) error {
	l.step.State, l.step.Queue, l.step.Reason, l.step.Epoch, l.step.Attempt = work.Running, nil, work.Reason{}, 1, 1
	l.step.Lease = &work.Lease{Session: "session", Worker: "w-1", Granted: l.run.Updated, Deadline: l.run.Updated + 1e9}
	l.step.Timer, l.step.Started = l.step.Lease.Deadline, l.run.Updated
	return l.put(tx, work.StepClaimed)
}

func (l *life) ack(tx kernel.Tx) error {
	l.step.Lease.Acked = l.run.Updated
	return l.put(tx, work.StepAcked)
}

func (l *life) report(tx kernel.Tx) error {
	l.step.State, l.step.Lease, l.step.Timer, l.step.Ended = work.Succeeded, nil, 0, l.run.Updated
	l.step.Reason = work.Reason{Code: work.EndedWell}
	l.run.State, l.run.Phase, l.run.Ended, l.run.Left, l.run.Active, l.run.Slots = work.Succeeded, work.PhaseEnded, l.run.Updated, 0, 0, 0
	l.run.Reason, l.run.Outcome = work.Reason{Code: work.EndedWell}, work.Succeeded
	return l.put(tx, work.StepReported, work.StepEnded, work.RunEnded)
}

// live takes a batch of runs through their lives, one transaction each of the four times.
func live(b *testing.B, d kernel.Driver, batch []*life) {
	for _, stage := range []func(*life, kernel.Tx) error{(*life).submit, (*life).claim, (*life).ack, (*life).report} {
		err := d.Update(b.Context(), func(tx kernel.Tx) error {
			for _, l := range batch {
				if err := stage(l, tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func folderBytes(b *testing.B, dir string) (n int64) {
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && filepath.Ext(f.Name()) == ".db" {
			n += info.Size()
		}
	}
	return n
}

// BenchmarkLife is what the rows of a run with one step cost, in CPU of the whole process and in bytes of the file, with the generation
// of the rows. G1 allows 150 µs for everything.
func BenchmarkLife(b *testing.B) {
	for _, batch := range []int{1, 10, 100, 500} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			dir, n := b.TempDir(), 0
			d := folders{}.at(b, dir)
			runtime.GC()
			start := cpuTime()
			for b.Loop() {
				lives := make([]*life, batch)
				for i := range lives {
					n++
					lives[i] = newLife(n)
				}
				live(b, d, lives)
			}
			b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(n), "cpu-µs/run")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/run")
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(folderBytes(b, dir))/float64(n), "bytes/run")
		})
	}
}

// BenchmarkWide is a step of a wide run: the row of its map, with a list of items as long as the run is wide, changes with every one.
func BenchmarkWide(b *testing.B) {
	for _, width := range []int{100, 100_000} {
		b.Run(fmt.Sprint("width=", width), func(b *testing.B) {
			d := folders{}.at(b, b.TempDir())
			l := newLife(1)
			container := &work.Step{Tenant: "local", Run: l.run.ID, ID: "map", State: work.Running, Total: width}
			container.Items = append(container.Items, '[')
			for i := range width {
				container.Items = fmt.Appendf(container.Items, `"item-%07d",`, i)
			}
			container.Items[len(container.Items)-1] = ']'
			for from := 0; from < width; from += 1000 { // the steps that are through
				if err := d.Update(b.Context(), func(tx kernel.Tx) error {
					for i := from; i < min(from+1000, width); i++ {
						row := work.Step{Tenant: "local", Run: l.run.ID, ID: work.StepID(fmt.Sprintf("map[%d]::a", i)), State: work.Succeeded, Ended: 1}
						if err := tx.PutStep(&row); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			n := 0
			start := cpuTime()
			for b.Loop() {
				if err := d.Update(b.Context(), func(tx kernel.Tx) error {
					for range 100 {
						n++
						l.step.ID = work.StepID(fmt.Sprintf("map[%d]::b", n))
						container.Done++
						if err := errors.Join(tx.PutStep(container), l.put(tx, work.StepReported, work.StepEnded)); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(n), "cpu-µs/step")
		})
	}
}

// BenchmarkBlocked measures claims beside very many steps that are held back.
func BenchmarkBlocked(b *testing.B) {
	storetest.BenchmarkBlocked(b, func(t testing.TB) kernel.Driver { return folders{}.open(t) })
}
