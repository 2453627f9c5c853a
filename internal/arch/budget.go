package arch

import (
	"fmt"
	"go/ast"
	"strings"
)

// The budgets. What needs more is two things.
const (
	MaxFileLines     = 500
	MaxFunctionLines = 80
	MaxPackageFiles  = 15
	MaxMethods       = 7
)

// CheckBudgets finds what has grown too large: files (tests too), functions, packages and interfaces.
func CheckBudgets(t *Tree) []Finding {
	var out []Finding
	for _, p := range t.Packages {
		if n := nouns(p); n > MaxPackageFiles && p.Dir != "internal/cli" {
			out = append(out, Finding{Check: "files", Where: p.Dir, Subject: "files", Size: n, Say: fmt.Sprintf(
				"%d files, the limit is %d. Find the second noun in the package and give it a package of its own.", n, MaxPackageFiles)})
		}
		for _, f := range p.Files {
			if f.Generated {
				continue
			}
			if f.Lines > MaxFileLines {
				out = append(out, Finding{Check: "lines", Where: f.Path, Subject: "lines", Size: f.Lines, Say: fmt.Sprintf(
					"%d lines, the limit is %d. Split it by noun: one noun, one file.", f.Lines, MaxFileLines)})
			}
			if !f.Test {
				out = append(out, t.checkSizes(f)...)
			}
		}
	}
	return out
}

// nouns counts the files of a package; one noun on several platforms counts once.
func nouns(p *Package) int {
	seen := map[string]bool{}
	for _, f := range p.Production() {
		name := strings.TrimSuffix(f.Path, ".go")
		for _, platform := range []string{"_linux", "_darwin", "_windows", "_unix", "_other", "_amd64", "_arm64"} {
			name = strings.TrimSuffix(name, platform)
		}
		seen[name] = true
	}
	return len(seen)
}

func (t *Tree) checkSizes(f *File) []Finding {
	var out []Finding
	ast.Inspect(f.Syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if size := t.lines(n.Pos(), n.End()); size > MaxFunctionLines {
				out = append(out, Finding{Check: "function", Where: f.Path, Subject: n.Name.Name, Size: size, Say: fmt.Sprintf(
					"line %d: function %s has %d lines, the limit is %d. Give its parts names.", t.line(n.Pos()), n.Name.Name, size, MaxFunctionLines)})
			}
		case *ast.TypeSpec:
			if i, ok := n.Type.(*ast.InterfaceType); ok {
				if size := methods(i); size > MaxMethods {
					out = append(out, Finding{Check: "interface", Where: f.Path, Subject: n.Name.Name, Size: size, Say: fmt.Sprintf(
						"line %d: interface %s has %d methods, the limit is %d. Compose it of smaller ones.", t.line(n.Pos()), n.Name.Name, size, MaxMethods)})
				}
			}
		}
		return true
	})
	return out
}

// methods counts what an interface declares itself; what it embeds is counted where it is declared.
func methods(i *ast.InterfaceType) int {
	n := 0
	for _, m := range i.Methods.List {
		n += len(m.Names)
	}
	return n
}
