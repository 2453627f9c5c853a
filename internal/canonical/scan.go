package canonical

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
)

// scanner reads one document from front to back. With rewrite it writes the canonical form to out while it reads: a value
// as soon as it is read, and the members of an object put in order once the object is closed.
type scanner struct {
	src     []byte
	pos     int
	depth   int
	rewrite bool
	out     []byte

	members []member // of all objects that are open, outermost first
	scratch []byte   // where the members of one object are put in order
}

// member is one name in an open object, and where "name":value stands in out.
type member struct {
	name       []byte
	at         int // in src
	start, end int // in out
}

func (s *scanner) document(limit int) error {
	switch {
	case len(s.src) > limit:
		return fault.New(fault.Invalid, "the document has %d bytes, more than the %d allowed", len(s.src), limit)
	case bytes.HasPrefix(s.src, []byte("\xef\xbb\xbf")):
		return s.fail(0, "the document begins with a byte order mark").WithHint("save the file as UTF-8 without BOM")
	case !utf8.Valid(s.src):
		return s.fail(invalidAt(s.src), "the document is not UTF-8")
	}
	s.space()
	if err := s.value(); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.src) {
		return s.fail(s.pos, "more text follows after the end of the document")
	}
	return nil
}

func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) value() error {
	if s.pos >= len(s.src) {
		return s.fail(s.pos, "the document ends where a value should be")
	}
	switch c := s.src[s.pos]; {
	case c == '{':
		return s.object()
	case c == '[':
		return s.array()
	case c == '"':
		_, err := s.text()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if bytes.HasPrefix(s.src[s.pos:], []byte(word)) {
			s.pos += len(word)
			if s.rewrite {
				s.out = append(s.out, word...)
			}
			return nil
		}
	}
	return s.fail(s.pos, "a value cannot begin with %s", s.here())
}

func (s *scanner) array() error {
	if err := s.enter('['); err != nil {
		return err
	}
	if s.closes(']') {
		return nil
	}
	for {
		s.space()
		if err := s.value(); err != nil {
			return err
		}
		done, err := s.next(']', "a list")
		if done || err != nil {
			return err
		}
	}
}

