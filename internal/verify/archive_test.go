package verify_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/verify"
)

// Archives that do harm elsewhere are refused at the first header that is not in the one form of a bundle.
func TestHostileArchives(t *testing.T) {
	at := time.Unix(1_767_323_045, 0)
	regular := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: at, Format: tar.FormatUSTAR}
	}
	with := func(f func(*tar.Header)) tar.Header { h := regular("plan.json"); f(&h); return h }
	for name, headers := range map[string][]tar.Header{
		"traversal":     {regular("../plan.json")},
		"inside":        {regular("outputs/../plan.json")},
		"absolute":      {regular("/plan.json")},
		"dot":           {regular("./plan.json")},
		"hidden":        {regular("outputs/.profile")},
		"backslash":     {regular(`outputs\plan`)},
		"unknown":       {regular("readme.txt")},
		"deep":          {regular("outputs/a/b")},
		"long":          {regular("outputs/" + strings.Repeat("a", 99))},
		"not ASCII":     {{Typeflag: tar.TypeReg, Name: "outputs/é", Mode: 0o644, ModTime: at, Format: tar.FormatPAX}},
		"twice":         {regular("plan.json"), regular("plan.json")},
		"disorder":      {regular("timeline.ndjson"), regular("plan.json")},
		"symbolic link": {with(func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc/passwd" })},
		"hard link":     {with(func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeLink, "/etc/passwd" })},
		"folder":        {with(func(h *tar.Header) { h.Typeflag, h.Name = tar.TypeDir, "outputs/" })},
		"device":        {with(func(h *tar.Header) { h.Typeflag, h.Devmajor = tar.TypeChar, 1 })},
		"pipe":          {with(func(h *tar.Header) { h.Typeflag = tar.TypeFifo })},
		"set-user-id":   {with(func(h *tar.Header) { h.Mode = 0o4755 })},
		"owner":         {with(func(h *tar.Header) { h.Uid = 1 })},
		"owner's name":  {with(func(h *tar.Header) { h.Uname = "root" })},
		"pax":           {with(func(h *tar.Header) { h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"ORRERY.x": "y"} })},
		"gnu":           {with(func(h *tar.Header) { h.Format = tar.FormatGNU })},
		"other time":    {regular("plan.json"), {Typeflag: tar.TypeReg, Name: "timeline.ndjson", Mode: 0o644, ModTime: at.Add(time.Second), Format: tar.FormatUSTAR}},
	} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(name, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := judge(out.Bytes(), keyring.Trust{})
		if r.Verdict != verify.Invalid || len(r.Checks) != 1 {
			t.Errorf("%s: %s %+v", name, r.Verdict, r.Checks)
		}
	}
}

// endless is a file that claims a size and never ends.
type endless struct {
	head []byte
	read int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	if n == 0 {
		n = len(p)
		clear(p)
	}
	e.read += int64(n)
	return n, nil
}

func TestBombStopsAtTheLimit(t *testing.T) {
	for _, name := range []string{"outputs/aa", "plan.json"} {
		var head bytes.Buffer
		if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 8<<30 - 1, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		source := &endless{head: head.Bytes()}
		r := verify.Bundle(source, keyring.Trust{}, verify.Options{MaxBytes: 10 << 20})
		if r.Verdict != verify.Invalid || source.read > 11<<20 {
			t.Errorf("%s: %s after %d bytes", name, r.Verdict, source.read)
		}
	}
}

func TestBrokenReader(t *testing.T) {
	w := evidencetest.NewWorld(t)
	raw := pack(t, w.Record(t, evidencetest.Case{}), w.Attestor)
	broken := errors.New("disk")
	r := verify.Bundle(io.MultiReader(bytes.NewReader(raw[:3000]), failing{broken}), w.Trust, verify.Options{})
	if r.Verdict != verify.Invalid || !strings.Contains(r.Checks[0].Detail, "disk") {
		t.Errorf("%+v", r)
	}
	// A reader that gives one byte at a time changes nothing.
	if r := verify.Bundle(single{bytes.NewReader(raw)}, w.Trust, verify.Options{}); r.Verdict != verify.Valid {
		t.Error(r.Verdict)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type single struct{ r io.Reader }

func (s single) Read(p []byte) (int, error) { return s.r.Read(p[:1]) }

func FuzzBundle(f *testing.F) {
	w := evidencetest.NewWorld(f)
	whole := pack(f, w.Record(f, evidencetest.Case{Items: 1}), w.Attestor)
	f.Add(whole)
	f.Add(whole[:4096])
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := verify.Bundle(bytes.NewReader(raw), w.Trust, verify.Options{MaxBytes: 1 << 20})
		if (r.Verdict == verify.Valid) != bytes.Equal(raw, whole) {
			t.Fatalf("%s for a bundle that is not the one", r.Verdict)
		}
	})
}
