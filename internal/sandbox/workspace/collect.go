package workspace

import (
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"orrery.example/orrery/internal/fault"
)

// Limits bound what is collected. Zero means no bound: the step's own limits held before.
type Limits struct {
	Files int
	Bytes int64
}

// File is one regular file a step left.
type File struct {
	Path string // relative to the work folder, with slashes
	Size int64
	Mode fs.FileMode // permission bits
	root *os.Root
	info fs.FileInfo
}

// Collection is what the patterns found. Close it when every file was read.
type Collection struct {
	Files     []File   // in lexical order, each once
	Unmatched []string // patterns that found nothing
	root      *os.Root
}

// Close releases the folder.
func (c *Collection) Close() error { return c.root.Close() }

// Collect finds the files of a work folder that match any of the patterns. A pattern is a relative path with slashes, in which
// * and ? and […] match within one segment and ** matches any number of segments; one that matches a folder takes all in it.
//
// Errors: fault.Invalid for a pattern that is absolute, malformed or leads upwards, and for a match that is a link or a
// special file; fault.Exhausted beyond the limits.
func Collect(dir string, patterns []string, limits Limits) (*Collection, error) {
	split := make([][]string, len(patterns))
	for i, p := range patterns {
		segments, err := parse(p)
		if err != nil {
			return nil, err
		}
		split[i] = segments
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "work folder")
	}
	c := &Collection{root: root}
	if err := c.gather(split, patterns, limits); err != nil {
		root.Close()
		return nil, err
	}
	return c, nil
}

func (c *Collection) gather(split [][]string, patterns []string, limits Limits) error {
	matched := make([]bool, len(patterns))
	var total int64
	err := walk(c.root, func(name string, info fs.FileInfo) error {
		wanted := false
		for i, segments := range split {
			if within(segments, strings.Split(name, "/")) {
				wanted = true
				matched[i] = matched[i] || !info.IsDir()
			}
		}
		if !wanted || info.IsDir() {
			return nil
		}
		if !info.Mode().IsRegular() {
			return fault.New(fault.Invalid, "output %s is not a regular file (%s)", name, info.Mode().Type()).
				WithHint("outputs are files: copy what the link points to, or name the outputs more narrowly")
		}
		total += info.Size()
		c.Files = append(c.Files, File{Path: name, Size: info.Size(), Mode: info.Mode().Perm(), root: c.root, info: info})
		if (limits.Files > 0 && len(c.Files) > limits.Files) || (limits.Bytes > 0 && total > limits.Bytes) {
			return fault.New(fault.Exhausted, "the outputs exceed %d files or %d bytes at %s", limits.Files, limits.Bytes, name)
		}
		return nil
	})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "collecting outputs")
	}
	for i, p := range patterns {
		if !matched[i] {
			c.Unmatched = append(c.Unmatched, p)
		}
	}
	return nil
}

// Open opens the file that was found, and refuses another that has taken its name since.
func (f File) Open() (*os.File, error) {
	// Without O_NONBLOCK a pipe put in the file's place would hang the worker.
	file, err := f.root.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "output %s", f.Path)
	}
	now, err := file.Stat()
	if err != nil || !os.SameFile(now, f.info) || now.Size() != f.Size {
		file.Close()
		return nil, fault.New(fault.Invalid, "output %s changed while it was collected", f.Path)
	}
	return file, nil
}

func parse(pattern string) ([]string, error) {
	if pattern == "" || path.IsAbs(pattern) {
		return nil, fault.New(fault.Invalid, "output pattern %q is not a relative path", pattern)
	}
	segments := strings.Split(strings.TrimSuffix(pattern, "/"), "/")
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return nil, fault.New(fault.Invalid, "output pattern %q has the segment %q", pattern, s)
		}
		if _, err := path.Match(s, ""); err != nil {
			return nil, fault.New(fault.Invalid, "output pattern %q: %v", pattern, err)
		}
	}
	return segments, nil
}

// within reports whether a pattern matches a name or a folder above it.
func within(pattern, name []string) bool {
	if len(pattern) == 0 {
		return true
	}
	if pattern[0] == "**" {
		for i := range len(name) + 1 {
			if within(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := path.Match(pattern[0], name[0]) // parse has tried the pattern
	return ok && within(pattern[1:], name[1:])
}
