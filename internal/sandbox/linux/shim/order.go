package shim

import (
	"encoding/binary"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Order is everything the shim needs to know. It travels in a memory file, by hand-written encoding: a shim lives for
// milliseconds, and a reflecting decoder would be a good part of them.
type Order struct {
	Tier     int  // 3 is for the shim on the second kernel, as process 1 there; the one that starts that kernel builds tier 2
	Rehearse bool // a probe: do everything but the execve, then try what must be refused
	Kernel   bool // the program is a second kernel: it keeps the rights that it builds its own walls with

	Argv, Env []string
	Dir       string // where the step starts: WorkPath in a private root, else the host path

	Mounts   []Mount
	TmpBytes int

	ABI                int // Landlock
	Readable, Writable []string
	Filter             []byte
	UID                int // T1 as root switches to it; -1 keeps the worker's

	Limits  []Limit
	Proxied bool

	Processes, MemoryBytes int // tier 3: of the whole tree; 0 bytes leave memory to the host
}

// Mount is one entry of the private root.
type Mount struct {
	Kind   int
	Source string // a host path; the target of a link; the content of a file
	Target string // absolute, inside
	FD     int    // an already cloned tree, or -1: the shim clones it by path
}

// The kinds of a Mount.
const (
	MountReadOnly = iota
	MountWritable
	MountDevice
	MountLink
	MountText
	MountProgram // a copy of the file behind FD, to be executed
)

// Limit is one resource limit, soft and hard.
type Limit struct {
	Resource, Value int
}

// The descriptors that the shim is started with.
const (
	ControlFD      = 3
	OrderFD        = 4
	GuestControlFD = 5 // of the shim on a second kernel, as GuestOrderFD is
	GuestOrderFD   = 6
	FirstTreeFD    = 7
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

func (o *Order) encode() []byte {
	w := &writer{}
	w.int(o.Tier)
	w.flag(o.Rehearse)
	w.flag(o.Kernel)
	w.list(o.Argv)
	w.list(o.Env)
	w.text(o.Dir)
	w.int(len(o.Mounts))
	for _, m := range o.Mounts {
		w.int(m.Kind)
		w.text(m.Source)
		w.text(m.Target)
		w.int(m.FD)
	}
	w.int(o.TmpBytes)
	w.int(o.ABI)
	w.list(o.Readable)
	w.list(o.Writable)
	w.text(string(o.Filter))
	w.int(o.UID)
	w.int(len(o.Limits))
	for _, l := range o.Limits {
		w.int(l.Resource)
		w.int(l.Value)
	}
	w.flag(o.Proxied)
	w.int(o.Processes)
	w.int(o.MemoryBytes)
	return w.b
}

// Reader takes apart what the shim and the worker send each other.
type Reader struct {
	b   []byte
	err error
}

// Int returns the next number, 0 after the end.
func (r *Reader) Int() int {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

// Text returns the next text, "" after the end.
func (r *Reader) Text() string {
	n := r.Int()
	if n < 0 || n > len(r.b) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *Reader) flag() bool {
	if len(r.b) == 0 {
		r.fail()
		return false
	}
	v := r.b[0] == 1
	r.b = r.b[1:]
	return v
}

// count reads a length; every element takes at least a byte, so a larger one is a lie.
func (r *Reader) count() int {
	n := r.Int()
	if n < 0 || n > len(r.b) {
		r.fail()
		return 0
	}
	return n
}

func (r *Reader) list() []string {
	l := make([]string, r.count())
	for i := range l {
		l[i] = r.Text()
	}
	return l
}

func (r *Reader) fail() {
	r.err = errors.New("the order is cut short")
	r.b = nil
}

func decodeOrder(b []byte) (*Order, error) {
	r := &Reader{b: b}
	o := &Order{}
	o.Tier = r.Int()
	o.Rehearse = r.flag()
	o.Kernel = r.flag()
	o.Argv = r.list()
	o.Env = r.list()
	o.Dir = r.Text()
	o.Mounts = make([]Mount, r.count())
	for i := range o.Mounts {
		o.Mounts[i] = Mount{Kind: r.Int(), Source: r.Text(), Target: r.Text(), FD: r.Int()}
	}
	o.TmpBytes = r.Int()
	o.ABI = r.Int()
	o.Readable = r.list()
	o.Writable = r.list()
	o.Filter = []byte(r.Text())
	o.UID = r.Int()
	o.Limits = make([]Limit, r.count())
	for i := range o.Limits {
		o.Limits[i] = Limit{Resource: r.Int(), Value: r.Int()}
	}
	o.Proxied = r.flag()
	o.Processes = r.Int()
	o.MemoryBytes = r.Int()
	return o, r.err
}

// file writes the order into memory that only the shim will see: its environment and paths never reach a command line or a disk.
func (o *Order) File() (*os.File, error) {
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

func readOrder() (*Order, error) {
	f := os.NewFile(OrderFD, "order")
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

// NewReader reads a packet from the shim, after its first byte.
func NewReader(b []byte) *Reader { return &Reader{b: b} }
