package store_test

import (
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
)

func TestPosition(t *testing.T) {
	for _, p := range []store.Position{{}, {Incarnation: 1}, {Incarnation: 3, Number: 1<<63 - 1}} {
		if got, err := store.ParsePosition(p.String()); err != nil || got != p {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
	for _, text := range []string{"", "1", "-", "1-", "-1", "1--1", "+1-1", "01-1", "1-1 ", "1-9223372036854775808"} {
		if _, err := store.ParsePosition(text); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("1-4711")
	f.Add("0-0")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := store.ParsePosition(text); err == nil && (p.String() != text || p.Incarnation < 0 || p.Number < 0) {
			t.Errorf("%q became %s", text, p)
		}
	})
}
