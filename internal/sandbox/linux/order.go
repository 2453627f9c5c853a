package linux

import (
	"encoding/binary"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// order is everything the shim needs to know. It travels in a memory file, by hand-written encoding: a shim lives for
// milliseconds, and a reflecting decoder would be a good part of them.
type order struct {
	tier     int
	rehearse bool // a probe: do everything but the execve, then try what must be refused

	argv, env []string
	dir       string // where the step starts: WorkPath in a private root, else the host path

	mounts   []mount
	tmpBytes int

	abi                int // Landlock
	readable, writable []string
	filter             []byte
	uid                int // T1 as root switches to it; -1 keeps the worker's

	limits  []limit
	proxied bool
}

// mount is one entry of the private root.
type mount struct {
	kind   int
	source string // a host path; the target of a link; the content of a file
	target string // absolute, inside
	fd     int    // an already cloned tree, or -1: the shim clones it by path
}

const (
	mountReadOnly = iota
	mountWritable
	mountDevice
	mountLink
	mountText
)

// limit is one resource limit, soft and hard.
type limit struct {
	resource, value int
}

const (
	controlFD   = 3
	orderFD     = 4
	firstTreeFD = 5
)

type writer struct{ b []byte }

func (w *writer) int(v int)       { w.b = binary.AppendVarint(w.b, int64(v)) }
func (w *writer) text(s string)   { w.int(len(s)); w.b = append(w.b, s...) }
func (w *writer) flag(v bool)     { w.b = append(w.b, map[bool]byte{true: 1}[v]) }
func (w *writer) list(l []string) { w.int(len(l)); w.each(l) }

func (w *writer) each(l []string) {
	for _, s := range l {
		w.text(s)
	}
}

func (o *order) encode() []byte {
	w := &writer{}
	w.int(o.tier)
	w.flag(o.rehearse)
	w.list(o.argv)
	w.list(o.env)
	w.text(o.dir)
	w.int(len(o.mounts))
	for _, m := range o.mounts {
		w.int(m.kind)
		w.text(m.source)
		w.text(m.target)
		w.int(m.fd)
	}
	w.int(o.tmpBytes)
	w.int(o.abi)
	w.list(o.readable)
	w.list(o.writable)
	w.text(string(o.filter))
	w.int(o.uid)
	w.int(len(o.limits))
	for _, l := range o.limits {
		w.int(l.resource)
		w.int(l.value)
	}
	w.flag(o.proxied)
	return w.b
}

type reader struct {
	b   []byte
	err error
}

func (r *reader) int() int {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

func (r *reader) text() string {
	n := r.int()
	if n < 0 || n > len(r.b) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) flag() bool {
	if len(r.b) == 0 {
		r.fail()
		return false
	}
	v := r.b[0] == 1
	r.b = r.b[1:]
	return v
}

// count reads a length; every element takes at least a byte, so a larger one is a lie.
func (r *reader) count() int {
	n := r.int()
	if n < 0 || n > len(r.b) {
		r.fail()
		return 0
	}
	return n
}

func (r *reader) list() []string {
	l := make([]string, r.count())
	for i := range l {
		l[i] = r.text()
	}
	return l
}

func (r *reader) fail() {
	r.err = errors.New("the order is cut short")
	r.b = nil
}

func decodeOrder(b []byte) (*order, error) {
	r := &reader{b: b}
	o := &order{}
	o.tier = r.int()
	o.rehearse = r.flag()
	o.argv = r.list()
	o.env = r.list()
	o.dir = r.text()
	o.mounts = make([]mount, r.count())
	for i := range o.mounts {
		o.mounts[i] = mount{kind: r.int(), source: r.text(), target: r.text(), fd: r.int()}
	}
	o.tmpBytes = r.int()
	o.abi = r.int()
	o.readable = r.list()
	o.writable = r.list()
	o.filter = []byte(r.text())
	o.uid = r.int()
	o.limits = make([]limit, r.count())
	for i := range o.limits {
		o.limits[i] = limit{resource: r.int(), value: r.int()}
	}
	o.proxied = r.flag()
	return o, r.err
}

// file writes the order into memory that only the shim will see: its environment and paths never reach a command line or a disk.
func (o *order) file() (*os.File, error) {
	fd, err := unix.MemfdCreate("orrery-order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "order")
	if _, err := f.WriteAt(o.encode(), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readOrder() (*order, error) {
	f := os.NewFile(orderFD, "order")
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return decodeOrder(b)
}
