// Package pack reads a pack from a folder: the manifest, and the files that travel with it.
//
// A manifest called pack.yaml brings its whole folder, but for what .packignore names. Any other manifest brings the files
// and folders beside it that its text mentions, so that a three-line file in a home folder does not take the home along.
package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// Bounds of what travels with one pack.
const (
	MaxFiles = 10_000
	MaxBytes = 512 << 20
)

// Pack is a manifest with the files that travel with it.
type Pack struct {
	Path  string      // of the manifest, as the user would write it
	Base  string      // of the manifest, inside FS
	FS    fs.FS       // the folder of the manifest
	Files []work.File // what travels, sorted by path; the manifest is one of them when it is called pack.yaml

	manifest *manifest.Manifest
	text     []byte
}

// Source returns what a plan is made of.
func (p *Pack) Source() plan.Source {
	return plan.SourceOf(p.manifest, p.text, p.FS, p.Base, p.Files)
}

// Load reads a manifest file, or the pack.yaml in a folder. Errors: fault.NotFound, fault.Invalid, fault.Exhausted for a
// folder that is too large, and manifest.Problems. What is no manifest is refused before anything beside it is looked at.
func Load(name string) (*Pack, error) { return LoadAs(name, "") }

// LoadAs is Load for a file that is called otherwise in messages; "" for its own name.
func LoadAs(name, called string) (*Pack, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no file or folder %s", name).WithHint("orrery init writes a first pack")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "pack %s", name)
	}
	file := name
	if info.IsDir() {
		file = filepath.Join(name, "pack.yaml")
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "the folder %s has no pack.yaml", name).WithHint("orrery init %s", name)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "pack %s", name)
	}
	if called == "" {
		called = file
	}
	m, err := manifest.Parse(called, text)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(file)
	if dir == "" {
		dir = "."
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "pack %s", name)
	}
	p := &Pack{Path: called, Base: base, FS: root.FS(), manifest: m, text: text}
	if base == "pack.yaml" {
		err = p.takeFolder()
	} else {
		err = p.takeMentioned(string(text))
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(p.Files, func(a, b work.File) int { return strings.Compare(a.Path, b.Path) })
	return p, nil
}

// takeFolder takes everything that .packignore lets through.
func (p *Pack) takeFolder() error {
	rules, err := fs.ReadFile(p.FS, ".packignore")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Internal, err, ".packignore")
	}
	ignore, err := plan.ParseIgnore(rules)
	if err != nil {
		return err
	}
	return p.take(".", ignore.Match)
}

// takeMentioned takes the files and folders that the manifest's text names.
func (p *Pack) takeMentioned(manifest string) error {
	seen := map[string]bool{}
	words := strings.FieldsFunc(manifest, func(r rune) bool { return strings.ContainsRune(" \t\r\n\"'`,;:=()[]{}<>|&$*", r) })
	for _, w := range words {
		w = path.Clean(strings.TrimPrefix(w, "./"))
		if seen[w] || w == "." || !filepath.IsLocal(w) || strings.HasPrefix(w, ".git") {
			continue
		}
		seen[w] = true
		info, err := fs.Stat(p.FS, w)
		if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
			continue
		}
		if w == p.Base {
			continue
		}
		if err := p.take(w, func(string, bool) bool { return false }); err != nil {
			return err
		}
	}
	return nil
}

// take adds a file, or everything in a folder, unless skip says no.
func (p *Pack) take(from string, skip func(name string, dir bool) bool) error {
	have := map[string]bool{}
	var total int64
	for _, f := range p.Files {
		have[f.Path] = true
		total += f.Size
	}
	return fs.WalkDir(p.FS, from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fault.Wrap(fault.Internal, err, "pack file %s", name)
		}
		if name != "." && (skip(name, d.IsDir()) || d.IsDir() && p.isData(name)) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || have[name] {
			return nil
		}
		if !d.Type().IsRegular() {
			return fault.New(fault.Invalid, "%s is not a plain file and cannot travel with the pack", name).
				WithHint("name it in .packignore, or replace the link by what it points to")
		}
		f, err := p.describe(name)
		if err != nil {
			return err
		}
		total += f.Size
		p.Files = append(p.Files, f)
		if len(p.Files) > MaxFiles || total > MaxBytes {
			return fault.New(fault.Exhausted, "more than %d files or %d MiB would travel with the pack (at %s)", MaxFiles, MaxBytes>>20, name).
				WithHint("name what is not needed in %s", path.Join(path.Dir(p.Path), ".packignore"))
		}
		return nil
	})
}

// isData reports whether a folder is one that Orrery keeps its data in: keys and histories do not travel with a pack beside them.
func (p *Pack) isData(folder string) bool {
	has := func(name string) bool {
		_, err := fs.Stat(p.FS, path.Join(folder, name))
		return err == nil
	}
	return has("orrery.db") || has("keyring.json") && has("keys")
}

func (p *Pack) describe(name string) (work.File, error) {
	f, err := p.FS.Open(name)
	if err != nil {
		return work.File{}, fault.Wrap(fault.Internal, err, "pack file %s", name)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return work.File{}, fault.Wrap(fault.Internal, err, "pack file %s", name)
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return work.File{}, fault.Wrap(fault.Internal, err, "pack file %s", name)
	}
	return work.File{
		Path: name, Digest: work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), Size: size,
		Executable: info.Mode()&0o100 != 0,
	}, nil
}
