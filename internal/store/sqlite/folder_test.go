package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/work"
)

func mustOpen(t testing.TB, dir string) *sqlite.Driver {
	t.Helper()
	return folders{}.at(t, dir).(*sqlite.Driver)
}

func mustPut(t testing.TB, d kernel.Driver, n int) {
	t.Helper()
	if err := d.Update(t.Context(), newLife(n).submit); err != nil {
		t.Fatal(err)
	}
}

func countRuns(t testing.TB, d kernel.Driver) int {
	t.Helper()
	n := 0
	if err := d.View(t.Context(), func(r kernel.Reader) error {
		runs, err := r.FindRuns("local", store.RunQuery{})
		n = len(runs)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSecondOpenerIsToldWhoHasTheFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := sqlite.Open(t.Context(), dir, sqlite.Options{Ballast: -1, Command: "orrery serve"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), dir, sqlite.Options{Ballast: -1})
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.Locked {
		t.Fatalf("the second opener: %v", err)
	}
	pid := fmt.Sprint(os.Getpid())
	if !strings.Contains(f.Message, pid) || !strings.Contains(f.Message, "orrery serve") || !strings.Contains(f.Hint, pid) {
		t.Errorf("it is told %q, %q", f.Message, f.Hint)
	}
	mustPut(t, first, 1) // and the first is not disturbed
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if n := countRuns(t, mustOpen(t, dir)); n != 1 {
		t.Errorf("%d runs after the folder changed hands", n)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if _, err := sqlite.OpenReadOnly(dir); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("an empty folder: %v", err)
	}
	writer := mustOpen(t, dir)
	mustPut(t, writer, 1)
	looker, err := sqlite.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, writer, 2)
	if n := countRuns(t, looker); n != 2 {
		t.Errorf("who looks sees %d runs of 2", n)
	}
	if err := looker.Update(t.Context(), func(kernel.Tx) error { return nil }); fault.CodeOf(err) != fault.Locked {
		t.Errorf("Update: %v", err)
	}
	if looker.Exclusive() || looker.Incarnation() != 1 {
		t.Errorf("exclusive %v, incarnation %d", looker.Exclusive(), looker.Incarnation())
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if n := countRuns(t, looker); n != 2 {
		t.Errorf("after the writer is gone: %d runs", n)
	}
	if err := looker.Close(); err != nil {
		t.Fatal(err)
	}
	if looker, err = sqlite.OpenReadOnly(dir); err != nil { // with nobody writing
		t.Fatal(err)
	}
	if n := countRuns(t, looker); n != 2 {
		t.Errorf("with nobody writing: %d runs", n)
	}
	if err := looker.Close(); err != nil {
		t.Fatal(err)
	}
}

// A view stays as it was however much is committed meanwhile.
func TestViewIsASnapshot(t *testing.T) {
	d := mustOpen(t, t.TempDir())
	mustPut(t, d, 1)
	if err := d.View(t.Context(), func(r kernel.Reader) error {
		before, err := r.FindRuns("local", store.RunQuery{})
		if err != nil {
			return err
		}
		mustPut(t, d, 2)
		after, err := r.FindRuns("local", store.RunQuery{})
		if len(before) != 1 || len(after) != 1 {
			t.Errorf("%d runs before another commit, %d after", len(before), len(after))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := countRuns(t, d); n != 2 {
		t.Errorf("a new view sees %d runs", n)
	}
}

func TestBackupAndRestore(t *testing.T) {
	d := mustOpen(t, t.TempDir())
	mustPut(t, d, 1)
	backup := filepath.Join(t.TempDir(), "file:odd?name.db")
	if err := d.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	if err := d.Backup(t.Context(), backup); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("over a file that is there: %v", err)
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	mustPut(t, d, 2)
	dir := t.TempDir()
	restored, err := sqlite.Restore(t.Context(), backup, dir, sqlite.Options{Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	if n := countRuns(t, restored); n != 1 || restored.Incarnation() != 2 {
		t.Errorf("restored: %d runs, incarnation %d", n, restored.Incarnation())
	}
	if err := restored.Close(); err != nil {
		t.Fatal(err)
	}
	if again := mustOpen(t, dir); again.Incarnation() != 2 {
		t.Errorf("opened again: incarnation %d", again.Incarnation())
	}
	if _, err := sqlite.Restore(t.Context(), backup, dir, sqlite.Options{Ballast: -1}); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("over a store that is there: %v", err)
	}
}

func TestCheckFindsDamage(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	for n := range 200 {
		mustPut(t, d, n)
	}
	if wrong, err := d.Check(t.Context()); err != nil || len(wrong) != 0 {
		t.Errorf("a healthy store: %v, %v", wrong, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "orrery.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4 * 4096; i < len(data)-4096; i += 3 * 4096 { // some pages, but not the first ones
		copy(data[i:i+64], strings.Repeat("damage! ", 8))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	looker, err := sqlite.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer looker.Close()
	if wrong, err := looker.Check(t.Context()); err == nil && len(wrong) == 0 {
		t.Error("overwritten pages were not found")
	}
}

func TestOnlyTheOwnerCanLook(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustPut(t, mustOpen(t, dir), 1)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestClosed(t *testing.T) {
	d := mustOpen(t, t.TempDir())
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(t.Context(), func(kernel.Tx) error { return nil }); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("Update: %v", err)
	}
	if err := d.View(t.Context(), func(kernel.Reader) error { return nil }); fault.CodeOf(err) != fault.Unavailable {
		t.Errorf("View: %v", err)
	}
}

// More views at once than there are connections wait for each other, or for as long as their caller does.
func TestViewsWaitForAConnection(t *testing.T) {
	d := mustOpen(t, t.TempDir()) // has one
	if err := d.View(t.Context(), func(kernel.Reader) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.View(ctx, func(kernel.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("a second view: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := countRuns(t, d); n != 0 {
		t.Errorf("%d runs", n)
	}
}

// What a name holds is data, never a part of a statement or of the file's address.
func TestAwkwardFolderAndTenant(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c%41#d'e")
	d := mustOpen(t, dir)
	l := newLife(1)
	l.run.Tenant, l.step.Tenant = "o'neill\"; DROP TABLE runs; --", "o'neill\"; DROP TABLE runs; --"
	if err := d.Update(t.Context(), l.submit); err != nil {
		t.Fatal(err)
	}
	mustPut(t, d, 2)
	if _, err := os.Stat(filepath.Join(dir, "orrery.db")); err != nil {
		t.Error(err)
	}
	if err := d.View(t.Context(), func(r kernel.Reader) error {
		run, err := r.Run(l.run.Tenant, l.run.ID)
		if err == nil && (run == nil || run.Tenant != work.Tenant("o'neill\"; DROP TABLE runs; --")) {
			t.Errorf("got %+v", run)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
