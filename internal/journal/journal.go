// Package journal is the log of a process: lines of JSON or text without secrets, of which the last are kept for whoever looks for
// trouble.
//
// Secrets are taken out of whole lines, on their only way out: values that the process was told to hide, in every form that package
// redact knows, and whatever has the form of a token, a password in an address or a private key.
package journal

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"regexp"
	"sync"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/redact"
)

// Options say what is written where.
type Options struct {
	To     io.Writer
	Format string // json or text
	Level  string // debug, info, warn or error
}

// kept is how many bytes of the last lines are kept.
const kept = 256 << 10

// most bounds how many values are hidden: the oldest are given up, in blocks.
const most = 4096

// Journal writes lines. It is safe for concurrent use.
type Journal struct {
	log   *slog.Logger
	to    io.Writer
	level slog.Level    // that was asked for
	now   slog.LevelVar // that counts

	mu     sync.Mutex
	hidden map[string][]byte
	known  map[[32]byte]bool
	redact *redact.Redactor
	last   []byte
}

// New returns a journal. Errors: fault.Invalid for a format or level that does not exist.
func New(o Options) (*Journal, error) {
	j := &Journal{to: o.To, hidden: map[string][]byte{}, known: map[[32]byte]bool{}, redact: redact.New(nil)}
	switch o.Level {
	case "debug", "info", "warn", "error":
		_ = j.level.UnmarshalText([]byte(o.Level)) // one of its own names
		j.now.Set(j.level)
	default:
		return nil, fault.New(fault.Invalid, "there is no level %q of the log", o.Level).WithHint("use debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: &j.now}
	switch o.Format {
	case "json":
		j.log = slog.New(slog.NewJSONHandler(lines{j}, options))
	case "text":
		j.log = slog.New(slog.NewTextHandler(lines{j}, options))
	default:
		return nil, fault.New(fault.Invalid, "there is no format %q of the log", o.Format).WithHint("use json or text")
	}
	return j, nil
}

// Log returns what writes into the journal.
func (j *Journal) Log() *slog.Logger { return j.log }

// Verbose writes everything, whatever level was asked for, until it is called with false.
func (j *Journal) Verbose(on bool) {
	if on {
		j.now.Set(slog.LevelDebug)
		return
	}
	j.now.Set(j.level)
}

// Hide keeps a value out of every line from now on. The name stands in its place; a value that is too short to be found in text is not
// hidden.
func (j *Journal) Hide(name string, value []byte) {
	sum := sha256.Sum256(value)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.known[sum] {
		return
	}
	if len(j.known) >= most {
		clear(j.known)
		clear(j.hidden)
	}
	j.known[sum] = true
	for taken := true; taken; name += "+" {
		if _, taken = j.hidden[name]; !taken {
			j.hidden[name] = bytes.Clone(value)
			break
		}
	}
	j.redact = redact.New(j.hidden)
}

// Tail returns the last lines.
func (j *Journal) Tail() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Clone(j.last)
}

// Clean returns text without secrets, as lines have them.
func (j *Journal) Clean(text []byte) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Scrub(j.redact.Bytes(text))
}

// lines takes what a handler writes: one line at a time.
type lines struct{ j *Journal }

// Write implements io.Writer.
func (l lines) Write(line []byte) (int, error) {
	j := l.j
	j.mu.Lock()
	defer j.mu.Unlock()
	clean := Scrub(j.redact.Bytes(line))
	j.last = append(j.last, clean...)
	if over := len(j.last) - kept; over > 0 {
		if at := bytes.IndexByte(j.last[over:], '\n'); at >= 0 {
			over += at + 1
		}
		j.last = append(j.last[:0], j.last[over:]...)
	}
	if _, err := j.to.Write(clean); err != nil {
		return 0, err
	}
	return len(line), nil
}

// shapes are what no line is to hold, whoever wrote it, and what to keep of a find.
func shapes() []shape {
	return []shape{
		{regexp.MustCompile(`orr_[A-Za-z0-9]{12,}`), "[redacted:token]"},
		{regexp.MustCompile(`(?i)(bearer|basic)(\s+|%20)[A-Za-z0-9._~+/=-]{8,}`), "$1 [redacted:token]"},
		{regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^/@:\s"\\]*):[^/@\s"\\]+@`), "$1:[redacted:password]@"},
		{regexp.MustCompile(`(?i)(password|passwd|secret|api[_-]?key|access[_-]?key|token)=[^\s&"\\]{4,}`), "$1=[redacted]"},
		{regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), "[redacted:jwt]"},
		{regexp.MustCompile(`AKIA[0-9A-Z]{16}`), "[redacted:key]"},
		{regexp.MustCompile(`AGE-SECRET-KEY-1[A-Z0-9]+`), "[redacted:key]"},
		{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), "[redacted:key]"},
	}
}

type shape struct {
	find *regexp.Regexp
	mark string
}

// shaped are compiled once.
var shaped = sync.OnceValue(shapes)

// Scrub takes out of text what has the form of a secret.
func Scrub(text []byte) []byte {
	for _, s := range shaped() {
		if s.find.Match(text) {
			text = s.find.ReplaceAll(text, []byte(s.mark))
		}
	}
	return text
}
