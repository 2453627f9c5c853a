package arch

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The list of packages in ARCHITECTURE.md stands between these two lines.
const (
	listBegin = "<!-- packages: written by `make docs`, checked by the tests -->"
	listEnd   = "<!-- end of packages -->"
)

// PackageList returns what ARCHITECTURE.md says about every package: its ring and the first sentence of its comment.
func PackageList(t *Tree, l *Layers, rings []string) string {
	var b strings.Builder
	for _, ring := range rings {
		var lines []string
		for _, p := range t.Packages {
			if place := l.Packages[p.Dir]; place != nil && place.Ring == ring {
				lines = append(lines, fmt.Sprintf("| `%s` | %s |\n", strings.TrimPrefix(p.Dir, "internal/"), sentence(p)))
			}
		}
		if len(lines) == 0 {
			continue
		}
		slices.Sort(lines)
		fmt.Fprintf(&b, "\n**%s** – %s\n\n| package | |\n|---|---|\n%s", ring, l.Rings[ring].Reason, strings.Join(lines, ""))
	}
	return b.String()
}

// sentence returns the first sentence of a package comment without its opening, "" for a folder of tests only.
func sentence(p *Package) string {
	first, _, _ := strings.Cut(p.Doc(), "\n\n")
	first = strings.Join(strings.Fields(first), " ")
	if end := strings.Index(first, ". "); end >= 0 {
		first = first[:end+1]
	}
	for _, opening := range []string{"Package " + p.Name() + " ", "Command " + lastOf(p.Dir) + " "} {
		first = strings.TrimPrefix(first, opening)
	}
	return strings.ReplaceAll(strings.TrimSuffix(first, "."), "|", "\\|")
}

// ReplaceList puts the list of packages into a document.
func ReplaceList(document, list string) (string, error) {
	before, rest, ok := strings.Cut(document, listBegin)
	_, after, closed := strings.Cut(rest, listEnd)
	if !ok || !closed {
		return "", fmt.Errorf("the document needs the lines %q and %q around its list of packages", listBegin, listEnd)
	}
	return before + listBegin + "\n" + list + "\n" + listEnd + after, nil
}

var (
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	codeBlock = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	adrName   = regexp.MustCompile(`^docs/adr/([0-9]{4})-[a-z0-9-]+\.md$`)
)

// CheckLinks finds links between documents that lead nowhere, and decisions that the index does not list.
func CheckLinks(t *Tree) []Finding {
	var out []Finding
	exists := map[string]bool{}
	var index []byte
	for _, text := range t.Texts {
		for p := text.Path; p != "."; p = path.Dir(p) {
			exists[p] = true
		}
		if text.Path == "docs/README.md" {
			index = text.Data
		}
	}
	numbers := map[string]string{}
	for _, text := range t.Texts {
		if path.Ext(text.Path) != ".md" {
			continue
		}
		out = append(out, checkLinks(text, exists)...)
		if path.Dir(text.Path) != "docs/adr" {
			continue
		}
		m := adrName.FindStringSubmatch(text.Path)
		switch {
		case m == nil:
			out = append(out, Finding{Check: "adr", Where: text.Path, Subject: "name", Say: "call it docs/adr/NNNN-title.md"})
		case numbers[m[1]] != "":
			out = append(out, Finding{Check: "adr", Where: text.Path, Subject: "number", Say: "the number is taken by " + numbers[m[1]] + "; take the next free one"})
		default:
			numbers[m[1]] = text.Path
		}
		if !bytes.Contains(index, []byte(strings.TrimPrefix(text.Path, "docs/"))) {
			out = append(out, Finding{Check: "adr", Where: text.Path, Subject: "index", Say: "docs/README.md does not list it; add a line"})
		}
	}
	return out
}

func checkLinks(text Text, exists map[string]bool) []Finding {
	var out []Finding
	for _, m := range link.FindAllSubmatch(codeBlock.ReplaceAll(text.Data, nil), -1) {
		target, _, _ := strings.Cut(string(m[1]), "#")
		if target == "" || strings.Contains(target, ":") {
			continue
		}
		if full := path.Join(path.Dir(text.Path), target); !exists[full] {
			out = append(out, Finding{Check: "link", Where: text.Path, Subject: target, Say: fmt.Sprintf(
				"the link to %s leads nowhere; there is no %s", target, full)})
		}
	}
	return out
}
