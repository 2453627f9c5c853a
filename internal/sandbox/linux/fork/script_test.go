package fork

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// bytesOf is an argument that points to the bytes of a text, and their number.
func bytesOf(s *Script, text string) (address, size uintptr) {
	b := []byte(text)
	return s.Pointer(unsafe.Pointer(&b[0])), uintptr(len(b))
}

func reap(t *testing.T, pid int) syscall.WaitStatus {
	t.Helper()
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			if err != nil {
				t.Error(err)
			}
			return status
		}
	}
}

// The calls are made in their order, with their arguments, and the last of them ends the child.
func TestRun(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	s := &Script{}
	for _, word := range []string{"one ", "two ", "three"} {
		address, size := bytesOf(s, word)
		s.Add("write", syscall.SYS_WRITE, write.Fd(), address, size)
	}
	s.Expect(syscall.EBADF, "close", syscall.SYS_CLOSE, 1<<20)
	s.Add("exit", syscall.SYS_EXIT_GROUP, 7)
	pid, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	said, err := io.ReadAll(read)
	if status := reap(t, pid); err != nil || string(said) != "one two three" || status.ExitStatus() != 7 {
		t.Errorf("%q, %v, wait status %#x", said, err, uint32(status))
	}
}

// What does not end as wanted ends the child, and is named.
func TestFailure(t *testing.T) {
	for name, c := range map[string]struct {
		add  func(*Script)
		want Error
		text string
	}{
		"an error":              {func(s *Script) { s.Add("close", syscall.SYS_CLOSE, 1<<20) }, Error{"close", syscall.EBADF}, "close: bad file descriptor"},
		"another error":         {func(s *Script) { s.Expect(syscall.EPERM, "close", syscall.SYS_CLOSE, 1<<20) }, Error{"close", syscall.EBADF}, "close: bad file descriptor"},
		"no error":              {func(s *Script) { s.Expect(syscall.EPERM, "pid", syscall.SYS_GETPID) }, Error{"pid", 0}, "pid: was not refused"},
		"a program not there":   {func(s *Script) { exec(t, s, "/nowhere") }, Error{"exec", syscall.ENOENT}, "exec: no such file or directory"},
		"flags nobody may have": {nil, Error{"clone", syscall.EINVAL}, "clone: invalid argument"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Script{}
			s.Add("session", syscall.SYS_SETSID)
			var err error
			if c.add != nil {
				c.add(s)
				s.Add("exit", syscall.SYS_EXIT_GROUP, 0)
				_, err = s.Run()
			} else {
				_, err = s.Start(syscall.CLONE_THREAD) // without shared handlers
			}
			var failed *Error
			if !errors.As(err, &failed) || *failed != c.want || failed.Error() != c.text {
				t.Errorf("%v", err)
			}
			if errors.Is(err, c.want.Errno) != (c.want.Errno != 0) {
				t.Errorf("%v is %v: %t", err, c.want.Errno, c.want.Errno == 0)
			}
		})
	}
}

func exec(t *testing.T, s *Script, path string, args ...string) {
	t.Helper()
	program, err := s.Text(path)
	if err != nil {
		t.Fatal(err)
	}
	argv, err := s.Vector(append([]string{path}, args...))
	if err != nil {
		t.Fatal(err)
	}
	env, err := s.Vector(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Add("exec", syscall.SYS_EXECVE, program, argv, env)
}

// TestStart has many children wait and read from the memory of a parent that works, collects its garbage and moves its stacks meanwhile.
func TestStart(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range 64 {
		all.Go(func() {
			go0, go1, err := os.Pipe()
			if err != nil {
				t.Error(err)
				return
			}
			defer go0.Close()
			read, write, err := os.Pipe()
			if err != nil {
				t.Error(err)
				return
			}
			defer read.Close()
			want := bytes.Repeat([]byte{byte('A' + i)}, 512)
			s := &Script{}
			s.Add("wait", syscall.SYS_READ, go0.Fd(), s.Pointer(unsafe.Pointer(new(byte))), 1)
			address, size := bytesOf(s, string(want))
			s.Add("write", syscall.SYS_WRITE, write.Fd(), address, size)
			exec(t, s, "/bin/sh", "-c", "exit 9")
			pid, err := s.Start(0)
			if err != nil {
				t.Error(err)
				return
			}
			write.Close()
			if deep(2000) != 2000 {
				t.Error("the parent forgot how deep it was")
			}
			runtime.GC()
			if _, err := go1.Write([]byte{1}); err != nil {
				t.Error(err)
			}
			go1.Close()
			said, err := io.ReadAll(read)
			status := reap(t, pid)
			if err != nil || !bytes.Equal(said, want) || status.ExitStatus() != 9 || s.Failure() != nil {
				t.Errorf("%q, %v, %v, wait status %#x", said, err, s.Failure(), uint32(status))
			}
		})
	}
}

// deep makes the stack grow, and with it move.
func deep(n int) int {
	var room [64]byte
	if n == 0 {
		return int(room[0])
	}
	return 1 + deep(n-1) + int(room[n%64])
}

// A child has every signal blocked until its script lets them in.
func TestUnblock(t *testing.T) {
	for _, unblocked := range []bool{false, true} {
		s := &Script{}
		var action [4]uintptr
		s.Add("handler", syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGTERM), s.Pointer(unsafe.Pointer(&action)), 0, 8)
		if unblocked {
			s.Unblock()
		}
		exec(t, s, "/bin/sh", "-c", "kill -TERM $$; exit 4")
		pid, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		if status := reap(t, pid); status.Signaled() != unblocked || !unblocked && status.ExitStatus() != 4 {
			t.Errorf("unblocked %t: wait status %#x", unblocked, uint32(status))
		}
	}
}
