package shim

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox/linux/fork"
)

// StageKernel fails when the second kernel does not start, or ends before the step.
const StageKernel = "second kernel"

// PassedFD is the first of the descriptors that a second kernel is started with, for the shim on it: the step's three streams, the control
// socket and the order, which that shim finds at 0, 1, 2, ControlFD and OrderFD.
const PassedFD = 50

// passed is how many they are.
const passed = 5

// GuestRoot is where the root of a step on a second kernel lies, within the root of that kernel.
const GuestRoot = "/guest"

// kernelTmp is how much a second kernel may keep in its own temporary folder.
const kernelTmp = 64 << 20

// kernelLog is where a second kernel writes what it has to complain about.
const kernelLog = "/tmp/kernel.log"

// groups is where a second kernel has its own control groups.
const groups = "/sys/fs/cgroup/"

// kernel ends the script with the start of a second kernel. It loses none of its rights: they are those of its user namespace, and the
// walls that it puts up around itself need them.
func (s *shim) kernel(list *fork.Script) error {
	log, err := unix.Open(kernelLog, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return at(StageKernel, err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return at(StageKernel, err)
	}
	for _, l := range s.order.Limits {
		v := &unix.Rlimit{Cur: uint64(l.Value), Max: uint64(l.Value)}
		list.Add("rlimit "+strconv.Itoa(l.Resource), unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), list.Pointer(unsafe.Pointer(v)), 0)
	}
	list.Add("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	for i, fd := range [passed]int{0, 1, 2, GuestControlFD, GuestOrderFD} {
		list.Add("passed descriptors", unix.SYS_DUP3, uintptr(fd), uintptr(PassedFD+i), 0)
	}
	for fd, from := range []int{null, log, log} {
		list.Add("streams of the second kernel", unix.SYS_DUP3, uintptr(from), uintptr(fd), 0)
	}
	list.Add("close_range", unix.SYS_CLOSE_RANGE, ControlFD, PassedFD-1, unix.CLOSE_RANGE_CLOEXEC)
	list.Add("close_range", unix.SYS_CLOSE_RANGE, PassedFD+passed, uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	program, err := list.Text(s.order.Argv[0])
	if err != nil {
		return at(StageKernel, err)
	}
	argv, err := list.Vector(s.order.Argv)
	if err != nil {
		return at(StageKernel, err)
	}
	env, err := list.Vector(s.order.Env)
	if err != nil {
		return at(StageKernel, err)
	}
	list.Add(StageKernel, unix.SYS_EXECVE, program, argv, env)
	return nil
}

// kernelError says how a second kernel ended, with the last of what it said.
func kernelError(status unix.WaitStatus) error {
	how := "it ended with exit code " + strconv.Itoa(status.ExitStatus())
	if status.Signaled() {
		how = "it was ended by " + unix.SignalName(status.Signal())
	}
	said, _ := os.ReadFile(kernelLog)
	const most = 1 << 10
	if len(said) > most {
		said = said[len(said)-most:]
	}
	if text := strings.Join(strings.Fields(string(said)), " "); text != "" {
		how += ": " + text
	}
	return errors.New(how)
}

// settle is the tier on a second kernel: that kernel has built the root, and this process, its first, tells which kernel it is
// and sets the limits of the tree that only a kernel can keep.
func (s *shim) settle() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return at("kernel", err)
	}
	w := &writer{b: []byte{MsgKernel}}
	w.text(unix.ByteSliceToString(name.Release[:]))
	w.text(unix.ByteSliceToString(name.Version[:]))
	s.send(w.b)
	// The step's user may signal whatever else is his: this process is not.
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return at("user", err)
	}
	return at("process limit", os.WriteFile(groups+"pids/pids.max", []byte(strconv.Itoa(s.order.Processes)), 0))
}

// pause is how many milliseconds the shim waits for an event. It is for orphans, which end without one, and for memory that it watches.
func (s *shim) pause() int {
	if s.order.MemoryBytes > 0 {
		return 100
	}
	return 1000
}

// weigh ends the tree when it has more memory than it may, where no group of the host's kernel does that.
func (s *shim) weigh() {
	if s.order.MemoryBytes == 0 {
		return
	}
	text, err := os.ReadFile(groups + "memory/memory.usage_in_bytes")
	if err != nil {
		return
	}
	if used, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && used > s.order.MemoryBytes {
		s.send([]byte{MsgExceeded})
		syscall.Exit(128 + int(unix.SIGKILL))
	}
}
