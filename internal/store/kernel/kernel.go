package kernel

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is the store over one driver. It is safe for concurrent use.
type Store struct {
	driver  Driver
	now     func() work.Time
	tell    func() // of commits, to other servers
	observe func(Commit)
	trace   func(*work.Run, work.StepID, int) string
	graphs  graphs
	signed  requests
	shares  shares
	rows    *cache // of an exclusive driver, else nil
	watch   watchers
	pending chan *request
	stop    chan struct{}
	stopped chan struct{} // closed when every writer has ended
	writers sync.WaitGroup
	closing sync.Once
}

var _ store.Store = (*Store)(nil)

// Options are what a Store needs beside its driver.
type Options struct {
	Now func() work.Time // the store's clock; required
	Log *slog.Logger     // nil means silence

	// Announce is called after commits that changed something, so that other servers of a shared store may have a look; it must
	// return at once. Whoever hears of another server's commits calls Wake. See package wake.
	Announce func()

	// Observe is told of every commit of this process, after its commands were answered and before the next commit of the same writer; it
	// must return at once. Several writers may call it at the same time.
	Observe func(Commit)

	// Trace returns the W3C trace context that an attempt goes on with; nil hands on that of the run.
	Trace func(run *work.Run, step work.StepID, attempt int) string
}

// maxBatch bounds how many commands share one commit: enough to make the disk's share of each small, few enough that the first
// does not wait long for the last.
const maxBatch = 512

// New starts a store over a driver, which it then owns.
func New(driver Driver, o Options) *Store {
	s := &Store{
		driver: driver, now: o.Now, tell: o.Announce, observe: o.Observe, trace: o.Trace,
		pending: make(chan *request, maxBatch), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if driver.Exclusive() {
		s.rows = newCache()
	}
	writers := 1
	if shared, ok := driver.(Shared); ok {
		writers = max(shared.Writers(), 1)
	}
	for range writers {
		s.writers.Go(s.write)
	}
	go func() {
		s.writers.Wait()
		close(s.stopped)
	}()
	return s
}

// Close waits for commands under way, refuses further ones and closes the driver.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		close(s.stop)
		<-s.stopped
		s.watch.close()
		err = s.driver.Close()
	})
	return err
}

// request is one caller's commands on their way into a transaction.
type request struct {
	needs Needs
	run   func(*unit) error
	claim func(*unit) error // runs after everybody's run, so that one look at the queue serves all claims; nil for none
	wants int               // how many steps it claims at most
	done  chan error
}

// do runs fn in a transaction shared with whoever else asks at the moment, and returns when it is committed. fn may run more than
// once; it returns an error only when the whole transaction must fail.
func (s *Store) do(ctx context.Context, needs Needs, fn func(*unit) error) error {
	return s.submitted(ctx, &request{needs: needs, run: fn})
}

// submitted hands a request to a writer and returns when it is committed.
func (s *Store) submitted(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	if entry := store.AuditOf(ctx); entry != nil {
		r.needs.Audits = append(r.needs.Audits, entry.Tenant)
	}
	select {
	case s.pending <- r:
	case <-s.stop:
		return fault.New(fault.Unavailable, "the store is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	// A command that has been handed over may be committed at any moment: its outcome is awaited whatever happens to ctx.
	select {
	case err := <-r.done:
		return err
	case <-s.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return fault.New(fault.Unavailable, "the store was closed")
		}
	}
}

// write commits. It takes what is there and never waits for more: while a commit is on its way to the disk, the next batch gathers
// by itself. An exclusive driver has one goroutine that does this.
func (s *Store) write() {
	for {
		select {
		case <-s.stop:
			return
		case first := <-s.pending:
			s.commit(s.gather(first))
		}
	}
}

func (s *Store) gather(first *request) []*request {
	batch := []*request{first}
	for len(batch) < maxBatch {
		select {
		case r := <-s.pending:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

func (s *Store) commit(batch []*request) {
	var u *unit
	var began time.Time
	if s.observe != nil {
		began = time.Now()
	}
	err := s.driver.Update(context.Background(), func(tx Tx) error {
		u = newUnit(s, tx)
		return u.runAll(batch)
	})
	if err != nil {
		if s.rows != nil {
			s.rows.forget()
		}
		err = fault.Wrap(fault.Internal, err, "the store could not commit")
	} else {
		u.keep()
		if u.wrote {
			s.watch.wake()
			if s.tell != nil {
				s.tell()
			}
		}
	}
	var took time.Duration
	if s.observe != nil {
		took = time.Since(began)
	}
	for _, r := range batch {
		r.done <- err
	}
	if s.observe != nil {
		c := Commit{Commands: len(batch), Took: took, Err: err}
		if err == nil {
			c.Changes = u.changes
		}
		s.observe(c)
	}
}

// view runs fn on a committed snapshot.
func (s *Store) view(ctx context.Context, fn func(Reader) error) error {
	return s.driver.View(ctx, fn)
}

// watchers are those who want to hear of commits.
type watchers struct {
	mu     sync.Mutex
	chans  map[chan struct{}]bool
	closed bool
}

// Watch implements store.History.
func (s *Store) Watch(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.watch.closed {
		close(c)
		return c
	}
	if s.watch.chans == nil {
		s.watch.chans = map[chan struct{}]bool{}
	}
	s.watch.chans[c] = true
	context.AfterFunc(ctx, func() { s.watch.remove(c) })
	return c
}

// Wake tells those who watch that somebody else may have changed the store.
func (s *Store) Wake() { s.watch.wake() }

func (w *watchers) remove(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chans[c] {
		delete(w.chans, c)
		close(c)
	}
}

func (w *watchers) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.chans {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for c := range w.chans {
		delete(w.chans, c)
		close(c)
	}
}
