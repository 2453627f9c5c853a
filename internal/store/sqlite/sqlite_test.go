package sqlite_test

import (
	"testing"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/sqlite"
	"orrery.example/orrery/internal/store/storetest"
)

// folders remembers where a test's drivers are, so that they can be opened again.
type folders map[kernel.Driver]string

func (f folders) open(t testing.TB) kernel.Driver { return f.at(t, t.TempDir()) }

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
