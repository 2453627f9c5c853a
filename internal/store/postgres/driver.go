// Package postgres is the driver that keeps rows in a PostgreSQL database, for any number of servers at once.
//
// Transactions are READ COMMITTED and take the locks they need: the row of a run is where everything that happens to the run is put in
// order. Rows that are named beforehand are locked first and in one order; everything after that passes over what somebody else has
// locked, or waits briefly and is run again when two wait for each other. A connection keeps nothing from one transaction to the
// next, so that pgbouncer may stand in between. See docs/adr/0020-postgres-schema.md.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store/kernel"
)

// Options say which database. The zero value of all but URL is what a server wants.
type Options struct {
	// URL is a connection string, as libpq takes them. Statements are prepared once per connection, unless a pooler stands between here
	// and the server: then they are described once and planned each time. The parameter default_query_exec_mode decides otherwise.
	URL string

	// Connections is how many the pool may open, 0 for twice the processors and eight at least.
	Connections int

	// Writers is how many transactions of one server change the store at the same time, 0 for 2.
	Writers int

	// LockTimeout is how long a statement waits for a row that somebody else has locked, 0 for 2 s. StatementTimeout bounds each
	// statement, 0 for 15 s. Timeout bounds a transaction, 0 for 30 s: after that the connection is given up.
	LockTimeout, StatementTimeout, Timeout time.Duration

	// Unsafe accepts a server that does not flush its log (fsync=off). For tests of anything but durability.
	Unsafe bool

	Log *slog.Logger // nil means silence
}

func (o *Options) complete() {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	set(&o.LockTimeout, 2*time.Second)
	set(&o.StatementTimeout, 15*time.Second)
	set(&o.Timeout, 30*time.Second)
	if o.Connections <= 0 {
		o.Connections = max(8, 2*runtime.GOMAXPROCS(0))
	}
	if o.Writers <= 0 {
		o.Writers = 2
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Driver is a pool of connections to one database. It is safe for concurrent use.
type Driver struct {
	pool        *pgxpool.Pool
	o           Options
	begin       string
	incarnation atomic.Int64
	closed      atomic.Bool
	horizon     horizon
	statistics  statistics
}

var _ kernel.Driver = (*Driver)(nil)

// Open connects and brings the schema to the version of this program. Errors: fault.Unavailable when the server cannot be reached,
// fault.Conflict for a store of a newer Orrery, fault.Invalid for a URL or a server that cannot be used.
func Open(ctx context.Context, o Options) (*Driver, error) {
	o.complete()
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the database's URL: %w", err)
	}
	config.MaxConns = int32(min(o.Connections, 1000))
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	d := &Driver{o: o, begin: beginStatement(&o)}
	first := config.ConnConfig.Copy()
	first.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	pooled, err := d.open(ctx, first)
	if err != nil {
		return nil, err
	}
	if pooled && !namesMode(o.URL) {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if d.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fault.New(fault.Invalid, "the database: %w", err)
	}
	return d, nil
}

// open looks at the server, brings the schema up to date and reports whether a pooler stands in between.
func (d *Driver) open(ctx context.Context, config *pgx.ConnConfig) (pooled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, classify(err)
	}
	defer conn.Close(ctx)
	if err := d.checkServer(ctx, conn); err != nil {
		return false, err
	}
	if err := migrate(ctx, conn); err != nil {
		return false, err
	}
	// A pooler tells its clients numbers of its own for what the server calls the process of a connection.
	var backend uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return false, classify(err)
	}
	if err := d.statistics.look(ctx, conn); err != nil {
		return false, err
	}
	return backend != conn.PgConn().PID(), d.loadIncarnation(ctx, conn)
}

// oldest is the first PostgreSQL this driver is tested with.
const oldest = 15_00_00

