package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"orrery.example/orrery/internal/redact"
)

func one(secret string) *redact.Redactor {
	return redact.New(map[string][]byte{"TOKEN": []byte(secret)})
}

func TestForms(t *testing.T) {
	secret := `p@ss "w0rd"/<é>'$x` + "`" + `\+&~!`
	r := one(secret)
	asJSON := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	ascii := strconv.QuoteToASCII(secret)
	for name, text := range map[string]string{
		"raw":               secret,
		"base64":            base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 url":        base64.URLEncoding.EncodeToString([]byte(secret)),
		"base64 raw":        base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"hex":               hex.EncodeToString([]byte(secret)),
		"HEX":               strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"query":             url.QueryEscape(secret),
		"path":              url.PathEscape(secret),
		"json":              asJSON(secret),
		"json in json":      asJSON(asJSON(secret)),
		"html":              html.EscapeString(secret),
		"single quotes":     strings.ReplaceAll(secret, `'`, `'\''`),
		"ascii json string": strings.ReplaceAll(ascii, `\u00e9`, `\u00E9`),
	} {
		got := r.String("before " + text + " after")
		if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") || strings.Count(got, "[redacted:TOKEN]") != 1 {
			t.Errorf("%s: %s -> %s", name, text, got)
		}
		for _, rest := range []string{"w0rd", "p@ss", "x\\", "cEBz"} {
			if strings.Contains(got, rest) {
				t.Errorf("%s: %q is left in %s", name, rest, got)
			}
		}
	}
}

func TestBase64AtEveryAlignment(t *testing.T) {
	secret := "correct horse battery"
	r := one(secret)
	for before := range 7 {
		for after := range 4 {
			text := strings.Repeat("u", before) + secret + strings.Repeat("v", after)
			for name, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "url": base64.URLEncoding} {
				encoded := enc.EncodeToString([]byte(text))
				got := r.String(encoded)
				if !strings.Contains(got, "[redacted:TOKEN]") {
					t.Fatalf("%s %d+%d: %s is found nowhere in %s", name, before, after, secret, encoded)
				}
				// At most one character of the secret's edges may stay at each side, which is less than six bits.
				kept := len(got) - len("[redacted:TOKEN]")
				if most := len(encoded) - len(secret)*4/3 + 2; kept > most {
					t.Errorf("%s %d+%d: %d characters kept, at most %d: %s", name, before, after, kept, most, got)
				}
			}
		}
	}
}

func TestRealTools(t *testing.T) {
	secret := `a 'quoted' "$secret" with \ and ! and (brackets), ` + strings.Repeat("long tail ", 12) + "end"
	r := one(secret)
	for name, script := range map[string]string{
		"base64":   `printf %s "$S" | base64`,
		"printf q": `printf '%q\n' "$S"`,
		"set -x":   `set -x; : "$S"`,
		"python":   `python3 -c 'import json,os,urllib.parse as u;s=os.environ["S"];print(json.dumps(s), repr(s), u.quote(s), u.quote_plus(s), s.encode().hex())'`,
		"xxd":      `printf %s "$S" | od -An -v -tx1 | tr -d ' \n' | fold -w 60`,
	} {
		cmd := exec.Command("bash", "-c", script)
		cmd.Env = []string{"S=" + secret, "PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("%s does not run here: %v: %s", name, err, out)
			continue
		}
		got := r.String(string(out))
		if !strings.Contains(got, "[redacted:TOKEN]") {
			t.Errorf("%s: nothing found in %s", name, out)
		}
		for _, leak := range []string{"quoted", "tail", "bG9uZyB0YWls", "6c6f6e67207461696c", "dGFpbC"} {
			if strings.Contains(got, leak) {
				t.Errorf("%s: %q is left in %s", name, leak, got)
			}
		}
	}
}

func TestSeveralLines(t *testing.T) {
	secret := "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\r\nshort\n  indented-material-line\n-----END KEY-----\n"
	r := one(secret)
	got := r.String(">MIIEvQIBADANBgkqhkiG9w0<\n>indented-material-line<\n>short<\n" + strings.ReplaceAll(strings.TrimSpace(secret), "\n", `\n`))
	for _, leak := range []string{"MIIE", "indented", "BEGIN"} {
		if strings.Contains(got, leak) {
			t.Errorf("%q is left in %s", leak, got)
		}
	}
	if !strings.Contains(got, ">short<") {
		t.Error("a line below the limit takes no other text with it:", got)
	}
	if got := r.String("x" + strings.TrimSpace(secret) + "y"); got != "x[redacted:TOKEN]y" {
		t.Errorf("the whole is one find: %q", got)
	}
	if got := r.String(base64.StdEncoding.EncodeToString([]byte(secret))); strings.Contains(got, "LS0tLS1CRUdJTi") {
		t.Error(got)
	}
}

