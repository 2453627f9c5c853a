package arch

import (
	_ "embed"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:embed layers.txt
var layersText string

//go:embed exceptions.txt
var exceptionsText string

var write = flag.Bool("write", false, "write the list of packages into ARCHITECTURE.md")

const root = "../.."

// rings are the rings as ARCHITECTURE.md lists them, from the ground up.
func rings() []string {
	return []string{"words", "rules", "seams", "drivers", "services", "wiring", "public", "tests"}
}

func load(t *testing.T) (*Tree, *Layers) {
	t.Helper()
	tree, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := ParseLayers(layersText)
	if err != nil {
		t.Fatal(err)
	}
	return tree, layers
}

// registries returns the hosts that packages come from on this machine.
func registries() []string {
	settings := []string{os.Getenv("GOPROXY"), os.Getenv("PIP_INDEX_URL"), os.Getenv("PIP_EXTRA_INDEX_URL"), os.Getenv("NPM_CONFIG_REGISTRY")}
	if out, err := exec.Command("go", "env", "GOPROXY").Output(); err == nil {
		settings = append(settings, string(out))
	}
	return Hosts(settings...)
}

// TestTree holds the whole tree to every rule.
func TestTree(t *testing.T) {
	tree, layers := load(t)
	exceptions, err := ParseExceptions(exceptionsText)
	if err != nil {
		t.Fatal(err)
	}
	findings := slices.Concat(
		tree.Broken,
		layers.CheckImports(tree), layers.CheckCalls(tree),
		CheckInit(tree), CheckNames(tree), CheckComments(tree), CheckVars(tree), CheckBudgets(tree),
		CheckWords(tree, registries()), CheckLinks(tree),
	)
	byCheck := map[string][]Finding{}
	for _, f := range Apply(findings, exceptions) {
		byCheck[f.Check] = append(byCheck[f.Check], f)
	}
	checks := []string{
		"syntax", "ring", "import", "library", "pure", "init", "name", "comment", "var", "lines", "function", "files", "interface",
		"word", "link", "adr", "exception",
	}
	for _, check := range checks {
		t.Run(check, func(t *testing.T) {
			for _, f := range byCheck[check] {
				t.Error(f)
			}
		})
		delete(byCheck, check)
	}
	for check := range byCheck {
		t.Errorf("check %q is not in the list of this test", check)
	}
}

// TestLinked holds the name of the version in the Makefile to the one that the rules let pass.
func TestLinked(t *testing.T) {
	tree, _ := load(t)
	data, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "$(MODULE)", tree.Module)
	if want := "-X " + tree.Module + "/" + Linked + "="; !strings.Contains(text, want) {
		t.Errorf("the Makefile does not set the version by %q; keep it and arch.Linked equal", want)
	}
}

// TestArchitecture holds the list of packages in ARCHITECTURE.md to the package comments.
func TestArchitecture(t *testing.T) {
	tree, layers := load(t)
	file := filepath.Join(root, "ARCHITECTURE.md")
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ReplaceList(string(have), PackageList(tree, layers, rings()))
	if err != nil {
		t.Fatal(err)
	}
	if want == string(have) {
		return
	}
	if !*write {
		t.Fatal("the list of packages in ARCHITECTURE.md is not what the package comments say; run: make docs")
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
