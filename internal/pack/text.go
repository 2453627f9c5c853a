package pack

import (
	"bytes"
	"io"
	"io/fs"
	"time"

	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// Text reads a manifest that travels alone, without a folder. Errors: manifest.Problems.
func Text(text []byte) (*Pack, error) {
	const name = "pack.yaml"
	m, err := manifest.Parse(name, text)
	if err != nil {
		return nil, err
	}
	p := &Pack{Path: name, Base: name, FS: alone{name, text}, manifest: m, text: text}
	file, err := p.describe(name)
	p.Files = []work.File{file}
	return p, err
}

// alone is a folder with one file.
type alone struct {
	name string
	text []byte
}

// Open implements fs.FS.
func (a alone) Open(name string) (fs.File, error) {
	switch {
	case !fs.ValidPath(name):
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	case name != a.name:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	default:
		return &file{alone: a, Reader: bytes.NewReader(a.text)}, nil
	}
}

// file is the one file, opened, and what is known of it.
type file struct {
	alone
	*bytes.Reader
}

var _ io.ReaderAt = (*file)(nil)

// Stat implements fs.File.
func (f *file) Stat() (fs.FileInfo, error) { return f, nil }

// Close implements fs.File.
func (*file) Close() error { return nil }

// Name implements fs.FileInfo.
func (f *file) Name() string { return f.name }

// Size implements fs.FileInfo.
func (f *file) Size() int64 { return int64(len(f.text)) }

// Mode implements fs.FileInfo.
func (*file) Mode() fs.FileMode { return 0o600 }

// ModTime implements fs.FileInfo.
func (*file) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (*file) IsDir() bool { return false }

// Sys implements fs.FileInfo.
func (*file) Sys() any { return nil }
