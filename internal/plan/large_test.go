package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
)

// TestLarge plans 100,000 steps in each shape. The time is no measurement; it catches what grows with the square.
func TestLarge(t *testing.T) {
	const n = 100_000
	for _, shape := range []string{"chain", "fan", "layered"} {
		start := time.Now()
		b := buildText(t, string(large(shape, n)))
		if len(b.Plan.Steps) < n {
			t.Fatal(len(b.Plan.Steps))
		}
		took := time.Since(start)
		t.Logf("%s: %v for parsing, planning and hashing, %d bytes", shape, took.Round(time.Millisecond), len(b.Canonical))
		if took > 4*time.Minute {
			t.Errorf("%s took %v", shape, took)
		}
	}
}

// TestLookingFarBack looks at the first step from every other, and at ones far back that nobody asked for before.
func TestLookingFarBack(t *testing.T) {
	var near, far strings.Builder
	near.WriteString("steps:\n- {id: s0, run: x, outputs: {v: {type: string}}}\n")
	far.WriteString("steps:\n")
	for i := 1; i < 20_000; i++ {
		fmt.Fprintf(&near, "- {id: s%d, run: x, env: {V: '${{ steps.s0.outputs.v }}'}}\n", i)
	}
	for i := range 30_000 {
		when := ""
		if i >= 15_000 {
			when = fmt.Sprintf(", env: {V: '${{ steps.s%d.status }}'}", i-15_000)
		}
		fmt.Fprintf(&far, "- {id: s%d, run: x%s}\n", i, when)
	}
	start := time.Now()
	buildText(t, near.String())
	m, err := manifest.Parse("pack.yaml", []byte(far.String()))
	if err != nil {
		t.Fatal(err)
	}
	err = plan.Check(plan.Source{Manifest: m, Path: "pack.yaml"})
	var all manifest.Problems
	if !errors.As(err, &all) || !strings.Contains(err.Error(), "look back over too many steps") {
		t.Errorf("%.300v", err)
	}
	if took := time.Since(start); took > 2*time.Minute {
		t.Errorf("it took %v", took)
	}
}
