package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"orrery.example/orrery/internal/manifest"
)

func BenchmarkParse(b *testing.B) {
	for name, line := range map[string]string{
		"short": "- run: echo hello world\n",
		"long":  "- id: build-%d\n  run: {command: [make, all], dir: src}\n  needs: []\n  env: {A: b, C: '${{ inputs.q }}'}\n  outputs: {bin: out/*}\n  timeout: 5m\n  retry: {max: 3}\n",
	} {
		var s strings.Builder
		s.WriteString("inputs: {q: {default: x}}\nsteps:\n")
		for i := range 100_000 {
			if strings.Contains(line, "%d") {
				fmt.Fprintf(&s, line, i)
			} else {
				s.WriteString(line)
			}
		}
		data := []byte(s.String())
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := manifest.Parse("pack.yaml", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
