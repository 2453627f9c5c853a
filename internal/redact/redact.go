package redact

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
)

// Redactor finds a fixed set of secrets. It is immutable and safe for concurrent use.
type Redactor struct {
	find    *automaton // nil when there is nothing to find
	marks   []string
	tooWeak []string
}

// New prepares to find the secrets, given by name. The map is not kept.
func New(secrets map[string][]byte) *Redactor {
	r := &Redactor{}
	var patterns []pattern
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		texts := forms(secrets[name])
		if len(texts) == 0 {
			r.tooWeak = append(r.tooWeak, name)
			continue
		}
		for _, text := range texts {
			patterns = append(patterns, pattern{text, int32(len(r.marks))})
		}
		r.marks = append(r.marks, "[redacted:"+strings.Map(plain, name)+"]")
	}
	if len(patterns) > 0 {
		r.find = build(patterns)
	}
	return r
}

// plain keeps a mark harmless in every format that text is put into.
func plain(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		return r
	default:
		return '_'
	}
}

// TooShort returns the names of the secrets that are below MinLength and therefore not found, sorted.
func (r *Redactor) TooShort() []string { return slices.Clone(r.tooWeak) }

// Bytes returns b without the secrets. Without a find it returns b itself.
func (r *Redactor) Bytes(b []byte) []byte {
	if r.find == nil || !r.found(b) {
		return b
	}
	var out bytes.Buffer
	w := r.Writer(&out)
	_, _ = w.Write(b) // a buffer takes everything
	_ = w.Flush()
	return out.Bytes()
}

// String returns s without the secrets.
func (r *Redactor) String(s string) string {
	if r.find == nil || s == "" {
		return s
	}
	return string(r.Bytes([]byte(s)))
}

func (r *Redactor) found(b []byte) bool {
	state := int32(0)
	for _, c := range b {
		state = r.find.step(state, c)
		if r.find.nodes[state].longest > 0 {
			return true
		}
	}
	return false
}

// Writer returns a writer that passes on to w what is written to it, without the secrets.
func (r *Redactor) Writer(w io.Writer) *Writer { return &Writer{to: w, r: r} }

// Writer is one stream of text. It is not safe for concurrent use.
type Writer struct {
	to    io.Writer
	r     *Redactor
	err   error
	state int32

	base  int64  // position in the stream of held[0]
	held  []byte // what is not passed on yet
	spans []span // found, not passed on yet: sorted, not overlapping
	out   []byte
}

// span is a piece of the stream that is replaced by one mark.
type span struct {
	start, end int64
	name       int32
	marked     bool // the mark is written; later finds may still extend the span
}

const chunk = 32 << 10 // bounds what is held besides the longest secret

// Write takes p and passes on all but what may still be the start of a secret. It returns the errors of the writer below.
func (w *Writer) Write(p []byte) (int, error) {
	if w.r.find == nil && w.err == nil {
		n, err := w.to.Write(p)
		w.err = err
		return n, err
	}
	for rest := p; len(rest) > 0 && w.err == nil; {
		n := min(len(rest), chunk)
		w.take(rest[:n])
		rest = rest[n:]
		w.pass(w.base + int64(len(w.held)) - int64(w.r.find.nodes[w.state].depth))
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// Flush passes on what is held back, as at the end of a stream: what follows is not joined to it any more.
func (w *Writer) Flush() error {
	if w.r.find == nil || w.err != nil {
		return w.err
	}
	w.state = 0
	w.pass(w.base + int64(len(w.held)))
	w.spans = w.spans[:0]
	return w.err
}

// Close is Flush. The writer below stays open.
func (w *Writer) Close() error { return w.Flush() }

// take runs p through the automaton and notes what it finds.
func (w *Writer) take(p []byte) {
	a, state := w.r.find, w.state
	at := w.base + int64(len(w.held))
	for i, c := range p {
		state = a.step(state, c)
		if n := &a.nodes[state]; n.longest > 0 {
			w.note(span{start: at + int64(i) + 1 - int64(n.longest), end: at + int64(i) + 1, name: n.name})
		}
	}
	w.state = state
	w.held = append(w.held, p...)
}

// note adds a find and joins it with those it overlaps. The name of the one that starts first stays, of two that start
// together that of the longer one: so the result does not depend on how the text is split into writes.
func (w *Writer) note(s span) {
	for len(w.spans) > 0 {
		last := w.spans[len(w.spans)-1]
		if s.start >= last.end {
			break
		}
		if last.start < s.start || last.start == s.start && last.end >= s.end {
			s.name = last.name
		}
		s.start, s.marked = min(s.start, last.start), last.marked || s.marked
		w.spans = w.spans[:len(w.spans)-1]
	}
	w.spans = append(w.spans, s)
}

// pass writes everything before the position end, to which no later find reaches back.
func (w *Writer) pass(end int64) {
	w.out = w.out[:0]
	at, done := w.base, 0
	for i := range w.spans {
		s := &w.spans[i]
		if s.start >= end {
			break
		}
		if s.start > at {
			w.out = append(w.out, w.held[at-w.base:s.start-w.base]...)
		}
		if !s.marked {
			w.out = append(w.out, w.r.marks[s.name]...)
			s.marked = true
		}
		at = min(s.end, end)
		if s.end <= end {
			done = i + 1
		}
	}
	if at < end {
		w.out = append(w.out, w.held[at-w.base:end-w.base]...)
	}
	w.spans = slices.Delete(w.spans, 0, done)
	w.held = append(w.held[:0], w.held[end-w.base:]...)
	w.base = end
	if len(w.out) > 0 {
		_, w.err = w.to.Write(w.out)
	}
}
