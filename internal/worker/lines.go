package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/redact"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	maxLine    = 16 << 10               // longer lines are kept in pieces
	flushBytes = 64 << 10               // output is sent when this much has gathered
	flushEvery = 100 * time.Millisecond // or when this much time has passed

	// resendEvery is how soon output is sent again that the store could not take.
	resendEvery = 500 * time.Millisecond
)

// lines turns the output of one attempt into numbered, redacted, bounded lines and sends them to the source.
type lines struct {
	w     *Worker
	grant *store.Grant

	mu      sync.Mutex
	pending []work.LogLine
	bytes   int
	limit   int64
	kept    int64
	dropped int64
	count   int64
	digest  hash.Hash
	timer   *time.Timer
	streams []*stream
	r       *redact.Redactor

	sending sync.Mutex // keeps batches in order
	stored  int64      // lines that the store has; by their numbers it knows those that are sent again
}

func newLines(w *Worker, g *store.Grant, r *redact.Redactor, limit int64) *lines {
	return &lines{w: w, grant: g, r: r, limit: limit, digest: sha256.New()}
}

// stream returns a writer whose text becomes lines of the given type, redacted across the borders of its writes.
func (l *lines) stream(eventType, level string) io.Writer {
	s := &stream{l: l, eventType: eventType, level: level}
	s.redacted = l.r.Writer(splitter{s})
	l.streams = append(l.streams, s)
	return s.redacted
}

type stream struct {
	l         *lines
	eventType string
	level     string
	redacted  *redact.Writer
	rest      []byte
}

// splitter takes redacted text and cuts it into lines.
type splitter struct{ *stream }

func (s splitter) Write(p []byte) (int, error) {
	n := len(p)
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		s.rest = append(s.rest, p[:i]...)
		s.cut(true)
		p = p[i+1:]
	}
	s.rest = append(s.rest, p...)
	s.cut(false)
	return n, nil
}

// cut turns what has gathered into lines: all of it at the end of a line, else only what is too long to wait.
func (s *stream) cut(whole bool) {
	for len(s.rest) > maxLine {
		at := maxLine
		for at > maxLine-utf8.UTFMax && !utf8.RuneStart(s.rest[at]) {
			at--
		}
		s.l.add(s.eventType, s.level, s.rest[:at])
		s.rest = append(s.rest[:0], s.rest[at:]...)
	}
	if whole {
		s.l.add(s.eventType, s.level, bytes.TrimSuffix(s.rest, []byte("\r")))
		s.rest = s.rest[:0]
	}
}

// add keeps one line unless the attempt has had its share. The caller holds the lock.
func (l *lines) add(eventType, level string, text []byte) {
	if l.kept+int64(len(text)) > l.limit {
		l.dropped += int64(len(text)) + 1
		return
	}
	l.kept += int64(len(text)) + 1
	message := strings.ToValidUTF8(string(text), "\uFFFD")
	l.count++
	l.digest.Write([]byte(message))
	l.digest.Write([]byte{'\n'})
	l.pending = append(l.pending, work.LogLine{Time: l.w.Now(), Level: level, EventType: eventType, Message: message})
	l.bytes += len(message)
	if l.bytes >= flushBytes {
		go l.send()
	} else if l.timer == nil {
		l.timer = time.AfterFunc(flushEvery, func() { l.send() })
	}
}

// say adds a line of the worker's own.
func (l *lines) say(level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add("step.message", level, []byte(l.r.String(fmt.Sprintf(format, args...))))
}

func (l *lines) drop(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped += n
}

// send stores what has gathered and reports whether nothing is left to store. What a failing store does not take is kept and sent
// again: the report will say how many lines there are, and the evidence must hold them.
func (l *lines) send() bool {
	l.sending.Lock()
	defer l.sending.Unlock()
	l.mu.Lock()
	batch, size := l.pending, l.bytes
	l.pending, l.bytes = nil, 0
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.mu.Unlock()
	if len(batch) == 0 {
		return true
	}
	err := l.w.source.AppendLines(context.Background(), []store.LinesCommand{{
		Session: l.grant.Session, Tenant: l.grant.Tenant, Run: l.grant.Run, Step: l.grant.Step, Token: l.grant.Token, From: l.stored + 1, Lines: batch,
	}})[0]
	switch fault.CodeOf(err) {
	case "":
		l.stored += int64(len(batch))
		return true
	case fault.Stale, fault.NotFound:
		l.w.cancel(keyOf(l.grant), errLost)
		return true // nobody will ever take them
	}
	l.w.Log.Warn("output could not be stored yet", "run", l.grant.Run, "step", l.grant.Step, "lines", len(batch), "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending, l.bytes = append(batch, l.pending...), l.bytes+size
	if l.timer == nil {
		l.timer = time.AfterFunc(resendEvery, func() { l.send() })
	}
	return false
}

// drain sends until everything is stored or nobody will take it any more. Without a store that takes it there would be none either
// that takes the report.
func (l *lines) drain() {
	for !l.send() && !l.w.abandoned.Load() {
		<-time.After(resendEvery)
	}
}

// close ends the last lines, sends everything and returns what binds the transcript to the report.
func (l *lines) close() work.Transcript {
	for _, s := range l.streams {
		_ = s.redacted.Close() // a splitter takes everything
		l.mu.Lock()
		if len(s.rest) > 0 {
			s.cut(true)
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	if l.dropped > 0 {
		l.limit = l.kept + maxLine // the note itself is always kept
		l.add("step.truncated", "warn", fmt.Appendf(nil, "%d bytes of output were dropped beyond the limit", l.dropped))
	}
	l.mu.Unlock()
	l.drain()
	t := work.Transcript{Lines: l.count, Dropped: l.dropped}
	if l.count > 0 {
		t.Digest = work.Digest("sha256:" + hex.EncodeToString(l.digest.Sum(nil)))
	}
	return t
}
