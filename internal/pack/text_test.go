package pack_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
)

// A manifest that travels alone makes the plan that it makes in a folder of its own.
func TestText(t *testing.T) {
	text := []byte("name: alone\nsteps:\n- run: {command: [cat, pack.yaml]}\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pack.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := pack.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := pack.Text(text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(alone.Files, in.Files) || alone.Base != in.Base {
		t.Errorf("alone %+v, in a folder %+v", alone.Files, in.Files)
	}
	want, err := plan.Build(in.Source(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := plan.Build(alone.Source(), nil)
	if err != nil || got.Hash != want.Hash {
		t.Errorf("alone %s, in a folder %s: %v", got.Hash, want.Hash, err)
	}
	if read, err := fs.ReadFile(alone.FS, "pack.yaml"); err != nil || string(read) != string(text) {
		t.Errorf("%q, %v", read, err)
	}
	if _, err := fs.ReadFile(alone.FS, "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := pack.Text([]byte("name: [")); err == nil {
		t.Error("what is no manifest is taken")
	}
}
