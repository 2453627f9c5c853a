// Package memory is the driver that keeps rows in maps: the simplest thing that can be right, and therefore the model that the
// other drivers are compared with and the store of simulations.
//
// Nothing outlives the process. What a power cut, a lost reply or a second server does to a store is played by its Faults, by
// Clone and by several kernels on one Driver.
package memory

import (
	"context"
	"sync"
	"sync/atomic"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Driver keeps rows in memory. It is safe for concurrent use; its exported fields are set before that.
type Driver struct {
	// Shared says that several kernels change this driver, so that none of them may trust rows it has seen before.
	Shared bool

	// Faults are what goes wrong.
	Faults Faults

	incarnation atomic.Int64 // outside of the lock: commands ask for it within a transaction

	mu   sync.RWMutex
	data data
}

// Faults are called around every commit while nobody else can look. Nil means that nothing goes wrong.
type Faults struct {
	// BeforeCommit stands for a power cut before the disk has the commit: with an error nothing has changed.
	BeforeCommit func() error

	// AfterCommit stands for a reply that gets lost: with an error the change is made, and the caller does not know.
	AfterCommit func() error
}

var _ kernel.Driver = (*Driver)(nil)

// New returns an empty driver with incarnation 1.
func New() *Driver { return made(newData(), 1) }

func made(rows data, incarnation int64) *Driver {
	d := &Driver{data: rows}
	d.incarnation.Store(incarnation)
	return d
}

// Settled implements kernel.Driver.
func (d *Driver) Settled(ctx context.Context) (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return (d.data.pieces+1)*store.ChunkEvents - 1, ctx.Err()
}

// Update implements kernel.Driver. Readers wait meanwhile, so that they see all of it or nothing.
func (d *Driver) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &tx{reader: reader{&d.data}}
	committed := false
	defer func() {
		if !committed { // also when fn panics
			t.rollback()
		}
	}()
	if err := fn(t); err != nil {
		return err
	}
	if before := d.Faults.BeforeCommit; before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	committed = true
	if after := d.Faults.AfterCommit; after != nil {
		return after()
	}
	return nil
}

// View implements kernel.Driver.
func (d *Driver) View(ctx context.Context, fn func(kernel.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return fn(reader{&d.data})
}

// Exclusive implements kernel.Driver.
func (d *Driver) Exclusive() bool { return !d.Shared }

// Incarnation implements kernel.Driver.
func (d *Driver) Incarnation() int64 { return d.incarnation.Load() }

// RaiseIncarnation refuses every token that was given out before, as after a restore.
func (d *Driver) RaiseIncarnation(context.Context) error {
	d.incarnation.Add(1)
	return nil
}

// Clone returns a driver with what is committed now: a backup, or the disk of a machine that lost its power.
func (d *Driver) Clone() *Driver {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := made(d.data.clone(), d.incarnation.Load())
	c.Shared = d.Shared
	return c
}

// Close implements kernel.Driver. The rows stay, so that another kernel may go on with them.
func (d *Driver) Close() error { return nil }

// reader answers from the rows; whoever made it holds the lock.
type reader struct{ d *data }

// tx changes the rows in place and remembers how to take every change back. What is appended behind the end of a slice that
// somebody else has does not show there: every copy that leaves is clipped.
type tx struct {
	reader
	undo []func()
}

func (t *tx) onRollback(undo func()) { t.undo = append(t.undo, undo) }

func (t *tx) rollback() {
	for i := len(t.undo) - 1; i >= 0; i-- {
		t.undo[i]()
	}
	t.undo = nil
}

// put sets an entry of a map and remembers what was there.
func put[K comparable, V any](t *tx, m map[K]V, key K, value V) {
	old, had := m[key]
	m[key] = value
	t.onRollback(func() {
		if had {
			m[key] = old
		} else {
			delete(m, key)
		}
	})
}

// drop removes an entry of a map and remembers it.
func drop[K comparable, V any](t *tx, m map[K]V, key K) {
	old, had := m[key]
	if !had {
		return
	}
	delete(m, key)
	t.onRollback(func() { m[key] = old })
}

var _ kernel.Tx = (*tx)(nil)

// Keys of maps. The tenant is always a part.
type (
	runKey struct {
		tenant work.Tenant
		run    work.RunID
	}
	textKey struct {
		tenant work.Tenant
		text   string // a run's name or token, a digest, a kind of document
	}
	documentKey struct {
		runKey
		kind string
	}
	leaf struct {
		index int64
		bytes []byte
	}
	letter struct {
		store.DeadLetter
		resolved *work.Actor
	}
	log struct {
		size       int64
		checkpoint []byte
		hashes     [][32]byte
	}
)
