package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// CheckComments finds packages that do not say what they are, and exported names without a comment.
func CheckComments(t *Tree) []Finding {
	var out []Finding
	for _, p := range t.Packages {
		files := p.Production()
		if len(files) == 0 {
			continue
		}
		out = append(out, checkPackageComment(p)...)
		for _, f := range files {
			if !f.Generated && p.Name() != "main" {
				out = append(out, t.checkExported(f)...)
			}
		}
	}
	return out
}

func checkPackageComment(p *Package) []Finding {
	opening := "Package " + p.Name() + " "
	if p.Name() == "main" {
		opening = "Command " + lastOf(p.Dir) + " "
	}
	count := 0
	for _, f := range p.Production() {
		if f.Syntax.Doc != nil {
			count++
		}
	}
	say := ""
	switch doc := p.Doc(); {
	case doc == "":
		say = fmt.Sprintf("there is no package comment; begin one with %q and say what the package is or does", opening)
	case !strings.HasPrefix(doc, opening):
		say = fmt.Sprintf("the package comment begins with %q; begin it with %q", firstWords(doc), opening)
	case count > 1:
		say = "the package comment is in several files; keep one of them"
	default:
		return nil
	}
	return []Finding{{Check: "comment", Where: p.Dir, Subject: p.Name(), Say: say}}
}

func firstWords(s string) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(4, len(words))], " ")
}

// selfExplaining are methods whose name and type say everything, because an interface that everybody knows asks for them.
func selfExplaining(name string) bool {
	return slices.Contains([]string{
		"String", "Error", "Unwrap", "Is", "As", "Close", "Read", "Write", "Len", "Less", "Swap", "ServeHTTP", "GoString", "LogValue",
		"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText", "MarshalYAML", "UnmarshalYAML",
	}, name)
}

func (t *Tree) checkExported(f *File) []Finding {
	var out []Finding
	missing := func(name *ast.Ident, what string) {
		out = append(out, Finding{Check: "comment", Where: f.Path, Subject: name.Name, Say: fmt.Sprintf(
			"line %d: exported %s %s has no comment; say what it is for, or make it unexported", t.line(name.Pos()), what, name.Name)})
	}
	for _, d := range f.Syntax.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc != nil || !d.Name.IsExported() {
				continue
			}
			if d.Recv == nil {
				missing(d.Name, "function")
			} else if ast.IsExported(receiver(d)) && !selfExplaining(d.Name.Name) {
				missing(d.Name, "method "+receiver(d)+".")
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				checkSpec(d, spec, missing)
			}
		}
	}
	return out
}

func checkSpec(d *ast.GenDecl, spec ast.Spec, missing func(*ast.Ident, string)) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || len(d.Specs) > 1) {
			missing(s.Name, "type")
		}
	case *ast.ValueSpec:
		if d.Doc != nil || s.Doc != nil || s.Comment != nil {
			return
		}
		for _, name := range s.Names {
			if name.IsExported() {
				missing(name, d.Tok.String())
			}
		}
	}
}

func receiver(d *ast.FuncDecl) string {
	x := d.Recv.List[0].Type
	for {
		switch v := x.(type) {
		case *ast.StarExpr:
			x = v.X
		case *ast.IndexExpr:
			x = v.X
		case *ast.IndexListExpr:
			x = v.X
		case *ast.Ident:
			return v.Name
		default:
			return ""
		}
	}
}

// CheckVars finds package-level variables that are neither errors, embedded files, compiled patterns nor assertions of the
// compiler: state that every caller shares without knowing it.
func CheckVars(t *Tree) []Finding {
	var out []Finding
	for _, p := range t.Packages {
		for _, f := range p.Production() {
			if f.Generated {
				continue
			}
			for _, d := range f.Syntax.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
					out = append(out, t.checkVar(p, f, g)...)
				}
			}
		}
	}
	return out
}

// Linked is the one variable that the linker sets: the Makefile says to what.
const Linked = "internal/cli.Version"

func (t *Tree) checkVar(p *Package, f *File, g *ast.GenDecl) []Finding {
	var out []Finding
	for _, spec := range g.Specs {
		s := spec.(*ast.ValueSpec)
		if embedded(g.Doc) || embedded(s.Doc) {
			continue
		}
		for i, name := range s.Names {
			if name.Name == "_" || p.Dir+"."+name.Name == Linked || i < len(s.Values) && harmless(s.Values[i]) {
				continue
			}
			out = append(out, Finding{Check: "var", Where: p.Dir, Subject: name.Name, Say: fmt.Sprintf(
				"%s:%d: package-level variable %s. Make it a constant, a function or a field of what owns it; for a table that "+
					"nobody changes add a line with a reason to internal/arch/exceptions.txt.", f.Path, t.line(name.Pos()), name.Name)})
		}
	}
	return out
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// harmless reports whether a value is an error or a compiled pattern.
func harmless(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch pkg.Name + "." + sel.Sel.Name {
	case "errors.New", "fmt.Errorf", "fault.New", "fault.Wrap", "regexp.MustCompile":
		return true
	default:
		return false
	}
}
