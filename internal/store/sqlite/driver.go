// Package sqlite is the driver that keeps rows in a folder with one SQLite file, for one process.
//
// One connection writes, a few read what is committed. The folder is locked while it is open for writing; other processes may
// look. Every commit is on the disk before it is answered (WAL, synchronous=FULL).
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
)

// Options change how a folder is opened. The zero value is what a user wants.
type Options struct {
	// Readers is how many reads may go on at once, 0 for 4.
	Readers int

	// Ballast is how many bytes are kept aside for the day the disk is full, 0 for 32 MiB, negative for none. Without them not even
	// what is old could be deleted, since deleting needs space first.
	Ballast int64

	// Command is what the lock says who holds it, "" for the command line of the process.
	Command string
}

// Driver is an open folder. It is safe for concurrent use.
type Driver struct {
	dir         string
	readOnly    bool
	lock        *lock
	ballast     *ballast // nil for none
	incarnation atomic.Int64
	readers     chan *conn // nil entries are connections not yet made

	mu     sync.Mutex // of the writer
	writer *conn
	tx     tx
	keeper *keeper
	closed bool
}

var _ kernel.Driver = (*Driver)(nil)

const (
	fileName       = "orrery.db"
	defaultReaders = 4
	defaultBallast = 32 << 20
)

// Open opens a folder for writing and makes it when it is not there. Errors: fault.Locked when another process has it,
// fault.Conflict for a store of a newer Orrery, fault.Invalid for a folder that cannot hold a store.
func Open(ctx context.Context, dir string, o Options) (*Driver, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the data folder: %w", err)
	}
	if err := prepareFolder(dir); err != nil {
		return nil, err
	}
	held, err := acquire(filepath.Join(dir, lockName), o.Command)
	if err != nil {
		return nil, err
	}
	d := &Driver{dir: dir, lock: held}
	if err := d.open(o); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Driver) open(o Options) error {
	if o.Ballast == 0 {
		o.Ballast = defaultBallast
	}
	if o.Ballast > 0 {
		d.ballast = &ballast{path: filepath.Join(d.dir, "ballast"), size: o.Ballast}
	}
	// The files of the log get the rights of this one, so it must be made with the right ones.
	f, err := os.OpenFile(d.file(), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Close())
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the store's file cannot be used")
	}
	if d.writer, err = connect(d.file(), "rwc", writerPragmas); err != nil {
		return err
	}
	d.tx = tx{reader: reader{c: d.writer, lanes: lanes{}}, written: written{}}
	if err := checkVersion(d.writer); err != nil {
		return err
	}
	if err := migrate(d.writer); err != nil {
		return err
	}
	if err := d.loadIncarnation(d.writer); err != nil {
		return err
	}
	d.makeReaders(o.Readers)
	d.ballast.restore(d.dir)
	d.keeper = keep(d)
	return nil
}

// OpenReadOnly opens a folder that another process may be writing to. Update fails with fault.Locked. The folder of an older Orrery is
// brought up to date first, if nobody has it. Errors: fault.NotFound when there is no store, fault.Conflict when its schema is not the
// one this Orrery knows.
func OpenReadOnly(dir string) (*Driver, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the data folder: %w", err)
	}
	d, err := openLooking(dir)
	var older olderSchema
	if !errors.As(err, &older) {
		return d, err
	}
	w, err := Open(context.Background(), dir, Options{Ballast: -1})
	if err != nil {
		return nil, fault.Wrap(fault.Conflict, err, "%s, and it cannot be brought there", older)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return openLooking(dir)
}

// openLooking opens a folder without writing to it. The error is olderSchema where that would be needed.
func openLooking(dir string) (*Driver, error) {
	d := &Driver{dir: dir, readOnly: true}
	if _, err := os.Stat(d.file()); err != nil {
		return nil, fault.New(fault.NotFound, "there is no store in %s: %w", dir, err)
	}
	d.makeReaders(0)
	c, err := d.reader(context.Background())
	if err != nil {
		return nil, err
	}
	if err = checkVersion(c); err == nil {
		err = checkSchema(c)
	}
	if err == nil {
		err = d.loadIncarnation(c)
	}
	d.release(c)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Driver) file() string { return filepath.Join(d.dir, fileName) }

// Pragmas of the connections. The writer checkpoints by itself, when that disturbs nobody.
const (
	commonPragmas = "busy_timeout=5000;foreign_keys=ON;temp_store=MEMORY;trusted_schema=OFF"
	writerPragmas = commonPragmas + ";journal_mode=WAL;synchronous=FULL;wal_autocheckpoint=0;journal_size_limit=67108864;cache_size=-32768"
	readerPragmas = commonPragmas + ";cache_size=-4096;query_only=ON"
)

// look opens a connection for reading. Where nobody can write, SQLite cannot put the files of its log beside the store, and does not need
// them as long as the log that is there is empty.
func (d *Driver) look(pragmas string) (*conn, error) {
	mode := "ro"
	if d.readOnly && readOnlyFilesystem(d.dir) {
		if log, err := os.Stat(d.file() + "-wal"); errors.Is(err, fs.ErrNotExist) || err == nil && log.Size() == 0 {
			mode = "immutable"
		}
	}
	return connect(d.file(), mode, pragmas)
}

func uri(file, mode, pragmas string) string {
	q := url.Values{"mode": {mode}, "_dqs": {"0"}, "_defensive": {"1"}}
	if mode == "immutable" {
		q.Set("mode", "ro")
		q.Set("immutable", "1")
	}
	for p := range strings.SplitSeq(pragmas, ";") {
		q.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: file, RawQuery: q.Encode()}).String()
}

