package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/wire"
)

const somePlan = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// checked holds the error of a reader to what it may be.
func checked(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && fault.CodeOf(err) != fault.Invalid {
		t.Fatal(err)
	}
	return err == nil
}

// Every message of the worker protocol is read or refused as wrong, and a lease that was read is written and read as the same.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"run":"r","step":"s","planHash":"` + somePlan + `","deadline":"2026-01-02T03:04:05.000000Z","token":{"epoch":1},"bindings":{"run":{"id":"r"}}}`))
	f.Add([]byte(`{"run":"r","step":"s","state":"succeeded","startedAt":"2026-01-02T03:04:05.000000Z","outputs":{"v":1},"artifacts":[{"digest":"` + somePlan + `"}]}`))
	f.Add([]byte(`{"run":"r","step":"s","from":1,"lines":[{"message":"x"}]}`))
	f.Add([]byte(`{"key":"` + somePlan + `","origin":{}}`))
	f.Add([]byte(`{"bindings":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var grant api.WorkerGrant
		if json.Unmarshal(raw, &grant) == nil {
			if g, err := wire.FromGrant("t", &grant); checked(t, err) {
				once, err := wire.Grant(&g)
				if err != nil {
					t.Fatal(err)
				}
				again, err := wire.FromGrant("t", &once)
				if err != nil {
					t.Fatalf("what was written cannot be read: %v", err)
				}
				twice, err := wire.Grant(&again)
				a, _ := json.Marshal(once)
				b, _ := json.Marshal(twice)
				if err != nil || !bytes.Equal(a, b) {
					t.Fatalf("written %s, then %s, %v", a, b, err)
				}
			}
		}
		var report api.WorkerReport
		if json.Unmarshal(raw, &report) == nil {
			_, err := wire.FromReport("w", &report)
			checked(t, err)
		}
		var output api.WorkerOutput
		if json.Unmarshal(raw, &output) == nil {
			_, err := wire.FromLines("t", &output)
			checked(t, err)
		}
		var cached api.WorkerCached
		if json.Unmarshal(raw, &cached) == nil {
			_, err := wire.FromCached(&cached)
			checked(t, err)
		}
	})
}
