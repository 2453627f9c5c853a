package verify_test

import (
	"bytes"
	"context"
	"testing"

	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/verify"
)

func BenchmarkBundle1000Steps(b *testing.B) {
	w := evidencetest.NewWorld(b)
	raw := pack(b, w.Record(b, evidencetest.Case{Items: 1000}), w.Attestor)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if r := verify.Bundle(bytes.NewReader(raw), w.Trust, verify.Options{}); r.Verdict != verify.Valid {
			show(b, r)
			b.Fatal(r.Verdict)
		}
	}
}

func BenchmarkBuild1000Steps(b *testing.B) {
	w := evidencetest.NewWorld(b)
	record := w.Record(b, evidencetest.Case{Items: 1000})
	for b.Loop() {
		if _, err := evidence.Build(context.Background(), record, w.Attestor); err != nil {
			b.Fatal(err)
		}
	}
}
