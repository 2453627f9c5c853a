package canonical

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
)

// appendText writes a string with the escapes that RFC 8785 section 3.2.2.2 asks for and no others.
func appendText(out, text []byte) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for _, c := range text {
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\f':
			out = append(out, '\\', 'f')
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			if c < ' ' {
				out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				out = append(out, c)
			}
		}
	}
	return append(out, '"')
}

// compare orders names by their UTF-16 code units, as RFC 8785 section 3.2.3 asks. That is the order of the UTF-8 bytes
// but for characters beyond U+FFFF, whose surrogates sort before U+E000 … U+FFFF.
func compare(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n {
		return len(a) - len(b)
	}
	const fourBytes = 0xf0 // leads a character beyond U+FFFF; its inner bytes differ only after an equal lead
	if x, y := a[i], b[i]; x >= fourBytes && y < fourBytes && y >= 0xee {
		return -1
	} else if y >= fourBytes && x < fourBytes && x >= 0xee {
		return 1
	}
	return int(a[i]) - int(b[i])
}

func (s *scanner) fail(at int, format string, args ...any) *fault.Error {
	before := s.src[:at]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fault.New(fault.Invalid, "JSON line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

// here describes what stands at the current position.
func (s *scanner) here() string {
	if s.pos >= len(s.src) {
		return "the end of the document"
	}
	r, _ := utf8.DecodeRune(s.src[s.pos:])
	return fmt.Sprintf("%q", r)
}

func clip(text []byte) string {
	if len(text) > 24 {
		return string(text[:24]) + "…"
	}
	return string(text)
}

func invalidAt(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return len(text)
}