func TestShortAndEmpty(t *testing.T) {
	r := redact.New(map[string][]byte{"B": []byte("abc"), "A": nil, "C": []byte("\n\n"), "OK": []byte("abcd")})
	if got := strings.Join(r.TooShort(), ","); got != "A,B,C" {
		t.Error(got)
	}
	if got := r.String("abc abcd"); got != "abc [redacted:OK]" {
		t.Error(got)
	}
	none := redact.New(nil)
	text := []byte("abc")
	if got := none.Bytes(text); &got[0] != &text[0] {
		t.Error("without secrets the text itself comes back")
	}
	var out bytes.Buffer
	w := none.Writer(&out)
	if _, err := w.Write(text); err != nil || w.Close() != nil || out.String() != "abc" {
		t.Error(out.String(), err)
	}
}

func TestLongSecret(t *testing.T) {
	var secret strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&secret, "%d-", i*i)
	}
	r := one(secret.String())
	for name, text := range map[string]string{
		"raw": secret.String(), "base64": base64.StdEncoding.EncodeToString([]byte(secret.String())), "hex": hex.EncodeToString([]byte(secret.String())),
	} {
		if got := r.String("<" + text + ">"); got != "<[redacted:TOKEN]>" {
			t.Errorf("%s: %d bytes are left", name, len(got))
		}
	}
}

func TestOverlapsAndNames(t *testing.T) {
	r := redact.New(map[string][]byte{"one": []byte("abcdef"), "two": []byte("defghi"), "in side]": []byte("cdef"), "same": []byte("abcdef")})
	for text, want := range map[string]string{
		"xabcdefx":       "x[redacted:one]x",
		"xabcdefghix":    "x[redacted:one]x",
		"xcdefx":         "x[redacted:in_side_]x",
		"xcdefghix":      "x[redacted:in_side_]x",
		"abcdefabcdef":   "[redacted:one][redacted:one]",
		"abcde abcdf":    "abcde abcdf",
		"abcdeabcdefghi": "abcde[redacted:one]",
	} {
		if got := r.String(text); got != want {
			t.Errorf("%s: %s, expected %s", text, got, want)
		}
	}
}

// Only what may still become a secret waits; the rest is passed on at once.
func TestHoldsBackOnlyPrefixes(t *testing.T) {
	var out bytes.Buffer
	w := one("sekret-value").Writer(&out)
	for _, c := range []struct{ in, out string }{
		{"line one\n", "line one\n"},
		{"ends with sek", "line one\nends with "},
		{"ond thought", "line one\nends with sekond thought"},
		{" sekret-v", "line one\nends with sekond thought "},
		{"alue!", "line one\nends with sekond thought [redacted:TOKEN]!"},
		{"sekret", "line one\nends with sekond thought [redacted:TOKEN]!"},
	} {
		if _, err := io.WriteString(w, c.in); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.out {
			t.Fatalf("after %q: %q", c.in, out.String())
		}
	}
	if err := w.Flush(); err != nil || !strings.HasSuffix(out.String(), "!sekret") {
		t.Fatal(out.String(), err)
	}
	if _, err := io.WriteString(w, "-value"); err != nil || !strings.HasSuffix(out.String(), "!sekret-value") {
		t.Fatal("after a flush a new text begins", out.String(), err)
	}
}

