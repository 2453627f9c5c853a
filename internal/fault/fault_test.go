package fault

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// What the machine has run out of is nobody's mistake, wherever it is noticed, and works later.
func TestShortage(t *testing.T) {
	raw := &fs.PathError{Op: "open", Path: "keyring.json", Err: syscall.EMFILE}
	for what, c := range map[string]struct {
		err     error
		code    Code
		passing bool
	}{
		"nothing":                       {nil, "", false},
		"too many files":                {raw, Exhausted, true},
		"too many files, as bad input":  {Wrap(Invalid, raw, "the keyring"), Exhausted, true},
		"too many files, classified":    {New(Denied, "%w", raw), Denied, false},
		"a full disk below another one": {errors.Join(errors.New("write"), syscall.ENOSPC), Exhausted, true},
		"no such file":                  {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, Internal, false},
		"a server that is away":         {New(Unavailable, "away"), Unavailable, true},
	} {
		if code := CodeOf(c.err); code != c.code || Passing(c.err) != c.passing {
			t.Errorf("%s: %s, passes %t", what, code, Passing(c.err))
		}
	}
}
