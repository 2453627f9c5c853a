package arch

import (
	"fmt"
	"slices"
	"strings"
)

// Layers is layers.txt: the rings, who is in them, and what they may not touch.
type Layers struct {
	Rings    map[string]*Ring
	Packages map[string]*Place // by folder
	Refused  []Refusal
	Only     []Only
}

// Ring is a set of packages that may use the same things.
type Ring struct {
	Name   string
	Uses   []string // rings it may import; "seams@" means those of the package's own family only
	Reason string
}

// Place is where a package belongs.
type Place struct {
	Dir    string
	Ring   string
	Beside []string // packages of its own ring that it may import although the ring does not
	Coming bool     // need not exist yet
}

// Refusal keeps an import, a function of the standard library or a keyword out of rings.
type Refusal struct {
	Rings  []string
	Kind   string // "import" or "call"
	Names  []string
	Reason string
}

// Only keeps a library in one place.
type Only struct {
	Library string
	Dirs    []string
	Reason  string
}

// ParseLayers reads the rules. See layers.txt for the form of each line.
func ParseLayers(text string) (*Layers, error) {
	l := &Layers{Rings: map[string]*Ring{}, Packages: map[string]*Place{}}
	for n, line := range entries(text) {
		if err := l.add(line); err != nil {
			return nil, fmt.Errorf("layers.txt:%d: %w", n, err)
		}
	}
	return l, nil
}

func (l *Layers) add(line string) error {
	rule, reason, explained := cutReason(line)
	fields := strings.Fields(rule)
	if len(fields) < 3 {
		return fmt.Errorf("%q says too little", rule)
	}
	verb, name, rest := fields[0], fields[1], fields[2:]
	if verb != "package" && !explained {
		return fmt.Errorf("the rule %q needs a reason: write | and the reason after it", rule)
	}
	switch verb {
	case "ring":
		l.Rings[name] = &Ring{Name: name, Uses: rest, Reason: reason}
	case "package":
		return l.place(name, rest)
	case "import", "call":
		l.Refused = append(l.Refused, Refusal{Rings: strings.Split(name, ","), Kind: verb, Names: rest, Reason: reason})
	case "only":
		l.Only = append(l.Only, Only{Library: name, Dirs: rest, Reason: reason})
	default:
		return fmt.Errorf("a line begins with ring, package, import, call or only, not %q", verb)
	}
	return nil
}

func (l *Layers) place(dir string, rest []string) error {
	p := &Place{Dir: dir, Ring: rest[0]}
	if l.Rings[p.Ring] == nil {
		return fmt.Errorf("package %s is in ring %q, which is not declared above", dir, p.Ring)
	}
	if l.Packages[dir] != nil {
		return fmt.Errorf("package %s is listed twice", dir)
	}
	for i, word := range rest[1:] {
		if word == "coming" {
			p.Coming = true
			continue
		}
		if word != "beside" {
			return fmt.Errorf("package %s: after the ring comes \"coming\" or \"beside\", not %q", dir, word)
		}
		p.Beside = rest[i+2:]
		break
	}
	l.Packages[dir] = p
	return nil
}

// CheckImports finds packages in no ring, listed packages that are gone, and imports that point the wrong way.
func (l *Layers) CheckImports(t *Tree) []Finding {
	var out []Finding
	exists := map[string]bool{}
	for _, p := range t.Packages {
		exists[p.Dir] = true
		from := l.Packages[p.Dir]
		if from == nil {
			out = append(out, Finding{Check: "ring", Where: p.Dir, Subject: p.Name(),
				Say: "the package is in no ring; add \"package " + p.Dir + " RING\" to internal/arch/layers.txt"})
			continue
		}
		for _, f := range p.Production() {
			for imported := range f.Imports() {
				if dir, ok := t.inside(imported); ok {
					out = append(out, l.checkImport(f, from, dir)...)
					continue
				}
				out = append(out, l.checkLibrary(f, from, imported)...)
			}
		}
	}
	for dir, place := range l.Packages {
		if !exists[dir] && !place.Coming {
			out = append(out, Finding{Check: "ring", Where: dir, Subject: place.Ring,
				Say: "the package is listed but there is none; remove its line from internal/arch/layers.txt"})
		}
	}
	return out
}

func (l *Layers) checkImport(f *File, from *Place, dir string) []Finding {
	to := l.Packages[dir]
	if to == nil || l.allows(from, to) {
		return nil // what is in no ring is found by itself
	}
	ring := l.Rings[from.Ring]
	return []Finding{{
		Check: "import", Where: f.Path, Subject: dir,
		Say: fmt.Sprintf("%s (ring %s) imports %s (ring %s). %s Ask for what is needed through a small interface beside its user, "+
			"have the wiring pass it in, or move the code to the ring where it belongs.", from.Dir, from.Ring, to.Dir, to.Ring, ring.Reason),
	}}
}

func (l *Layers) allows(from, to *Place) bool {
	if from.Dir == to.Dir || slices.Contains(from.Beside, to.Dir) {
		return true
	}
	for _, use := range l.Rings[from.Ring].Uses {
		name, family := strings.CutSuffix(use, "@")
		if name == to.Ring && (!family || familyOf(from.Dir) == familyOf(to.Dir)) {
			return true
		}
	}
	return false
}

// familyOf returns the first folder below internal: a contract, its suite and its drivers share it.
func familyOf(dir string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(dir, "internal/"), "/")
	return name
}

func (l *Layers) checkLibrary(f *File, from *Place, imported string) []Finding {
	var out []Finding
	for _, r := range l.Refused {
		if r.Kind == "import" && slices.Contains(r.Rings, from.Ring) && slices.ContainsFunc(r.Names, func(name string) bool {
			return matches(imported, name)
		}) {
			out = append(out, Finding{Check: "pure", Where: f.Path, Subject: imported, Say: fmt.Sprintf(
				"ring %s may not import %q. %s Take what it would give as an argument, or move this part to a ring that may.", from.Ring, imported, r.Reason)})
		}
	}
	for _, o := range l.Only {
		if matches(imported, o.Library) && !slices.Contains(o.Dirs, from.Dir) {
			out = append(out, Finding{Check: "library", Where: f.Path, Subject: imported, Say: fmt.Sprintf(
				"%q belongs to %s only. %s Use what that package offers.", imported, strings.Join(o.Dirs, ", "), o.Reason)})
		}
	}
	return out
}

// matches reports whether an import path is the named one, or below it for a name that ends in "/...". The word
// "third-party" stands for everything with a dot in its first element.
func matches(imported, name string) bool {
	if name == "third-party" {
		first, _, _ := strings.Cut(imported, "/")
		return strings.Contains(first, ".")
	}
	if below, ok := strings.CutSuffix(name, "/..."); ok {
		return imported == below || strings.HasPrefix(imported, below+"/")
	}
	return imported == name
}
