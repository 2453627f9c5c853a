package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"testing"
)

// A file of inputs is one object or refused.
func FuzzInputs(f *testing.F) {
	f.Add([]byte(`{"a": 1, "b": [true]}`))
	f.Add([]byte("a: 1\nb: [x, {c: d}]\n"))
	f.Add([]byte("a: &x [1]\nb: *x\n? [k]\n: v\n"))
	f.Add([]byte("a: .nan\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		values, err := parseInputs(raw)
		if err != nil {
			return
		}
		for name, v := range values {
			if !json.Valid(v) {
				t.Fatalf("%q is %s", name, v)
			}
		}
	})
}

// A file that is to be replayed has a plan and events, or is refused.
func FuzzHistory(f *testing.F) {
	var good bytes.Buffer
	w := tar.NewWriter(&good)
	for name, text := range map[string]string{"plan.json": "{}", "timeline.ndjson": "{\"seq\":1}\n"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(good.Bytes())
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if plan, _, err := history(raw); err == nil && plan == nil {
			t.Fatal("no plan and no error")
		}
	})
}
