package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The rules of length. A shorter secret would take half of every text with it, and its mark would betray it.
const (
	MinLength     = 4 // bytes of a secret
	minLineLength = 8 // bytes of one line of a secret of several lines

	// longPart is where a secret is a file rather than a word. It is then found as it is, in the standard base64 and in
	// plain hexadecimal only, because every form costs memory many times its length.
	longPart = 16 << 10
)

// forms returns every text that stands for the secret, in no order and perhaps doubled.
func forms(secret []byte) [][]byte {
	var all [][]byte
	add := func(texts ...string) {
		for _, t := range texts {
			if len(t) >= MinLength {
				all = append(all, []byte(t))
			}
		}
	}
	for i, part := range parts(secret) {
		add(string(part))
		if len(part) > longPart {
			add(base64Forms(part, base64.StdEncoding)...)
			add(hex.EncodeToString(part))
			continue
		}
		add(base64Forms(part, base64.StdEncoding)...)
		add(base64Forms(part, base64.URLEncoding)...)
		add(hexForms(part)...)
		if i == 0 && bytes.ContainsAny(part, "\r\n") {
			// The text forms of a secret of several lines are those of its lines: what stands between them is no secret.
			continue
		}
		add(percentForms(part)...)
		add(jsonForms(string(part))...)
		add(shellForms(string(part))...)
		add(html.EscapeString(string(part)), strings.ReplaceAll(html.EscapeString(string(part)), "&#34;", "&quot;"))
	}
	return all
}

// parts returns the secret without line breaks at its ends and, when it has several lines, each line that is long enough.
func parts(secret []byte) [][]byte {
	whole := bytes.Trim(secret, "\r\n")
	if len(whole) < MinLength {
		return nil
	}
	all := [][]byte{whole}
	if !bytes.ContainsAny(whole, "\r\n") {
		return all
	}
	for line := range bytes.FieldsFuncSeq(whole, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if line = bytes.TrimSpace(line); len(line) >= minLineLength {
			all = append(all, line)
		}
	}
	return all
}

func base64Forms(part []byte, alphabet *base64.Encoding) []string {
	padded := alphabet.EncodeToString(part)
	all := []string{padded, strings.TrimRight(padded, "=")}
	all = append(all, wrapped(padded, 64)...)
	all = append(all, wrapped(padded, 76)...)
	// Inside a longer text the secret starts at one of three alignments. What its neighbours reach into is left out.
	for before, drop := range []int{0, 2, 3} {
		text := alphabet.WithPadding(base64.NoPadding).EncodeToString(append(make([]byte, before), part...))
		all = append(all, text[drop:(before+len(part))*8/6])
	}
	return all
}

func hexForms(part []byte) []string {
	lower := hex.EncodeToString(part)
	upper := strings.ToUpper(lower)
	pairs := make([]string, len(part))
	escapes := make([]string, len(part))
	for i := range part {
		pairs[i] = lower[2*i : 2*i+2]
		escapes[i] = `\x` + pairs[i]
	}
	colons := strings.Join(pairs, ":")
	all := []string{lower, upper, colons, strings.ToUpper(colons), strings.Join(pairs, " "), strings.Join(escapes, "")}
	return append(all, wrapped(lower, 60)...)
}

// wrapped returns the lines that tools break a long text into, when there are several.
func wrapped(text string, width int) []string {
	if len(text) <= width {
		return nil
	}
	var lines []string
	for len(text) > width {
		lines = append(lines, text[:width])
		text = text[width:]
	}
	if len(text) >= minLineLength {
		lines = append(lines, text)
	}
	return lines
}

func percentForms(part []byte) []string {
	const unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~"
	escape := func(keep, format string) string {
		var b strings.Builder
		for _, c := range part {
			if strings.IndexByte(keep, c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, format, c)
			}
		}
		return b.String()
	}
	s := string(part)
	return []string{
		url.QueryEscape(s), url.PathEscape(s), (&url.URL{Path: "/" + s}).EscapedPath()[1:], url.UserPassword("u", s).String()[2:],
		escape(unreserved, "%%%02X"), escape(unreserved, "%%%02x"),
		escape(unreserved+"!*'()", "%%%02X"), // JavaScript's encodeURIComponent
		strings.ReplaceAll(escape(unreserved+"!*'() ", "%%%02x"), " ", "+"),
		escape("", "%%%02X"), escape("", "%%%02x"),
	}
}

func jsonForms(s string) []string {
	quoted := func(s string, htmlSafe bool) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(htmlSafe)
		if err := e.Encode(s); err != nil {
			return "" // a string always encodes
		}
		return strings.Trim(b.String(), "\n")
	}
	inner := func(s string, htmlSafe bool) string { q := quoted(s, htmlSafe); return q[1 : len(q)-1] }
	plain := inner(s, false)
	all := []string{
		plain, inner(s, true), inner(plain, false), inner(inner(s, true), false),
		strings.ReplaceAll(plain, "/", `\/`),
	}
	if !utf8.ValidString(s) {
		return all
	}
	for _, format := range []string{`\u%04x`, `\u%04X`} {
		var b strings.Builder
		for _, r := range plain {
			if r < utf8.RuneSelf {
				b.WriteRune(r)
				continue
			}
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, format, unit)
			}
		}
		all = append(all, b.String())
	}
	return all
}

func shellForms(s string) []string {
	before := func(chars string) string {
		var b strings.Builder
		for i := range len(s) {
			if strings.IndexByte(chars, s[i]) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		}
		return b.String()
	}
	return []string{
		strings.ReplaceAll(s, `'`, `'\''`),
		strings.ReplaceAll(s, `'`, `'"'"'`),
		before("\"\\$`"),                       // within double quotes
		before("\"\\$`!"),                      // the same for an interactive shell
		before(`'\`),                           // within $'…', Python and JavaScript
		before(" \t!\"#$&'()*,;<>?[\\]^`{|}~"), // printf %q
		before(" \t!\"#$&'()*;<>?[\\]^`{|}"),
	}
}
