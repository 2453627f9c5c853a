// Package backup packs a data folder into one file and unpacks it again.
//
// The file is a tar archive. First comes the store, copied in one moment; then everything else, which only grows, so that what the store
// refers to is there. The last entry says that the archive is whole.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Format is what the first entry of a backup says it is.
const Format = "orrery-backup/v1"

// Names of entries that are no files of the folder.
const (
	header = "backup.json"
	last   = "backup.complete"
)

// StoreFile is the name of the store's copy, in the archive and where Read leaves it.
const StoreFile = "store.backup"

// Info is what a backup says of itself.
type Info struct {
	Format  string    `json:"format"`
	Version string    `json:"version"` // of the program that made it
	Made    time.Time `json:"made"`
}

// left reports what a backup does without at the top of a data folder: the store itself, what belongs to a process, and a file that only
// keeps room.
func left(name string) bool {
	switch name {
	case "orrery.db", "orrery.db-wal", "orrery.db-shm", "lock", "ballast", "work", "uploads", "backup.lock":
		return true
	}
	return false
}

// incoming is where blobs grow that are not stored yet.
const incoming = "incoming"

// Write packs the data folder dir. Store is a consistent copy of its store, which no process changes. Errors: those of ctx and w, and
// fault.Internal for a file that cannot be read.
func Write(ctx context.Context, w io.Writer, dir, store string, info Info) error {
	info.Format = Format
	raw, err := json.Marshal(info)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the backup")
	}
	p := packer{ctx: ctx, tar: tar.NewWriter(w)}
	if err := errors.Join(p.entry(header, raw), p.file(store, StoreFile)); err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // what goes while others work was not needed
			return nil
		}
		if err != nil {
			return fault.Wrap(fault.Internal, err, "the data folder")
		}
		name, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return fault.Wrap(fault.Internal, err, "the data folder")
		case left(name) || d.IsDir() && d.Name() == incoming && strings.HasPrefix(name, "blobs"+string(filepath.Separator)):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		return p.file(path, filepath.ToSlash(name))
	})
	if err == nil {
		err = p.entry(last, nil)
	}
	if err != nil {
		return err
	}
	return fault.Wrap(fault.Unavailable, p.tar.Close(), "write the backup")
}

type packer struct {
	ctx context.Context
	tar *tar.Writer
}

func (p *packer) entry(name string, body []byte) error {
	return p.add(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(body)), Format: tar.FormatPAX}, bytes.NewReader(body))
}

func (p *packer) file(path, name string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && name != StoreFile {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the data folder")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the data folder")
	}
	// The time stays: the age of a blob keeps it from being collected too early.
	return p.add(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime(), Format: tar.FormatPAX}, f)
}

func (p *packer) add(h *tar.Header, body io.Reader) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return fault.Wrap(fault.Unavailable, err, "write the backup")
	}
	_, err := io.CopyN(p.tar, body, h.Size) // one that grows meanwhile is as long as it was
	return fault.Wrap(fault.Unavailable, err, "write %s to the backup", h.Name)
}

// Read unpacks a backup into dir, which is empty; the store's copy is StoreFile there. Error: fault.Invalid for what is no backup, or not
// all of one; dir holds a part of it then.
func Read(ctx context.Context, r io.Reader, dir string) (Info, error) {
	var info Info
	in := tar.NewReader(r)
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return info, err
		}
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && first, err != nil && first:
			return info, notOne(err)
		case errors.Is(err, io.EOF):
			return info, fault.New(fault.Invalid, "the backup breaks off").WithHint("copy it again from where it was made")
		case err != nil:
			return info, fault.New(fault.Invalid, "the backup is damaged: %v", err)
		case first:
			if err := json.NewDecoder(io.LimitReader(in, 1<<16)).Decode(&info); err != nil || h.Name != header || info.Format != Format {
				return info, notOne(err)
			}
			continue
		case h.Name == last:
			return info, nil
		}
		if err := extract(in, h, dir); err != nil {
			return info, err
		}
	}
}

func notOne(err error) error {
	return fault.New(fault.Invalid, "this is no backup that this program knows: %v", err).WithHint("orrery backup -f FILE makes one")
}

// extract makes one file. Nothing leads out of the folder, and nothing is written over.
func extract(in io.Reader, h *tar.Header, dir string) error {
	name := filepath.FromSlash(h.Name)
	if h.Typeflag != tar.TypeReg || !filepath.IsLocal(name) {
		return fault.New(fault.Invalid, "the backup has an entry %q that no data folder has", h.Name)
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(fault.Invalid, err, "restore %s", h.Name)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode).Perm()&0o644|0o600)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "restore %s", h.Name)
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fault.New(fault.Invalid, "restore %s: %v", h.Name, err)
	}
	return fault.Wrap(fault.Internal, os.Chtimes(path, h.ModTime, h.ModTime), "restore %s", h.Name)
}
