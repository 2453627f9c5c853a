package sqlite

import (
	"sync"
	"time"
)

// keeper folds the log into the file when nobody writes, or when it has grown too long, and looks after the ballast. It works on the
// writer's connection between two transactions: a second one that checkpoints could only get in the way.
type keeper struct {
	d     *Driver
	busy  chan struct{} // a hint that something was committed
	long  chan struct{} // a hint that the log has grown long
	done  chan struct{}
	ended sync.WaitGroup
}

const (
	// quiet is how long nothing must have been committed before the log is folded for no other reason.
	quiet = 250 * time.Millisecond

	// longLog is when the log is folded although there is work, in pages of 4 KiB. A commit then waits for as long as writing so
	// much takes, some ten milliseconds.
	longLog = 2048

	// shortLog is not worth the while.
	shortLog = 16
)

func keep(d *Driver) *keeper {
	k := &keeper{d: d, busy: make(chan struct{}, 1), long: make(chan struct{}, 1), done: make(chan struct{})}
	k.ended.Go(k.run)
	return k
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// committed says that something was. The caller has the writer's lock.
func (k *keeper) committed() {
	hint(k.busy)
	if logged, folded := k.d.logLength(); logged-folded > longLog {
		hint(k.long)
	}
}

// stop ends the keeper. The caller must not have the writer's lock.
func (k *keeper) stop() {
	close(k.done)
	k.ended.Wait()
}

func (k *keeper) run() {
	idle := time.NewTimer(quiet)
	idle.Stop()
	for {
		select {
		case <-k.done:
			return
		case <-k.long:
			k.d.mu.Lock()
			k.d.fold(longLog)
			k.d.mu.Unlock()
		case <-k.busy:
			idle.Reset(quiet)
		case <-idle.C:
			if !k.d.tidy() {
				idle.Reset(quiet)
			}
		}
	}
}

// tidy does what waits for a quiet moment and reports whether it got one.
func (d *Driver) tidy() bool {
	if !d.mu.TryLock() {
		return false
	}
	defer d.mu.Unlock()
	d.fold(shortLog)
	d.ballast.restore(d.dir)
	return true
}

// logLength returns how many pages the log has and how many of them are in the file as well.
func (d *Driver) logLength() (logged, folded int64) {
	_, err := d.writer.one(`PRAGMA wal_checkpoint(NOOP)`, func(v values) { logged, folded = v.number(1), v.number(2) })
	if err != nil {
		return 0, 0
	}
	return logged, folded
}

// fold writes the pages of the log into the file when there are more than some of them. A reader that keeps some back only delays
// that, and so does a full disk: what is committed is in the log as well.
func (d *Driver) fold(some int64) {
	if logged, folded := d.logLength(); logged-folded > some {
		_, _ = d.writer.one(`PRAGMA wal_checkpoint(PASSIVE)`, func(values) {})
	}
}
