package canonical_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
)

func TestTransform(t *testing.T) {
	for raw, want := range map[string]string{
		`{}`:                                   `{}`,
		` [ ] `:                                `[]`,
		`"x"`:                                  `"x"`,
		"true\n":                               `true`,
		`null`:                                 `null`,
		`-0`:                                   `0`,
		`[-0,0,-1,9007199254740991]`:           `[0,0,-1,9007199254740991]`,
		`-9007199254740991`:                    `-9007199254740991`,
		`{"b":1,"a":{"d":[],"c":{}}}`:          `{"a":{"c":{},"d":[]},"b":1}`,
		`{"\u0061":1,"B":2}`:                   `{"B":2,"a":1}`,
		`{"10":1,"1":2,"":3}`:                  `{"":3,"1":2,"10":1}`,
		`"\u0000\u001f\b\f\n\r\t\"\\\/\u007f"`: `"\u0000\u001f\b\f\n\r\t\"\\/` + "\x7f" + `"`,
		`"\u20ac\ud83d\ude00é"`:                `"€😀é"`,
		`"\uD83D\uDE00\u2028"`:                 "\"😀\u2028\"",
		"{\"\ufb33\":1,\"😀\":2,\"ö\":3}":       "{\"ö\":3,\"😀\":2,\"\ufb33\":1}", // RFC 8785 section 3.2.3
		"{\"\ue000\":1,\"\ud7ff\":2,\"😀\":3}":  "{\"\ud7ff\":2,\"😀\":3,\"\ue000\":1}",
		"\"\\\\ufffd\ufeff\"":                  "\"\\\\ufffd\ufeff\"",
		"[\"\ufffd\"]":                         "[\"\ufffd\"]",
	} {
		got, err := canonical.Transform([]byte(raw))
		if err != nil || string(got) != want {
			t.Errorf("Transform(%s) = %s, %v; want %s", raw, got, err, want)
		}
		if got, err := canonical.Marshal(json.RawMessage(raw)); err != nil || string(got) != want {
			t.Errorf("Marshal(%s) = %s, %v; want %s", raw, got, err, want)
		}
		if again, err := canonical.Transform([]byte(want)); err != nil || string(again) != want {
			t.Errorf("Transform is not idempotent on %s: %s, %v", want, again, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ raw, says string }{
		{``, "ends where a value"}, {` `, "ends where a value"}, {`nul`, "cannot begin with 'n'"}, {`True`, "cannot begin"},
		{`{`, "not the end of the document"}, {`{"a"`, "colon"}, {`{"a":`, "ends where a value"}, {`{"a":1`, "ends inside of an object"},
		{`[`, "ends where a value"}, {`[1`, "ends inside of a list"}, {`[1,]`, "cannot begin with ']'"}, {`[,1]`, "cannot begin"},
		{`{"a":1,}`, "key in double quotes"}, {`{a:1}`, "key in double quotes"}, {`{'a':1}`, "key in double quotes"},
		{`[1 2]`, "comma"}, {`1 2`, "more text"}, {`{} x`, "more text"}, {`[]]`, "more text"},
		{`01`, "begin with a zero"}, {`-`, "digit should follow"}, {`-01`, "begin with a zero"}, {`+1`, "cannot begin"}, {`.5`, "cannot begin"},
		{`1.0`, "fraction"}, {`1e3`, "fraction"}, {`1E400`, "fraction"}, {`-0.0`, "fraction"}, {`0x10`, "more text"}, {`NaN`, "cannot begin"},
		{`9007199254740992`, "2^53-1"}, {`-9007199254740992`, "2^53-1"}, {`9007199254740993`, "2^53-1"}, {`1` + strings.Repeat("0", 400), "2^53-1"},
		{`"a`, "does not end"}, {`"\`, "escape"}, {`"\x"`, "unknown escape"}, {`"\u12"`, "unknown escape"}, {`"\u12g4"`, "unknown escape"},
		{"\"\n\"", "control character"}, {"\"\\n\x01\"", "control character"}, {`"\n`, "does not end"},
		{`"\ud800"`, "surrogate"}, {`"\udc00"`, "surrogate"}, {`"\ud800\ud800"`, "surrogate"}, {`"\udc00\ud800"`, "surrogate"}, {`"\ud800\n"`, "surrogate"},
		{"\"\xed\xa0\x80\"", "not UTF-8"}, {"\"\xff\"", "not UTF-8"}, {"\"\xc0\xaf\"", "not UTF-8"}, {"\xef\xbb\xbf{}", "byte order mark"},
		{`{"a":1,"a":1}`, `"a" stands twice`}, {`{"a":1,"\u0061":2}`, `"a" stands twice`}, {`{"b":1,"a":2,"b":3}`, `"b" stands twice`},
		{`[{"x":{"k":1,"j":0,"k":1}}]`, "stands twice"}, {`{"":1,"":2}`, "stands twice"},
		{strings.Repeat("[", 65) + strings.Repeat("]", 65), "64 levels"}, {strings.Repeat(`{"a":`, 100000), "64 levels"},
		{"\ufeff1", "byte order mark"}, {"\u00a01", "cannot begin"}, {"/**/1", "cannot begin"},
	} {
		err := canonical.Check([]byte(c.raw))
		if err == nil || !strings.Contains(err.Error(), c.says) || fault.CodeOf(err) != fault.Invalid {
			t.Errorf("Check(%.40q) = %v; want it to say %q", c.raw, err, c.says)
		}
		if out, err := canonical.Transform([]byte(c.raw)); err == nil || out != nil {
			t.Errorf("Transform(%.40q) = %s, %v", c.raw, out, err)
		}
	}
}

func TestPosition(t *testing.T) {
	err := canonical.Check([]byte("{\n \"é\": 1,\n \"b\": 1.5}"))
	if err == nil || !strings.Contains(err.Error(), "line 3, column 7") {
		t.Fatal(err)
	}
}

func TestLimits(t *testing.T) {
	big := []byte(`"` + strings.Repeat("x", canonical.DefaultLimit) + `"`)
	if err := canonical.Check(big); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	if err := canonical.CheckUpTo(big, len(big)); err != nil {
		t.Error(err)
	}
	if _, err := canonical.Marshal(string(big)); err == nil {
		t.Error("Marshal went over the limit")
	}
	deep := strings.Repeat("[", 64) + strings.Repeat("]", 64)
	if err := canonical.Check([]byte(deep)); err != nil {
		t.Error(err)
	}
}

func TestMarshal(t *testing.T) {
	type row struct {
		Z int               `json:"z"`
		A string            `json:"a,omitempty"`
		M map[string]string `json:"m"`
	}
	got, err := canonical.Marshal(row{Z: 1, A: "<é>\u2028", M: map[string]string{"b": "2", "a": "1"}})
	if want := "{\"a\":\"<é>\u2028\",\"m\":{\"a\":\"1\",\"b\":\"2\"},\"z\":1}"; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	for _, bad := range []any{
		"\xff", map[string]int{"a\xff": 1}, []string{"ok", "a\xed\xa0\x80"}, 1.5, math.Inf(1), int64(1) << 53, uint64(math.MaxUint64), func() {},
		json.RawMessage(`{"a":1,"a":2}`), json.RawMessage(`{`), json.RawMessage(`"\ud800"`),
	} {
		if out, err := canonical.Marshal(bad); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("Marshal(%T) = %s, %v", bad, out, err)
		}
	}
	if digest, raw, err := canonical.DigestOf(map[string]int{"a": 1}); err != nil || string(raw) != `{"a":1}` || digest != canonical.Digest(raw) {
		t.Error(digest, raw, err)
	}
	if d := canonical.Digest(nil); d != "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error(d)
	}
}

// value draws what a plan could hold.
func value() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any { return draw(t, 4) })
}

