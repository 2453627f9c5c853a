package work

import (
	"encoding/json"
	"fmt"
	"time"
)

// Time is an instant in microseconds since 1970 UTC. Integers compare, sort and hash the same on every machine and in
// every store; in JSON it is RFC 3339 in UTC with six digits of fraction. Zero means "not yet".
type Time int64

// At converts a time.Time, dropping what is finer than a microsecond.
func At(t time.Time) Time { return Time(t.UnixMicro()) }

// Std returns the instant as a time.Time in UTC.
func (t Time) Std() time.Time { return time.UnixMicro(int64(t)).UTC() }

// Add returns the instant d later.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Microseconds()) }

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t-u) * time.Microsecond }

const timeLayout = "2006-01-02T15:04:05.000000Z"

// String returns RFC 3339 in UTC with six digits, or "" for zero.
func (t Time) String() string {
	if t == 0 {
		return ""
	}
	return t.Std().Format(timeLayout)
}

// MarshalJSON writes the form of String, or null for zero.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes and nothing else, so that a time has one spelling.
func (t *Time) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*t = 0
		return nil
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("a time is a string like 2026-01-02T03:04:05.000000Z: %w", err)
	}
	parsed, err := ParseTime(s)
	*t = parsed
	return err
}

// ParseTime reads the form that String writes.
func ParseTime(s string) (Time, error) {
	parsed, err := time.Parse(timeLayout, s)
	if err != nil {
		return 0, fmt.Errorf("a time is written like 2026-01-02T03:04:05.000000Z: %w", err)
	}
	if parsed.Format(timeLayout) != s { // time.Parse takes an hour of one digit and a comma, too
		return 0, fmt.Errorf("a time is written like 2026-01-02T03:04:05.000000Z, not %q", s)
	}
	return At(parsed), nil
}
