package work_test

import (
	"encoding/json"
	"testing"

	"orrery.example/orrery/internal/work"
)

// A time that is read is written as it was.
func FuzzParseTime(f *testing.F) {
	f.Add("2026-01-02T03:04:05.000000Z")
	f.Add("0001-01-01T00:00:00.000001Z")
	f.Add("2026-01-02T03:04:05Z")
	f.Add("2026-02-30T03:04:05.000000Z")
	f.Fuzz(func(t *testing.T, text string) {
		at, err := work.ParseTime(text)
		if err != nil {
			return
		}
		if at != 0 && at.String() != text {
			t.Fatalf("%q is read as %s", text, at)
		}
		raw, err := json.Marshal(at)
		var again work.Time
		if err != nil || json.Unmarshal(raw, &again) != nil || again != at {
			t.Fatalf("%q becomes %s and %s, %v", text, raw, again, err)
		}
	})
}

// A step's id is taken apart and put together without loss, whatever it is.
func FuzzStepID(f *testing.F) {
	f.Add("a")
	f.Add("shard[3]::one")
	f.Add("pack/each[0]::two[12]::three")
	f.Add("[]::[*]::")
	f.Fuzz(func(t *testing.T, text string) {
		id := work.StepID(text)
		if got := id.Scope() + id.Local(); got != text {
			t.Fatalf("%q is %q and %q", text, id.Scope(), id.Local())
		}
		if template := id.Template(); template.Template() != template {
			t.Fatalf("the template of %q is %q, whose template is %q", text, template, template.Template())
		}
		id.Template().Instantiate(id.Indices())
	})
}

func FuzzParseDigest(f *testing.F) {
	f.Add("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("sha256:E3")
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := work.ParseDigest(text); err == nil && (string(d) != text || len(d.Hex()) != 64) {
			t.Fatalf("%q is read as %q", text, d)
		}
	})
}
