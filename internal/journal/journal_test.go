package journal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/journal"
)

func open(t testing.TB, format, level string) (*journal.Journal, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	j, err := journal.New(journal.Options{To: &out, Format: format, Level: level})
	if err != nil {
		t.Fatal(err)
	}
	return j, &out
}

// O8, J17: no secret gets into a line, in whatever form and whoever says it.
func TestO8_LogsAreRedacted(t *testing.T) {
	const secret = "correct horse / battery staple"
	for _, format := range []string{"json", "text"} {
		j, out := open(t, format, "info")
		j.Hide("DB_PASSWORD", []byte(secret))
		j.Log().Info("connect", "error", errors.New("wrong password "+secret), "encoded", base64.StdEncoding.EncodeToString([]byte(secret)))
		j.Log().Warn(secret, "a", map[string]string{"b": secret})
		j.Log().Info("shapes", "header", "Bearer abcdefgh12345678", "url", "postgres://orrery:hunter22@db/orrery", "t", "orr_abcdefghijkl"+strings.Repeat("x", 47),
			"jwt", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "q", "https://x/y?token=12345678&z=1", "pem", "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----")
		for _, where := range []string{out.String(), string(j.Tail())} {
			for _, bad := range []string{"horse", "hunter22", "abcdefgh12345678", "orr_", "eyJ", "12345678&", "MIIabc", base64.StdEncoding.EncodeToString([]byte(secret))[:20]} {
				if strings.Contains(where, bad) {
					t.Errorf("%s: %q got out:\n%s", format, bad, where)
				}
			}
			for _, good := range []string{"postgres://orrery:", "[redacted:DB_PASSWORD]", "connect"} {
				if !strings.Contains(where, good) {
					t.Errorf("%s: %q was lost:\n%s", format, good, where)
				}
			}
		}
		if format == "json" {
			for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
				if !json.Valid([]byte(line)) {
					t.Errorf("no JSON any more: %s", line)
				}
			}
		}
	}
}

func TestTail(t *testing.T) {
	j, out := open(t, "json", "warn")
	j.Log().Info("too low")
	if out.Len() != 0 {
		t.Fatal("a line below the level was written")
	}
	for i := range 5000 {
		j.Log().Warn("line", "n", i, "padding", strings.Repeat("x", 100))
	}
	tail := j.Tail()
	if len(tail) > 256<<10 || !bytes.Contains(tail, []byte(`"n":4999`)) || bytes.Contains(tail, []byte(`"n":1,`)) || tail[0] != '{' {
		t.Errorf("the last lines are %d bytes from %.80s", len(tail), tail)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []journal.Options{{Format: "xml", Level: "info"}, {Format: "json", Level: "loud"}, {}} {
		if _, err := journal.New(o); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// Whoever has very many secrets still has the newest hidden.
func TestManySecrets(t *testing.T) {
	j, out := open(t, "json", "info")
	for i := range 20 {
		j.Hide("same-name", fmt.Appendf(nil, "value-number-%04d", i))
	}
	j.Log().Info("value-number-0000 and value-number-0019")
	if strings.Contains(out.String(), "value-number") {
		t.Error(out.String())
	}
}

func FuzzScrub(f *testing.F) {
	f.Add([]byte(`{"url":"postgres://a:b@c/d","x":"Bearer 0123456789"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if clean := journal.Scrub(line); json.Valid(line) && !json.Valid(clean) {
			t.Fatalf("%s is no JSON any more: %s", line, clean)
		}
	})
}

// In incident mode everything is written, and afterwards what was asked for.
func TestVerbose(t *testing.T) {
	var out bytes.Buffer
	j, err := journal.New(journal.Options{To: &out, Format: "text", Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	for i, on := range []bool{false, true, false} {
		j.Verbose(on)
		j.Log().Debug("a line", "number", i)
	}
	if text := out.String(); strings.Count(text, "a line") != 1 || !strings.Contains(text, "number=1") {
		t.Errorf("written was %q", text)
	}
}
