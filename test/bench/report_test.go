package bench

import (
	"os"
	"strings"
	"testing"
)

// The table of the README is the one of the report that was measured last.
func TestReadme(t *testing.T) {
	block := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, begins := strings.Cut(string(text), "<!-- performance: written by `make bench-peers`, checked by the tests -->\n")
		table, _, ends := strings.Cut(rest, "<!-- end of performance -->\n")
		if !begins || !ends || !strings.Contains(table, "| drain") {
			t.Fatalf("%s has no table between the marks", file)
		}
		return table
	}
	if readme, report := block("../../README.md"), block("../../docs/performance/report.md"); readme != report {
		t.Errorf("the README says\n%s\nthe report\n%s\nwrite both with make bench-peers", readme, report)
	}
}
