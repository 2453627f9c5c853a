package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

const (
	block       = 512
	maxMembers  = 1 << 20
	outputs     = "outputs/"
	emptyMember = 64 << 10 // room made before a member's bytes arrive
)

// member is one file of a bundle. Of an output only size and digest are kept.
type member struct {
	name string
	size int64
	sum  string // 64 hexadecimal digits
	data []byte
}

var (
	folders = regexp.MustCompile(`^(approvals|policy|transcripts|outputs)/[A-Za-z0-9_%~-][A-Za-z0-9_%~.-]{0,98}$`)
	fixed   = regexp.MustCompile(`^(SHA256SUMS|attestations/(pack-run|provenance|run)\.dsse\.json|audit/(checkpoint|entries\.ndjson|leaf\.json|proof\.json)|` +
		`egress\.ndjson|inputs\.redacted\.json|manifest\.(dsse\.)?json|outputs\.json|plan\.json|request\.dsse\.json|timeline\.ndjson|trust/keyring\.json)$`)
)

// readArchive reads a tar file that is exactly the one form a bundle has: regular files only, by allowed names in strictly
// ascending order, every header as header makes it, padding of zeros, two blocks of zeros and the end.
func readArchive(r io.Reader, maxBytes int64) (files map[string]*member, mtime int64, err error) {
	files = map[string]*member{}
	r = &bounded{r: r, left: maxBytes}
	var head [block]byte
	last := ""
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, 0, cut(err)
		}
		if head == [block]byte{} {
			return files, mtime, finish(r)
		}
		m, at, err := parseHeader(&head)
		switch {
		case err != nil:
			return nil, 0, err
		case m.name <= last:
			return nil, 0, wrong("file %q stands after %q: names ascend and occur once", m.name, last)
		case !folders.MatchString(m.name) && !fixed.MatchString(m.name):
			return nil, 0, wrong("file %q does not belong into a bundle", m.name)
		case last != "" && at != mtime:
			return nil, 0, wrong("file %q has another time than the files before it", m.name)
		case len(files) == maxMembers:
			return nil, 0, wrong("a bundle has at most %d files", maxMembers)
		}
		last, mtime = m.name, at
		if err := m.read(r); err != nil {
			return nil, 0, err
		}
		files[m.name] = m
	}
}

func parseHeader(head *[block]byte) (*member, int64, error) {
	name, _, _ := bytes.Cut(head[:100], []byte{0})
	size, err1 := strconv.ParseUint(string(head[124:135]), 8, 33)
	mtime, err2 := strconv.ParseUint(string(head[136:147]), 8, 33)
	if err := errors.Join(err1, err2); err != nil || len(name) == 0 {
		return nil, 0, wrong("this is not the header of a file in a bundle")
	}
	m := &member{name: string(name), size: int64(size)}
	if *head != header(m.name, m.size, int64(mtime)) {
		return nil, 0, wrong("the header of %q is not in the one form that bundles have (a link, an owner, a mode, stray bytes?)", m.name)
	}
	return m, int64(mtime), nil
}

// header returns the USTAR header of a file in a bundle.
func header(name string, size, mtime int64) [block]byte {
	var h [block]byte
	copy(h[0:100], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, mtime))
	copy(h[148:], "        0")
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x000000000\x00")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func (m *member) read(r io.Reader) error {
	hash := sha256.New()
	var keep bytes.Buffer
	into := io.Writer(hash)
	if !strings.HasPrefix(m.name, outputs) {
		keep.Grow(int(min(m.size, emptyMember)))
		into = io.MultiWriter(hash, &keep)
	}
	if _, err := io.CopyN(into, r, m.size); err != nil {
		return cut(err)
	}
	var padding [block]byte
	rest := padding[:(block-m.size%block)%block]
	if _, err := io.ReadFull(r, rest); err != nil {
		return cut(err)
	}
	if padding != [block]byte{} {
		return wrong("there are bytes between %q and the next file", m.name)
	}
	m.sum, m.data = hex.EncodeToString(hash.Sum(nil)), keep.Bytes()
	return nil
}

func finish(r io.Reader) error {
	var rest [block + 1]byte
	n, err := io.ReadFull(r, rest[:])
	if err != io.ErrUnexpectedEOF || n != block {
		return wrong("a bundle ends with two blocks of zeros and nothing after them")
	}
	if rest != [block + 1]byte{} {
		return wrong("there are bytes after the last file")
	}
	return nil
}

func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return wrong("the bundle is cut off")
	}
	return err
}

// bounded fails, other than io.LimitedReader, when there is more than expected.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, wrong("the bundle is larger than this verifier was told to accept")
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
