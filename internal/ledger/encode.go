package ledger

import (
	"strconv"
	"unicode/utf8"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// MaxEvent is the limit of an event's data in bytes.
const MaxEvent = 16 << 20

// Encode appends the canonical JSON of the event to dst, as one line without a line break; Hash is left out when empty.
// It is what canonical.Marshal gives, faster: the fields of an event have one fixed order, and data that is canonical
// already is copied. Error: fault.Invalid for what has no canonical form.
func Encode(dst []byte, e *work.Event) ([]byte, error) {
	if e.Seq < -maxInteger || e.Seq > maxInteger || int64(e.Attempt) < -maxInteger || int64(e.Attempt) > maxInteger {
		return nil, fault.New(fault.Invalid, "a number of event %d is beyond what JSON keeps exactly", e.Seq)
	}
	w := encoder{out: dst, open: '{'}
	if e.Attempt != 0 {
		w.name("attempt")
		w.out = strconv.AppendInt(w.out, int64(e.Attempt), 10)
	}
	if len(e.Data) > 0 {
		w.name("data")
		w.data(e.Data)
	}
	if e.Hash != "" {
		w.name("hash")
		w.text(string(e.Hash))
	}
	w.name("prev")
	w.text(string(e.Prev))
	w.name("run")
	w.text(string(e.Run))
	w.name("seq")
	w.out = strconv.AppendInt(w.out, e.Seq, 10)
	if e.Step != "" {
		w.name("step")
		w.text(string(e.Step))
	}
	w.name("tenant")
	w.text(string(e.Tenant))
	w.name("time")
	if e.Time == 0 {
		w.out = append(w.out, "null"...)
	} else {
		w.out = append(w.out, '"')
		w.out = append(w.out, e.Time.String()...)
		w.out = append(w.out, '"')
	}
	w.name("type")
	w.text(string(e.Type))
	if w.err != nil {
		return nil, fault.Wrap(fault.Invalid, w.err, "event %d", e.Seq)
	}
	return append(w.out, '}'), nil
}

const maxInteger = 1<<53 - 1

type encoder struct {
	out  []byte
	open byte // what stands before the next name
	err  error
}

func (w *encoder) name(n string) {
	w.out = append(w.out, w.open, '"')
	w.out = append(w.out, n...)
	w.out = append(w.out, '"', ':')
	w.open = ','
}

func (w *encoder) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			b, err := canonical.Marshal(s)
			if err != nil && w.err == nil {
				w.err = err
			}
			w.out = append(w.out, b...)
			return
		}
	}
	w.out = append(w.out, '"')
	w.out = append(w.out, s...)
	w.out = append(w.out, '"')
}

func (w *encoder) data(raw []byte) {
	if len(raw) <= MaxEvent && plainly(raw) {
		w.out = append(w.out, raw...)
		return
	}
	b, err := canonical.TransformUpTo(raw, MaxEvent)
	if err != nil && w.err == nil {
		w.err = err
	}
	w.out = append(w.out, b...)
}

// plainly reports whether raw is canonical JSON. It may say no to some that is (names beyond ASCII, numbers of more than
// 15 digits, depth), never yes to some that is not: the answer only picks the faster way.
func plainly(raw []byte) bool {
	p := prober{raw: raw}
	return p.value(0) && p.at == len(raw)
}

type prober struct {
	raw []byte
	at  int
}

const probeDepth = 32

func (p *prober) value(depth int) bool {
	if p.at >= len(p.raw) || depth > probeDepth {
		return false
	}
	switch c := p.raw[p.at]; {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		_, ok := p.text()
		return ok
	case c == 't':
		return p.word("true")
	case c == 'f':
		return p.word("false")
	case c == 'n':
		return p.word("null")
	default:
		return p.integer()
	}
}

func (p *prober) word(w string) bool {
	end := p.at + len(w)
	if end > len(p.raw) || string(p.raw[p.at:end]) != w {
		return false
	}
	p.at = end
	return true
}

// take moves past c if it comes next.
func (p *prober) take(c byte) bool {
	if p.at < len(p.raw) && p.raw[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *prober) array(depth int) bool {
	p.at++
	if p.take(']') {
		return true
	}
	for {
		if !p.value(depth + 1) {
			return false
		}
		if p.take(']') {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

func (p *prober) object(depth int) bool {
	p.at++
	if p.take('}') {
		return true
	}
	var before []byte
	for first := true; ; first = false {
		start := p.at + 1
		if p.at >= len(p.raw) || p.raw[p.at] != '"' {
			return false
		}
		simple, ok := p.text()
		if !ok || !simple {
			return false
		}
		name := p.raw[start : p.at-1]
		if !first && string(name) <= string(before) || !p.take(':') || !p.value(depth+1) {
			return false
		}
		before = name
		if p.take('}') {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

func (p *prober) integer() bool {
	p.take('-')
	start := p.at
	for p.at < len(p.raw) && p.raw[p.at]-'0' <= 9 {
		p.at++
	}
	n := p.at - start
	if n == 0 || n > 15 {
		return false
	}
	return p.raw[start] != '0' || n == 1 && (start == 0 || p.raw[start-1] != '-')
}

// text reads a string. simple is whether it is ASCII without an escape.
func (p *prober) text() (simple, ok bool) {
	p.at++
	start := p.at
	simple = true
	raw := p.raw
	for i := start; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			p.at = i + 1
			return simple, simple || utf8.Valid(raw[start:i])
		case c < ' ':
			return false, false
		case c == '\\':
			simple = false
			n := shortEscape(raw[i+1:])
			if n == 0 {
				return false, false
			}
			i += n
		case c >= utf8.RuneSelf:
			simple = false
		}
	}
	return false, false
}

// shortEscape returns the length after the backslash of an escape that RFC 8785 would write, 0 for any other.
func shortEscape(rest []byte) int {
	if len(rest) == 0 {
		return 0
	}
	switch rest[0] {
	case '"', '\\', 'b', 't', 'n', 'f', 'r':
		return 1
	default:
		return 0
	}
}
