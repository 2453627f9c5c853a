package sqlite

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"orrery.example/orrery/internal/fault"
)

// Backup writes a copy of what is committed to a new file while the store stays in use.
func (d *Driver) Backup(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := filepath.Abs(path) // SQLite takes a name that starts with file: for something else
	if err != nil {
		return fault.New(fault.Invalid, "the backup: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return fault.New(fault.Conflict, "%s exists already", path)
	}
	c, err := d.look(commonPragmas)
	if err != nil {
		return err
	}
	_, err = c.do(`VACUUM INTO ?`, path)
	if err = errors.Join(err, c.close()); err != nil {
		return fault.Wrap(fault.Internal, err, "the backup was not made")
	}
	return fault.Wrap(fault.Internal, settle(path), "the backup may not be on the disk")
}

// Restore makes a store out of a backup in a folder that has none, with a higher incarnation, so that no worker of the time after
// the backup can report to it.
func Restore(ctx context.Context, backup, dir string, o Options) (*Driver, error) {
	if err := prepareFolder(dir); err != nil {
		return nil, err
	}
	target := filepath.Join(dir, fileName)
	if err := copyFile(backup, target); err != nil {
		return nil, fault.New(fault.Conflict, "the backup cannot be put into %s: %w", dir, err)
	}
	d, err := Open(ctx, dir, o)
	if err != nil {
		return nil, errors.Join(err, os.Remove(target))
	}
	if err := d.RaiseIncarnation(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// copyFile copies to a file that must not exist.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return settle(to)
}

// settle sees that a new file is on the disk, with its name, and that only its owner can read it.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), folder.Sync(), f.Close(), folder.Close())
}

// Check reads the whole store and returns what is wrong with it, nothing when all is well.
func (d *Driver) Check(ctx context.Context) ([]string, error) {
	c, err := d.reader(ctx)
	if err != nil {
		return nil, err
	}
	defer d.release(c)
	var wrong []string
	err = c.each(`PRAGMA integrity_check(100)`, func(v values) error {
		if text := v.text(0); text != "ok" {
			wrong = append(wrong, text)
		}
		return nil
	})
	return wrong, err
}
