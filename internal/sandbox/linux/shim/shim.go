package shim

import (
	"errors"
	"os"
	"path"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox/linux/fork"
)

// Name is the first argument of whatever program is the shim. It is no command: nobody types it, and ps shows what it is.
const Name = "orrery-sandbox-shim"

// hello makes a shim end at once: a probe that only wants to know whether it can be started this way.
const Hello = "hello"

// Messages on the control socket, one packet each. The first byte says which.
const (
	MsgListener  = 'L' // shim: the proxy's listener is attached
	MsgReady     = 'R' // shim: it runs, in memory of its own, so that limits can be put on it
	MsgStarted   = 'S' // shim: the step's program runs
	MsgFailed    = 'F' // shim: stage, error number, text
	MsgEnded     = 'X' // shim: wait status, user and system microseconds, peak kilobytes
	MsgKernel    = 'V' // shim on a second kernel: its release and version
	MsgExceeded  = 'O' // shim on a second kernel: the tree took more memory than it may
	MsgGo        = 'G' // worker: limits are in place, start
	MsgTerminate = 'T' // worker: ask the tree to end
	MsgKill      = 'K' // worker: end it
)

// exitSandbox is the shim's exit code when it failed itself.
const ExitSandbox = 125

// begin builds the sandbox around itself, starts the step in it, reaps the tree and returns the exit code of the shim.
// In a process namespace it is process 1: when it ends, or the worker that holds the other end of its control socket dies, the
// kernel kills everything in the namespace.
func begin(args []string) int {
	if len(args) > 1 && args[1] == Hello {
		return 0
	}
	s := &shim{}
	if err := s.run(); err != nil {
		s.report(err)
		return ExitSandbox
	}
	return 0
}

type shim struct {
	order *Order
	step  int // process id of the step's program, or of the second kernel
}

// stageError says which part of the construction failed.
type stageError struct {
	stage string
	err   error
}

func (e *stageError) Error() string { return e.stage + ": " + e.err.Error() }

// callError says what a call was about. Package fmt would be a quarter of the shim.
type callError struct {
	what string
	err  error
}

// Error is "what: why".
func (e *callError) Error() string { return e.what + ": " + e.err.Error() }

// Unwrap gives the error number.
func (e *callError) Unwrap() error { return e.err }

func at(stage string, err error) error {
	if err == nil {
		return nil
	}
	return &stageError{stage: stage, err: err}
}

func (s *shim) run() error {
	var err error
	if s.order, err = readOrder(); err != nil {
		return at("order", err)
	}
	s.send([]byte{MsgReady})
	unix.Umask(0o022)
	if err := s.surround(); err != nil {
		return err
	}
	if err := unix.Chdir(s.order.Dir); err != nil {
		return at("work folder", err)
	}
	list, err := s.script()
	if err != nil {
		return err
	}
	// From here on the step can look at this process; it must not be able to read or trace it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return at("dumpable", err)
	}
	dispose(0) // process 1 without handlers is deaf to every signal from inside its namespace
	if err := s.awaitGo(); err != nil {
		return err
	}
	if s.step, err = list.Run(); err != nil {
		return err
	}
	if !s.alone() {
		dispose(1) // SIG_IGN, after the fork so that the step starts with the defaults
	}
	s.send([]byte{MsgStarted})
	return s.follow()
}

