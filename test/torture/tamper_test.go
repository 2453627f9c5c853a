package torture

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// refused are the exit codes of a verification that did not find evidence to be valid.
var refused = map[int]bool{9: true, 10: true, 11: true}

// trusted makes a folder with two ended runs, and returns it with their evidence and the trust root.
func trusted(t *testing.T) (f *folder, one, two []byte, trust string) {
	t.Helper()
	f = newFolder(t)
	f.must(0, f.pack("many")...)
	f.must(0, append(f.pack("many"), "--new")...)
	runs := f.runs()
	trust = filepath.Join(t.TempDir(), "trust.json")
	f.must(0, "keys", "trust-root", "-f", trust)
	return f, f.evidence(runs[0].Run), f.evidence(runs[1].Run), trust
}

// examine verifies bytes as evidence in a folder that knows nothing, under a trust root, and returns the exit code.
func (f *folder) examine(raw []byte, trust string, more ...string) result {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "evidence.tar")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		f.t.Fatal(err)
	}
	stranger := folder{t: f.t, dir: filepath.Join(filepath.Dir(file), "empty")}
	return stranger.run(append([]string{"verify", file, "--trust", trust, "-o", "json"}, more...)...)
}

// never checks that changed evidence is not valid, neither by its exit code nor by its verdict.
func (f *folder) never(what string, raw []byte, trust string, more ...string) {
	f.t.Helper()
	r := f.examine(raw, trust, more...)
	var report struct{ Verdict string }
	if json.Unmarshal(r.stdout, &report) == nil && report.Verdict == "VALID" || !refused[r.code] {
		f.t.Errorf("%s: %s", what, r)
	}
}

// offsets are the places to change: every stride-th byte, and every byte of the headers of three members.
func offsets(t *testing.T, raw []byte, stride int) []int {
	t.Helper()
	var at []int
	for i := 0; i < len(raw); i += stride {
		at = append(at, i)
	}
	r := bytes.NewReader(raw)
	for n, from := 0, int64(0); n < 3; n++ {
		archive := tar.NewReader(io.NewSectionReader(r, from, int64(len(raw))-from))
		h, err := archive.Next()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 512 {
			at = append(at, int(from)+i)
		}
		from += 512 + (h.Size+511)/512*512
	}
	return at
}

// Whatever byte of real evidence is changed, wherever it ends too early, and whatever is added: it is not valid.
func TestTamper(t *testing.T) {
	t.Parallel()
	f, one, two, trust := trusted(t)
	if r := f.examine(one, trust); r.code != 0 {
		t.Fatalf("the evidence itself: %s", r)
	}
	dice := dice(t)
	places := offsets(t, one, 997)
	keep := rounds(t, 300) // of some two thousand; all of them when asked for
	dice.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	for _, at := range places[:min(keep, len(places))] {
		changed := bytes.Clone(one)
		changed[at] ^= byte(1 + dice.IntN(255))
		f.never(fmt.Sprintf("byte %d changed", at), changed, trust)
		if t.Failed() {
			t.Fatalf("byte %d of %d: %q", at, len(one), one[max(0, at-20):min(len(one), at+20)])
		}
	}
	for range rounds(t, 25) {
		end := 512 * dice.IntN(len(one)/512)
		f.never("cut", one[:end], trust)
		if t.Failed() {
			t.Fatalf("cut at %d of %d", end, len(one))
		}
	}
	for name, tail := range map[string][]byte{"a zero": {0}, "a byte": {'x'}, "a block": make([]byte, 512), "another": two} {
		f.never("with "+name+" at its end", append(bytes.Clone(one), tail...), trust)
	}
	f.never("nothing", nil, trust)
}

// rebuild writes an archive with some members taken from another one.
func rebuild(t *testing.T, raw []byte, other map[string][]byte, swap string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == swap {
			content = other[swap]
			h.Size = int64(len(content))
		}
		if err := errors.Join(w.WriteHeader(h), func() error { _, err := w.Write(content); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A file of one run's evidence in another's is found, as is evidence that is valid but not of what was expected.
func TestSwap(t *testing.T) {
	t.Parallel()
	f, one, two, trust := trusted(t)
	mine, other := members(t, one), members(t, two)
	swapped := 0
	for name, content := range mine {
		if theirs, both := other[name]; both && !bytes.Equal(theirs, content) {
			swapped++
			f.never(name+" of another run", rebuild(t, one, other, name), trust)
		}
	}
	if swapped < 8 {
		t.Errorf("void: %d files differ", swapped)
	}
	runs := f.runs()
	for _, more := range [][]string{
		{"--expect-tenant", "another"}, {"--expect-run", runs[1].Run}, {"--expect-plan", "sha256:" + string(bytes.Repeat([]byte("0"), 64))},
	} {
		f.never("expecting "+more[0], one, trust, more...)
	}
	if r := f.examine(one, trust, "--expect-tenant", "local", "--expect-run", runs[0].Run); r.code != 0 {
		t.Errorf("expecting what it is: %s", r)
	}
	stranger := newFolder(t)
	stranger.must(0, stranger.pack("many")...)
	theirs := filepath.Join(t.TempDir(), "theirs.json")
	stranger.must(0, "keys", "trust-root", "-f", theirs)
	if r := f.examine(one, theirs); r.code != 11 {
		t.Errorf("under the trust root of somebody else: %s", r)
	}
}
