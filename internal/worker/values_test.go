package worker

import (
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// What a step writes to $ORRERY_OUTPUT is values or refused, and what is kept of it in a declared type can be hashed.
func FuzzValues(f *testing.F) {
	f.Add([]byte("a=1\nb=x=y\n\nc=\r\n"))
	f.Add([]byte(`{"a": 1.5, "b": [1, {"c": null}], "d": 99999999999999999999}`))
	f.Add([]byte("{\"a\":1}{\"b\":2}"))
	f.Add([]byte("no value"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		values, err := parseValues(raw)
		if err != nil {
			return
		}
		for name, v := range values {
			for _, kind := range []string{"string", "integer", "boolean"} {
				typed, err := typedValue(work.StepOutput{Name: name, Type: kind}, v)
				if err != nil {
					continue
				}
				if _, err := canonical.Marshal(typed); err != nil && kind != "string" && kind != "integer" {
					t.Fatalf("%v as %s cannot be hashed: %v", v, kind, err)
				}
			}
		}
	})
}
