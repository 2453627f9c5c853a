package evidence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// What it costs a worker to sign a result of an ordinary step, alone and among others.
func BenchmarkSignResults(b *testing.B) {
	key, err := keyring.Generate("worker", keyring.ECDSAP256, []keyring.Usage{keyring.Worker}, 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{1, 4, 32, 256} {
		b.Run(fmt.Sprintf("%d at once", size), func(b *testing.B) {
			reports, results := make([]work.ReportedData, size), make([]evidence.Result, size)
			for n := 0; n < b.N; n += size {
				for i := range results {
					reports[i] = work.ReportedData{
						Token: work.Token{Incarnation: 1, Epoch: int64(i)}, Worker: "w", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell},
						StartedAt: 1_767_323_045_000_000, EndedAt: 1_767_323_045_100_000, Rendered: "sha256:0e6763a5c71e361f250f57ad6d768a0966299f4b4ac6d6951d1434bbbe77f30b",
						Outputs: json.RawMessage(`{"a":"b"}`), Protections: json.RawMessage(`{"label":"t2","layers":{"cgroup":"v1","landlock":"abi 7","network":"none"},"tier":2}`),
					}
					results[i] = evidence.Result{Tenant: "acme", Run: "run_01jbx2m8q3t4v5w6x7y8z9a0bc", Step: "step-1", Report: &reports[i]}
				}
				err := evidence.SignResults(results, nil, func(payloadType string, payload []byte) (dsse.Envelope, error) {
					return key.Sign(context.Background(), payloadType, payload)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
