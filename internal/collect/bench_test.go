package collect

import (
	"fmt"
	"testing"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/work"
)

// BenchmarkLook is what one look costs for each run that is there, over SQLite; each run has one file and one output.
func BenchmarkLook(b *testing.B) {
	const runs = 1000
	r := newRig(b, b.TempDir())
	driver, err := sqlite.Open(b.Context(), b.TempDir(), sqlite.Options{})
	r.must("open", err)
	rows := kernel.New(driver, kernel.Options{Now: r.now})
	b.Cleanup(func() { _ = rows.Close() })
	r.Store, r.collect.Store = rows, rows
	file := r.put("file")
	var batch []store.Submission
	for range runs {
		batch = append(batch, r.submission(file, nil))
	}
	for _, out := range rows.Submit(b.Context(), batch) {
		r.must("submit", out.Err)
	}
	for i := range runs {
		g := r.claim()
		r.report(g, "", work.Artifact{Name: "out", Path: "out", Digest: work.Digest(fmt.Sprintf("sha256:%064x", i)), Size: 1})
	}
	for b.Loop() {
		if _, err := r.collect.Preview(b.Context(), acme); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/runs, "µs/run")
}
