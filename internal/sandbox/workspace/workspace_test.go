package workspace

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"orrery.example/orrery/internal/fault"
)

func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(f), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPatterns(t *testing.T) {
	dir := tree(t, "a.txt", "b.txt", "dist/a.txt", "dist/deep/er/c.txt", "dist/x.bin", "other/[odd]")
	for _, c := range []struct {
		patterns []string
		want     []string
	}{
		{[]string{"a.txt"}, []string{"a.txt"}},
		{[]string{"*.txt"}, []string{"a.txt", "b.txt"}},
		{[]string{"*.txt", "a.*"}, []string{"a.txt", "b.txt"}},
		{[]string{"dist"}, []string{"dist/a.txt", "dist/deep/er/c.txt", "dist/x.bin"}},
		{[]string{"dist/"}, []string{"dist/a.txt", "dist/deep/er/c.txt", "dist/x.bin"}},
		{[]string{"dist/*.txt"}, []string{"dist/a.txt"}},
		{[]string{"**/*.txt"}, []string{"a.txt", "b.txt", "dist/a.txt", "dist/deep/er/c.txt"}},
		{[]string{"dist/**/c.txt"}, []string{"dist/deep/er/c.txt"}},
		{[]string{"**"}, []string{"a.txt", "b.txt", "dist/a.txt", "dist/deep/er/c.txt", "dist/x.bin", "other/[odd]"}},
		{[]string{`other/\[odd\]`}, []string{"other/[odd]"}},
		{[]string{"none"}, nil},
	} {
		found, err := Collect(dir, c.patterns, Limits{})
		if err != nil {
			t.Errorf("%q: %v", c.patterns, err)
			continue
		}
		var got []string
		for _, f := range found.Files {
			got = append(got, f.Path)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.patterns, got, c.want)
		}
		if (len(found.Unmatched) > 0) != (c.want == nil) {
			t.Errorf("%q: unmatched %q", c.patterns, found.Unmatched)
		}
		found.Close()
	}
	for _, p := range []string{"", "/etc/passwd", "../x", "a/../../x", "./a", "a//b", "[", "a/["} {
		if _, err := Collect(dir, []string{p}, Limits{}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestLinksAreRefused(t *testing.T) {
	outside := tree(t, "secret")
	for _, target := range []string{filepath.Join(outside, "secret"), "a.txt", outside, "nowhere", ".."} {
		dir := tree(t, "a.txt", "sub/x")
		if err := os.Symlink(target, filepath.Join(dir, "sub", "link")); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"sub", "sub/link", "**", "sub/link/secret"} {
			found, err := Collect(dir, []string{p}, Limits{})
			if p == "sub/link/secret" {
				if err != nil || len(found.Files) > 0 {
					t.Errorf("through the link to %s: %v %v", target, found, err)
				}
			} else if fault.CodeOf(err) != fault.Invalid {
				t.Errorf("%s with a link to %s: %v", p, target, err)
			}
		}
	}
}

func TestFilesAreReadAsTheyWereFound(t *testing.T) {
	dir := tree(t, "a")
	found, err := Collect(dir, []string{"a"}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	f, err := found.Files[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(f); string(b) != "a" || found.Files[0].Mode != 0o640 || found.Files[0].Size != 1 {
		t.Errorf("%q %+v", b, found.Files[0])
	}
	f.Close()
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := found.Files[0].Open(); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a link in the file's place: %v", err)
	}
}

func TestCollectionLimits(t *testing.T) {
	dir := tree(t, "a", "b", "c")
	for _, l := range []Limits{{Files: 2}, {Bytes: 2}} {
		if _, err := Collect(dir, []string{"**"}, l); fault.CodeOf(err) != fault.Exhausted {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

func TestOwnRefusesForeignHardLinks(t *testing.T) {
	outside, dir := tree(t, "blob"), tree(t, "a")
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := Own(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Errorf("two names inside: %v", err)
	}
	if err := os.Link(filepath.Join(outside, "blob"), filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	if err := Own(dir, os.Geteuid(), os.Getegid()); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a name outside: %v", err)
	}
}

func TestPrepareAndRemove(t *testing.T) {
	parent := t.TempDir()
	dir, err := Prepare(parent, "step-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(parent, "step-1"); err == nil {
		t.Error("prepared a folder that was there")
	}
	if _, err := Prepare(parent, "../outside"); err == nil {
		t.Error("prepared a folder outside")
	}
	closed := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{closed, filepath.Dir(closed), dir} {
		if err := os.Chmod(p, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	}
}
