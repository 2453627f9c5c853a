// Package workspace looks after the private folder of a step on the host's side: giving it to the step, collecting what it left, removing it.
//
// Everything a step leaves is hostile: links, special files, closed folders. Nothing here follows a link or leaves the folder.
package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"orrery.example/orrery/internal/fault"
)

// Own gives a folder and all in it to a user. It refuses a file that also has a name outside the folder: whoever owns
// one name of a file owns every one, so a hard link into a store would hand the store to the step.
func Own(dir string, uid, gid int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "work folder")
	}
	defer root.Close()
	type inode struct {
		name        string
		links, seen uint64
	}
	linked := map[uint64]*inode{}
	err = walk(root, func(name string, info fs.FileInfo) error {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fault.New(fault.Internal, "no inode of %s", name)
		}
		if info.Mode().IsRegular() && st.Nlink > 1 {
			if linked[st.Ino] == nil {
				linked[st.Ino] = &inode{name: name, links: uint64(st.Nlink)}
			}
			linked[st.Ino].seen++
		}
		return nil
	})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "work folder %s", dir)
	}
	for _, i := range linked {
		if i.seen != i.links {
			return fault.New(fault.Invalid, "%s in the work folder %s is a hard link to a file outside of it", i.name, dir)
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := root.Lchown(".", uid, gid); err != nil {
		return fault.Wrap(fault.Internal, err, "work folder %s", dir)
	}
	err = walk(root, func(name string, _ fs.FileInfo) error { return root.Lchown(name, uid, gid) })
	return fault.Wrap(fault.Internal, err, "work folder %s", dir)
}

// walk visits everything below a root in lexical order, folders before what is in them, without following links.
func walk(root *os.Root, visit func(name string, info fs.FileInfo) error) error {
	return walkFrom(root, ".", visit)
}

func walkFrom(root *os.Root, dir string, visit func(name string, info fs.FileInfo) error) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		if err := visit(name, info); err != nil {
			return err
		}
		if info.IsDir() {
			if err := walkFrom(root, name, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// Prepare makes an empty private folder below parent and returns its path.
func Prepare(parent, name string) (string, error) {
	root, err := os.OpenRoot(parent)
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "folder for work folders")
	}
	defer root.Close()
	if err := root.Mkdir(name, 0o700); err != nil {
		return "", fault.Wrap(fault.Internal, err, "work folder %s", name)
	}
	return path.Join(parent, name), nil
}

// Remove deletes a work folder and everything a step left in it, also folders that it closed. A folder that is not there is removed.
func Remove(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return fault.Wrap(fault.Internal, err, "removing work folder %s", dir)
	}
	if err := open(dir); err != nil {
		return fault.Wrap(fault.Internal, err, "removing work folder %s", dir)
	}
	return fault.Wrap(fault.Internal, os.RemoveAll(dir), "removing work folder %s", dir)
}

// open gives the owner back the right to list and change every folder below dir.
func open(dir string) error {
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return walk(root, func(name string, info fs.FileInfo) error {
		if !info.IsDir() {
			return nil
		}
		return root.Chmod(name, 0o700)
	})
}
