// Package span is the trace of a run: the W3C trace context it carries, and the spans that its history stands for.
//
// Spans are not recorded while a run goes on; they follow from its history, and their ids from what they are about. So whoever looks at
// the same history makes the same spans, and a worker knows the span that it works below before anybody has made it.
package span

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"orrery.example/orrery/internal/work"
)

// Context is where something belongs in a trace.
type Context struct {
	Trace   string // 32 lower-case hex digits, not all 0
	Span    string // 16 of them
	Sampled bool   // whether whoever began the trace wants its spans
}

// Bounds of what a caller may hand on with a run, in bytes. W3C asks systems to carry at least this much.
const (
	MaxState   = 512
	MaxBaggage = 8192
)

// Parse reads a traceparent header, version 00 or what a later version has in common with it. It reports false for what is none.
func Parse(header string) (Context, bool) {
	const length = 55 // 00-trace-span-flags
	if len(header) < length || header[2] != '-' || header[35] != '-' || header[52] != '-' {
		return Context{}, false
	}
	version, trace, span, flags := header[:2], header[3:35], header[36:52], header[53:55]
	if !digits(version) || version == "ff" || !digits(trace) || !digits(span) || !digits(flags) || zeros(trace) || zeros(span) {
		return Context{}, false
	}
	if version == "00" && len(header) != length || len(header) > length && header[length] != '-' {
		return Context{}, false
	}
	bits, err := strconv.ParseUint(flags, 16, 8)
	return Context{Trace: trace, Span: span, Sampled: bits&1 == 1}, err == nil
}

// String returns the context as a traceparent header.
func (c Context) String() string {
	if c.Sampled {
		return "00-" + c.Trace + "-" + c.Span + "-01"
	}
	return "00-" + c.Trace + "-" + c.Span + "-00"
}

func digits(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(s string) bool { return strings.Trim(s, "0") == "" }

// State returns a tracestate header if it may be handed on, else "".
func State(header string) string { return printable(header, MaxState) }

// Baggage returns a baggage header if it may be handed on, else "": one that is too long or no header is dropped whole, because a part
// of it may mean something else.
func Baggage(header string) string { return printable(header, MaxBaggage) }

func printable(s string, limit int) string {
	s = strings.TrimSpace(s)
	if len(s) > limit || !strings.Contains(s, "=") {
		return ""
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return ""
		}
	}
	return s
}

// RunID is the id of the span of a run.
func RunID(tenant work.Tenant, run work.RunID) string { return id("run", string(tenant), string(run)) }

// AttemptID is the id of the span of one attempt of a step.
func AttemptID(tenant work.Tenant, run work.RunID, step work.StepID, attempt int) string {
	return id("attempt", string(tenant), string(run), string(step), strconv.Itoa(attempt))
}

func id(parts ...string) string {
	sum := sha256.Sum256([]byte("orrery.span/v1\x00" + strings.Join(parts, "\x00")))
	sum[7] |= 1 // an id of nothing but zeros is none
	return hex.EncodeToString(sum[:8])
}

// Below returns the traceparent of an attempt of a run: that of the run with the span of the attempt. What is no trace context stays as it is.
func Below(run *work.Run, step work.StepID, attempt int) string {
	c, ok := Parse(run.TraceParent)
	if !ok {
		return run.TraceParent
	}
	c.Span = AttemptID(run.Tenant, run.ID, step, attempt)
	return c.String()
}
