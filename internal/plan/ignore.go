package plan

import (
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
)

// ManifestFile is what the manifest of a folder is called.
const ManifestFile = "pack.yaml"

// IgnoreFile is the file in a pack's folder that says which files do not travel with it.
const IgnoreFile = ".packignore"

// Ignore decides which files of a folder are part of a pack. It follows the rules of .gitignore, as far as they go here:
//
//   - one pattern in each line; # begins a comment, \# and \! stand for the characters; spaces at the end do not count;
//   - * matches within one name, ? one character, […] one of several, ** as a whole name any number of folders;
//   - a pattern with a slash before its end counts from the pack's folder on, any other in every folder;
//   - a slash at the end means folders only; what is inside of an ignored folder is ignored with it;
//   - ! in front takes a file back in, unless a folder that it is inside of is ignored; the last pattern that matches counts.
//
// .git is always ignored.
type Ignore struct{ rules []ignoreRule }

type ignoreRule struct {
	names  []string // of the path, "**" for any number
	negate bool
	folder bool
}

// ParseIgnore reads the text of a .packignore.
func ParseIgnore(text []byte) (*Ignore, error) {
	i := &Ignore{rules: []ignoreRule{{names: []string{"**", ".git"}}}}
	for n, line := range strings.Split(string(text), "\n") {
		line = strings.TrimRight(line, " \t\r")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rule := ignoreRule{}
		if rest, ok := strings.CutPrefix(line, "!"); ok {
			rule.negate, line = true, rest
		}
		if strings.HasPrefix(line, `\#`) || strings.HasPrefix(line, `\!`) {
			line = line[1:]
		}
		if rest, ok := strings.CutSuffix(line, "/"); ok {
			rule.folder, line = true, rest
		}
		anchored := strings.Contains(line, "/")
		rule.names = strings.Split(strings.TrimPrefix(line, "/"), "/")
		if !anchored {
			rule.names = append([]string{"**"}, rule.names...)
		}
		for _, name := range rule.names {
			if _, err := path.Match(name, ""); err != nil || name == "" || name == ".." || name == "." {
				return nil, fault.New(fault.Invalid, "%q is no pattern", line).At(IgnoreFile + ":" + itoa(n+1)).
					WithHint("write file names with *, ? and […], folders with a slash at the end")
			}
		}
		i.rules = append(i.rules, rule)
	}
	return i, nil
}

// Match reports whether a path is ignored, given whether it is a folder. The path is relative to the pack, with slashes.
func (i *Ignore) Match(name string, folder bool) bool {
	parts := strings.Split(name, "/")
	for n := 1; n < len(parts); n++ {
		if i.last(parts[:n], true) {
			return true
		}
	}
	return i.last(parts, folder)
}

// Select returns the paths of files that are not ignored, sorted.
func (i *Ignore) Select(files []string) []string {
	var out []string
	for _, f := range files {
		if !i.Match(f, false) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

func (i *Ignore) last(parts []string, folder bool) bool {
	for n := len(i.rules) - 1; n >= 0; n-- {
		r := i.rules[n]
		if (!r.folder || folder) && matchNames(r.names, parts) {
			return !r.negate
		}
	}
	return false
}

// matchNames matches whole names, in time that grows with the product of both lengths.
func matchNames(pattern, names []string) bool {
	reach := make([]bool, len(names)+1) // reach[j]: the pattern so far matches the first j names
	reach[0] = true
	for at, p := range pattern {
		next := make([]bool, len(names)+1)
		if p == "**" {
			for j := range next {
				next[j] = reach[j] || j > 0 && next[j-1]
			}
			if at == len(pattern)-1 { // at the end it stands for what is inside, not for the folder itself
				for j := range next {
					next[j] = next[j] && !reach[j]
				}
			}
		} else {
			for j := 1; j <= len(names); j++ {
				if reach[j-1] {
					next[j], _ = path.Match(p, names[j-1])
				}
			}
		}
		reach = next
	}
	return reach[len(names)]
}
