package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"orrery.example/orrery/internal/fault"
)

// conn is one connection with its prepared statements, used by one goroutine at a time. It speaks to the driver without
// database/sql: its pool, its locks and its conversions would cost as much as the small statements of a transition do.
type conn struct {
	file       string
	raw        driver.Conn
	statements map[string]*statement
}

// statement is prepared once and kept as long as the connection. args and row are used again by every call.
type statement struct {
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
	close func() error
	args  []driver.NamedValue
	row   []driver.Value
}

// connect opens a connection in a mode of SQLite's URIs: rwc, ro, or immutable for a file that nobody can change.
func connect(file, mode, pragmas string) (*conn, error) {
	c := &conn{file: file, statements: map[string]*statement{}}
	connector, err := sqlite.NewConnector(uri(file, mode, pragmas))
	if err != nil {
		return nil, err
	}
	if c.raw, err = connector.Connect(context.Background()); err != nil {
		return nil, c.classify(err)
	}
	return c, nil
}

func (c *conn) close() error {
	for _, s := range c.statements {
		_ = s.close() // the connection goes with them
	}
	return c.raw.Close()
}

func (c *conn) prepare(sql string, args []any) (*statement, error) {
	s := c.statements[sql]
	if s == nil {
		prepared, err := c.raw.Prepare(sql)
		if err != nil {
			return nil, c.classify(err)
		}
		s = &statement{
			exec: prepared.(driver.StmtExecContext), query: prepared.(driver.StmtQueryContext), close: prepared.Close,
			args: make([]driver.NamedValue, len(args)),
		}
		for i := range s.args {
			s.args[i].Ordinal = i + 1
		}
		c.statements[sql] = s
	}
	for i, v := range args {
		s.args[i].Value = v
	}
	return s, nil
}

// do executes a statement and returns how many rows it changed. Args are int64, string, []byte or nil.
func (c *conn) do(sql string, args ...any) (int64, error) {
	s, err := c.prepare(sql, args)
	if err != nil {
		return 0, err
	}
	result, err := s.exec.ExecContext(context.Background(), s.args)
	if err != nil {
		return 0, c.classify(err)
	}
	return result.RowsAffected()
}

// script executes text that is not kept, several statements perhaps.
func (c *conn) script(sql string) error {
	s, err := c.raw.Prepare(sql)
	if err != nil {
		return c.classify(err)
	}
	_, err = s.(driver.StmtExecContext).ExecContext(context.Background(), nil)
	return errors.Join(c.classify(err), s.Close())
}

// each calls row for every row of a query; what it is given is valid until it returns. The statement must not be used
// meanwhile. errStop ends the query early.
func (c *conn) each(sql string, row func(values) error, args ...any) error {
	s, err := c.prepare(sql, args)
	if err != nil {
		return err
	}
	rows, err := s.query.QueryContext(context.Background(), s.args)
	if err != nil {
		return c.classify(err)
	}
	if s.row == nil {
		s.row = make([]driver.Value, len(rows.Columns()))
	}
	for {
		switch err = rows.Next(s.row); {
		case err == nil:
			err = row(values(s.row))
		case errors.Is(err, io.EOF):
			return c.classify(rows.Close())
		default:
			err = c.classify(err)
		}
		if err != nil {
			closed := rows.Close()
			if errors.Is(err, errStop) {
				return c.classify(closed)
			}
			return err
		}
	}
}

// one calls row with the first row of a query and reports whether there was one.
func (c *conn) one(sql string, row func(values), args ...any) (bool, error) {
	found := false
	err := c.each(sql, func(v values) error {
		found = true
		row(v)
		return errStop
	}, args...)
	return found, err
}

var errStop = errors.New("enough rows")

// values is a row. NULL is zero or nothing.
type values []driver.Value

func (v values) number(i int) int64 {
	n, _ := v[i].(int64)
	return n
}

func (v values) text(i int) string {
	s, _ := v[i].(string)
	return s
}

// bytes returns a blob, never nil for one that is there.
func (v values) bytes(i int) []byte {
	switch b := v[i].(type) {
	case []byte:
		if b == nil {
			return []byte{}
		}
		return b
	case string:
		return []byte(b)
	default:
		return nil
	}
}

// json returns the text of a value, nil for NULL.
func (v values) json(i int) []byte {
	if s, ok := v[i].(string); ok && s != "" {
		return []byte(s)
	}
	return nil
}

// Arguments that are NULL for zero.

func orNull(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func textOrNull[T ~string | ~[]byte](s T) any {
	if len(s) == 0 {
		return nil
	}
	return string(s)
}

// classify gives an error of SQLite its code.
func (c *conn) classify(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return noRoom(err)
	case sqlite3.SQLITE_IOERR:
		if e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE { // the index of the log could not grow
			return noRoom(err)
		}
		return c.diagnose(err, "the disk did not read or write as it should", "look into the system's log; the disk may be failing")
	case sqlite3.SQLITE_CANTOPEN:
		return c.diagnose(err, "a file of the store cannot be opened", "orrery doctor")
	case sqlite3.SQLITE_NOMEM:
		return fault.New(fault.Exhausted, "there is not enough memory: %w", err).WithHint("free some memory")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fault.New(fault.Locked, "the store is in use: %w", err)
	case sqlite3.SQLITE_READONLY:
		return fault.New(fault.Locked, "the store is open for reading only: %w", err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fault.New(fault.Internal, "the store is damaged: %w", err).WithHint("orrery doctor, then restore a backup")
	case sqlite3.SQLITE_CONSTRAINT:
		return fault.New(fault.Conflict, "there is such a row already: %w", err)
	default:
		return fault.New(fault.Internal, "the store failed: %w", err)
	}
}

func noRoom(err error) error {
	return fault.New(fault.Exhausted, "the disk is full: %w", err).
		WithHint("free some space where the data folder is; what was committed is safe")
}

// diagnose finds out why SQLite got nowhere with its files: it says that it did not, and seldom why.
func (c *conn) diagnose(err error, what, hint string) error {
	dir := filepath.Dir(c.file)
	if readOnlyFilesystem(dir) {
		return onlyToRead(dir, err)
	}
	if cause := openable(dir); cause != nil {
		return fault.Wrap(fault.Unavailable, cause, "%s (%s)", what, err)
	}
	return fault.New(fault.Unavailable, "%s: %w", what, err).WithHint("%s", hint)
}

// openable tries to open as many files as a connection needs. It takes the folder for it: to close one of the store's files would undo the
// locks that this process has on it.
func openable(dir string) (err error) {
	for range 4 {
		f, e := os.Open(dir)
		if e != nil {
			return errors.Join(err, e)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	return nil
}

// onlyToRead says that nothing can be written to a folder by anybody.
func onlyToRead(dir string, err error) error {
	return fault.New(fault.Unavailable, "the file system of %s can only be read: %w", dir, err).
		WithHint("make it writable; until then runs can be listed, shown, exported and verified")
}
