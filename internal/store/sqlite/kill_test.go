package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
)

// childFolder tells a process that is started from this test binary to be the writer that gets killed.
const childFolder = "ORRERY_TEST_KILL_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childFolder); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled commits batches of runs and says on its output how far it has come, each time when a commit has been answered.
func writeUntilKilled(dir string) error {
	d, err := sqlite.Open(context.Background(), dir, sqlite.Options{Ballast: -1})
	if err != nil {
		return err
	}
	n := 0
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		runs, err := r.FindRuns("local", store.RunQuery{})
		n = len(runs)
		return err
	}); err != nil {
		return err
	}
	for {
		if err := d.Update(context.Background(), func(tx kernel.Tx) error {
			for range 1 + n%7 {
				if err := newLife(n).submit(tx); err != nil {
					return err
				}
				n++
			}
			return nil
		}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill kills a writer with SIGKILL in the middle of its work, again and again over the same folder. What it was told is stored is
// stored, what it was not told is stored as a whole transaction or not at all, and the folder is free at once.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	before := 0
	for round := range 8 {
		child := exec.Command(self)
		child.Env = append(os.Environ(), childFolder+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		answered := 0
		lines := bufio.NewScanner(out)
		for killed := false; lines.Scan(); { // what it had said before it was killed is still to be read
			if answered, err = strconv.Atoi(strings.TrimSpace(lines.Text())); err != nil {
				t.Fatal(err)
			}
			if !killed && answered >= before+20+round*13 {
				killed = true
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		before = checkAfterKill(t, dir, answered)
	}
}

// checkAfterKill returns how many runs are there.
func checkAfterKill(t *testing.T, dir string, answered int) int {
	d := mustOpen(t, dir)
	defer d.Close()
	n := countRuns(t, d)
	if n < answered {
		t.Errorf("%d runs were answered for, %d are there", answered, n)
	}
	whole := 0
	for whole < n {
		whole += 1 + whole%7
	}
	if whole != n {
		t.Errorf("%d runs are there: a part of a transaction", n)
	}
	if err := d.View(t.Context(), func(r kernel.Reader) error {
		for i := range n {
			l := newLife(i)
			step, err := r.Step("local", l.run.ID, "build")
			if err != nil {
				return err
			}
			events, err := r.Events("local", l.run.ID, 1, 0)
			if err != nil {
				return err
			}
			if step == nil || len(events) != 3 {
				t.Errorf("run %d has %d events and step %v", i, len(events), step)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if wrong, err := d.Check(t.Context()); err != nil || len(wrong) > 0 {
		t.Errorf("damaged: %v, %v", wrong, err)
	}
	return n
}