func (s *scanner) object() error {
	if err := s.enter('{'); err != nil {
		return err
	}
	if s.closes('}') {
		return nil
	}
	first, ordered, body := len(s.members), true, len(s.out)
	for {
		s.space()
		m := member{at: s.pos, start: len(s.out)}
		if s.pos >= len(s.src) || s.src[s.pos] != '"' {
			return s.fail(s.pos, "a key in double quotes should be here, not %s", s.here())
		}
		var err error
		if m.name, err = s.text(); err != nil {
			return err
		}
		s.space()
		if s.pos >= len(s.src) || s.src[s.pos] != ':' {
			return s.fail(s.pos, "a colon should follow the key %q, not %s", m.name, s.here())
		}
		s.pos++
		if s.rewrite {
			s.out = append(s.out, ':')
		}
		s.space()
		if err = s.value(); err != nil {
			return err
		}
		m.end = len(s.out)
		ordered = ordered && (len(s.members) == first || compare(s.members[len(s.members)-1].name, m.name) < 0)
		s.members = append(s.members, m)
		done, err := s.next('}', "an object")
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	if !ordered {
		if err := s.order(s.members[first:], body); err != nil {
			return err
		}
	}
	s.members = s.members[:first]
	return nil
}

// order sorts the members of the object whose text begins at body in out, and refuses a name that stands there twice.
func (s *scanner) order(members []member, body int) error {
	slices.SortFunc(members, func(a, b member) int {
		if c := compare(a.name, b.name); c != 0 {
			return c
		}
		return a.at - b.at
	})
	for i := 1; i < len(members); i++ {
		if bytes.Equal(members[i].name, members[i-1].name) {
			return s.fail(members[i].at, "the key %q stands twice in one object", members[i].name)
		}
	}
	if !s.rewrite {
		return nil
	}
	s.scratch = s.scratch[:0]
	for i, m := range members {
		if i > 0 {
			s.scratch = append(s.scratch, ',')
		}
		s.scratch = append(s.scratch, s.out[m.start:m.end]...)
	}
	s.out = append(append(s.out[:body], s.scratch...), '}')
	return nil
}

func (s *scanner) enter(open byte) error {
	s.depth++
	if s.depth > MaxDepth {
		return s.fail(s.pos, "values lie more than %d levels inside each other", MaxDepth)
	}
	s.pos++
	if s.rewrite {
		s.out = append(s.out, open)
	}
	return nil
}

func (s *scanner) closes(end byte) bool {
	s.space()
	if s.pos >= len(s.src) || s.src[s.pos] != end {
		return false
	}
	s.leave(end)
	return true
}

func (s *scanner) leave(end byte) {
	s.pos++
	s.depth--
	if s.rewrite {
		s.out = append(s.out, end)
	}
}

// next reads what follows an element: a comma, or the end of what contains it.
func (s *scanner) next(end byte, what string) (done bool, err error) {
	if s.closes(end) {
		return true, nil
	}
	if s.pos >= len(s.src) {
		return false, s.fail(s.pos, "the document ends inside of %s", what)
	}
	if s.src[s.pos] != ',' {
		return false, s.fail(s.pos, "a comma or %q should be here, not %s", rune(end), s.here())
	}
	s.pos++
	if s.rewrite {
		s.out = append(s.out, ',')
	}
	return false, nil
}

func (s *scanner) number() error {
	start := s.pos
	if s.src[s.pos] == '-' {
		s.pos++
	}
	digits := s.pos
	value := int64(0)
	for s.pos < len(s.src) && '0' <= s.src[s.pos] && s.src[s.pos] <= '9' {
		if value <= MaxInteger {
			value = value*10 + int64(s.src[s.pos]-'0')
		}
		s.pos++
	}
	switch {
	case s.pos == digits:
		return s.fail(start, "a digit should follow the minus sign")
	case s.src[digits] == '0' && s.pos > digits+1:
		return s.fail(start, "a number does not begin with a zero")
	case s.pos < len(s.src) && (s.src[s.pos] == '.' || s.src[s.pos] == 'e' || s.src[s.pos] == 'E'):
		return s.fail(start, "a number with a fraction or an exponent has no place in a document that is hashed").
			WithHint("write it as a string, or as an integer in smaller units")
	case value > MaxInteger:
		return s.fail(start, "the integer %s is beyond 2^53-1, where readers of JSON begin to round", clip(s.src[start:s.pos])).
			WithHint("write it as a string")
	}
	if s.rewrite {
		if value == 0 {
			s.out = append(s.out, '0')
		} else {
			s.out = append(s.out, s.src[start:s.pos]...)
		}
	}
	return nil
}

// text reads a string and returns what it means.
func (s *scanner) text() ([]byte, error) {
	start := s.pos
	s.pos++
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == '"':
			s.pos++
			if s.rewrite {
				s.out = append(s.out, s.src[start:s.pos]...)
			}
			return s.src[start+1 : s.pos-1], nil
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return nil, s.fail(s.pos, "a control character stands in a string without being escaped")
		}
		s.pos++
	}
	return nil, s.fail(start, "the string that begins here does not end")
}

// escaped reads the rest of a string from its first backslash on.
func (s *scanner) escaped(start int) ([]byte, error) {
	meaning := slices.Clone(s.src[start+1 : s.pos])
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == '"':
			s.pos++
			if s.rewrite {
				s.out = appendText(s.out, meaning)
			}
			return meaning, nil
		case c == '\\':
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			meaning = utf8.AppendRune(meaning, r)
		case c < ' ':
			return nil, s.fail(s.pos, "a control character stands in a string without being escaped")
		default:
			meaning = append(meaning, c)
			s.pos++
		}
	}
	return nil, s.fail(start, "the string that begins here does not end")
}

// escape reads one escape sequence, or the two that stand for one character beyond U+FFFF.
func (s *scanner) escape() (rune, error) {
	at := s.pos
	if at+1 >= len(s.src) {
		return 0, s.fail(at, "the document ends inside of an escape sequence")
	}
	if i := strings.IndexByte(`"\/bfnrt`, s.src[at+1]); i >= 0 {
		s.pos += 2
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	high, ok := s.unit(at)
	if !ok {
		return 0, s.fail(at, "unknown escape sequence %q", around(s.src, at))
	}
	s.pos += 6
	if !utf16.IsSurrogate(high) {
		return high, nil
	}
	if low, ok := s.unit(s.pos); ok {
		if r := utf16.DecodeRune(high, low); r != utf8.RuneError {
			s.pos += 6
			return r, nil
		}
	}
	return 0, s.fail(at, "the escape \\u%04x is half of a surrogate pair and means no character", high)
}

// unit reads a \uXXXX at an offset.
func (s *scanner) unit(at int) (rune, bool) {
	if at+6 > len(s.src) || s.src[at] != '\\' || s.src[at+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.src[at+2 : at+6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
