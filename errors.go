package orrery

import (
	"errors"
	"fmt"

	"orrery.example/orrery/api"
)

// Error is what a server answers instead of what was asked for.
type Error struct {
	Reply  api.Error
	Status int // of HTTP, 0 when there was no answer
}

// Error says what went wrong and what to do about it.
func (e *Error) Error() string {
	if e.Reply.Hint != "" {
		return fmt.Sprintf("%s: %s (%s)", e.Reply.Code, e.Reply.Message, e.Reply.Hint)
	}
	return e.Reply.Code + ": " + e.Reply.Message
}

// Code returns the stable code of an error of a server, "" for any other: NOT_FOUND, CONFLICT, DENIED, UNAVAILABLE, and what else
// docs/reference/exit-codes.md lists.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reply.Code
	}
	return ""
}

// The causes with which the context of a job ends.
var (
	ErrCancelled = errors.New("the run was cancelled")
	ErrLost      = errors.New("the lease was lost: somebody else may be doing the same by now")
)

func failure(code, format string, args ...any) error {
	return &Error{Reply: api.Error{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func unavailable(err error) error { return failure(codeUnavailable, "%v", err) }

// Codes that the SDK itself acts on.
const (
	codeUnavailable  = "UNAVAILABLE"
	codeExhausted    = "EXHAUSTED"
	codeNotFound     = "NOT_FOUND"
	codeResync       = "RESYNC"
	codeBlocked      = "STREAM_BLOCKED"
	codeUntrusted    = "UNTRUSTED"
	codePlanMismatch = "PLAN_MISMATCH"
	codeInput        = "INPUT"
	codeOutput       = "OUTPUT"
)
