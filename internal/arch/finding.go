package arch

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Finding is one place where the tree breaks a rule.
type Finding struct {
	Check   string // the rule
	Where   string // a file or a folder
	Subject string // what there breaks it
	Size    int    // how large it is, for budgets
	Say     string // what is wrong and what to do
}

// String returns the finding as one line that says what to do.
func (f Finding) String() string {
	return fmt.Sprintf("[%s] %s: %s", f.Check, f.Where, f.Say)
}

// Exception lets one thing differ from a rule.
type Exception struct {
	Check, Where, Subject string
	Max                   int // for budgets: up to here and no further
	Reason                string
}

func (e Exception) covers(f Finding) bool {
	return e.Check == f.Check && e.Where == f.Where && (e.Subject == f.Subject || e.Subject == "*") && f.Size <= e.Max
}

// String returns the entry as it stands in the file.
func (e Exception) String() string {
	size := ""
	if e.Max > 0 {
		size = " " + strconv.Itoa(e.Max)
	}
	return e.Check + " " + e.Where + " " + e.Subject + size
}

// ParseExceptions reads lines of the form "check where subject [max] | reason".
func ParseExceptions(text string) ([]Exception, error) {
	var out []Exception
	for n, line := range entries(text) {
		rule, reason, ok := cutReason(line)
		fields := strings.Fields(rule)
		if !ok || len(fields) < 3 || len(fields) > 4 {
			return nil, fmt.Errorf("exceptions.txt:%d: write: check where subject [max] | reason", n)
		}
		e := Exception{Check: fields[0], Where: fields[1], Subject: fields[2], Reason: reason}
		if len(fields) == 4 {
			var err error
			if e.Max, err = strconv.Atoi(fields[3]); err != nil {
				return nil, fmt.Errorf("exceptions.txt:%d: %q is no number", n, fields[3])
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// Apply takes out of findings what the exceptions cover, and adds a finding for every exception that covers nothing.
func Apply(findings []Finding, exceptions []Exception) []Finding {
	used := make([]bool, len(exceptions))
	left := slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool {
		for i, e := range exceptions {
			if e.covers(f) {
				used[i] = true
				return true
			}
		}
		return false
	})
	for i, e := range exceptions {
		if !used[i] {
			left = append(left, Finding{
				Check: "exception", Where: "internal/arch/exceptions.txt", Subject: e.String(),
				Say: fmt.Sprintf("nothing needs %q any more; remove the line", e),
			})
		}
	}
	slices.SortStableFunc(left, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Check, b.Check), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Subject, b.Subject))
	})
	return left
}

// entries returns the lines of a rule file that say something, by their numbers.
func entries(text string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		s := bufio.NewScanner(strings.NewReader(text))
		for n := 1; s.Scan(); n++ {
			line := strings.TrimSpace(s.Text())
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(n, line) {
				return
			}
		}
	}
}

func cutReason(line string) (rule, reason string, ok bool) {
	rule, reason, _ = strings.Cut(line, "|")
	rule, reason = strings.TrimSpace(rule), strings.TrimSpace(reason)
	return rule, reason, reason != ""
}