func draw(t *rapid.T, depth int) any {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int64Range(-canonical.MaxInteger, canonical.MaxInteger).Draw(t, "int")
	case 3:
		return rapid.String().Draw(t, "string")
	case 4:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "length"))
		for i := range list {
			list[i] = draw(t, depth-1)
		}
		return list
	default:
		object := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(t, "size") {
			object[rapid.String().Draw(t, "key")] = draw(t, depth-1)
		}
		return object
	}
}

// TestMarshalIsJCS holds the writer of this package to the bytes of the library.
func TestMarshalIsJCS(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := value().Draw(t, "value")
		plain, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Transform(plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := canonical.Marshal(v)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s, %v; want %s", got, err, want)
		}
	})
}

// FuzzTransform compares the gate with the library and the writer with both.
func FuzzTransform(f *testing.F) {
	for _, seed := range []string{`{"b":[1,-0,"\u00e9\ud83d\ude00"],"a":null}`, `{"a":1,"a":2}`, `[1.5]`, `9007199254740993`, `"\ud800"`, "\xef\xbb\xbf1", "{\"\ue000\":1,\"😀\":2}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		theirs, theirErr := jcs.Transform(raw)
		out, err := canonical.Transform(raw)
		if err != nil {
			return
		}
		if theirErr != nil || !json.Valid(raw) {
			t.Fatalf("the gate accepts %q, others do not: %v", raw, theirErr)
		}
		if !bytes.Equal(out, theirs) {
			t.Fatalf("%q: %s and %s", raw, out, theirs)
		}
		if again, err := canonical.Transform(out); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q is not a fixed point: %s, %v", out, again, err)
		}
		var v any
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		if err := decoder.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if mine, err := canonical.Marshal(v); err != nil || !bytes.Equal(mine, out) {
			t.Fatalf("%q: %s, %v; want %s", raw, mine, err, out)
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	rows := make([]map[string]any, 10000)
	for i := range rows {
		rows[i] = map[string]any{"id": i, "kind": "run", "run": map[string]any{"script": "echo \"hello\"\n", "runner": "shell"}, "a": []int{1, 2, 3}}
	}
	raw, err := canonical.Marshal(rows)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.Run("Marshal", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if _, err := canonical.Marshal(json.RawMessage(raw)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Check", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if err := canonical.Check(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Transform", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if _, err := canonical.Transform(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
