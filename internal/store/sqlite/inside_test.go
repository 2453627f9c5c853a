package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		version string
		older   bool
	}{{"3.51.2", true}, {"3.51.3", false}, {"3.53.4", false}, {"3.9.9", true}, {"4.0.0", false}, {"3.51", true}, {"", true}} {
		if older(c.version, minimum) != c.older {
			t.Errorf("%q older than %s: %v", c.version, minimum, !c.older)
		}
	}
}

func TestNetworkFilesystemsHaveNames(t *testing.T) {
	for kind, want := range map[uint32]string{0x6969: "NFS", 0xfe534d42: "SMB", 0x01021997: "9P", 0xef53: "", 0x01021994: "", 0x58465342: ""} {
		if got := networkName(kind); got != want {
			t.Errorf("%#x is %q, not %q", kind, want, got)
		}
	}
}

func TestOtherSchemasAreRefused(t *testing.T) {
	for what, sql := range map[string]string{
		"a newer one": "PRAGMA user_version = 99", "another program's": "PRAGMA application_id = 7", "an unmarked one": "PRAGMA application_id = 0",
	} {
		dir := t.TempDir()
		d, err := Open(t.Context(), dir, Options{Ballast: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.writer.script(sql), d.Close()); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir, Options{Ballast: -1}); fault.CodeOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := OpenReadOnly(dir); fault.CodeOf(err) != fault.Conflict {
			t.Errorf("%s, only to look: %v", what, err)
		}
		if after, err := os.ReadFile(filepath.Join(dir, fileName)); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was changed, %v", what, err)
		}
	}
}

// Who only looks brings the folder of an older version up to date, unless that one still has it.
func TestOlderFolderIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	texts, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(filepath.Join(dir, fileName), "rwc", writerPragmas)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(migrateWith(c, texts[:1]), c.close()); err != nil {
		t.Fatal(err)
	}
	held, err := acquire(filepath.Join(dir, lockName), "orrery of before")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = OpenReadOnly(dir); fault.CodeOf(err) != fault.Locked || !strings.Contains(err.Error(), "schema version 1 and needs") {
		t.Errorf("while another has it: %v", err)
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	d, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// A step of the schema that fails leaves the store as it was.
func TestAFailedMigrationChangesNothing(t *testing.T) {
	c, err := connect(filepath.Join(t.TempDir(), fileName), "rwc", writerPragmas)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := migrateWith(c, []string{"CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER) STRICT; NONSENSE"}); err == nil {
		t.Fatal("nonsense was accepted")
	}
	var version, tables int64
	if _, err := c.one(`SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_schema`, func(v values) {
		version, tables = v.number(0), v.number(1)
	}); err != nil || version != 1 || tables != 1 {
		t.Fatalf("version %d with %d tables, %v", version, tables, err)
	}
	if err := migrateWith(c, []string{"never again", "CREATE TABLE b (x INTEGER) STRICT"}); err != nil {
		t.Fatal(err)
	}
}

// With the disk full a change fails and is undone, the ballast goes, and then there is room for what frees space.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(t.Context(), dir, Options{Ballast: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info, err := os.Stat(d.ballast.path); err != nil || info.Size() != 1<<20 {
		t.Fatalf("the ballast: %v, %v", info, err)
	}
	if err := d.writer.script("PRAGMA max_page_count = 100"); err != nil { // the file cannot grow, as on a full disk
		t.Fatal(err)
	}
	put := func(kind string) error {
		return d.Update(t.Context(), func(tx kernel.Tx) error {
			return tx.PutDocument("acme", "run_1", kind, bytes.Repeat([]byte("x"), 100_000))
		})
	}
	var full error
	for i := 0; full == nil && i < 10; i++ {
		full = put(fmt.Sprint("document ", i))
	}
	var f *fault.Error
	if !errors.As(full, &f) || f.Code != fault.Exhausted || !strings.Contains(f.Hint, "free some space") {
		t.Fatalf("with the disk full: %v", full)
	}
	if _, err := os.Stat(d.ballast.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ballast is still there: %v", err)
	}
	if err := d.writer.script("PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	if err := put("after"); err != nil {
		t.Errorf("with space again: %v", err)
	}
	for !d.tidy() { // until the keeper has done with the writer
		runtime.Gosched()
	}
	if info, err := os.Stat(d.ballast.path); err != nil || info.Size() != 1<<20 {
		t.Errorf("the ballast did not come back: %v, %v", info, err)
	}
}

func TestBallastIsWrittenWhereItCannotBeAllocated(t *testing.T) {
	b := &ballast{path: filepath.Join(t.TempDir(), "ballast"), size: 300_001}
	f, err := os.Create(b.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(b.path); err != nil || len(data) != 300_001 || bytes.ContainsRune(data, 0) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// The log does not grow without end while there is work, and goes into the file when there is none.
func TestTheLogIsFolded(t *testing.T) {
	d, err := Open(t.Context(), t.TempDir(), Options{Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range 3 {
		if err := d.Update(t.Context(), func(tx kernel.Tx) error {
			for j := range 100 {
				if err := tx.PutDocument("acme", work.RunID(fmt.Sprint("run_", i, "_", j)), "request", make([]byte, 40_000)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	d.fold(longLog)
	logged, folded := d.logLength()
	d.mu.Unlock()
	if logged-folded > longLog {
		t.Errorf("%d pages in the log, %d of them in the file", logged, folded)
	}
	if err := d.Update(t.Context(), func(tx kernel.Tx) error {
		return tx.PutDocument("acme", "run_1", "request", make([]byte, 400_000))
	}); err != nil {
		t.Fatal(err)
	}
	for !d.tidy() { // until the keeper has done with the writer
		runtime.Gosched()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if logged, folded := d.logLength(); logged != folded {
		t.Errorf("after a quiet moment %d pages in the log, %d of them in the file", logged, folded)
	}
}

// Every query of the hot path finds its rows through an index: a table that is read as a whole would make work dearer as the store grows.
func TestNoStatementReadsAWholeTable(t *testing.T) {
	d, err := Open(t.Context(), t.TempDir(), Options{Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Update(t.Context(), exercise); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for sql, s := range maps.Clone(d.writer.statements) {
		if !strings.Contains(sql, "WHERE") {
			continue
		}
		checked++
		args := make([]any, len(s.args))
		if err := d.writer.each("EXPLAIN QUERY PLAN "+sql, func(v values) error {
			if detail := v.text(3); strings.HasPrefix(detail, "SCAN ") && !strings.Contains(sql, "local = 1") && !strings.Contains(detail, "CONSTANT ROW") {
				t.Errorf("%s\n%s", detail, sql)
			}
			return nil
		}, args...); err != nil {
			t.Error(err)
		}
	}
	if checked < 20 {
		t.Errorf("only %d statements were looked at", checked)
	}
}