func TestEndlessFindStaysSmall(t *testing.T) {
	var out bytes.Buffer
	w := one("aaaa").Writer(&out)
	block := bytes.Repeat([]byte("a"), 1<<20)
	for range 8 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || out.String() != "[redacted:TOKEN]" {
		t.Fatal(out.Len(), err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestErrorStays(t *testing.T) {
	for _, r := range []*redact.Redactor{one("sekret"), redact.New(nil)} {
		w := r.Writer(broken{})
		if _, err := io.WriteString(w, "text"); err == nil {
			t.Error("the error of the writer below is lost")
		}
		if _, err := io.WriteString(w, "more"); err == nil {
			t.Error("an error stays")
		}
		if w.Close() == nil {
			t.Error("Close hides the error")
		}
	}
}

// The slow and obvious way, for raw secrets only: cover every byte of every occurrence, then write a mark per covered run
// of overlapping occurrences.
func naive(text string, secrets []string) string {
	type hit struct{ start, end, name int }
	var hits []hit
	for i := range text {
		for n, s := range secrets {
			if strings.HasPrefix(text[i:], s) {
				hits = append(hits, hit{i, i + len(s), n})
			}
		}
	}
	var b strings.Builder
	at := 0
	for i := 0; i < len(hits); {
		h := hits[i]
		for i++; i < len(hits) && hits[i].start < h.end; i++ {
			if hits[i].start == h.start && hits[i].end > h.end {
				h.name = hits[i].name
			}
			h.end = max(h.end, hits[i].end)
		}
		fmt.Fprintf(&b, "%s[redacted:%d]", text[at:h.start], h.name)
		at = h.end
	}
	return b.String() + text[at:]
}

func TestAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	// The letters occur in no other form of these secrets, so only raw occurrences count.
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "{|}"[rng.IntN(3)]
		}
		return string(b)
	}
	for range 3000 {
		secrets := []string{word(4 + rng.IntN(4)), word(4 + rng.IntN(3)), word(6)}
		named := map[string][]byte{}
		for i, s := range secrets {
			named[strconv.Itoa(i)] = []byte(s)
		}
		r := redact.New(named)
		text := word(60)
		want := naive(text, secrets)
		if got := r.String(text); got != want {
			t.Fatalf("%q in %q\n got %s\nwant %s", secrets, text, got, want)
		}
		var out strings.Builder
		w := r.Writer(&out)
		for rest := text; rest != ""; {
			n := 1 + rng.IntN(min(9, len(rest)))
			if _, err := io.WriteString(w, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil || out.String() != want {
			t.Fatalf("split: %q in %q\n got %s\nwant %s", secrets, text, out.String(), want)
		}
	}
}

// However the text is split, the result is the same, and no form of the secret is in it.
func FuzzSplit(f *testing.F) {
	f.Add("hunter2-and-more", "the password is hunter2-and-more, really", uint64(7))
	f.Add("line one\nline two is long", "x line two is long line one\\nline two", uint64(3))
	f.Add("aaaa", "aaaaaaaaaaaaaaaaaaaaa", uint64(1))
	f.Fuzz(func(t *testing.T, secret, text string, seed uint64) {
		if len(secret) > 200 {
			return
		}
		r := redact.New(map[string][]byte{"S": []byte(secret)})
		rng := rand.New(rand.NewPCG(seed, 1))
		at := 0
		if len(text) > 0 {
			at = rng.IntN(len(text))
		}
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte("k" + secret)), url.QueryEscape(secret)} {
			whole := text[:at] + form + text[at:]
			want := r.String(whole)
			var out strings.Builder
			w := r.Writer(&out)
			for rest := whole; rest != ""; {
				n := 1 + rng.IntN(len(rest))
				if _, err := io.WriteString(w, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if out.String() != want {
				t.Fatalf("split: %q\nwhole: %q", out.String(), want)
			}
			trimmed := strings.Trim(secret, "\r\n")
			if len(trimmed) >= redact.MinLength && strings.Contains(strings.ReplaceAll(want, "[redacted:S]", "\x00"), trimmed) &&
				!strings.ContainsRune(trimmed, 0) {
				t.Fatalf("%q is left in %q", trimmed, want)
			}
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	secrets := map[string][]byte{}
	for i := range 20 {
		secrets[fmt.Sprintf("S%d", i)] = fmt.Appendf(nil, "secret-%d-%x-with-some-length", i, i*7919)
	}
	line := []byte("2026-01-02T03:04:05Z INFO compiled package github.com/some/module in 1.25s, cache hit 7f3a2b\n")
	block := bytes.Repeat(line, 1000)
	for name, r := range map[string]*redact.Redactor{"20secrets": redact.New(secrets), "1secret": one("hunter2-and-more"), "none": redact.New(nil)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(block)))
			w := r.Writer(io.Discard)
			for b.Loop() {
				if _, err := w.Write(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	secrets := map[string][]byte{"PEM": bytes.Repeat([]byte("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n"), 30)}
	for b.Loop() {
		redact.New(secrets)
	}
}
