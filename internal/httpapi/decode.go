package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"orrery.example/orrery/internal/fault"
)

// decodeStrictly reads one JSON value and nothing behind it.
func decodeStrictly(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		var known *fault.Error
		if errors.As(err, &known) {
			return known
		}
		return fault.New(fault.Invalid, "the body is not what this operation reads: %v", err).WithHint("/.well-known/openapi describes it")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "something stands behind the end of the body's JSON")
	}
	return nil
}