// minimum is the first SQLite without the bug that could damage a file when its log starts again from the beginning.
const minimum = "3.51.3"

func checkVersion(c *conn) error {
	version := ""
	if _, err := c.one(`SELECT sqlite_version()`, func(v values) { version = v.text(0) }); err != nil {
		return err
	}
	if older(version, minimum) {
		return fault.New(fault.Internal, "SQLite %s can damage a store; %s is the first that cannot", version, minimum)
	}
	return nil
}

// older compares versions of three numbers.
func older(version, than string) bool {
	a, b := strings.Split(version, "."), strings.Split(than, ".")
	for i := range b {
		var x, y int
		if i < len(a) {
			x, _ = strconv.Atoi(a[i]) // what is no number is older than all
		}
		y, _ = strconv.Atoi(b[i])
		if x != y {
			return x < y
		}
	}
	return false
}

// Exclusive implements kernel.Driver.
func (d *Driver) Exclusive() bool { return !d.readOnly }

// Incarnation implements kernel.Driver.
func (d *Driver) Incarnation() int64 { return d.incarnation.Load() }

func (d *Driver) loadIncarnation(c *conn) error {
	_, err := c.one(`SELECT incarnation FROM store`, func(v values) { d.incarnation.Store(v.number(0)) })
	return err
}

// RaiseIncarnation refuses every token that was given out before. A store that comes from a backup needs it before anything else.
func (d *Driver) RaiseIncarnation(ctx context.Context) error {
	if err := d.Update(ctx, func(kernel.Tx) error {
		_, err := d.writer.do(`UPDATE store SET incarnation = incarnation + 1`)
		return err
	}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loadIncarnation(d.writer)
}

// Settled implements kernel.Driver. There is one writer, so numbers are given in the order of commits.
func (d *Driver) Settled(ctx context.Context) (int64, error) {
	c, err := d.reader(ctx)
	if err != nil {
		return 0, err
	}
	defer d.release(c)
	last := int64(0)
	_, err = c.one(`SELECT seq FROM sqlite_sequence WHERE name = 'events'`, func(v values) { last = v.number(0) })
	return (last+1)*store.ChunkEvents - 1, err
}

// Update implements kernel.Driver.
func (d *Driver) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	if d.readOnly {
		return fault.New(fault.Locked, "the store in %s is open for reading only", d.dir).WithHint("ask the process that has it open")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed()
	}
	err := d.update(fn)
	if fault.CodeOf(err) == fault.Exhausted && d.ballast.release() {
		err = fault.Wrap(fault.Exhausted, err, "nothing was changed, and the space kept aside is in use now")
	}
	d.keeper.committed()
	return err
}

func (d *Driver) update(fn func(kernel.Tx) error) error {
	if _, err := d.writer.do(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed { // also when fn panics
			clear(d.tx.written)
			d.tx.plan = planKey{}
			_, _ = d.writer.do(`ROLLBACK`) // fails when SQLite has rolled back already
		}
	}()
	if err := fn(&d.tx); err != nil {
		return err
	}
	if _, err := d.writer.do(`COMMIT`); err != nil {
		return err
	}
	committed = true
	return nil
}

// View implements kernel.Driver.
func (d *Driver) View(ctx context.Context, fn func(kernel.Reader) error) error {
	c, err := d.reader(ctx)
	if err != nil {
		return err
	}
	defer d.release(c)
	if _, err := c.do(`BEGIN`); err != nil {
		return err
	}
	defer func() { _, _ = c.do(`ROLLBACK`) }()
	return fn(reader{c: c})
}

func (d *Driver) makeReaders(n int) {
	if n <= 0 {
		n = defaultReaders
	}
	d.readers = make(chan *conn, n)
	for range n {
		d.readers <- nil
	}
}

// reader takes a connection for reading; it goes back with release.
func (d *Driver) reader(ctx context.Context) (*conn, error) {
	select {
	case c, open := <-d.readers:
		if !open {
			return nil, errClosed()
		}
		if c != nil {
			return c, nil
		}
		c, err := d.look(readerPragmas)
		if err != nil {
			d.readers <- nil
			return nil, err
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *Driver) release(c *conn) { d.readers <- c }

func errClosed() error { return fault.New(fault.Unavailable, "the store is closed") }

// Close implements kernel.Driver. It waits for reads under way, folds the log into the file and gives the folder free.
func (d *Driver) Close() error {
	d.mu.Lock()
	closed := d.closed
	d.closed = true
	d.mu.Unlock()
	if closed {
		return nil
	}
	if d.keeper != nil {
		d.keeper.stop()
	}
	var errs []error
	if d.readers != nil {
		for range cap(d.readers) {
			if c := <-d.readers; c != nil {
				errs = append(errs, c.close())
			}
		}
		close(d.readers)
	}
	if d.writer != nil {
		errs = append(errs, d.writer.close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.release())
	}
	if err := errors.Join(errs...); err != nil {
		return fault.Wrap(fault.Internal, err, "%s", fmt.Sprintf("the store in %s did not close well", d.dir))
	}
	return nil
}

// reader answers from one connection's snapshot.
type reader struct {
	c     *conn
	lanes lanes // of the writer, else nil
}

// tx is the one transaction that is under way on the writer.
type tx struct {
	reader
	written written
	plan    planKey // the last one that was put, and so is in the store
	args    []any   // used again by every statement with many
	body    []byte  // likewise for chunks
}

var _ kernel.Tx = (*tx)(nil)
