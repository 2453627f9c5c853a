package plan_test

import (
	"fmt"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
)

// large returns packs of n steps in three shapes.
func large(shape string, n int) []byte {
	var s strings.Builder
	s.WriteString("name: large\nsteps:\n")
	for i := range n {
		switch shape {
		case "chain":
			fmt.Fprintf(&s, "- id: s%06d\n  run: echo %d\n", i, i)
		case "fan":
			needs := "[root]"
			if i == 0 {
				s.WriteString("- {id: root, run: echo root}\n")
			}
			fmt.Fprintf(&s, "- id: s%06d\n  needs: %s\n  run: echo %d\n", i, needs, i)
		case "layered":
			width := 100
			needs := "[]"
			if i >= width {
				row := (i/width - 1) * width
				needs = fmt.Sprintf("[s%06d, s%06d, s%06d]", row+i%width, row+(i+1)%width, row+(i+7)%width)
			}
			fmt.Fprintf(&s, "- id: s%06d\n  needs: %s\n  run: {command: [echo, '%d']}\n  when: 'true'\n", i, needs, i)
		}
	}
	return []byte(s.String())
}

func BenchmarkPlan(b *testing.B) {
	for _, shape := range []string{"chain", "fan", "layered"} {
		for _, n := range []int{1000, 100_000} {
			data := large(shape, n)
			m, err := manifest.Parse("pack.yaml", data)
			if err != nil {
				b.Fatal(err)
			}
			src := plan.Source{Manifest: m, Path: "pack.yaml", Digest: plan.PackDigest(data, nil)}
			built, err := plan.Build(src, nil)
			if err != nil {
				b.Fatal(err)
			}
			name := fmt.Sprintf("%s/%d", shape, n)
			b.Run("Parse/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := manifest.Parse("pack.yaml", data); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("Build/"+name, func(b *testing.B) {
				b.ReportMetric(float64(len(built.Canonical)), "bytes/plan")
				b.ReportAllocs()
				for b.Loop() {
					if _, err := plan.Build(src, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("Hash/"+name, func(b *testing.B) {
				for b.Loop() {
					raw, err := plan.Encode(built.Plan)
					if err != nil || canonical.Digest(raw) != built.Hash {
						b.Fatal(err)
					}
				}
			})
			b.Run("Decode/"+name, func(b *testing.B) {
				for b.Loop() {
					if _, err := plan.Decode(built.Canonical); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
