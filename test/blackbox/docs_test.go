package blackbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A page is tested as its reader would use it. All its ```console blocks are one session in one fresh folder that holds the examples:
//
//	$ orrery run hello.yaml         a command, as typed
//	> …                             the next line of the same command
//	step-1 │ hello                  a line that must be in the output, after those above it
//	…                               any lines; within a line, any text
//	(exit code 8)                   what the command ends with, when that is not 0
//
// Times, durations, digests, run ids and the names of runs may be others. A block in another language whose first line is a comment with
// nothing but the name of a file, "# hello.yaml", is written to that file. A block of commands that cannot be run here is indented.

var (
	fence     = regexp.MustCompile("^```([a-z]*)$")
	fileName  = regexp.MustCompile(`^# ([\w-]+(?:[./][\w-]+)*\.\w+)$`)
	exitLine  = regexp.MustCompile(`^\(exit code (\d+)\)$`)
	marker    = "\x01"
	variables = []struct {
		pattern *regexp.Regexp
		as      string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
		{regexp.MustCompile(`\b\d\d:\d\d:\d\d(\.\d+)?\b`), "TIME"},
		{regexp.MustCompile(`\brun_[0-9a-z]{26}\b`), "RUN"},
		{regexp.MustCompile(`\b[0-9a-f]{12,}\b`), "DIGEST"},
		{regexp.MustCompile(`\b(\d+m)?\d+(\.\d+)?(ms|s|µs)\b`), "TOOK"},
		{regexp.MustCompile(` +`), " "},
	}
)

type command struct {
	line int
	text string
	want []string
	exit int
	file *file // or a file that is written
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	var pages []string
	for _, at := range []string{"README.md", "docs", "examples"} {
		err := filepath.WalkDir(filepath.Join(place.root, at), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".md") && !strings.Contains(path, "/docs/adr/") && !strings.Contains(path, "/input/") {
				pages = append(pages, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names := runNames(t)
	for _, page := range pages {
		rel, err := filepath.Rel(place.root, page)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(rel, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			commands := session(t, rel, string(raw))
			if len(commands) == 0 {
				return
			}
			dir := folder(t)
			copyTree(t, dir, "examples", "scripts")
			if rel == "README.md" {
				copySource(t, dir)
			}
			check(t, rel, dir, commands, names)
		})
	}
}

// session reads the commands and files of a page.
func session(t *testing.T, page, text string) []command {
	t.Helper()
	var out []command
	language, open := "", false
	for i, line := range strings.Split(text, "\n") {
		number := i + 1
		if m := fence.FindStringSubmatch(line); m != nil && !open {
			language, open = m[1], true
			if slices.Contains([]string{"sh", "bash", "shell", ""}, language) {
				t.Errorf("%s:%d: commands are in console blocks, where they are tested, or indented; other text names its language", page, number)
			}
			out = append(out, command{line: number}) // so that a file does not go on over blocks
			continue
		}
		if line == "```" && open {
			open = false
			continue
		}
		if !open {
			continue
		}
		last := &out[len(out)-1]
		switch {
		case language != "console" && last.file == nil && last.line == number-1:
			if m := fileName.FindStringSubmatch(line); m != nil {
				last.file = &file{name: m[1]}
			}
		case language != "console":
			if last.file != nil {
				last.file.data = append(last.file.data, line+"\n"...)
			}
		case strings.HasPrefix(line, "$ "):
			out = append(out, command{line: number, text: line[2:]})
		case last.text == "":
			t.Errorf("%s:%d: a console block begins with a command", page, number)
		case strings.HasPrefix(line, "> ") || line == ">":
			last.text += "\n" + strings.TrimPrefix(line[1:], " ")
		case exitLine.MatchString(line):
			last.exit, _ = strconv.Atoi(exitLine.FindStringSubmatch(line)[1])
		case strings.TrimSpace(line) != "":
			last.want = append(last.want, line)
		}
	}
	return slices.DeleteFunc(out, func(c command) bool { return c.text == "" && c.file == nil })
}

// check runs the session of a page and compares what comes out.
func check(t *testing.T, page, dir string, commands []command, names *regexp.Regexp) {
	var script strings.Builder
	for i, c := range commands {
		if c.file != nil {
			fmt.Fprintf(&script, "mkdir -p \"$(dirname %s)\"\ncat > %s <<'END-OF-FILE'\n%sEND-OF-FILE\n", c.file.name, c.file.name, c.file.data)
			continue
		}
		fmt.Fprintf(&script, "%s\nprintf '\\n\\001%d %%d\\001\\n' $?\n", c.text, i)
	}
	raw, err := shell(t, dir, script.String())
	rest := raw
	for i, c := range commands {
		if c.file != nil {
			continue
		}
		begin := strings.Index(rest, fmt.Sprintf("\n%s%d ", marker, i))
		if begin < 0 {
			t.Fatalf("%s:%d: %s\ndid not end (%v):\n%s", page, c.line, c.text, err, rest)
		}
		got := rest[:begin]
		end, after, _ := strings.Cut(rest[begin+2:], marker)
		rest = strings.TrimPrefix(after, "\n")
		if _, code, _ := strings.Cut(end, " "); code != strconv.Itoa(c.exit) {
			t.Errorf("%s:%d: %s\nexit code %s, the page says %d:\n%s", page, c.line, c.text, code, c.exit, got)
			continue
		}
		if missing := compare(c.want, got, names); missing != "" {
			t.Errorf("%s:%d: %s\nthis line is not in the output, or not at its place:\n%s\n--- output\n%s", page, c.line, c.text, missing, got)
		}
	}
}

// compare returns the first wanted line that does not come, in order, "" when all do.
func compare(want []string, got string, names *regexp.Regexp) string {
	lines := strings.Split(plain(got, names), "\n")
	at := 0
	for _, w := range want {
		if w == "…" {
			continue
		}
		parts := strings.Split(plain(w, names), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		found := slices.IndexFunc(lines[at:], pattern.MatchString)
		if found < 0 {
			return w
		}
		at += found + 1
	}
	return ""
}

// plain takes out what is different each time.
func plain(s string, names *regexp.Regexp) string {
	s = names.ReplaceAllString(s, "NAME")
	for _, v := range variables {
		s = v.pattern.ReplaceAllString(s, v.as)
	}
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// runNames matches the names that runs get.
func runNames(t *testing.T) *regexp.Regexp {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(place.root, "internal/control/name.go"))
	if err != nil {
		t.Fatal(err)
	}
	lists := regexp.MustCompile("(?s)List = `(.*?)`").FindAllStringSubmatch(string(raw), 2)
	if len(lists) != 2 {
		t.Fatal("the words that runs are named with have moved")
	}
	either := func(words string) string { return strings.Join(strings.Fields(words), "|") }
	return regexp.MustCompile(`\b(` + either(lists[0][1]) + `)-(` + either(lists[1][1]) + `)(-\d{4})?\b`)
}

// TestDemo runs the demo and takes it at its last line.
func TestDemo(t *testing.T) {
	t.Parallel()
	out, err := shell(t, place.root, "DEMO_BIN=$BIN scripts/demo.sh")
	if err != nil || !strings.HasSuffix(out, "\nVALID\n") {
		t.Fatalf("%v\n%s", err, out)
	}
}
