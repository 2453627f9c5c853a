package linux

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
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(pipe[0])
	syscall.ForkLock.Lock()
	pid, errno := forkScript(s.calls, uintptr(pipe[1]))
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(s)
	unix.Close(pipe[1])
	if errno != 0 {
		return 0, &scriptError{name: "fork", errno: errno}
	}
	var report [2]uintptr
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&report)), unsafe.Sizeof(report))
	for {
		n, err := unix.Read(pipe[0], buf)
		if err == unix.EINTR {
			continue
		}
		if n == len(buf) {
			_, _ = unix.Wait4(int(pid), nil, 0, nil)
			return 0, &scriptError{name: s.names[report[0]], errno: syscall.Errno(report[1])}
		}
		return int(pid), nil
	}
}

// forkScript must not split its stack, allocate or call anything but raw system calls in the child.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkScript(calls []call, pipe uintptr) (uintptr, syscall.Errno) {
	var report [2]uintptr
	beforeFork()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	for i := range calls {
		c := &calls[i]
		_, _, errno = syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != c.want {
			report[0], report[1] = uintptr(i), uintptr(errno)
			syscall.RawSyscall(unix.SYS_WRITE, pipe, uintptr(unsafe.Pointer(&report)), unsafe.Sizeof(report))
			break
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
