//go:build unix

package sqlite

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
)

const lockName = "lock"

// lock is a file that the kernel unlocks when its process ends, in whatever way. Its text is for people: only the lock counts.
type lock struct{ f *os.File }

type holder struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Since   string `json:"since"`
}

// acquire locks the folder. Error: fault.Locked with who has it.
func acquire(path, command string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the data folder cannot be locked")
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for patience := dying; errors.Is(err, unix.EWOULDBLOCK) && patience > 0 && orphaned(f); patience -= lookAgain {
		time.Sleep(lookAgain)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, lockedBy(f)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Invalid, err, "the data folder cannot be locked"), f.Close())
	}
	if command == "" {
		command = strings.Join(os.Args, " ")
	}
	text, err := json.Marshal(holder{os.Getpid(), command, time.Now().UTC().Format(time.RFC3339)})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) { // on a full disk the lock holds as well, nobody can read whose it is
		return nil, errors.Join(fault.New(fault.Invalid, "the data folder's lock cannot be written: %w", err), f.Close())
	}
	return &lock{f}, nil
}

// A process that was killed while it started a step leaves a child for a moment that has the lock's file open and dies as well.
const (
	dying     = 5 * time.Second // on a machine with much else to do
	lookAgain = 10 * time.Millisecond
)

// orphaned reports whether the process that took the lock is no more.
func orphaned(f *os.File) bool {
	h, ok := readHolder(f)
	return ok && errors.Is(unix.Kill(h.PID, 0), unix.ESRCH)
}

// readHolder returns who took the lock, as far as that could be written down.
func readHolder(f *os.File) (h holder, ok bool) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<10))
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	return h, err == nil && h.PID > 0
}

func lockedBy(f *os.File) error {
	h, ok := readHolder(f)
	if !ok {
		return fault.New(fault.Locked, "another process has %s open", f.Name()).
			WithHint("find it with: fuser %s", f.Name())
	}
	return fault.New(fault.Locked, "process %d has the data folder open since %s: %s", h.PID, h.Since, h.Command).
		WithHint("wait for it; orrery runs cancel RUN ends a run that it works on (process %d)", h.PID)
}

func (l *lock) release() error {
	// The text goes first: a file that stays with a name of the past would only mislead.
	return errors.Join(l.f.Truncate(0), l.f.Close())
}
