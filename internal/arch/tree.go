package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Tree is the source text of one module.
type Tree struct {
	Module   string // path of the module, from go.mod
	Packages []*Package
	Texts    []Text    // every text file, for the rules about words and documents
	Broken   []Finding // files that are no Go

	set *token.FileSet
}

// Package is one folder with Go files.
type Package struct {
	Dir   string // below the module's root, "." for the root itself
	Files []*File
}

// File is one Go file.
type File struct {
	Path      string
	Lines     int
	Test      bool
	Generated bool
	Syntax    *ast.File
}

// Text is one file as it is.
type Text struct {
	Path string
	Data []byte
}

// maxText is how large a file may be to be looked at as text.
const maxText = 1 << 20

// Load reads a module. Folders that the go command passes over and nested modules are no part of it.
func Load(root fs.FS) (*Tree, error) {
	t := &Tree{set: token.NewFileSet()}
	byDir := map[string]*Package{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(root, name)
		}
		if !d.Type().IsRegular() || path.Base(name) == ".git" { // a file in a second worktree
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > maxText {
			return err
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if !bytes.ContainsRune(data[:min(len(data), 8192)], 0) {
			t.Texts = append(t.Texts, Text{Path: name, Data: data})
		}
		if name == "go.mod" {
			t.Module = moduleOf(data)
		}
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			return nil
		}
		f, err := t.parse(name, data)
		if err != nil {
			t.Broken = append(t.Broken, Finding{Check: "syntax", Where: name, Say: err.Error()})
			return nil
		}
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = &Package{Dir: dir}
			t.Packages = append(t.Packages, byDir[dir])
		}
		byDir[dir].Files = append(byDir[dir].Files, f)
		return nil
	})
	if err == nil && t.Module == "" {
		err = fmt.Errorf("go.mod names no module")
	}
	return t, err
}

func enter(root fs.FS, name string) error {
	if name == "." {
		return nil
	}
	base := path.Base(name)
	if base == ".git" || base == "node_modules" || name == "bin" || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func moduleOf(data []byte) string {
	for line := range strings.Lines(string(data)) {
		if m, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(m)
		}
	}
	return ""
}

func (t *Tree) parse(name string, data []byte) (*File, error) {
	syntax, err := parser.ParseFile(t.set, name, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &File{
		Path:      name,
		Lines:     bytes.Count(data, []byte("\n")),
		Test:      strings.HasSuffix(name, "_test.go"),
		Generated: ast.IsGenerated(syntax),
		Syntax:    syntax,
	}, nil
}

// Production returns the files that are built into the product.
func (p *Package) Production() []*File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f *File) bool { return f.Test })
}

// Name returns the name in the package clause, "" for a folder of tests only.
func (p *Package) Name() string {
	for _, f := range p.Production() {
		return f.Syntax.Name.Name
	}
	return ""
}

// Doc returns the package comment, as one text.
func (p *Package) Doc() string {
	for _, f := range p.Production() {
		if f.Syntax.Doc != nil {
			return f.Syntax.Doc.Text()
		}
	}
	return ""
}

// Imports returns the import paths of a file with the name each has in it.
func (f *File) Imports() map[string]string {
	out := map[string]string{}
	for _, spec := range f.Syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		out[p] = importName(p)
		if spec.Name != nil {
			out[p] = spec.Name.Name
		}
	}
	return out
}

// importName guesses the name of a package from its path, as people do.
func importName(p string) string {
	base := path.Base(p)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = path.Base(path.Dir(p))
	}
	return base
}

// inside returns the folder of an import path of this module.
func (t *Tree) inside(importPath string) (string, bool) {
	if importPath == t.Module {
		return ".", true
	}
	return strings.CutPrefix(importPath, t.Module+"/")
}

func (t *Tree) lines(from, to token.Pos) int {
	return t.set.Position(to).Line - t.set.Position(from).Line + 1
}

func (t *Tree) line(at token.Pos) int { return t.set.Position(at).Line }
