package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

const vectors = "../../spec/vectors"

// load makes a Source of the pack.yaml in a folder.
func load(fsys fs.FS, files []work.File) (plan.Source, error) {
	text, err := fs.ReadFile(fsys, "pack.yaml")
	if err != nil {
		return plan.Source{}, err
	}
	m, err := manifest.Parse("pack.yaml", text)
	if err != nil {
		return plan.Source{}, err
	}
	return plan.SourceOf(m, text, fsys, "pack.yaml", files), nil
}

// travelling returns the files of a vector that belong to its pack.
func travelling(t testing.TB, fsys fs.FS) []work.File {
	var files []work.File
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "inputs.json" || name == "plan.json" || name == "plan.sha256" {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		files = append(files, work.File{Path: name, Digest: canonical.Digest(data), Size: int64(len(data))})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readInputs(t testing.TB, fsys fs.FS) map[string]plan.InputValue {
	data, err := fs.ReadFile(fsys, "inputs.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	out := map[string]plan.InputValue{}
	for k, v := range raw {
		out[k] = plan.InputValue{JSON: v}
	}
	return out
}

func build(t testing.TB, fsys fs.FS) *plan.Built {
	t.Helper()
	src, err := load(fsys, travelling(t, fsys))
	if err != nil {
		t.Fatal(err)
	}
	b, err := plan.Build(src, readInputs(t, fsys))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(vectors, "plan", "*"))
	if err != nil || len(folders) == 0 {
		t.Fatal(err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			b := build(t, os.DirFS(folder))
			planFile, hashFile := filepath.Join(folder, "plan.json"), filepath.Join(folder, "plan.sha256")
			if *update {
				if err := os.WriteFile(planFile, b.Canonical, 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(hashFile, []byte(b.Hash+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(planFile)
			if err != nil {
				t.Fatal(err)
			}
			hash, err := os.ReadFile(hashFile)
			if err != nil {
				t.Fatal(err)
			}
			if string(b.Canonical) != string(want) || string(b.Hash) != strings.TrimSpace(string(hash)) {
				t.Errorf("the plan is now\n%s\n%s\nand was\n%s\n%s", b.Hash, b.Canonical, strings.TrimSpace(string(hash)), want)
			}
			decoded, err := plan.Decode(want)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := plan.Encode(decoded); err != nil || string(again) != string(want) {
				t.Errorf("decoding and encoding changes the plan: %v", err)
			}
			if changes := plan.Diff(decoded, b.Plan); len(changes) > 0 {
				t.Errorf("%v", changes)
			}
		})
	}
}

// TestVectorsElsewhere runs the checker that shares no code with this program.
func TestVectorsElsewhere(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not here, the vectors are checked by Go only")
		return
	}
	out, err := exec.Command(python, filepath.Join(vectors, "check.py")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), " 0 wrong") {
		t.Errorf("%v\n%s", err, out)
	}
}

var update = flag.Bool("update", false, "write the vectors anew")
