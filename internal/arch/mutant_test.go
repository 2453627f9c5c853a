package arch

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const smallLayers = `
ring words   words            | why words
ring rules   words rules      | why rules
ring seams   words rules seams@ | why seams
ring drivers words seams@     | why drivers
ring wiring  words rules seams drivers | why wiring
package internal/word         words
package internal/rule         rules
package internal/store        seams
package internal/store/disk   drivers
package internal/blob         seams
package internal/cli          wiring
package internal/app          wiring coming
import rules os net net/...   | why no files
call rules time.Now go        | why no clock
only example.org/sql/... internal/store/disk | why only there
`

// good is a small tree without findings; each mutant replaces or adds one file.
func good() map[string]string {
	return map[string]string{
		"go.mod":                      "module m\n",
		"internal/word/word.go":       "// Package word is a word.\npackage word\n",
		"internal/rule/rule.go":       "// Package rule is a rule.\npackage rule\n\nimport _ \"m/internal/word\"\n",
		"internal/store/store.go":     "// Package store is a seam.\npackage store\n\nimport _ \"m/internal/rule\"\n",
		"internal/store/disk/disk.go": "// Package disk is a driver.\npackage disk\n\nimport (\n\t_ \"example.org/sql\"\n\t_ \"m/internal/store\"\n)\n",
		"internal/blob/blob.go":       "// Package blob is a seam.\npackage blob\n",
		"internal/cli/cli.go":         "// Package cli is the wiring.\npackage cli\n\nimport _ \"m/internal/store/disk\"\n",
		"README.md":                   "[a](docs/README.md) `[not](a-link)`\n",
		"docs/README.md":              "[one](adr/0001-one.md)\n",
		"docs/adr/0001-one.md":        "# One\n",
	}
}

func findings(t *testing.T, files map[string]string) []Finding {
	t.Helper()
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseLayers(smallLayers)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(tree.Broken, l.CheckImports(tree), l.CheckCalls(tree), CheckInit(tree), CheckNames(tree), CheckComments(tree),
		CheckVars(tree), CheckBudgets(tree), CheckWords(tree, []string{"registry.example.net"}), CheckLinks(tree))
}

func TestGoodTreeHasNoFindings(t *testing.T) {
	for _, f := range findings(t, good()) {
		t.Error(f)
	}
}

func TestEveryRuleCatches(t *testing.T) {
	const rule = "// Package rule is a rule.\npackage rule\n\n"
	long := strings.Repeat("\t_ = 1\n", MaxFunctionLines)
	for name, m := range map[string]struct {
		file, text   string
		check, where string
	}{
		"syntax":              {"internal/rule/x.go", "package rule\nfunc {", "syntax", "internal/rule/x.go"},
		"package in no ring":  {"internal/other/other.go", "// Package other is new.\npackage other\n", "ring", "internal/other"},
		"upward":              {"internal/rule/rule.go", rule + "import _ \"m/internal/store\"\n", "import", "internal/rule/rule.go"},
		"across seams":        {"internal/blob/b.go", "package blob\n\nimport _ \"m/internal/store\"\n", "import", "internal/blob/b.go"},
		"words use a library": {"internal/word/w.go", "package word\n\nimport _ \"m/internal/rule\"\n", "import", "internal/word/w.go"},
		"wiring sideways":     {"internal/app/app.go", "// Package app is more wiring.\npackage app\n\nimport _ \"m/internal/cli\"\n", "import", "internal/app/app.go"},
		"files in a rule":     {"internal/rule/x.go", "package rule\n\nimport _ \"os\"\n", "pure", "internal/rule/x.go"},
		"network below":       {"internal/rule/x.go", "package rule\n\nimport _ \"net/http/httptest\"\n", "pure", "internal/rule/x.go"},
		"clock":               {"internal/rule/x.go", "package rule\n\nimport t \"time\"\n\nfunc f() t.Time { return t.Now() }\n", "pure", "internal/rule/x.go"},
		"clock as a value":    {"internal/rule/x.go", "package rule\n\nimport \"time\"\n\nfunc f() any { return time.Now }\n", "pure", "internal/rule/x.go"},
		"goroutine":           {"internal/rule/x.go", "package rule\n\nfunc f() { go f() }\n", "pure", "internal/rule/x.go"},
		"library elsewhere":   {"internal/cli/x.go", "package cli\n\nimport _ \"example.org/sql/deep\"\n", "library", "internal/cli/x.go"},
		"init":                {"internal/rule/x.go", "package rule\n\nfunc init() {}\n", "init", "internal/rule/x.go"},
		"vague name":          {"internal/rule/strutil/s.go", "// Package strutil is anything.\npackage strutil\n", "name", "internal/rule/strutil"},
		"no package comment":  {"internal/rule/rule.go", "package rule\n", "comment", "internal/rule"},
		"wrong opening":       {"internal/rule/rule.go", "// This package is a rule.\npackage rule\n", "comment", "internal/rule"},
		"two comments":        {"internal/rule/x.go", rule, "comment", "internal/rule"},
		"exported function":   {"internal/rule/x.go", "package rule\n\nfunc Do() {}\n", "comment", "internal/rule/x.go"},
		"exported method":     {"internal/rule/x.go", "package rule\n\n// T is.\ntype T[X any] struct{}\n\nfunc (*T[X]) Do() {}\n", "comment", "internal/rule/x.go"},
		"exported type":       {"internal/rule/x.go", "package rule\n\ntype (\n\tA int\n)\n", "comment", "internal/rule/x.go"},
		"exported constant":   {"internal/rule/x.go", "package rule\n\nconst A = 1\n", "comment", "internal/rule/x.go"},
		"variable":            {"internal/rule/x.go", "package rule\n\nvar cache = map[string]int{}\n", "var", "internal/rule"},
		"variable of no form": {"internal/rule/x.go", "package rule\n\nvar n int\n", "var", "internal/rule"},
		"long file":           {"internal/rule/x_test.go", "package rule\n" + strings.Repeat("\n", MaxFileLines), "lines", "internal/rule/x_test.go"},
		"long function":       {"internal/rule/x.go", "package rule\n\nfunc f() {\n" + long + "}\n", "function", "internal/rule/x.go"},
		"large interface":     {"internal/rule/x.go", "package rule\n\ntype i interface{ A(); B(); C(); D(); E(); F(); G(); H() }\n", "interface", "internal/rule/x.go"},
		"machine path":        {"internal/rule/x.go", "package rule\n\nconst p = \"/" + "work/main\"\n", "word", "internal/rule/x.go"},
		"registry":            {"Makefile", "URL = https://registry.example.net/x\n", "word", "Makefile"},
		"broken link":         {"README.md", "[a](docs/none.md)\n", "link", "README.md"},
		"name of a decision":  {"docs/adr/two.md", "# Two\n", "adr", "docs/adr/two.md"},
		"number taken":        {"docs/adr/0001-two.md", "# Two\n", "adr", "docs/adr/0001-two.md"},
		"unlisted decision":   {"docs/adr/0002-two.md", "# Two\n", "adr", "docs/adr/0002-two.md"},
	} {
		t.Run(name, func(t *testing.T) {
			files := good()
			files[m.file] = m.text
			found := findings(t, files)
			if !slices.ContainsFunc(found, func(f Finding) bool { return f.Check == m.check && f.Where == m.where && f.Say != "" }) {
				t.Errorf("no finding of %q at %s among %v", m.check, m.where, found)
			}
		})
	}
}