// surround builds the walls that the whole tree is in.
func (s *shim) surround() error {
	switch s.order.Tier {
	case 3:
		return s.settle()
	case 2:
		if err := s.privateRoot(); err != nil {
			return err
		}
		return at("network", s.network())
	default:
		return at("subreaper", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	}
}

// alone reports whether this is process 1 of a process table of its own, so that its end is the end of the tree.
func (s *shim) alone() bool { return s.order.Tier >= 2 }

// dispose gives every signal the same disposition, behind the runtime's back: 0 is the default, 1 is to ignore.
func dispose(handler uintptr) {
	action := [4]uintptr{handler}
	for sig := uintptr(1); sig <= 64; sig++ {
		if handler != 0 && sig == uintptr(unix.SIGCHLD) {
			continue // ignoring it would lose the children's exit codes
		}
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
}

func (s *shim) send(packet []byte) { _ = unix.Send(ControlFD, packet, unix.MSG_NOSIGNAL) }

func (s *shim) report(err error) {
	w := &writer{b: []byte{MsgFailed}}
	var stage *stageError
	var call *fork.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &stage):
		w.text(stage.stage)
	case errors.As(err, &call):
		w.text(call.Call)
		errno = call.Errno
	default:
		w.text("shim")
	}
	_ = errors.As(err, &errno)
	w.int(int(errno))
	w.text(err.Error())
	s.send(w.b)
}

func (s *shim) awaitGo() error {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(ControlFD, b[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 || b[0] != MsgGo {
			return at("control", errors.New("the worker went away before the start"))
		}
		return nil
	}
}

// follow reaps the tree and obeys the worker until the step's program has ended. It is one loop on one thread: a second thread
// costs more than all else a shim does while a step runs.
func (s *shim) follow() error {
	ended, err := unix.PidfdOpen(s.step, 0)
	if err != nil {
		return at("pidfd", err)
	}
	for {
		events := []unix.PollFd{{Fd: ControlFD, Events: unix.POLLIN}, {Fd: int32(ended), Events: unix.POLLIN}}
		if _, err := unix.Poll(events, s.pause()); err != nil && err != unix.EINTR {
			return at("poll", err)
		}
		if status, found := s.reap(); found {
			s.farewell(status)
			return nil
		}
		if events[0].Revents != 0 {
			s.obey()
		}
		s.weigh()
	}
}

// obey does what the worker says. When it closed the socket or died, the tree ends.
func (s *shim) obey() {
	var b [1]byte
	n, _, err := unix.Recvfrom(ControlFD, b[:], unix.MSG_DONTWAIT)
	switch {
	case err == unix.EINTR || err == unix.EAGAIN:
	case err == nil && n == 1 && b[0] == MsgTerminate:
		s.signalTree(unix.SIGTERM)
	case s.alone():
		syscall.Exit(128 + int(unix.SIGKILL))
	default:
		s.signalTree(unix.SIGKILL)
	}
}

func (s *shim) signalTree(sig unix.Signal) {
	if s.alone() {
		_ = unix.Kill(-1, sig)
		return
	}
	for _, pid := range descendants(os.Getpid()) {
		_ = unix.Kill(pid, sig)
	}
}

// reap collects every process that has ended and reports whether the step's program was among them.
func (s *shim) reap() (status unix.WaitStatus, found bool) {
	for {
		var one unix.WaitStatus
		pid, err := unix.Wait4(-1, &one, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return status, found
		}
		if pid == s.step {
			status, found = one, true
		}
	}
}

// farewell tells the worker how the step ended and what it took.
func (s *shim) farewell(status unix.WaitStatus) {
	if s.order.Kernel {
		s.report(at(StageKernel, kernelError(status)))
		return
	}
	if !s.alone() {
		s.clear()
	}
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_CHILDREN, &used)
	w := &writer{b: []byte{MsgEnded}}
	w.int(int(status))
	w.int(int(used.Utime.Nano() / 1000))
	w.int(int(used.Stime.Nano() / 1000))
	w.int(int(used.Maxrss))
	s.send(w.b)
}

// clear kills what the step left behind when no process namespace does it: every orphan was handed to this subreaper.
func (s *shim) clear() {
	for {
		for _, pid := range descendants(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// lookPath finds the program as a shell would, seen from inside: a name without a slash is searched in PATH.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range env {
		list, found := strings.CutPrefix(entry, "PATH=")
		if !found {
			continue
		}
		if list == "" {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			file := path.Join(dir, name)
			var st unix.Stat_t
			if err := unix.Stat(file, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", unix.ENOENT
}
