// Package fault classifies errors by a code that survives process boundaries, and maps each code once to an HTTP status and once to an exit code.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Code is a stable, machine-readable class of error. Codes are part of the public contract: they are never renamed.
type Code string

// The codes. The comment says when each is used; Status and Exit give its one translation to HTTP and to a process's end.
const (
	Internal           Code = "INTERNAL"            // a bug or a broken machine
	Invalid            Code = "INVALID"             // the input is wrong; the message says where
	NotFound           Code = "NOT_FOUND"           // no such thing, or not in this tenant
	Conflict           Code = "CONFLICT"            // the state does not allow it any more
	PlanMismatch       Code = "PLAN_MISMATCH"       // a plan hash differs from the one it must equal
	Stale              Code = "LEASE_STALE"         // a fencing token that is no longer the current one
	Denied             Code = "DENIED"              // known, but not allowed
	Unauthenticated    Code = "UNAUTHENTICATED"     // unknown, or no valid proof
	TenantRequired     Code = "TENANT_REQUIRED"     // a request without a tenant
	Locked             Code = "LOCKED"              // another process holds the data folder
	Unavailable        Code = "UNAVAILABLE"         // try again later
	Exhausted          Code = "EXHAUSTED"           // a quota, a limit or the disk is full
	OverQuota          Code = "QUOTA_EXCEEDED"      // a tenant would store more than it may; waiting does not help
	SandboxUnavailable Code = "SANDBOX_UNAVAILABLE" // the machine lacks a protection the step asks for
	Sandbox            Code = "SANDBOX"             // the sandbox itself failed
	Unverified         Code = "UNVERIFIED"          // a signature, digest or proof does not hold
	Incomplete         Code = "INCOMPLETE"          // something needed for a judgement is missing
	Untrusted          Code = "UNTRUSTED"           // signed, but by nobody the verifier trusts
	Pending            Code = "PENDING"             // not finished: it waits for a decision or for time
	RunFailed          Code = "RUN_FAILED"          // the run ended, not succeeded
	Interrupted        Code = "INTERRUPTED"         // stopped by a signal
)

// Error is an error with a code. Message says what and why; Hint says what to do, preferably as a command.
// Where is a place in a file, "pack.yaml:14:15", or empty; Snippet shows the text at that place.
type Error struct {
	Code    Code
	Message string
	Where   string
	Snippet string
	Hint    string
	Cause   error

	matched error // a cause that Message already prints
}

// Error returns the place, the message and the cause, on one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Where != "" {
		b.WriteString(e.Where)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Cause != nil {
		b.WriteString(": ")
		b.WriteString(e.Cause.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error {
	if e.Cause == nil {
		return e.matched
	}
	return e.Cause
}

// Is reports whether target is an Error of the same code and, where target has a message, of the same message.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// New returns an error of the code with a formatted message. A %w verb in the format makes its operand the cause.
func New(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), matched: errors.Unwrap(err)}
}

// Wrap returns cause with a code and a message in front of it, or nil when cause is nil. A cause that already has a
// code keeps it: the place where an error is classified first knows it best. A machine that has run out of something is Exhausted
// whatever the code: neither the input nor the program is to blame, and the same thing works later.
func Wrap(code Code, cause error, format string, args ...any) error {
	if cause == nil {
		return nil
	}
	e := &Error{Code: code, Message: fmt.Sprintf(format, args...), Cause: cause}
	var inner *Error
	if errors.As(cause, &inner) {
		e.Code, e.Hint, e.Where, e.Snippet = inner.Code, inner.Hint, inner.Where, inner.Snippet
	} else if hint := shortage(cause); hint != "" {
		e.Code, e.Hint = Exhausted, hint
	}
	return e
}

// shortage returns what to do when the operating system has run out of something, "" when it has not.
func shortage(err error) (hint string) {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on that disk; what was committed is safe"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "allow more open files: ulimit -n 1024"
	case errors.Is(err, syscall.ENOMEM):
		return "free some memory"
	default:
		return ""
	}
}

// Passing reports whether an error has nothing to do with what was asked for, so that the same thing works later, when there is room, or
// when whoever does it is there again.
func Passing(err error) bool {
	switch CodeOf(err) {
	case Unavailable, Exhausted:
		return true
	default:
		return false
	}
}

// WithHint returns a copy of the error that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// At returns a copy of the error that names a place in a file.
func (e *Error) At(where string) *Error {
	c := *e
	c.Where = where
	return &c
}

// CodeOf returns the code of err, and "" for nil. An error without one is Exhausted when the machine has run out of something, else Internal.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if shortage(err) != "" {
		return Exhausted
	}
	return Internal
}