func TestTooManyFilesAndPackagesThatAreGone(t *testing.T) {
	files := good()
	delete(files, "internal/cli/cli.go")
	for i := range MaxPackageFiles {
		files["internal/word/"+string(rune('a'+i))+".go"] = "package word\n"
	}
	found := findings(t, files)
	for _, want := range []string{"files internal/word", "ring internal/cli"} {
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Check+" "+f.Where == want }) {
			t.Errorf("no %q among %v", want, found)
		}
	}
}

func TestWhatIsAllowed(t *testing.T) {
	files := good()
	files["internal/rule/x.go"] = `package rule

import (
	"errors"
	"regexp"
	"time"
)

var errGone = errors.New("gone")

var word = regexp.MustCompile("a")

var _ error = errGone

// The kinds.
const (
	A = iota
	B
)

// T has a time, but does not ask for it.
type T struct{ At time.Time }

// String is known to everybody.
func (T) String() string { return "internal/work/plan.go, ../work/x and ${TMP}/work/x are no paths of a machine" }
`
	files["internal/rule/table.go"] = "// Code generated by a test. DO NOT EDIT.\n\npackage rule\n\nvar Table = map[int]int{}\n"
	files["internal/rule/x_test.go"] = "package rule\n\nimport _ \"os\"\n\nvar state int\n\nfunc init() {}\n"
	files["other/go.mod"] = "module other\n"
	files["other/other.go"] = "package util\n"
	files["internal/rule/testdata/x.go"] = "package util\n"
	for _, f := range findings(t, files) {
		t.Error(f)
	}
}

func TestExceptions(t *testing.T) {
	exceptions, err := ParseExceptions("# why\nfunction a.go New 100 | the wiring\nvar internal/x * | a table\npure b.go os | gone\n")
	if err != nil {
		t.Fatal(err)
	}
	left := Apply([]Finding{
		{Check: "function", Where: "a.go", Subject: "New", Size: 90},
		{Check: "function", Where: "a.go", Subject: "New", Size: 101},
		{Check: "var", Where: "internal/x", Subject: "t"},
	}, exceptions)
	if len(left) != 2 || left[0].Check != "exception" || left[1].Size != 101 {
		t.Errorf("left %v; want the exception nobody needs and the function above its exception", left)
	}
	for _, bad := range []string{"var x y\n", "var x | why\n", "function a.go New many | why\n"} {
		if _, err := ParseExceptions(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestLayersNeedReasons(t *testing.T) {
	for _, bad := range []string{
		"ring words words\n", "package a words\n", "ring words words | why\npackage a words later\n",
		"ring words words | why\npackage a words\npackage a words\n", "rule words words | why\n", "import words\n",
	} {
		if _, err := ParseLayers(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestPackageList(t *testing.T) {
	root := fstest.MapFS{}
	for name, text := range good() {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseLayers(smallLayers)
	if err != nil {
		t.Fatal(err)
	}
	list := PackageList(tree, l, []string{"words"})
	if want := "\n**words** – why words\n\n| package | |\n|---|---|\n| `word` | is a word |\n"; list != want {
		t.Errorf("the list is %q, want %q", list, want)
	}
	if _, err := ReplaceList("no markers", list); err == nil {
		t.Error("a document without the markers was accepted")
	}
	once, err := ReplaceList("a\n"+listBegin+"\nold\n"+listEnd+"\nb\n", list)
	if err != nil || strings.Contains(once, "old") {
		t.Errorf("%q, %v", once, err)
	}
	if twice, _ := ReplaceList(once, list); twice != once {
		t.Errorf("writing the list twice gives %q, once %q", twice, once)
	}
}

func TestHosts(t *testing.T) {
	got := Hosts("https://goproxy.example.net/x,https://proxy.golang.org|off,direct", "https://user:secret@packages.example.net/simple\n", "")
	if want := []string{"goproxy.example.net", "packages.example.net"}; !slices.Equal(got, want) {
		t.Errorf("hosts are %q, want %q", got, want)
	}
}
