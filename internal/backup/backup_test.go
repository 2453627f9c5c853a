package backup_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"orrery.example/orrery/internal/backup"
	"orrery.example/orrery/internal/fault"
)

// made is the backup of a small folder.
func made(t testing.TB) []byte {
	t.Helper()
	dir, store := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for name, text := range map[string]string{
		"keyring.json": "{}", "keys/a.pem": "key", "blobs/ab/cd": "blob", "blobs/incoming/half": "x", "orrery.db": "live", "lock": "", "work/step/file": "w",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(store, []byte("store"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := backup.Write(t.Context(), &out, dir, store, backup.Info{Version: "test", Made: time.Unix(1_800_000_000, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func names(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	info, err := backup.Read(t.Context(), bytes.NewReader(made(t)), dir)
	if err != nil || info.Version != "test" {
		t.Fatal(info, err)
	}
	got := names(t, dir)
	want := map[string]string{"keyring.json": "{}", "keys/a.pem": "key", "blobs/ab/cd": "blob", backup.StoreFile: "store"}
	if len(got) != len(want) {
		t.Errorf("restored %v", got)
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s is %q, not %q", name, got[name], text)
		}
	}
	if i, err := os.Stat(filepath.Join(dir, "keys/a.pem")); err != nil || i.Mode().Perm() != 0o600 {
		t.Error("others may read a key:", i.Mode(), err)
	}
}

// A backup that breaks off anywhere is none.
func TestBrokenOff(t *testing.T) {
	raw := made(t)
	for at := 0; at < len(raw)-1536; at += 256 { // what follows the last entry is padding
		if _, err := backup.Read(t.Context(), bytes.NewReader(raw[:at]), t.TempDir()); fault.CodeOf(err) != fault.Invalid {
			t.Fatalf("%d of %d bytes: %v", at, len(raw), err)
		}
	}
}

// packed is a backup with an entry that no data folder has.
func packed(t testing.TB, h tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	head := []byte(`{"format":"` + backup.Format + `"}`)
	if err := w.WriteHeader(&tar.Header{Name: "backup.json", Mode: 0o600, Size: int64(len(head))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(head); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEntriesThatLeadOut(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../outside", Typeflag: tar.TypeReg}, {Name: "/etc/outside", Typeflag: tar.TypeReg}, {Name: "a/../../outside", Typeflag: tar.TypeReg},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, {Name: "hard", Typeflag: tar.TypeLink, Linkname: "backup.json"},
		{Name: "pipe", Typeflag: tar.TypeFifo}, {Name: "dir/", Typeflag: tar.TypeDir},
	} {
		base := t.TempDir()
		dir := filepath.Join(base, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := backup.Read(t.Context(), bytes.NewReader(packed(t, h)), dir); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", h.Name, err)
		}
		if got := names(t, base); len(got) != 0 {
			t.Errorf("%s: there are %v", h.Name, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(made(f))
	f.Add(packed(f, tar.Header{Name: "../x", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := backup.Read(t.Context(), bytes.NewReader(raw), dir); err != nil && fault.CodeOf(err) != fault.Invalid {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(base)
		if err != nil || len(entries) != 1 {
			t.Fatal("something was written outside:", entries, err)
		}
	})
}
