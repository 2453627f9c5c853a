package expression

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Refs is what an expression looks at. Every list is sorted and without duplicates.
type Refs struct {
	Inputs []string
	Steps  []string // local ids as written
	Vars   []string // free names: the element or position of a map
	Run    bool
	Paths  []Path // every path from a root, as far as it is constant
}

// Path is one path that an expression follows, such as steps.build.outputs.version.
type Path struct {
	Parts  []string
	Offset int // of its first character, counted in characters
}

// Empty reports whether nothing is looked at.
func (r Refs) Empty() bool {
	return len(r.Inputs) == 0 && len(r.Steps) == 0 && len(r.Vars) == 0 && !r.Run
}

// Union returns what either looks at.
func (r Refs) Union(other Refs) Refs {
	if r.Empty() {
		return other
	}
	if other.Empty() {
		return r
	}
	return Refs{
		Inputs: merge(r.Inputs, other.Inputs), Steps: merge(r.Steps, other.Steps), Vars: merge(r.Vars, other.Vars),
		Run: r.Run || other.Run, Paths: append(slices.Clone(r.Paths), other.Paths...),
	}
}

func merge(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

func (r Refs) sorted() Refs {
	for _, list := range []*[]string{&r.Inputs, &r.Steps, &r.Vars} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.SortStableFunc(r.Paths, func(a, b Path) int { return a.Offset - b.Offset })
	return r
}

// add records a path from its root on, or says what is wrong with it.
func (r *Refs) add(p Path) *Error {
	root, rest := p.Parts[0], p.Parts[1:]
	switch root {
	case "inputs":
		if len(rest) == 0 {
			return &Error{Offset: p.Offset, Message: "inputs must be followed by the name of an input", Hint: `write inputs.NAME or inputs["NAME"]`}
		}
		r.Inputs = append(r.Inputs, rest[0])
	case "steps":
		if len(rest) == 0 {
			return &Error{Offset: p.Offset, Message: "steps must be followed by the id of a step", Hint: `write steps.ID.outputs.NAME or steps["ID"].outputs.NAME`}
		}
		r.Steps = append(r.Steps, rest[0])
		if len(rest) > 1 && !slices.Contains(StepFields(), rest[1]) {
			return &Error{Offset: p.Offset, Message: "a step has no " + quote(rest[1]), Hint: "a step has " + strings.Join(StepFields(), ", ")}
		}
	case "run":
		r.Run = true
		if len(rest) > 0 && !slices.Contains(RunFields(), rest[0]) {
			return &Error{Offset: p.Offset, Message: "run has no " + quote(rest[0]), Hint: "run has " + strings.Join(RunFields(), ", ")}
		}
	default:
		r.Vars = append(r.Vars, root)
	}
	r.Paths = append(r.Paths, p)
	return nil
}

// StepFields returns what an expression can ask of a step.
func StepFields() []string { return []string{"outputs", "results", "status"} }

// RunFields returns what an expression can ask of the run.
func RunFields() []string { return []string{"failed", "id", "name", "planHash", "status", "tenant"} }

var pathPattern = regexp.MustCompile(`^\s*[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\s*$`)

// simplePath returns the parts of an expression that only follows a path.
func simplePath(src string) ([]string, bool) {
	if len(src) > MaxSource || !pathPattern.MatchString(src) {
		return nil, false
	}
	path := strings.Split(strings.TrimSpace(src), ".")
	for _, part := range path {
		if reserved(part) {
			return nil, false
		}
	}
	return path, true
}

var dashedStep = regexp.MustCompile(`(?:^|[^\w.])(steps\.)([A-Za-z_]\w*(?:-\w+)+)(\.(?:outputs|status|results)\b)`)

// dashed notices an id with a dash that is written like one without, which would mean a subtraction from a step.
func dashed(src string) *Error {
	masked := []byte(src)
	for i := 0; i < len(masked); i++ {
		if masked[i] != '"' && masked[i] != '\'' {
			continue
		}
		end, ok := literalEnd(src, i)
		if !ok {
			return nil // the parser says more about it
		}
		for ; i < end; i++ {
			masked[i] = '"'
		}
	}
	m := dashedStep.FindSubmatchIndex(masked)
	if m == nil {
		return nil
	}
	id := src[m[4]:m[5]]
	return &Error{Offset: utf8.RuneCountInString(src[:m[4]]), Message: "the id " + quote(id) + " has a dash, which means minus here",
		Hint: "write steps[" + quote(id) + "]" + src[m[6]:m[7]]}
}

// reserved reports whether CEL keeps the word for itself.
func reserved(word string) bool {
	switch word {
	case "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while":
		return true
	default:
		return false
	}
}

func refsOfPath(path []string, offset int) (Refs, *Error) {
	var r Refs
	if err := r.add(Path{Parts: path, Offset: offset}); err != nil {
		return Refs{}, err
	}
	return r, nil
}
