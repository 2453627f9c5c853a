package sqlite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// digestValue is how a digest is stored: its bytes, or as text when it is spelt in another way than digests are.
func digestValue(d work.Digest) any {
	if d == "" {
		return nil
	}
	digits, ok := strings.CutPrefix(string(d), "sha256:")
	if ok && len(digits) == 64 && strings.ToLower(digits) == digits {
		if raw, err := hex.DecodeString(digits); err == nil {
			return raw
		}
	}
	return string(d)
}

// digestOrEmpty is for a column that is never NULL.
func digestOrEmpty(d work.Digest) any {
	if d == "" {
		return ""
	}
	return digestValue(d)
}

func digest(v any) work.Digest {
	switch x := v.(type) {
	case []byte:
		return work.Digest("sha256:" + hex.EncodeToString(x))
	case string:
		return work.Digest(x)
	default:
		return ""
	}
}

// marshal returns the JSON of a doc. HTML is not escaped: nobody shows it in a page, and people read it in the store.
func marshal(doc any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return "", fault.New(fault.Internal, "a row cannot be encoded: %w", err)
	}
	text := b.Bytes()
	return string(text[:len(text)-1]), nil
}

func unmarshal(text string, doc any) error {
	if err := json.Unmarshal([]byte(text), doc); err != nil {
		return fault.New(fault.Internal, "a row is damaged: %w", err).WithHint("orrery doctor")
	}
	return nil
}

// queueLimits reads the part of a step's doc that the queue needs.
func queueLimits(text string) (key string, most int, err error) {
	if !strings.Contains(text, `"queueKey"`) && !strings.Contains(text, `"queueMax"`) {
		return "", 0, nil
	}
	var doc struct {
		QueueKey string `json:"queueKey"`
		QueueMax int    `json:"queueMax"`
	}
	err = unmarshal(text, &doc)
	return doc.QueueKey, doc.QueueMax, err
}

// all turns a limit of 0, none, into one that SQLite takes.
func all(limit int) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return int64(limit)
}
