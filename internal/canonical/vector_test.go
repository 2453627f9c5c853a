package canonical_test

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectors = "../../spec/vectors/canonical"

type vector struct {
	Name      string      `json:"name"`
	Raw       string      `json:"raw,omitempty"`
	RawBase64 string      `json:"rawBase64,omitempty"`
	Canonical string      `json:"canonical,omitempty"`
	Digest    work.Digest `json:"digest,omitempty"`
	Why       string      `json:"why,omitempty"`
}

func (v vector) bytes(t *testing.T) []byte {
	if v.RawBase64 == "" {
		return []byte(v.Raw)
	}
	raw, err := base64.StdEncoding.DecodeString(v.RawBase64)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// documents are the vectors as they are written; those without a form are refused.
func documents() [][3]string {
	return [][3]string{
		{"empty object", "{ }", "{}"}, {"empty list", " [\n] ", "[]"}, {"top-level text", `"x"`, `"x"`}, {"white space", "\t{ \"a\" :\r\n1 }\n", `{"a":1}`},
		{"order of names", `{"b":1,"a":2,"":3,"10":4,"1":5}`, `{"":3,"1":5,"10":4,"a":2,"b":1}`},
		{"order of nested names", `[{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}]`, `[{"a":[{"y":2,"z":1}],"b":{"c":2,"d":1}}]`},
		{"order by UTF-16 units", "{\"\ue000\":1,\"😀\":2,\"\u20ac\":3,\"\ud7ff\":4}", "{\"\u20ac\":3,\"\ud7ff\":4,\"😀\":2,\"\ue000\":1}"},
		{"order with escapes", `{"\u0062":1,"a":2,"\ud83d\ude00":3}`, "{\"a\":2,\"b\":1,\"😀\":3}"},
		{"escapes", `"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001f\u0020\"\/\\\u007f\u00e9"`, "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \\\"/\\\\\x7fé\""},
		{"line separators stay", "\"\u2028\u2029\"", "\"\u2028\u2029\""}, {"replacement character", `"\ufffd"`, "\"\ufffd\""}, {"noncharacter", `"\uffff"`, "\"\uffff\""},
		{"no normal form is imposed", "\"e\u0301\"", "\"e\u0301\""}, {"byte order mark inside", "\"\ufeff\"", "\"\ufeff\""},
		{"words", `[true,false,null]`, `[true,false,null]`}, {"integers", `[0,-0,1,-1,10]`, `[0,0,1,-1,10]`},
		{"greatest integers", `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`},
		{"64 levels", strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 64) + strings.Repeat("]", 64)},
		{"65 levels", strings.Repeat("[", 65) + strings.Repeat("]", 65), ""}, {"65 levels of objects", strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), ""},
		{"2^53", "9007199254740992", ""}, {"-2^53", "-9007199254740992", ""}, {"2^53+1", "[9007199254740993]", ""}, {"2^64", "18446744073709551616", ""},
		{"fraction", "1.5", ""}, {"fraction of zero", "1.0", ""}, {"exponent", "1e2", ""}, {"exponent of zero", "[0E0]", ""}, {"beyond doubles", "1e999", ""},
		{"leading zero", "01", ""}, {"plus", "+1", ""}, {"point first", ".5", ""}, {"point last", "1.", ""}, {"minus alone", "-", ""}, {"hexadecimal", "0x1", ""},
		{"NaN", "NaN", ""}, {"Infinity", "[-Infinity]", ""}, {"capital word", "True", ""}, {"half a word", "nul", ""},
		{"name twice", `{"a":1,"a":1}`, ""}, {"name twice in another spelling", `{"a":1,"\u0061":2}`, ""}, {"name twice, inside", `[{"x":{"":1,"":2}}]`, ""},
		{"high surrogate alone", `"\ud800"`, ""}, {"low surrogate alone", `"\udc00"`, ""}, {"surrogates the wrong way round", `"\udc00\ud800"`, ""}, {"surrogate in a name", `{"\ud800":1}`, ""},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", ""}, {"overlong", "\"\xc0\xaf\"", ""}, {"byte 255", "\"\xff\"", ""}, {"byte order mark", "\xef\xbb\xbf{}", ""}, {"UTF-16", "\xff\xfe1\x00", ""},
		{"control character", "\"\x01\"", ""}, {"newline in a text", "\"\n\"", ""}, {"unknown escape", `"\x41"`, ""}, {"half an escape", `"\u12"`, ""}, {"open text", `"a`, ""},
		{"nothing", "", ""}, {"only space", " ", ""}, {"open object", `{"a":1`, ""}, {"open list", "[1", ""}, {"comma last in a list", "[1,]", ""}, {"comma last in an object", `{"a":1,}`, ""},
		{"comma first", "[,1]", ""}, {"no comma", "[1 2]", ""}, {"no colon", `{"a" 1}`, ""}, {"name without quotes", "{a:1}", ""}, {"single quotes", "'a'", ""},
		{"comment", "1 // one", ""}, {"two values", "1 2", ""}, {"more after the end", "{}x", ""}, {"closed twice", "[]]", ""}, {"non-breaking space", "\u00a01", ""},
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	for _, name := range []string{"accept.json", "reject.json"} {
		data, err := os.ReadFile(filepath.Join(vectors, name))
		if err != nil {
			t.Fatal(err)
		}
		var all []vector
		if err := json.Unmarshal(data, &all); err != nil || len(all) == 0 {
			t.Fatal(err)
		}
		for _, v := range all {
			got, err := canonical.Transform(v.bytes(t))
			if name == "reject.json" {
				if err == nil {
					t.Errorf("%s is accepted: %s", v.Name, got)
				}
				continue
			}
			if err != nil || string(got) != v.Canonical || canonical.Digest(got) != v.Digest {
				t.Errorf("%s: %s, %v; want %s", v.Name, got, err, v.Canonical)
			}
		}
	}
}

func writeVectors(t *testing.T) {
	files := map[string][]vector{}
	for _, d := range documents() {
		v := vector{Name: d[0], Raw: d[1], Canonical: d[2]}
		if !utf8.ValidString(d[1]) || strings.HasPrefix(d[1], "\xef\xbb\xbf") {
			v.Raw, v.RawBase64 = "", base64.StdEncoding.EncodeToString([]byte(d[1]))
		}
		name := "accept.json"
		if d[2] == "" {
			name = "reject.json"
			err := canonical.Check([]byte(d[1]))
			if err == nil {
				t.Fatalf("%s is accepted", d[0])
			}
			_, v.Why, _ = strings.Cut(err.Error(), ": ")
		} else {
			v.Digest = canonical.Digest([]byte(d[2]))
		}
		files[name] = append(files[name], v)
	}
	for name, all := range files {
		var b strings.Builder
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(all); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectors, name), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
