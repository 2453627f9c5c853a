// Package fork lets a child process do a prepared list of system calls between its birth and its program.
//
// The child of a Go process may do nothing else: the other threads, and with them the scheduler and the collector, do not exist in it. So it
// has no logic of its own. It shares the parent's memory until it executes another program, which spares copying it: a worker with hundreds
// of megabytes pays as much for a step as a small one.
package fork

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Package syscall uses these two around a fork; the runtime keeps them linkable for others who need a fork of their own (gVisor depends on
// them). Between the two every signal is blocked, and the child keeps them blocked.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// perform is clone with the given flags. The child does the calls and ends; the parent goes on at once, and so what it hands over must be on
// the heap, which does not move.
func perform(flags uintptr, calls *call, count int, failure *failedCall) (pid, errno uintptr)

// call is one system call of the child. It must end with want: zero for success, or the refusal that is expected.
type call struct {
	number uintptr
	args   [6]uintptr
	want   syscall.Errno
}

// failedCall is written by the child: the number of the call that did not end as wanted, from 1.
type failedCall struct {
	number int
	errno  syscall.Errno
}

// Script is a list of calls, with a name per call for the report of a failure. Each is for one child.
type Script struct {
	calls  []call
	names  []string
	keep   []any // what the arguments point to
	failed *failedCall
}

// Add appends a call that must succeed. What an argument points to comes from Pointer, Text or Vector.
func (s *Script) Add(name string, number uintptr, args ...uintptr) {
	c := call{number: number}
	copy(c.args[:], args)
	s.calls = append(s.calls, c)
	s.names = append(s.names, name)
}

// Expect appends a call that must fail with e.
func (s *Script) Expect(e syscall.Errno, name string, number uintptr, args ...uintptr) {
	s.Add(name, number, args...)
	s.calls[len(s.calls)-1].want = e
}

// Unblock appends the call that lets signals in, which are all blocked in a child. The handlers of a Go program must not be in place any
// more where it stands: they would run in the child.
func (s *Script) Unblock() {
	s.Add("signal mask", syscall.SYS_RT_SIGPROCMASK, 2, s.Pointer(unsafe.Pointer(new(uint64))), 0, 8) // 2 is SIG_SETMASK
}

// Keep holds what arguments point to for as long as the script is there.
func (s *Script) Keep(v any) { s.keep = append(s.keep, v) }

// Pointer is an argument that points to p.
func (s *Script) Pointer(p unsafe.Pointer) uintptr {
	s.Keep(p)
	return uintptr(p)
}

// Text is an argument that points to a string. A zero byte within is an error.
func (s *Script) Text(v string) (uintptr, error) {
	p, err := syscall.BytePtrFromString(v)
	if err != nil {
		return 0, err
	}
	return s.Pointer(unsafe.Pointer(p)), nil
}

// Vector is an argument that points to a NULL-terminated array of strings, as execve takes it.
func (s *Script) Vector(list []string) (uintptr, error) {
	v, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return 0, err
	}
	return s.Pointer(unsafe.Pointer(&v[0])), nil
}

// Error says which call of the child failed. With no error number, the call succeeded although it had to be refused.
type Error struct {
	Call  string
	Errno syscall.Errno
}

// Error names the call and what the kernel said.
func (e *Error) Error() string {
	if e.Errno == 0 {
		return e.Call + ": was not refused"
	}
	return e.Call + ": " + e.Errno.Error()
}

// Unwrap gives the error number, which tells whether the machine has run out of something.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Run has a child do the script and returns its process id once that has executed its program or reached an exit. The thread waits.
func (s *Script) Run() (pid int, err error) {
	if pid, err = s.Start(syscall.CLONE_VFORK); err != nil {
		return 0, err
	}
	if err = s.Failure(); err != nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return 0, err
	}
	return pid, nil
}

// Start has a child do the script, with flags of clone beside those that every child gets, and returns its process id at once. The script
// belongs to the child from then on, and must be held until it has executed its program or has ended.
func (s *Script) Start(flags uintptr) (pid int, err error) {
	s.failed = &failedCall{}
	syscall.ForkLock.Lock()
	child, errno := s.birth(flags | syscall.CLONE_VM | uintptr(syscall.SIGCHLD))
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, &Error{Call: "clone", Errno: syscall.Errno(errno)}
	}
	return int(child), nil
}

// birth must not split its stack between the two calls into the runtime.
//
//go:noinline
//go:norace
//go:nosplit
func (s *Script) birth(flags uintptr) (child, errno uintptr) {
	beforeFork()
	child, errno = perform(flags, &s.calls[0], len(s.calls), s.failed)
	afterFork()
	return child, errno
}

// Failure says which call ended the child, or nothing if it did them all. It is known when the child has executed its program or has ended.
func (s *Script) Failure() error {
	if s.failed == nil || s.failed.number == 0 {
		return nil
	}
	return &Error{Call: s.names[s.failed.number-1], Errno: s.failed.errno}
}
