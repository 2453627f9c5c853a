package blackbox

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"orrery.example/orrery/internal/fault"
)

// TestExitCodes holds the table of exit codes to the one that the program uses.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(place.root, "docs/reference/exit-codes.md"))
	if err != nil {
		t.Fatal(err)
	}
	said := map[fault.Code]int{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| [^|]+ \| ([^|]*)\|$`).FindAllStringSubmatch(string(raw), -1) {
		exit, err := strconv.Atoi(row[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(row[2], -1) {
			said[fault.Code(code[1])] = exit
		}
	}
	codes := fault.Codes()
	slices.Sort(codes)
	for _, code := range codes {
		want := fault.Exit(fault.New(code, "x"))
		if got, ok := said[code]; !ok || got != want {
			t.Errorf("%s ends with %d; the page says %d", code, want, got)
		}
		delete(said, code)
	}
	for code := range said {
		t.Errorf("the page has the code %s, which there is not", code)
	}
}
