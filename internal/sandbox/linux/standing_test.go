package linux

import (
	"testing"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox/linux/shim"
)

func TestWhatRootIs(t *testing.T) {
	const first = 2_000_000_000
	for _, c := range []struct {
		name, users, groups string
		strangers, refused  bool
	}{
		{"the machine", "0 0 4294967295\n", "0 0 4294967295\n", true, false},
		{"unshare -r of a user", "         0       1000          1\n", "0 1000 1\n", false, false},
		{"unshare -r of root", "0 0 1\n", "0 0 1\n", false, true},
		{"a container without a daemon", "0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n", false, false},
		{"one with our range", "0 1000 1\n2000000000 100000 4096\n", "0 1000 1\n2000000000 100000 4096\n", true, false},
		{"a range that is too short", "0 1000 1\n2000000000 100000 4095\n", "0 1000 1\n2000000000 100000 4096\n", false, false},
		{"no groups", "0 0 4294967295\n", "0 0 1\n", false, true},
	} {
		users, err := parseMap(c.users)
		if err != nil {
			t.Fatal(err)
		}
		groups, err := parseMap(c.groups)
		if err != nil {
			t.Fatal(err)
		}
		if strangers, err := whatRootIs(users, groups, first); strangers != c.strangers || (err != nil) != c.refused {
			t.Errorf("%s: %t, %v", c.name, strangers, err)
		}
	}
	for _, text := range []string{"0 0\n", "0 0 1 1\n", "a 0 1\n", "-1 0 1\n", "0 0 99999999999\n"} {
		if m, err := parseMap(text); err == nil {
			t.Errorf("%q is %v", text, m)
		}
	}
}

func FuzzMap(f *testing.F) {
	f.Add("0 1000 1\n1 100000 65536\n", 5)
	f.Fuzz(func(t *testing.T, text string, id int) {
		m, err := parseMap(text)
		if err != nil {
			return
		}
		if _, ok := m.outside(id); ok != m.holds(id, 1) {
			t.Errorf("%q: %d is mapped: %t", text, id, ok)
		}
	})
}

// A shim that fails before it has read what it was told has said why all the same.
func TestLastWords(t *testing.T) {
	control, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if _, err := control.Write([]byte{shim.MsgGo}); err != nil {
		t.Fatal(err)
	}
	word := append([]byte{shim.MsgFailed, 2 * byte(len(shim.StageCommand))}, shim.StageCommand...) // a length is a varint
	word = append(word, 2*byte(unix.ENOENT), 2, 'x')
	if err := unix.Send(int(theirs.Fd()), word, 0); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	told := (&execution{}).listen(control, nil)
	if told.failure == nil || told.failure.stage != shim.StageCommand || told.failure.errno != unix.ENOENT {
		t.Errorf("heard %+v", told.failure)
	}
}
