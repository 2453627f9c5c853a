package shim

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox/linux/fork"
)

// insideID is the user and group a step sees itself as in its own user namespace. It is not 0: programs that find
// themselves root try things, like giving files away, that a step cannot do.
const InsideID = 1000

// script prepares what the step's process does between its birth and its program: limits, then every right given up, the filter last.
func (s *shim) script() (*fork.Script, error) {
	o, list := s.order, &fork.Script{}
	list.Unblock()
	list.Add("setsid", unix.SYS_SETSID)
	list.Add("parent-death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	if o.Kernel {
		return list, s.kernel(list)
	}
	for _, l := range o.Limits {
		v := &unix.Rlimit{Cur: uint64(l.Value), Max: uint64(l.Value)}
		if l.Resource == unix.RLIMIT_CPU {
			v.Max++ // a second between the polite SIGXCPU and the kill
		}
		list.Add("rlimit "+strconv.Itoa(l.Resource), unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), list.Pointer(unsafe.Pointer(v)), 0)
	}
	list.Add("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	s.dropPrivileges(list)
	if o.ABI > 0 {
		rules, err := s.landlock()
		if err != nil {
			return nil, at("landlock", err)
		}
		list.Add("landlock", unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules.fd), 0)
	}
	list.Add("close_range", unix.SYS_CLOSE_RANGE, ControlFD, uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	if len(o.Filter) > 0 {
		filter := unsafe.Slice((*unix.SockFilter)(unsafe.Pointer(&o.Filter[0])), len(o.Filter)/8)
		prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		list.Keep(o.Filter)
		list.Add("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, list.Pointer(unsafe.Pointer(prog)))
	}
	if o.Rehearse {
		return list, s.rehearse(list)
	}
	return list, s.execute(list)
}

func (s *shim) dropPrivileges(list *fork.Script) {
	privileged := s.order.Tier >= 2 || s.order.UID >= 0
	if privileged {
		for c := uintptr(0); ; c++ {
			if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || v < 0 {
				break
			}
			list.Add("bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
		}
	}
	if id := uintptr(s.order.UID); s.order.UID >= 0 {
		list.Add("setgroups", unix.SYS_SETGROUPS, 0, 0)
		list.Add("setresgid", unix.SYS_SETRESGID, id, id, id)
		list.Add("setresuid", unix.SYS_SETRESUID, id, id, id)
		// The switch clears the parent-death signal.
		list.Add("parent-death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	}
	if s.order.Tier == 0 {
		return
	}
	list.Add("ambient set", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none := &[2]unix.CapUserData{}
	list.Add("capset", unix.SYS_CAPSET, list.Pointer(unsafe.Pointer(header)), list.Pointer(unsafe.Pointer(none)))
}

// landlock repeats in a second mechanism what the private root already says, and is the only one in tier 1. With a network
// namespace of its own a step may use TCP on its loopback; without one TCP is refused altogether.
func (s *shim) landlock() (*ruleset, error) {
	rules, err := newRuleset(s.order.ABI, s.order.Tier != 2)
	if err != nil {
		return nil, err
	}
	for _, p := range s.order.Readable {
		if err := rules.allow(p, fsRead); err != nil {
			return nil, err
		}
	}
	for _, p := range s.order.Writable {
		if err := rules.allow(p, fsWrite); err != nil {
			return nil, err
		}
	}
	for _, d := range Devices() {
		if err := rules.allow(d, fsDevice); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// Devices lists the device nodes that a step finds.
func Devices() []string {
	return []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
}

func (s *shim) execute(list *fork.Script) error {
	path, err := lookPath(s.order.Argv[0], s.order.Env)
	if err != nil {
		return at(StageCommand, err)
	}
	program, err := list.Text(path)
	if err != nil {
		return at(StageCommand, err)
	}
	argv, err := list.Vector(s.order.Argv)
	if err != nil {
		return at(StageCommand, err)
	}
	env, err := list.Vector(s.order.Env)
	if err != nil {
		return at("environment", err)
	}
	list.Add(StageCommand, unix.SYS_EXECVE, program, argv, env)
	return nil
}

// stageCommand fails when the step's program cannot be executed: the step's fault, not the sandbox's.
const StageCommand = "command"

// rehearse ends the script with calls that the layers in force must refuse, and with an exit instead of a program.
func (s *shim) rehearse(list *fork.Script) error {
	if len(s.order.Filter) > 0 {
		list.Expect(unix.EPERM, "seccomp: keyctl", unix.SYS_KEYCTL, 0, 0, 0, 0, 0)
		list.Expect(unix.EAFNOSUPPORT, "seccomp: netlink", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0)
	}
	if s.order.ABI > 0 && s.order.Tier != 2 {
		hidden, err := list.Text("/proc/self/status")
		if err != nil {
			return err
		}
		at := unix.AT_FDCWD
		list.Expect(unix.EACCES, "landlock: open", unix.SYS_OPENAT, uintptr(at), hidden, unix.O_RDONLY, 0)
	}
	list.Add("exit", unix.SYS_EXIT_GROUP, 0)
	return nil
}

// descendants lists the processes below root, by the parents the process table names. They may die or fork meanwhile: callers repeat.
func descendants(root int) []int {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything, so the fields are counted from its end: state, parent.
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[0] == "Z" {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], pid)
	}
	var all []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}
