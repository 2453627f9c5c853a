package torture

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"
)

// alter runs a statement on the store of a folder that nobody has open, and returns how many rows it changed.
func (f *folder) alter(statement string, args ...any) int64 {
	f.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(f.dir, "orrery.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	res, err := db.Exec(statement, args...)
	if err != nil {
		f.t.Fatalf("%s: %v", statement, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// copied returns a copy of a folder to be damaged, without the space that the folder keeps aside.
func (f *folder) copied() *folder {
	f.t.Helper()
	to := filepath.Join(f.t.TempDir(), "data")
	err := filepath.WalkDir(f.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "ballast" {
			return err
		}
		copied := filepath.Join(to, strings.TrimPrefix(name, f.dir))
		if d.IsDir() {
			return os.MkdirAll(copied, 0o700)
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(copied, raw, 0o600)
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return &folder{t: f.t, dir: to, mark: f.mark, env: f.env}
}

// claim is what evidence says of a run.
type claim struct {
	Verdict string `json:"verdict"`
	Run     string `json:"run"`
	Name    string `json:"name"`
	Tenant  string `json:"tenant"`
	Plan    string `json:"planHash"`
	Status  string `json:"status"`
}

// column is one place of the database.
type column struct{ table, name string }

// columns lists every column of the store.
func (f *folder) columns() []column {
	f.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(f.dir, "orrery.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT m.name, p.name FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	var all []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.table, &c.name); err != nil {
			f.t.Fatal(err)
		}
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	return all
}

// Whatever is changed in the database after the end of a run and before its evidence is made, there is no valid evidence that says
// anything but what happened.
func TestDatabaseAltered(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(8, f.pack("quorum")...)
	run := f.only()
	for _, who := range f.people(5) {
		f.must(0, "approve", run.Name, "--as", who, "--reason", "seen", "--no-continue")
	}
	f.must(0, "runs", "resume", run.Name)
	f.must(3, append(f.pack("fails"), "-o", "json")...)
	failed := f.runs()[0]
	for _, target := range []runDocument{run, failed} {
		var truth claim
		whole := f.copied()
		whole.into(whole.must(0, "verify", target.Run, "-o", "json"), &truth)
		refusals, tried := 0, 0
		for _, c := range f.columns() {
			for _, change := range changes(c) {
				d := f.copied()
				if d.tryAlter(change) == 0 {
					continue
				}
				tried++
				if !d.truthful(change, target, truth) {
					refusals++
				}
			}
		}
		t.Logf("run %s: %d changes of the database, %d of them made evidence impossible or invalid", truth.Status, tried, refusals)
		if tried < 60 || refusals < 10 {
			t.Errorf("void: %d changes, %d refusals", tried, refusals)
		}
	}
}

// changes are the statements that change a column: another text, another number, another row's value, a byte of bytes, nothing.
func changes(c column) []string {
	at := fmt.Sprintf("UPDATE OR IGNORE %q SET %q = ", c.table, c.name)
	all := []string{
		at + fmt.Sprintf("CASE typeof(%[1]q) WHEN 'integer' THEN %[1]q + 1 WHEN 'text' THEN replace(replace(%[1]q, 'failed', 'succeeded'), 'local', 'other') WHEN 'blob' THEN CAST(%[1]q || x'00' AS BLOB) END", c.name),
	}
	if c.name == "body" || c.name == "leaf" || c.name == "checkpoint" || c.name == "hash" {
		all = append(all, at+fmt.Sprintf("(SELECT o.%[2]q FROM %[1]q o WHERE o.rowid <> %[1]q.rowid ORDER BY o.rowid DESC LIMIT 1)", c.table, c.name))
	}
	if c.name == "state" {
		all = append(all, at+`'succeeded'`, at+`'failed'`)
	}
	if c.name == "doc" || c.name == "outputs" {
		all = append(all, at+`''`, at+`'{}'`)
	}
	return all
}

// tryAlter is alter where the schema may refuse the change.
func (f *folder) tryAlter(statement string) int64 {
	db, err := sql.Open("sqlite", filepath.Join(f.dir, "orrery.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	res, err := db.Exec(statement)
	if err != nil {
		return 0 // STRICT tables and unique indexes refuse some of it, which is as well
	}
	n, _ := res.RowsAffected() // the driver knows
	return n
}

// truthful checks that evidence of a run is refused or says the truth, and reports which.
func (f *folder) truthful(change string, target runDocument, truth claim) bool {
	f.t.Helper()
	for _, name := range []string{target.Run, target.Name} {
		r := f.run("verify", name, "-o", "json")
		var got claim
		if err := json.Unmarshal(r.stdout, &got); err != nil || r.code != 0 {
			if r.code == 0 {
				f.t.Errorf("%s: %s", change, r)
			}
			return false
		}
		if got != truth {
			f.t.Errorf("%s: the evidence of %s is valid and says %+v, the truth is %+v", change, name, got, truth)
		}
	}
	return true
}

// An approval that is put into the database opens no gate that evidence would prove: the run either stays where it is or its evidence is
// refused.
func TestApprovalInserted(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(8, f.pack("quorum")...)
	run := f.only()
	f.people(1)
	f.must(0, "approve", run.Name, "--as", "person0", "--reason", "seen", "--no-continue")
	for name, statement := range map[string]string{
		"the gate is ended": `UPDATE steps SET state = 'succeeded', standing = NULL, timer = NULL WHERE id = 'five'`,
		"decisions are copied": `UPDATE steps SET doc = json_set(doc, '$.decisions', json_array(
			json_extract(doc, '$.decisions[0]'), json_extract(doc, '$.decisions[0]'), json_extract(doc, '$.decisions[0]'), json_extract(doc, '$.decisions[0]')))
			WHERE id = 'five'`,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			d := f.copied()
			d.t = t
			if n := d.alter(statement); n != 1 {
				t.Fatalf("%d rows are altered", n)
			}
			d.run("keys", "generate", "person1")
			d.run("approve", run.Name, "--as", "person1", "--reason", "seen", "--gate", "five", "--no-continue")
			r := d.run("runs", "resume", run.Name)
			if r.code == 8 {
				return // it waits
			}
			v := d.run("verify", run.Name, "-o", "json")
			if v.code == 0 || bytes.Contains(v.stdout, []byte("VALID\"")) && !bytes.Contains(v.stdout, []byte("INVALID")) {
				t.Errorf("%s\n%s", r, v)
			}
		})
	}
}

// Evidence that is kept belongs to its run: when the database hands out another run's, or the run has another's name, asking for the
// one never verifies the other.
func TestEvidenceSwapped(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(0, f.pack("many")...)
	f.must(3, f.pack("fails")...)
	runs := f.runs()
	good, bad := runs[1], runs[0]
	f.must(0, "verify", good.Run)
	f.must(0, "verify", bad.Run)
	for what, statements := range map[string][]string{
		"evidence of another run": {`UPDATE documents SET body = (SELECT body FROM documents WHERE kind = 'evidence' AND run = '` + good.Run + `')
			WHERE kind = 'evidence' AND run = '` + bad.Run + `'`},
		"names exchanged": {
			`UPDATE runs SET name = 'for-a-moment' WHERE id = '` + good.Run + `'`,
			`UPDATE runs SET name = '` + good.Name + `' WHERE id = '` + bad.Run + `'`,
			`UPDATE runs SET name = '` + bad.Name + `' WHERE id = '` + good.Run + `'`,
		},
	} {
		d := f.copied()
		for _, s := range statements {
			if n := d.alter(s); n != 1 {
				t.Fatalf("%s: %d rows are altered by %s", what, n, s)
			}
		}
		if r := d.run("verify", bad.Name); !refused[r.code] {
			t.Errorf("%s: %s", what, r)
		}
	}
}
