// Package chunk is the stored form of a few consecutive events or log lines of one run: what one transition appends is one row.
//
// What the key of the row or the entry before already says is left out: the tenant, the run, the number of an entry, the hash
// an event follows. Digests are their bytes. The texts of an event are stored as they are, so that its hash comes out again.
package chunk

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// The first byte says what is inside and in which form. A form is never changed, only followed by another.
const (
	eventsV1 = 0x01
	linesV1  = 0x81
)

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// How a digest is written.
const (
	digestNone   = 0
	digestSHA256 = 1
	digestText   = 2 // anything that is not the one spelling of a digest
)

func appendDigest(dst []byte, d work.Digest) []byte {
	if d == "" {
		return append(dst, digestNone)
	}
	if digits, ok := strings.CutPrefix(string(d), "sha256:"); ok && len(digits) == 64 && strings.ToLower(digits) == digits {
		at := len(dst) + 1
		if out, err := hex.AppendDecode(append(dst, digestSHA256), []byte(digits)); err == nil {
			return out
		}
		dst = dst[:at-1]
	}
	return appendText(append(dst, digestText), string(d))
}

// cursor reads what the append functions wrote. After the first thing that does not fit it is broken and returns zeros.
type cursor struct {
	rest   []byte
	broken bool
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.broken, c.rest = true, nil
		return nil
	}
	out := c.rest[:n:n]
	c.rest = c.rest[n:]
	return out
}

func (c *cursor) one() byte {
	if b := c.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (c *cursor) number() uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.broken, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) signed() int64 {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.broken, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) text() string { return string(c.take(c.number())) }

func (c *cursor) digest() work.Digest {
	switch c.one() {
	case digestNone:
		return ""
	case digestSHA256:
		return work.Digest("sha256:" + hex.EncodeToString(c.take(32)))
	case digestText:
		return work.Digest(c.text())
	default:
		c.broken = true
		return ""
	}
}

func damaged(kind string, run work.RunID, first int64) error {
	return fault.New(fault.Internal, "the stored %s of run %s from number %d on are damaged", kind, run, first).
		WithHint("orrery doctor")
}
