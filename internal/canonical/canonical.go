// Package canonical gives a value one spelling: strict I-JSON in the form of RFC 8785, and the digest of that form.
//
// Everything that is hashed or signed passes the gate of this package first: UTF-8 without a byte order mark, no duplicate
// keys, no lone surrogates, only integers that every reader of JSON keeps exactly (between -(2^53-1) and 2^53-1), bounded
// depth and size. Two documents that a reader could take for one another are thereby either refused or spelled differently.
// A number with a fraction or an exponent is refused: a document that is hashed carries it as a string or in smaller units.
//
// Documents from outside are canonicalised by github.com/gowebpki/jcs. Values of our own go through the writer of this
// package, which is several times as fast and is held to the same bytes by a differential fuzz test.
package canonical

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"unicode/utf8"

	"github.com/gowebpki/jcs"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// The bounds of a document. A caller that expects more, such as the planner, names its own limit of bytes.
const (
	DefaultLimit = 4 << 20 // bytes
	MaxDepth     = 64      // arrays and objects inside each other
	MaxInteger   = 1<<53 - 1
)

// Check reports what keeps raw from being hashed, or nil. The error is fault.Invalid and names line and column.
func Check(raw []byte) error { return CheckUpTo(raw, DefaultLimit) }

// CheckUpTo is Check for a document of at most limit bytes.
func CheckUpTo(raw []byte, limit int) error {
	s := scanner{src: raw}
	return s.document(limit)
}

// Transform returns the canonical form of a JSON document. It fails where Check fails.
func Transform(raw []byte) ([]byte, error) { return TransformUpTo(raw, DefaultLimit) }

// TransformUpTo is Transform for a document of at most limit bytes.
func TransformUpTo(raw []byte, limit int) ([]byte, error) {
	if err := CheckUpTo(raw, limit); err != nil {
		return nil, err
	}
	out, err := jcs.Transform(raw)
	if err != nil {
		return nil, fault.New(fault.Invalid, "no canonical form: %w", err)
	}
	return out, nil
}

// Marshal returns the canonical form of a Go value. It fails where Check would fail on its JSON, for a string that is not
// UTF-8, and for what encoding/json cannot write. A json.RawMessage in v must not spell U+FFFD as an escape.
func Marshal(v any) ([]byte, error) { return MarshalUpTo(v, DefaultLimit) }

// MarshalUpTo is Marshal for a result of at most limit bytes.
func MarshalUpTo(v any, limit int) ([]byte, error) {
	var encoded bytes.Buffer
	enc := json.NewEncoder(&encoded)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fault.New(fault.Invalid, "no JSON form: %w", err)
	}
	// encoding/json replaces what is not UTF-8 by this escape, and writes the character itself when a string holds it.
	if at := replacement(encoded.Bytes()); at >= 0 {
		return nil, fault.New(fault.Invalid, "a string holds bytes that are not UTF-8, near %q", around(encoded.Bytes(), at)).
			WithHint("encode binary data as base64 before it goes into a document")
	}
	s := scanner{src: encoded.Bytes(), rewrite: true, out: make([]byte, 0, encoded.Len())}
	if err := s.document(limit); err != nil {
		return nil, err
	}
	return s.out, nil
}

// Digest returns the SHA-256 of the bytes as they are.
func Digest(raw []byte) work.Digest {
	sum := sha256.Sum256(raw)
	return work.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// DigestOf returns the digest of the canonical form of v, and that form.
func DigestOf(v any) (work.Digest, []byte, error) {
	raw, err := Marshal(v)
	if err != nil {
		return "", nil, err
	}
	return Digest(raw), raw, nil
}

// replacement returns where encoding/json put the escape of U+FFFD, or -1. An escaped backslash before "ufffd" is text.
func replacement(encoded []byte) int {
	const escape = `\ufffd`
	for from := 0; ; {
		i := bytes.Index(encoded[from:], []byte(escape))
		if i < 0 {
			return -1
		}
		i += from
		slashes := 0
		for slashes < i && encoded[i-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
		from = i + len(escape)
	}
}

// around returns a little text on both sides of an offset, cut at whole characters.
func around(text []byte, at int) string {
	from, to := max(0, at-12), min(len(text), at+12)
	for from > 0 && !utf8.RuneStart(text[from]) {
		from--
	}
	for to < len(text) && !utf8.RuneStart(text[to]) {
		to++
	}
	return string(text[from:to])
}
