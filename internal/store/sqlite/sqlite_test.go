package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/store/storetest"
)

// folders remembers where a test's drivers are, so that they can be opened again.
type folders map[kernel.Driver]string

func (f folders) open(t testing.TB) kernel.Driver { return f.at(t, memoryFolder(t)) }

// memoryFolder is a folder in memory, where there is one: the suites commit thousands of times, and what a disk does to a commit is
// not what they are about.
func memoryFolder(t testing.TB) string {
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "orrery-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (f folders) at(t testing.TB, dir string) kernel.Driver {
	d, err := sqlite.Open(t.Context(), dir, sqlite.Options{Ballast: -1, Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	f[d] = dir
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func (f folders) reopen(t testing.TB, d kernel.Driver) kernel.Driver {
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return f.at(t, f[d])
}

func TestDriver(t *testing.T) {
	f := folders{}
	storetest.RunDriver(t, f.open, f.reopen)
}

func TestStore(t *testing.T) {
	f := folders{}
	storetest.Run(t, storetest.Harness{
		Open: f.open,
		Crash: func(t testing.TB, d kernel.Driver) kernel.Driver {
			dir := memoryFolder(t)
			copied := errors.New("the copy is made")
			// Within a transaction nobody else writes, and what it has written itself must not show.
			if err := d.Update(t.Context(), func(tx kernel.Tx) error {
				if err := tx.PutSession(store.Session{ID: "never"}); err != nil {
					return err
				}
				for _, name := range []string{"orrery.db", "orrery.db-wal"} {
					data, err := os.ReadFile(filepath.Join(f[d], name))
					if err == nil {
						err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
					}
					if err != nil {
						return err
					}
				}
				return copied
			}); !errors.Is(err, copied) {
				t.Fatal(err)
			}
			return f.at(t, dir)
		},
		Raise: func(t testing.TB, d kernel.Driver) {
			if err := d.(*sqlite.Driver).RaiseIncarnation(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	})
}
