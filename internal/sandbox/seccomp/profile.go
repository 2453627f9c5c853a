// Package seccomp compiles the system-call filter of a step: Docker's default profile, narrowed, as classic BPF that the kernel runs before every call.
package seccomp

import (
	"errors"
	"fmt"
	"slices"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Sockets is which socket families a step may open.
type Sockets int

const (
	// InternetAndUnix allows AF_UNIX, AF_INET and AF_INET6: for a step that has a network namespace of its own.
	InternetAndUnix Sockets = iota
	// PairsOnly allows socketpair(AF_UNIX) and nothing that could reach a listener of the host, for a step that shares the host's network.
	PairsOnly
)

// refused are calls the profile of some kernel allows and a step never gets: each widens the kernel's attack surface or reaches into another process.
func refused() []string {
	return []string{
		"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
		"io_uring_setup", "io_uring_enter", "io_uring_register",
		"bpf", "keyctl", "add_key", "request_key", "userfaultfd", "perf_event_open",
		"mount", "umount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "pivot_root",
		"setns", "unshare", "open_by_handle_at", "name_to_handle_at",
	}
}

// clause is one alternative of a conditional call: when every test holds, the action is taken; otherwise the next clause is asked.
type clause struct {
	tests  []test
	action uint32
}

// test compares one argument: (arg & mask) == value, or != when negated.
type test struct {
	arg         uint32
	mask, value uint64
	negated     bool
}

// rule is what happens to one call: its clauses in order, then the last action.
type rule struct {
	clauses []clause
	last    uint32
}

const (
	allow = uint32(unix.SECCOMP_RET_ALLOW)
	deny  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	kill  = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	word  = uint64(0xffffffff)
)

func errno(e unix.Errno) uint32 { return uint32(unix.SECCOMP_RET_ERRNO) | uint32(e) }

// rules returns what the narrowed profile does to each call number. A number that is not in the map is refused with EPERM.
func rules(sockets Sockets) (map[uint32]rule, error) {
	nums := numbers()
	table := map[uint32]rule{}
	for _, group := range moby.DefaultProfile().Syscalls {
		if !applies(group) {
			continue
		}
		action, err := actionOf(group)
		if err != nil {
			return nil, err
		}
		for _, name := range group.Names {
			n, known := nums[name]
			if !known || name == "socket" || slices.Contains(refused(), name) {
				continue
			}
			r, seen := table[n]
			if !seen {
				r.last = deny
			}
			if len(group.Args) == 0 {
				r.last = action
			} else {
				c, err := clauseOf(group.Args, action)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				r.clauses = append(r.clauses, c)
			}
			table[n] = r
		}
	}
	narrow(table, sockets)
	return table, nil
}

// narrow replaces the rules in which a step differs from a Docker container.
func narrow(table map[uint32]rule, sockets Sockets) {
	families := rule{last: errno(unix.EAFNOSUPPORT)}
	for _, f := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		families.clauses = append(families.clauses, clause{tests: []test{{arg: 0, mask: ^uint64(0), value: f}}, action: allow})
	}
	pairs := rule{clauses: families.clauses[:1], last: errno(unix.EAFNOSUPPORT)}
	if sockets == PairsOnly {
		families = rule{last: errno(unix.EAFNOSUPPORT)}
	}
	table[unix.SYS_SOCKET] = families
	table[unix.SYS_SOCKETPAIR] = pairs

	// The kernel reads only the low word of an ioctl's number. Comparing all 64 bits would let a call with a high bit set through (CVE-2019-10063).
	stuffing := rule{last: allow}
	for _, cmd := range []uint64{unix.TIOCSTI, unix.TIOCLINUX} {
		stuffing.clauses = append(stuffing.clauses, clause{tests: []test{{arg: 1, mask: word, value: cmd}}, action: deny})
	}
	table[unix.SYS_IOCTL] = stuffing
	// A filter cannot look behind clone3's pointer, so it says "no such call" and the C library falls back to clone.
	table[unix.SYS_CLONE3] = rule{last: errno(unix.ENOSYS)}
}

// applies reports whether a group of the profile is meant for a process without capabilities on this architecture.
func applies(group *moby.Syscall) bool {
	if in := group.Includes; in != nil {
		if len(in.Caps) > 0 || (len(in.Arches) > 0 && !slices.Contains(in.Arches, profileArch)) {
			return false
		}
	}
	return group.Excludes == nil || !slices.Contains(group.Excludes.Arches, profileArch)
}

func actionOf(group *moby.Syscall) (uint32, error) {
	switch group.Action {
	case specs.ActAllow:
		return allow, nil
	case specs.ActErrno:
		if group.ErrnoRet != nil {
			return errno(unix.Errno(*group.ErrnoRet)), nil
		}
		return deny, nil
	}
	return 0, fmt.Errorf("the profile has an action that this compiler does not know: %s", group.Action)
}

func clauseOf(args []specs.LinuxSeccompArg, action uint32) (clause, error) {
	c := clause{action: action}
	for _, a := range args {
		t := test{arg: uint32(a.Index), mask: ^uint64(0), value: a.Value}
		switch a.Op {
		case specs.OpEqualTo:
		case specs.OpNotEqual:
			t.negated = true
		case specs.OpMaskedEqual:
			t.mask, t.value = a.Value, a.ValueTwo
		default:
			return clause{}, errors.New("the profile compares in a way that this compiler does not know: " + string(a.Op))
		}
		c.tests = append(c.tests, t)
	}
	return c, nil
}
