package blackbox

import (
	"os"
	"path/filepath"
	"testing"
)

// older is what a folder must still give that another version has left: its killed or ended process held nothing, its runs can be read,
// their evidence verifies, what waited goes on, what failed can be tried again, and its keys still sign.
const older = `
exits 0 orrery runs list -o json
json 'sorted(r["pack"]["name"]+" "+r["status"] for r in d["items"]) == ["fine succeeded", "nightly failed", "nightly failed", "tour waiting"]'
of() { python3 -c 'import json,sys; print(next(r["name"] for r in json.load(open(sys.argv[1]))["items"] if r["pack"]["name"] == sys.argv[2]))' "$HOME/streams/out" "$1"; }
tour=$(of tour) nightly=$(of nightly) fine=$(of fine)

exits 0 orrery runs logs "$fine"
out 'fine'
valid "$fine"
exits 0 orrery evidence export "$nightly" -f nightly.tar
valid nightly.tar
exits 0 orrery replay nightly.tar
exits 0 orrery why "$nightly"
out 'exit code 7'

exits 0 orrery why "$tour"
out 'waits for .*approval'
exits 4 orrery approve "$tour" --reason "my own"
exits 0 orrery approve "$tour" --as ben --gate publish --reason "three planets"
out '"measured":3'
exits 0 orrery evidence export "$tour" -f tour.tar
valid tour.tar
exits 0 orrery replay tour.tar
exits 0 orrery runs show "$tour" -o json
json '[s["attempt"] for s in d["steps"] if s["id"] == "calibrate"] == [2]'

exits 3 orrery runs retry "$nightly"
exits 0 orrery run fine.yaml
valid @latest
`

// TestB14_OlderFolders opens folders that earlier versions of the program have written, one for each version of the schema. A folder is
// made with the program of its time: the tour with a gate that waits for ten years, a run that fails (twice) and one that succeeds. Its
// keys were made for it and sign nothing else.
func TestB14_OlderFolders(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("testdata/older/schema-*.tar.gz")
	if err != nil || len(folders) == 0 {
		t.Fatal("there are no older folders", err)
	}
	for _, archive := range folders {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			raw, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "older.tar.gz", raw)
			write(t, dir, "fine.yaml", []byte("name: fine\nsteps: [{run: echo fine}]\n"))
			out, err := shell(t, dir, prelude+"mkdir -m 700 d && tar -xzf older.tar.gz -C d && export ORRERY_DATA=$PWD/d\n"+older)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
