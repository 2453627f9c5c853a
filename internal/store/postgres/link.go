package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"orrery.example/orrery/internal/fault"
)

// link is one transaction's way to the server. Statements whose answers nobody waits for travel with the next question, the BEGIN with
// the first and the COMMIT with the last writes, so that a transaction costs as many round trips as it has questions that build
// upon each other.
type link struct {
	ctx     context.Context
	conn    *pgx.Conn
	pending *pgx.Batch

	answered bool // the server has, at least once
	changes  bool // something was told that changes rows
}

func newLink(ctx context.Context, conn *pgx.Conn) *link {
	return &link{ctx: ctx, conn: conn, pending: &pgx.Batch{}}
}

// tell sends a statement that changes rows along with the next question.
func (l *link) tell(sql string, args ...any) {
	l.changes = true
	l.pending.Queue(sql, args...)
}

// control sends a statement about the transaction itself.
func (l *link) control(sql string) { l.pending.Queue(sql) }

// hear is a question whose rows are given to row when send is called.
func (l *link) hear(sql string, row func(pgx.Rows) error, args ...any) {
	l.pending.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := row(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// send takes everything to the server and waits for the answers.
func (l *link) send() error {
	if l.pending.Len() == 0 {
		return nil
	}
	batch := l.pending
	l.pending = &pgx.Batch{}
	err := l.conn.SendBatch(l.ctx, batch).Close()
	l.answered = l.answered || err == nil
	var refused *pgconn.PgError
	if err != nil && !errors.As(err, &refused) && !l.conn.IsClosed() && l.ctx.Err() == nil && fault.CodeOf(err) == fault.Internal {
		return fault.Wrap(fault.Internal, err, "the database was not asked") // the connection is well: it is we who cannot say it
	}
	return classify(err)
}

// ask is a question that has to be answered now.
func (l *link) ask(sql string, row func(pgx.Rows) error, args ...any) error {
	l.hear(sql, row, args...)
	return l.send()
}

// SQLSTATEs that are acted upon.
const (
	stateUnique        = "23505"
	stateSerialization = "40001"
	stateDeadlock      = "40P01"
	stateLockTimeout   = "55P03"
	stateCancelled     = "57014" // by statement_timeout
	stateShutdown      = "57P01"
	stateCrash         = "57P02"
	stateStarting      = "57P03"
)

// classify gives an error of the server its code.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return fault.New(fault.Unavailable, "the database does not answer: %w", err).WithHint("see whether PostgreSQL runs and can be reached")
	}
	switch e.Code {
	case stateUnique:
		return fault.New(fault.Conflict, "there is such a row already: %w", err)
	case stateSerialization, stateDeadlock, stateLockTimeout, stateCancelled, stateShutdown, stateCrash, stateStarting:
		return fault.New(fault.Unavailable, "the database could not do it now: %w", err)
	}
	switch e.Code[:2] {
	case "53": // out of disk, memory or connections
		return fault.New(fault.Exhausted, "the database has no room: %w", err).WithHint("free some space where PostgreSQL keeps its data")
	case "08":
		return fault.New(fault.Unavailable, "the connection to the database broke: %w", err)
	case "22":
		return fault.New(fault.Invalid, "the database cannot keep that: %w", err)
	case "25": // a read-only server: a standby
		return fault.New(fault.Unavailable, "the database takes no changes: %w", err).WithHint("connect to the primary")
	}
	return fault.New(fault.Internal, "the database: %w", err)
}

// again reports whether a transaction that failed like this did nothing and may do better when it is run once more.
func again(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		switch e.Code {
		case stateUnique, stateSerialization, stateDeadlock, stateShutdown, stateCrash:
			return true
		}
		return false
	}
	return fault.CodeOf(err) == fault.Unavailable && !errors.Is(err, context.DeadlineExceeded)
}

// lost reports whether an error of a COMMIT leaves open what has become of it: the server did not say no.
func lost(err error) bool {
	var e *pgconn.PgError
	return !errors.As(err, &e) || e.Severity == "FATAL" || e.Severity == "PANIC"
}
