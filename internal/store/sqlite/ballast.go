package sqlite

import (
	"errors"
	"io"
	"os"
)

// ballast is a file that takes up space until the disk is full. Then it makes room for what frees space: even a deletion is written
// to the log first.
type ballast struct {
	path string
	size int64
}

// release gives the space back and reports whether there was any.
func (b *ballast) release() bool {
	return b != nil && os.Remove(b.path) == nil
}

// restore takes the space again where the disk has as much to spare twice. Without it a store works as well, and so nothing that goes
// wrong here is an error.
func (b *ballast) restore(dir string) {
	if b == nil {
		return
	}
	if info, err := os.Stat(b.path); err == nil && info.Size() == b.size {
		return
	}
	if free, known := freeBytes(dir); known && free < 2*b.size {
		return
	}
	if err := b.fill(); err != nil {
		_ = os.Remove(b.path) // half a ballast would look like a whole one to nobody, but takes space
	}
}

// fill writes the bytes: a file with holes would hold nothing.
func (b *ballast) fill() (err error) {
	f, err := os.OpenFile(b.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if allocate(f, b.size) == nil {
		return nil
	}
	return b.write(f)
}

func (b *ballast) write(f *os.File) error {
	_, err := io.CopyN(f, endless{}, b.size)
	return err
}

// endless reads as bytes that no filesystem leaves out.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0xff
	}
	return len(p), nil
}
