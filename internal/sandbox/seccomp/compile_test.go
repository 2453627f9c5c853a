package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets a filter as the kernel does, for one call.
func run(t *testing.T, p Program, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offNumber:], nr)
	binary.LittleEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(p.Filter)/8; pc++ {
		in := p.Filter[pc*8:]
		op, yes, no, k := binary.NativeEndian.Uint16(in), in[2], in[3], binary.NativeEndian.Uint32(in[4:])
		branch := func(cond bool) {
			if cond {
				pc += int(yes)
			} else {
				pc += int(no)
			}
		}
		switch int(op) {
		case opLoad:
			acc = binary.LittleEndian.Uint32(data[k:])
		case opAnd:
			acc &= k
		case opEqual:
			branch(acc == k)
		case opAtLeast:
			branch(acc >= k)
		case opJump:
			pc += int(k)
		case opReturn:
			return k
		default:
			t.Fatalf("instruction %d: unknown operation %#x", pc, op)
		}
	}
	t.Fatal("the filter fell off its end")
	return 0
}

func compiled(t *testing.T, s Sockets) Program {
	t.Helper()
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every unconditional number must get exactly the fate the table gives it, and every number outside the table EPERM.
func TestEveryNumberGetsItsRule(t *testing.T) {
	for _, s := range []Sockets{InternetAndUnix, PairsOnly} {
		p := compiled(t, s)
		table, err := rules(s)
		if err != nil {
			t.Fatal(err)
		}
		for n := uint32(0); n < 1024; n++ {
			r, known := table[n]
			want := deny
			if known {
				if len(r.clauses) > 0 {
					continue
				}
				want = r.last
			}
			if got := run(t, p, auditArch, n); got != want {
				t.Errorf("call %d: got %#x, want %#x", n, got, want)
			}
		}
	}
}

func TestConditionalRules(t *testing.T) {
	full, pairs := compiled(t, InternetAndUnix), compiled(t, PairsOnly)
	noFamily := errno(unix.EAFNOSUPPORT)
	for _, c := range []struct {
		name string
		p    Program
		nr   uint32
		args []uint64
		want uint32
	}{
		{"unix", full, unix.SYS_SOCKET, []uint64{unix.AF_UNIX}, allow},
		{"inet", full, unix.SYS_SOCKET, []uint64{unix.AF_INET}, allow},
		{"inet6", full, unix.SYS_SOCKET, []uint64{unix.AF_INET6}, allow},
		{"netlink", full, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK}, noFamily},
		{"packet", full, unix.SYS_SOCKET, []uint64{unix.AF_PACKET}, noFamily},
		{"vsock", full, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, noFamily},
		{"alg", full, unix.SYS_SOCKET, []uint64{unix.AF_ALG}, noFamily},
		{"vsock with a high bit", full, unix.SYS_SOCKET, []uint64{1<<32 | unix.AF_VSOCK}, noFamily},
		{"pair", pairs, unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX}, allow},
		{"unix in t1", pairs, unix.SYS_SOCKET, []uint64{unix.AF_UNIX}, noFamily},
		{"inet in t1", pairs, unix.SYS_SOCKET, []uint64{unix.AF_INET}, noFamily},
		{"fork", full, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, allow},
		{"new user namespace", full, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, deny},
		{"thread in a new network", full, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_NEWNET}, deny},
		{"clone3", full, unix.SYS_CLONE3, nil, errno(unix.ENOSYS)},
		{"TIOCSTI", full, unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, deny},
		{"TIOCSTI with a high bit", full, unix.SYS_IOCTL, []uint64{0, 1<<40 | unix.TIOCSTI}, deny},
		{"TIOCLINUX", full, unix.SYS_IOCTL, []uint64{0, unix.TIOCLINUX}, deny},
		{"TCGETS", full, unix.SYS_IOCTL, []uint64{0, unix.TCGETS}, allow},
		{"personality linux", full, unix.SYS_PERSONALITY, []uint64{0}, allow},
		{"personality query", full, unix.SYS_PERSONALITY, []uint64{0xffffffff}, allow},
		{"personality without randomisation", full, unix.SYS_PERSONALITY, []uint64{0x0040000}, deny},
	} {
		if got := run(t, c.p, auditArch, c.nr, c.args...); got != c.want {
			t.Errorf("%s: got %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestOtherArchitecturesAreKilled(t *testing.T) {
	p := compiled(t, InternetAndUnix)
	if got := run(t, p, unix.AUDIT_ARCH_I386, unix.SYS_GETPID); got != kill {
		t.Errorf("i386: got %#x, want kill", got)
	}
	if got := run(t, p, auditArch, x32Bit|unix.SYS_GETPID); got != kill {
		t.Errorf("x32: got %#x, want kill", got)
	}
}

func TestRefusedCallsAreInNoRule(t *testing.T) {
	table, err := rules(InternetAndUnix)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint32{unix.SYS_PTRACE, unix.SYS_IO_URING_SETUP, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_USERFAULTFD,
		unix.SYS_MOUNT, unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PIVOT_ROOT} {
		if _, found := table[n]; found {
			t.Errorf("call %d has a rule and would not be refused by default", n)
		}
	}
}

func TestCompileIsPure(t *testing.T) {
	a, b := compiled(t, InternetAndUnix), compiled(t, InternetAndUnix)
	if a.Digest != b.Digest {
		t.Errorf("two compilations differ: %s, %s", a.Digest, b.Digest)
	}
	if a.Digest == compiled(t, PairsOnly).Digest {
		t.Error("the two socket modes compile to one filter")
	}
	t.Logf("%d instructions", len(a.Filter)/8)
}
