package arch

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// CheckCalls finds functions of the standard library and keywords that layers.txt keeps out of a ring.
func (l *Layers) CheckCalls(t *Tree) []Finding {
	var out []Finding
	for _, p := range t.Packages {
		from := l.Packages[p.Dir]
		if from == nil {
			continue
		}
		for _, r := range l.Refused {
			if r.Kind != "call" || !slices.Contains(r.Rings, from.Ring) {
				continue
			}
			for _, f := range p.Production() {
				out = append(out, t.checkCalls(f, from, r)...)
			}
		}
	}
	return out
}

func (t *Tree) checkCalls(f *File, from *Place, r Refusal) []Finding {
	packages := map[string]string{} // name in this file -> import path
	for importPath, name := range f.Imports() {
		packages[name] = importPath
	}
	var out []Finding
	report := func(n ast.Node, what string) {
		if slices.Contains(r.Names, what) {
			out = append(out, Finding{Check: "pure", Where: f.Path, Subject: what, Say: fmt.Sprintf(
				"line %d uses %s in ring %s. %s Take it as an argument.", t.line(n.Pos()), what, from.Ring, r.Reason)})
		}
	}
	ast.Inspect(f.Syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n, "go")
		case *ast.SelectStmt:
			report(n, "select")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && packages[x.Name] != "" {
				report(n, packages[x.Name]+"."+n.Sel.Name)
			}
		}
		return true
	})
	return out
}

// CheckInit finds functions called init: what a program does is to be seen in its wiring.
func CheckInit(t *Tree) []Finding {
	var out []Finding
	for f := range t.production() {
		for _, d := range f.Syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				out = append(out, Finding{Check: "init", Where: f.Path, Subject: "init", Say: fmt.Sprintf(
					"line %d declares init(). Importing a package must do nothing: make it a function that the wiring calls.", t.line(fn.Pos()))})
			}
		}
	}
	return out
}

// vague are names that say nothing about what is inside.
func vague(name string) bool {
	switch name {
	case "util", "utils", "common", "helper", "helpers", "core", "internal", "misc", "shared", "base", "lib", "tools", "stuff", "types":
		return true
	default:
		return strings.HasSuffix(name, "util") || strings.HasSuffix(name, "utils")
	}
}

// CheckNames finds packages whose name says nothing.
func CheckNames(t *Tree) []Finding {
	var out []Finding
	for _, p := range t.Packages {
		if name := p.Name(); vague(name) || p.Dir != "internal" && vague(lastOf(p.Dir)) {
			out = append(out, Finding{Check: "name", Where: p.Dir, Subject: name,
				Say: "the name says nothing about what is inside; name the package after what it is or does"})
		}
	}
	return out
}

func lastOf(dir string) string { return dir[strings.LastIndexByte(dir, '/')+1:] }

// production returns every file that is built into the product.
func (t *Tree) production() func(yield func(*File) bool) {
	return func(yield func(*File) bool) {
		for _, p := range t.Packages {
			for _, f := range p.Production() {
				if !yield(f) {
					return
				}
			}
		}
	}
}
