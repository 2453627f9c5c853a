package manifest

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/fault"
)

// Pos is a place in the file, line and column from 1. The zero Pos is no place.
type Pos struct{ Line, Column int }

// Problems is everything that is wrong with a pack, in the order of the file.
type Problems []*fault.Error

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems, so that errors.As finds the first and its code.
func (p Problems) Unwrap() []error {
	out := make([]error, len(p))
	for i, e := range p {
		out[i] = e
	}
	return out
}

// Fault makes an error that points into the manifest.
func (m *Manifest) Fault(pos Pos, format string, args ...any) *fault.Error {
	return faultAt(m.File, m.lines, pos, fmt.Sprintf(format, args...))
}

func faultAt(file string, lines []string, pos Pos, message string) *fault.Error {
	e := fault.New(fault.Invalid, "%s", message)
	if pos.Line == 0 {
		e.Where = file
		return e
	}
	e.Where = fmt.Sprintf("%s:%d:%d", file, pos.Line, pos.Column)
	e.Snippet = snippet(lines, pos)
	return e
}

// snippet shows a line of the file with a caret under the column.
func snippet(lines []string, pos Pos) string {
	if pos.Line < 1 || pos.Line > len(lines) {
		return ""
	}
	const before, width = 60, 100
	text := []rune(strings.TrimRight(strings.ReplaceAll(lines[pos.Line-1], "\t", " "), "\r"))
	column := min(max(pos.Column, 1), len(text)+1)
	prefix := ""
	if column > before+20 {
		cut := column - before
		text, column, prefix = text[cut:], column-cut, "…"
	}
	if len(text) > width {
		text = append(slices.Clone(text[:width]), '…')
	}
	number := fmt.Sprintf("%5d | ", pos.Line)
	return number + prefix + string(text) + "\n" + strings.Repeat(" ", len(number)-2) + "| " +
		strings.Repeat(" ", column-1+utf8.RuneCountInString(prefix)) + "^"
}

// at returns where a character of the scalar's value stands. For a spelling in which characters do not stand where they
// mean to, such as a folded text, it is the beginning of the scalar.
func (s scalarPosition) at(offset int) Pos {
	n := s.node
	if n == nil {
		return Pos{}
	}
	start := Pos{n.Line, n.Column}
	offset += s.skip
	value := []rune(n.Value)
	if offset > len(value) || n.Line < 1 || n.Line > len(s.lines) {
		return start
	}
	if n.Style&yaml.LiteralStyle != 0 {
		return s.inBlock(value[:offset], start)
	}
	column := n.Column
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		column++
	}
	line := []rune(s.lines[n.Line-1])
	if from := column - 1; from+offset > len(line) || string(line[from:from+offset]) != string(value[:offset]) {
		return start
	}
	return Pos{n.Line, column + offset}
}

// inBlock finds the end of some text at the beginning of a literal block.
func (s scalarPosition) inBlock(before []rune, start Pos) Pos {
	text := string(before)
	line := start.Line + 1 + strings.Count(text, "\n")
	last := text[strings.LastIndexByte(text, '\n')+1:]
	if line > len(s.lines) {
		return start
	}
	at := strings.Index(s.lines[line-1], last)
	if last == "" {
		at = len(s.lines[line-1]) - len(strings.TrimLeft(s.lines[line-1], " "))
	}
	if at < 0 {
		return start
	}
	return Pos{line, utf8.RuneCountInString(s.lines[line-1][:at]) + utf8.RuneCountInString(last) + 1}
}

// Suggest returns the name that was probably meant, or "".
func Suggest(written string, known []string) string {
	best, distance := "", min(3, len(written)/3+1)
	for _, k := range slices.Sorted(slices.Values(known)) {
		if strings.EqualFold(k, written) {
			return k
		}
		d := edits(strings.ToLower(written), strings.ToLower(k))
		if singular(written) == singular(k) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = k, d
		}
	}
	return best
}

// singular is a word without what makes it mean several: people write retries for retry.
func singular(word string) string {
	word = strings.ToLower(word)
	if stem, ok := strings.CutSuffix(word, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(word, "s")
}

// edits counts the letters to add, drop, change or swap on the way from a to b.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// Choices is the hint for a name that is not known: what was probably meant, else everything there is.
func Choices(written string, known []string) string {
	if s := Suggest(written, known); s != "" {
		return fmt.Sprintf("did you mean %q?", s)
	}
	if len(known) == 0 {
		return ""
	}
	list := slices.Sorted(slices.Values(known))
	if len(list) > 40 {
		list = append(list[:40], "…")
	}
	return "there are: " + strings.Join(list, ", ")
}