func (d *Driver) checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var fsync, pages, encoding string
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),
		current_setting('server_encoding')`).Scan(&version, &fsync, &pages, &encoding)
	switch {
	case err != nil:
		return classify(err)
	case version < oldest:
		return fault.New(fault.Invalid, "PostgreSQL %d is too old, 15 is the first that will do", version/10000)
	case encoding != "UTF8":
		return fault.New(fault.Invalid, "the database is encoded in %s", encoding).WithHint("create it with: CREATE DATABASE ... ENCODING 'UTF8'")
	case !d.o.Unsafe && (fsync != "on" || pages != "on"):
		return fault.New(fault.Invalid, "the database would lose what it has acknowledged: fsync is %s, full_page_writes is %s", fsync, pages).
			WithHint("set both to on in postgresql.conf")
	}
	return nil
}

func (d *Driver) loadIncarnation(ctx context.Context, conn *pgx.Conn) error {
	var n int64
	if err := conn.QueryRow(ctx, `SELECT incarnation FROM store`).Scan(&n); err != nil {
		return classify(err)
	}
	d.incarnation.Store(n)
	return nil
}

// RaiseIncarnation refuses every token that was given out before. A database that comes from a backup, or from a standby that may
// have missed something, needs it before any server is started on it; servers that run learn of it with their next transaction.
func (d *Driver) RaiseIncarnation(ctx context.Context) error {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return classify(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `UPDATE store SET incarnation = incarnation + 1`); err != nil {
		return classify(err)
	}
	return d.loadIncarnation(ctx, conn.Conn())
}

// Exclusive implements kernel.Driver.
func (d *Driver) Exclusive() bool { return false }

// Incarnation implements kernel.Driver.
func (d *Driver) Incarnation() int64 { return d.incarnation.Load() }

// Writers implements kernel.Shared.
func (d *Driver) Writers() int { return d.o.Writers }

// beginStatement sets what holds for one transaction. The settings are local to it, so that they need no session. A server that is
// told not to wait for its disk is told to wait for these commits. Every statement has an index to go by; a plan that is made while a
// table is small must not be to read all of it, since it is kept when the table has grown. What that does to the planner's estimates must not
// be taken for work worth compiling: that took a hundred milliseconds a statement. And the plan does not depend on how long the lists are that
// are asked about, so it need not be made again for each.
func beginStatement(o *Options) string {
	return fmt.Sprintf(`SELECT incarnation, set_config('lock_timeout', '%d', true), set_config('statement_timeout', '%d', true),
		set_config('idle_in_transaction_session_timeout', '%d', true), set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true),
		set_config('plan_cache_mode', 'force_generic_plan', true),
		set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true) FROM store`,
		o.LockTimeout.Milliseconds(), o.StatementTimeout.Milliseconds(), o.Timeout.Milliseconds())
}

// restored notices a store that was restored, with every transaction: what follows judges tokens by it.
func (d *Driver) restored(rows pgx.Rows) error {
	var n int64
	err := rows.Scan(&n, nil, nil, nil, nil, nil, nil, nil)
	if err == nil && n > d.incarnation.Load() {
		d.incarnation.Store(n)
	}
	return err
}

// attempts is how often a transaction is run that fails because of others.
const attempts = 4

// Update implements kernel.Driver. fn may run more than once.
func (d *Driver) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for n := 1; ; n++ {
		refused, err := d.update(ctx, fn)
		if err == nil || refused || n == attempts || !again(err) || d.closed.Load() {
			return err
		}
		d.o.Log.Debug("a transaction is run again", "attempt", n, "error", err)
		select { // whoever it met gets ahead
		case <-time.After(rand.N(time.Duration(n) * 5 * time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

// update runs fn once. Refused means that the error must not be tried to overcome: it is fn's own, or what has become of the
// commit is not known.
func (d *Driver) update(ctx context.Context, fn func(kernel.Tx) error) (refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	conn, err := d.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	t := newTx(newLink(ctx, conn.Conn()), d)
	t.l.control(`BEGIN ISOLATION LEVEL READ COMMITTED`)
	t.l.hear(d.begin, d.restored)
	committed := false
	defer func() {
		if !committed { // also when fn panics
			rollback(conn.Conn())
		}
	}()
	if err := fn(t); err != nil {
		return !errors.Is(err, t.failed) || t.failed == nil, err
	}
	if err := t.stage(); err != nil {
		return false, err
	}
	if !t.l.changes {
		// Locks of rows alone would make a commit wait for the disk: a worker that asks for work and gets none has nothing to wait for.
		t.l.control(`ROLLBACK`)
		err := t.l.send()
		committed = err == nil
		return false, err
	}
	t.l.control(`COMMIT`)
	if err := t.l.send(); err != nil {
		if lost(err) {
			return true, fault.Wrap(fault.Unavailable, err, "it is not known whether the commit took place")
		}
		return false, err
	}
	committed = true
	if t.made > 0 {
		d.made(t.made)
	}
	return false, nil
}

// rollback leaves a connection that can be used again, or closes it. The time it takes is not the caller's.
func rollback(conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, `ROLLBACK`); err != nil {
		_ = conn.Close(ctx)
	}
}

func (d *Driver) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	if d.closed.Load() {
		return nil, fault.New(fault.Unavailable, "the store is closed")
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, classify(err)
	}
	return conn, nil
}

// View implements kernel.Driver. A connection that turns out to be broken before it has answered anything is replaced.
func (d *Driver) View(ctx context.Context, fn func(kernel.Reader) error) error {
	for n := 1; ; n++ {
		answered, err := d.view(ctx, fn)
		if err == nil || answered || n == attempts || !again(err) || ctx.Err() != nil {
			return err
		}
	}
}

// Glance implements kernel.Glancer: one statement is a snapshot by itself, and one round trip.
func (d *Driver) Glance(ctx context.Context, fn func(kernel.Reader) error) error {
	for n := 1; ; n++ {
		answered, err := d.glance(ctx, fn)
		if err == nil || answered || n == attempts || !again(err) || ctx.Err() != nil {
			return err
		}
	}
}

func (d *Driver) glance(ctx context.Context, fn func(kernel.Reader) error) (answered bool, err error) {
	conn, err := d.acquire(ctx)
	if err != nil {
		return true, err // the pool has tried
	}
	defer conn.Release()
	l := newLink(ctx, conn.Conn())
	err = fn(&reader{l: l})
	return l.answered, err
}

func (d *Driver) view(ctx context.Context, fn func(kernel.Reader) error) (answered bool, err error) {
	conn, err := d.acquire(ctx)
	if err != nil {
		return true, err // the pool has tried
	}
	defer conn.Release()
	l := newLink(ctx, conn.Conn())
	l.control(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	defer rollback(conn.Conn())
	err = fn(&reader{l: l})
	return l.answered, err
}

// Close implements kernel.Driver. It waits for transactions under way.
func (d *Driver) Close() error {
	if !d.closed.Swap(true) {
		d.pool.Close()
	}
	return nil
}
