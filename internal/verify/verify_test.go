package verify_test

import (
	"bytes"
	"context"
	"testing"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

func pack(t testing.TB, r *evidence.Record, by *keyring.Private) []byte {
	t.Helper()
	b, err := evidence.Build(context.Background(), r, by)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if n, err := b.WriteTo(&out); err != nil || n != int64(out.Len()) {
		t.Fatal(n, err)
	}
	return out.Bytes()
}

func judge(raw []byte, trust keyring.Trust) *verify.Report {
	return verify.Bundle(bytes.NewReader(raw), trust, verify.Options{})
}

func show(t testing.TB, r *verify.Report) {
	t.Helper()
	for _, c := range r.Checks {
		t.Logf("%-10s %-28s %s", c.Result, c.Name, c.Detail)
	}
}

// Every kind of end has evidence that verifies.
func TestValid(t *testing.T) {
	w := evidencetest.NewWorld(t)
	for name, c := range map[string]struct {
		evidencetest.Case
		state work.State
	}{
		"succeeded": {evidencetest.Case{}, work.Succeeded},
		"failed":    {evidencetest.Case{Failed: true}, work.Failed},
		"cancelled": {evidencetest.Case{Cancel: true}, work.Cancelled},
	} {
		r := judge(pack(t, w.Record(t, c.Case), w.Attestor), w.Trust)
		if r.Verdict != verify.Valid || r.Status != c.state || r.Err() != nil || r.Name != "amber-heron" || fault.Exit(r.Err()) != 0 {
			t.Errorf("%s: %s %s", name, r.Verdict, r.Status)
			show(t, r)
		}
	}
}
