package blackbox

import (
	"os"
	"path/filepath"
	"testing"
)

// examples say how each example is run to its end. An example that is not here fails the test.
var examples = map[string]string{
	"tour": `
exits 8 orrery run examples/tour
exits 0 orrery keys generate ben
exits 0 orrery approve @latest --as ben --reason "three planets, three measurements"
out '^\{"measured":3\}$'`,
	"pipeline": `
exits 0 orrery run examples/pipeline
out '"total":"'
exits 0 orrery run examples/pipeline
err 'from cache'`,
	"backup": `
exits 0 orrery run examples/backup
out '"rows":20001'`,
	"release-check": `
git init -q . && git add -A && git -c user.name=ada -c user.email=ada@example.org commit -q -m "a release"
examples/release-check/collect.sh
exits 8 orrery run examples/release-check --inputs examples/release-check/input/inputs.json
exits 0 orrery keys generate ben
exits 0 orrery approve @latest --as ben --reason "licences and digests looked at"
out '\| sbom.cdx.json \| '
# Another archive under the same checksum is not taken in.
printf x >> examples/release-check/input/source.tar
exits 3 orrery run examples/release-check --inputs examples/release-check/input/inputs.json --new
exits 0 orrery runs show @latest -o json`,
}

func TestExamples(t *testing.T) {
	t.Parallel()
	found, err := os.ReadDir(filepath.Join(place.root, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			script, ok := examples[e.Name()]
			if !ok {
				t.Fatal("nothing says how this example is run")
			}
			dir := folder(t)
			copyTree(t, dir, "examples")
			if e.Name() == "release-check" {
				copySource(t, dir)
			}
			script += `
exits 0 orrery evidence export @latest -f run.evidence.tar
exits 0 orrery keys trust-root -f trust.json
export ORRERY_DATA=$PWD/elsewhere
valid run.evidence.tar --trust trust.json
exits 0 orrery replay run.evidence.tar
`
			if out, err := shell(t, dir, prelude+script); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
