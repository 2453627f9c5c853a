package arch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	requirementRow  = regexp.MustCompile(`^\| ([A-Z]\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$`)
	requirementShow = regexp.MustCompile("`([^`]+)`")
	testFunction    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)[A-Za-z0-9_]+)\(`)
	makeTarget      = regexp.MustCompile(`(?m)^([a-z-]+):`)
)

// bodies are the letters of requirements and how many each has.
var bodies = []struct {
	letter string
	most   int
}{{"M", 8}, {"H", 8}, {"O", 12}, {"J", 21}, {"T", 11}, {"B", 20}, {"N", 10}}

// checkRequirements holds the table of requirements to what there is: every requirement once and in order, everything that is named to show
// one exists, and what is done is shown by something that bears its name.
func checkRequirements(table string, exists map[string]bool) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	var ids []string
	for line := range strings.Lines(table) {
		m := requirementRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		id, state := m[1], m[3]
		ids = append(ids, id)
		named := false
		for _, show := range requirementShow.FindAllStringSubmatch(m[4], -1) {
			if !exists[show[1]] {
				say("%s is shown by %q, which does not exist", id, show[1])
			}
			named = named || strings.HasPrefix(strings.TrimPrefix(show[1], "Test"), id+"_")
		}
		switch {
		case !slices.Contains([]string{"done", "partly", "not yet"}, state):
			say("%s has the state %q", id, state)
		case state == "done" && !named:
			say("%s is done, and no test or script bears its name", id)
		case state == "partly" && strings.TrimSpace(m[4]) == "":
			say("%s is partly done, and nothing shows which part", id)
		}
	}
	var want []string
	for _, b := range bodies {
		for n := range b.most {
			want = append(want, fmt.Sprint(b.letter, n+1))
		}
	}
	if !slices.Equal(ids, want) {
		say("the table has %v, not every requirement once and in order", ids)
	}
	return wrong
}

// shown lists everything that may show a requirement: tests by their function, scripts by their file, targets as "make NAME", and files.
func shown(t *testing.T) map[string]bool {
	t.Helper()
	exists := map[string]bool{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && (d.Name() == ".git" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		exists[filepath.ToSlash(rel)] = true
		switch {
		case strings.HasSuffix(name, ".txtar"):
			exists[d.Name()] = true
		case strings.HasSuffix(name, "_test.go"):
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for _, m := range testFunction.FindAllSubmatch(text, -1) {
				exists[string(m[1])] = true
			}
		case rel == "Makefile":
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for _, m := range makeTarget.FindAllSubmatch(text, -1) {
				exists["make "+string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return exists
}

func TestRequirements(t *testing.T) {
	table, err := os.ReadFile(filepath.Join(root, "docs", "reference", "requirements.md"))
	if err != nil {
		t.Fatal(err)
	}
	exists := shown(t)
	for _, w := range checkRequirements(string(table), exists) {
		t.Error(w)
	}
	// The check catches what it is for.
	text := string(table)
	for what, bad := range map[string]string{
		"a script that is gone":   strings.Replace(text, "`T1_plan.txtar`", "`T1_gone.txtar`", 1),
		"a row that is gone":      regexp.MustCompile(`(?m)^\| O7 .*\n`).ReplaceAllString(text, ""),
		"done with nothing of it": regexp.MustCompile(`(?m)^(\| O7 \|.*\| done \|).*$`).ReplaceAllString(text, "$1 `make test` |"),
		"a state of one's own":    strings.Replace(text, "| done |", "| finished |", 1),
	} {
		if bad == text {
			t.Errorf("%s: the table is not as this test expects", what)
		}
		if len(checkRequirements(bad, exists)) == 0 {
			t.Errorf("%s is not noticed", what)
		}
	}
}
