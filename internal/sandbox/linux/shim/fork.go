package shim

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A forked child of a Go process may only make raw system calls until it executes another program: the other threads,
// and with them the scheduler and the collector, do not exist in it. So the child is given a straight list of calls
// that was prepared before the fork; it has no logic of its own. The three functions below are what package syscall
// itself uses around a fork; the runtime keeps them linkable for this purpose (gVisor depends on them).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// vfork is clone with the given flags; it returns a second time in the child, on the same stack.
//
//go:noescape
func vfork(flags uintptr) (pid, errno uintptr)

// call is one system call of the child. It must end with want: nil for success, or, in a rehearsal, the refusal.
type call struct {
	number uintptr
	args   [6]uintptr
	want   syscall.Errno
}

// script is the list of calls of a child, with a name per call for the report of a failure.
type script struct {
	calls []call
	names []string
	keep  []any // what the arguments point to
}

func (s *script) add(name string, number uintptr, args ...uintptr) {
	c := call{number: number}
	copy(c.args[:], args)
	s.calls = append(s.calls, c)
	s.names = append(s.names, name)
}

// expect adds a call that must fail with e.
func (s *script) expect(e syscall.Errno, name string, number uintptr, args ...uintptr) {
	s.add(name, number, args...)
	s.calls[len(s.calls)-1].want = e
}

func (s *script) pointer(p unsafe.Pointer) uintptr {
	s.keep = append(s.keep, p)
	return uintptr(p)
}

func (s *script) text(v string) (uintptr, error) {
	p, err := syscall.BytePtrFromString(v)
	if err != nil {
		return 0, err
	}
	return s.pointer(unsafe.Pointer(p)), nil
}

// vector is a NULL-terminated array of strings, as execve takes it.
func (s *script) vector(list []string) (uintptr, error) {
	v, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return 0, err
	}
	return s.pointer(unsafe.Pointer(&v[0])), nil
}

// scriptError says which call of the child failed. With no error number, the call succeeded although it had to be refused.
type scriptError struct {
	name  string
	errno syscall.Errno
}

func (e *scriptError) Error() string {
	if e.errno == 0 {
		return e.name + ": was not refused"
	}
	return e.name + ": " + e.errno.Error()
}

// run forks a child that performs the script and returns its process id once the last call, an execve or an exit, was reached.
func (s *script) run() (int, error) {
	var failure failedCall
	syscall.ForkLock.Lock()
	pid, errno := forkScript(s.calls, &failure)
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, &scriptError{name: "fork", errno: syscall.Errno(errno)}
	}
	if failure.number > 0 {
		_, _ = unix.Wait4(int(pid), nil, 0, nil)
		return 0, &scriptError{name: s.names[failure.number-1], errno: failure.errno}
	}
	return int(pid), nil
}

// failedCall is written by the child, into the parent's memory: the number of the call that did not end as wanted, from 1.
type failedCall struct {
	number int
	errno  syscall.Errno
}

// forkScript must not split its stack, allocate or call anything but raw system calls in the child. The child shares this
// process's memory, which saves copying it, and the parent stands still until the child executes or exits; so the child
// must not return from this frame, and the parent must leave it at once.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkScript(calls []call, failure *failedCall) (pid, errno uintptr) {
	beforeFork()
	pid, errno = vfork(unix.CLONE_VFORK | unix.CLONE_VM | uintptr(unix.SIGCHLD))
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	afterForkInChild()
	for i := range calls {
		c := &calls[i]
		_, _, e := syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if e != c.want {
			failure.number, failure.errno = i+1, e
			break
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
