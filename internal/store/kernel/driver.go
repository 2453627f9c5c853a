// Package kernel is every command of the store, written once over a driver that only loads and saves rows.
//
// A driver knows nothing of the rules: it keeps rows, finds them by key and by the few orders the commands need, and commits.
// The kernel collects concurrent commands into one transaction (group commit), runs the engine on rows it loads as they are
// needed, undoes the changes of a command that fails, writes what is left and answers when the commit is on disk.
package kernel

import (
	"context"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Driver keeps rows. Update and View may be called concurrently; a driver serialises Updates itself where it must.
type Driver interface {
	// Update runs fn in one transaction and commits durably when fn returns nil. When fn or the commit fails nothing has changed, or
	// (after a lost connection) it is unknown whether all has.
	Update(ctx context.Context, fn func(Tx) error) error

	// View runs fn on one committed snapshot.
	View(ctx context.Context, fn func(Reader) error) error

	// Exclusive reports whether nobody else changes the store while it is open, so that the kernel may keep rows in memory from one
	// transaction to the next.
	Exclusive() bool

	// Incarnation is a number that rises whenever the store is restored from a backup. It is at least 1 and part of every token.
	Incarnation() int64

	// Settled returns a position of the feed up to which every event is committed or never will be, and later Views see it.
	Settled(ctx context.Context) (int64, error)

	Close() error
}

// Shared is a driver of a store that several processes change at the same time. Its Update may run fn more than once, and its Tx is
// a Locker.
type Shared interface {
	Driver

	// Writers is how many transactions of one process are worth having under way at once.
	Writers() int
}

// Glancer is a driver for which one question alone is cheaper than a snapshot for several.
type Glancer interface {
	// Glance runs fn, which asks one question that takes one statement.
	Glance(ctx context.Context, fn func(Reader) error) error
}

// Locker is a Tx of a shared driver. What a transaction reads of a run is true until its commit only when the run is locked: Run and
// Lock wait for that, TryLock does not. Transactions that wait for each other are run again, so waiting is for what is named first,
// in one order; whatever is found later is tried.
type Locker interface {
	// Lock locks and loads what the commands of a batch name, before anything else.
	Lock(Needs) error

	// TryLock locks and loads the runs of steps, and the steps, as far as nobody else has locked them. It says which.
	TryLock([]StepRef) ([]bool, error)

	// TryKey keeps others from granting leases under a concurrency key until the commit, and reports false when another does that.
	TryKey(tenant work.Tenant, key string) (bool, error)

	// Peek returns the rows of steps as they were committed last, without their runs being locked.
	Peek([]StepRef) ([]*work.Step, error)

	// Fresh says that the store has nothing of a run, so that its rows need not be looked for.
	Fresh(work.Tenant, work.RunID)

	// Share returns a record that others may read at the same time and nobody may change until the commit.
	Share(tenant work.Tenant, kind, id string) (*store.Record, error)

	// LockLimits waits until nobody else counts the leases or runs of a tenant against its limits, and keeps others from it until the
	// commit. What has been committed by then is seen by what is asked after it.
	LockLimits(work.Tenant) error
}

// Needs is what is known of a batch before it runs.
type Needs struct {
	Steps    []StepRef           // with their runs; the run alone where Step is ""
	New      []*store.Submission // that are about to create runs
	Sessions []string            // that must not end meanwhile
	Records  []store.RecordRef   // that change, or must stay as they are
	Audits   []work.Tenant       // whose audit stream grows
	Flows    []work.Tenant       // whose Flow is gone by
}

// Reader finds rows in one snapshot. A row that does not exist is nil (or zero) and no error. Returned rows belong to the caller.
type Reader interface {
	RunReader
	StepReader
	QueueReader
	FlowReader
	HistoryReader
	DocumentReader
	LogReader
	RecordReader
	CensusReader
	ListReader
}

// Tx finds and changes rows in one transaction. Reads see the writes before them.
type Tx interface {
	Reader
	RowWriter
	HistoryWriter
	DocumentWriter
	RecordWriter
}

// RunReader finds runs.
type RunReader interface {
	Run(tenant work.Tenant, id work.RunID) (*work.Run, error)
	NameReader
	FindRuns(tenant work.Tenant, q store.RunQuery) ([]work.Run, error) // newest first: created descending, then id descending

	// ActiveRuns counts runs in phase main or finally with the concurrency key.
	ActiveRuns(tenant work.Tenant, key string) (int, error)

	// FirstWaiting returns the run in phase admission with the key that was created first, nil for none.
	FirstWaiting(tenant work.Tenant, key string) (*work.Run, error)

	// Unsealed returns ended runs without a leaf in the log, by end and id.
	Unsealed(tenant work.Tenant, limit int) ([]work.Run, error)
}

// NameReader finds runs by what their submitters call them.
type NameReader interface {
	RunByName(tenant work.Tenant, name string) (*work.Run, error)
	NameTaken(tenant work.Tenant, name string) (bool, error)
	RunByToken(tenant work.Tenant, token string) (*work.Run, error)
}

// StepReader finds steps.
type StepReader interface {
	Step(tenant work.Tenant, run work.RunID, id work.StepID) (*work.Step, error)
	Steps(tenant work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) // by id, bytewise

	// LiveSteps returns the ids of steps that are queued, throttled, running, waiting or retrying, by id.
	LiveSteps(tenant work.Tenant, run work.RunID) ([]work.StepID, error)

	// FirstHeld returns the first step after the given id that is queued and held, "" for none.
	FirstHeld(tenant work.Tenant, run work.RunID, after work.StepID) (work.StepID, error)
}

// StepRef names a step anywhere in the store.
type StepRef struct {
	Tenant work.Tenant
	Run    work.RunID
	Step   work.StepID
}

// ReadyStep is a step that a worker may claim.
type ReadyStep struct {
	StepRef
	Queue work.QueueEntry
}

// QueueReader finds what is to be done.
type QueueReader interface {
	// Ready returns steps of the tenant that are queued and not held, with one of the runners, from every queue but those left out by except
	// (see work.Left), in one order: priority descending, then arrival, run, step. It starts after the given position (nil for the start). What it costs
	// does not depend on how many steps stand in the queues of except, nor on how many wait for other runners.
	Ready(tenant work.Tenant, runners, except []string, after *ReadyStep, limit int) ([]ReadyStep, error)

	// LeasesByKey counts leases of the tenant with the concurrency key.
	LeasesByKey(tenant work.Tenant, key string) (int, error)

	// LeasesBySession returns the steps that a session holds.
	LeasesBySession(session string) ([]StepRef, error)

	// DueSteps returns steps whose timer is at or before now, earliest first; DueRuns the runs whose due time is.
	DueSteps(now work.Time, limit int) ([]StepRef, error)
	DueRuns(now work.Time, limit int) ([]StepRef, error)

	// NextDue returns the earliest timer of a step, due time of a run or expiry of a session, zero for none.
	NextDue() (work.Time, error)

	// Sessions returns the session with the id, or those that expired at or before now when id is "", or every local one
	// when id is "*local", or those that have not expired at now when id is "*live".
	Sessions(id string, now work.Time) ([]store.Session, error)
}

// CensusReader counts.
type CensusReader interface {
	// Census returns the counts of every tenant that has something to count, by name. A driver may answer from a snapshot that is
	// some seconds old.
	Census(now work.Time) ([]store.Census, error)
}

// ListReader goes through all that is there, for whoever has to look at everything.
type ListReader interface {
	// RunsAfter returns the runs of a tenant whose ids are greater than after, by id, bytewise.
	RunsAfter(tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error)

	// Results returns the cached results of a tenant after the given key, "" for all. The order is the driver's own and does not change.
	Results(tenant work.Tenant, after work.Digest, limit int) ([]store.KeyedResult, error)
}

// LeaseCount is how many leases of a tenant are from a queue.
type LeaseCount struct {
	Tenant work.Tenant
	Queue  string
	N      int
}

// FlowReader counts what runs and waits.
type FlowReader interface {
	// ReadyTenants returns the tenants that have steps which are queued and not held, by name.
	ReadyTenants() ([]work.Tenant, error)

	// Leases counts live leases by tenant and queue, in that order; those of all tenants for "".
	Leases(tenant work.Tenant) ([]LeaseCount, error)

	// Depths counts what waits in each queue of a tenant, by the queue's name in rows, each up to limit, and says since when its first
	// one does. Queues in which nothing waits are not in it, and leases are not counted.
	Depths(tenant work.Tenant, limit int) ([]store.QueueDepth, error)

	// Holders returns steps whose lease is under a concurrency key, and then runs in phase main or finally that have it, where the step
	// is "", each by run and step.
	Holders(tenant work.Tenant, key string, limit int) ([]StepRef, error)

	// LiveRuns counts runs of a tenant that have not ended, up to limit.
	LiveRuns(tenant work.Tenant, limit int) (int, error)
}

// HistoryReader reads what was appended.
type HistoryReader interface {
	Events(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error)
	Lines(tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error)

	// Feed returns events of all runs of the tenant, without the audit stream, with positions greater than after and at most upTo, in the
	// order of positions. A driver gives every piece it appends a number that is greater than those of all pieces of the same run; the position
	// of an event is that number times store.ChunkEvents, plus its place in the piece.
	Feed(tenant work.Tenant, after, upTo int64, limit int) ([]store.FeedEvent, error)

	// FeedEnd returns a position up to upTo with nothing of the tenant's feed between it and upTo, which no later event will have.
	FeedEnd(tenant work.Tenant, upTo int64) (int64, error)
}

// DocumentReader finds immutable documents.
type DocumentReader interface {
	Plan(tenant work.Tenant, hash work.Digest) ([]byte, error)
	Document(tenant work.Tenant, run work.RunID, kind string) ([]byte, error)

	// Documents returns those of one kind of several runs in the order of the runs, nil for one that is not there.
	Documents(tenant work.Tenant, runs []work.RunID, kind string) ([][]byte, error)
	Cached(tenant work.Tenant, key work.Digest) (*store.CachedResult, error)
	DeadLetters(tenant work.Tenant, limit int) ([]store.DeadLetter, error) // unresolved, oldest first
}

// LogReader reads the Merkle log of a tenant.
type LogReader interface {
	LogSize(tenant work.Tenant) (size int64, checkpoint []byte, err error)
	LogHashes(tenant work.Tenant, indexes []int64) ([][32]byte, error)             // an index that is not there is an error
	Leaf(tenant work.Tenant, run work.RunID) (leaf []byte, index int64, err error) // nil leaf for none
}

// RowWriter saves rows that change.
type RowWriter interface {
	PutRun(*work.Run) error
	PutStep(*work.Step) error
	PutSession(store.Session) error
	DeleteSession(id string) error

	// DeleteRun deletes the row of an ended, sealed run, with what finds it. Its steps, history and documents stay until EraseRows, and
	// its leaf for ever.
	DeleteRun(tenant work.Tenant, id work.RunID) error

	// EraseRows deletes at most limit rows of steps, events, lines, documents and dead letters of a run whose row is gone, in any order,
	// and returns how many, with the position in the feed of the last event that went, 0 for none. A driver may count several pieces
	// that it keeps as one row as one.
	EraseRows(tenant work.Tenant, run work.RunID, limit int) (n int, last int64, err error)
}

// HistoryWriter appends. Events and lines come in order and without gaps.
type HistoryWriter interface {
	AppendEvents(tenant work.Tenant, run work.RunID, events []work.Event) error
	AppendLines(tenant work.Tenant, run work.RunID, lines []work.LogLine) error
	AppendLog(tenant work.Tenant, a store.LogAppend) error
}

// DocumentWriter saves what never changes, except that a dead letter is resolved once.
type DocumentWriter interface {
	PutPlan(tenant work.Tenant, hash work.Digest, canonical []byte) error // again with the same hash is no error
	PutDocument(tenant work.Tenant, run work.RunID, kind string, data []byte) error
	PutCached(tenant work.Tenant, key work.Digest, c store.CachedResult) error // the first one stays
	PutDeadLetter(store.DeadLetter) error
	ResolveDeadLetters(tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error // step "" means all of the run
}

// RecordReader finds the documents of services.
//
// Within Update a record that is read stays as it is until the commit: a driver whose transactions go on side by side locks its row, or
// the tenant and kind when there is none yet, or runs the transaction again. Version and Expires are plain columns here; the kernel
// compares versions, and takes what has expired for missing.
type RecordReader interface {
	Record(tenant work.Tenant, kind, id string) (*store.Record, error)

	// Look returns records in the order of the references, nil for one that is not there. It is asked on snapshots only.
	Look(refs []store.RecordRef) ([]*store.Record, error)

	// Records returns those whose id begins with prefix and is greater than after ("" for all), by id, bytewise.
	Records(tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error)
}

// RecordWriter saves the documents of services. Doc comes back byte for byte.
type RecordWriter interface {
	PutRecord(store.Record) error
	DeleteRecord(tenant work.Tenant, kind, id string) error // one that is not there is no error

	// PruneRecords deletes at most limit records whose Expires is not zero and at or before now, earliest first, then by tenant, kind and id.
	PruneRecords(now work.Time, limit int) (int, error)
}
