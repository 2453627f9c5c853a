package testservice

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
)

// A program that is missing is an error that says what to install.
func TestMissing(t *testing.T) {
	_, err := find("no-such-program", "some-package", "/usr/lib/*/bin")
	var e *fault.Error
	if !errors.As(err, &e) || e.Code != fault.NotFound || e.Hint != "apt-get install some-package" {
		t.Errorf("%v", err)
	}
}

// A server that ends at once is not waited for, and says why.
func TestEndsAtOnce(t *testing.T) {
	who, err := account()
	if err != nil {
		t.Fatal(err)
	}
	_, err = start(command(who, "/", "/bin/sh", "-c", "echo no room here >&2; exit 3"), answers("127.0.0.1:1"))
	if err == nil || !strings.Contains(err.Error(), "no room here") {
		t.Errorf("%v", err)
	}
}

// The life of a server: it answers, is killed with all its processes, comes back with what it had, and leaves nothing behind.
func TestPostgres(t *testing.T) {
	s, err := StartPostgres(PostgresOptions{Settings: map[string]string{"application_name": "it's quoted"}})
	if err != nil {
		t.Fatal(err)
	}
	family := children(s.PID())
	if len(family) == 0 {
		t.Error("the server has no processes")
	}
	s.Kill()
	for _, pid := range family {
		if running(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if err := s.ping(); err == nil {
		t.Error("a killed server answers")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind", s.dir)
	}
}

// A port that is held is for one server: nobody who asks for any port gets it, whether the server is there or not.
func TestHeldPort(t *testing.T) {
	p := PortFor(t)
	others := map[int]bool{}
	for range 3 {
		mine, err := net.Listen("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		if err := mine.Close(); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			other, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			others[other.Addr().(*net.TCPAddr).Port] = true
		}
	}
	if others[p.Number] || len(others) != 600 {
		t.Errorf("somebody else got the port %d: %d ports", p.Number, len(others))
	}
}

// The programs from the module proxy can be built. It is run before all other tests, which have no time for that.
func TestPrebuild(t *testing.T) {
	if err := Prebuild(); err != nil {
		t.Fatal(err)
	}
}
