package sandboxtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
)

func codeOf(err error) string { return string(fault.CodeOf(err)) }

// Escape checks what a step must not see, reach or use from tier 1 on.
func Escape(t *testing.T, b *Bench) {
	t.Run("calls", func(t *testing.T) { b.calls(t) })
	t.Run("sockets", func(t *testing.T) { b.sockets(t) })
	t.Run("files", func(t *testing.T) { b.files(t) })
	t.Run("bombs", func(t *testing.T) { b.bombs(t) })
	t.Run("no direct network", func(t *testing.T) { b.network(t) })
	if b.Tier >= sandbox.T2 {
		t.Run("processes", func(t *testing.T) { b.processes(t) })
		t.Run("egress", func(t *testing.T) { b.egress(t) })
	}
}

func (b *Bench) calls(t *testing.T) {
	refused := map[string]uintptr{
		"ptrace": unix.SYS_PTRACE, "process_vm_readv": unix.SYS_PROCESS_VM_READV, "process_vm_writev": unix.SYS_PROCESS_VM_WRITEV,
		"io_uring_setup": unix.SYS_IO_URING_SETUP, "io_uring_enter": unix.SYS_IO_URING_ENTER, "io_uring_register": unix.SYS_IO_URING_REGISTER,
		"bpf": unix.SYS_BPF, "keyctl": unix.SYS_KEYCTL, "add_key": unix.SYS_ADD_KEY, "request_key": unix.SYS_REQUEST_KEY,
		"userfaultfd": unix.SYS_USERFAULTFD, "mount": unix.SYS_MOUNT, "umount2": unix.SYS_UMOUNT2, "setns": unix.SYS_SETNS,
		"unshare": unix.SYS_UNSHARE, "pivot_root": unix.SYS_PIVOT_ROOT, "chroot": unix.SYS_CHROOT, "fsopen": unix.SYS_FSOPEN,
		"open_tree": unix.SYS_OPEN_TREE, "move_mount": unix.SYS_MOVE_MOUNT, "mount_setattr": unix.SYS_MOUNT_SETATTR,
		"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "perf_event_open": unix.SYS_PERF_EVENT_OPEN, "kexec_load": unix.SYS_KEXEC_LOAD,
		"init_module": unix.SYS_INIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE, "swapon": unix.SYS_SWAPON, "reboot": unix.SYS_REBOOT,
		"settimeofday": unix.SYS_SETTIMEOFDAY, "clock_settime": unix.SYS_CLOCK_SETTIME, "acct": unix.SYS_ACCT, "quotactl": unix.SYS_QUOTACTL,
		"sethostname": unix.SYS_SETHOSTNAME, "syslog": unix.SYS_SYSLOG, "kcmp": unix.SYS_KCMP, "pidfd_getfd": unix.SYS_PIDFD_GETFD,
		"fanotify_init": unix.SYS_FANOTIFY_INIT, "lookup_dcookie": unix.SYS_LOOKUP_DCOOKIE, "vhangup": unix.SYS_VHANGUP, "move_pages": unix.SYS_MOVE_PAGES,
	}
	names, args := map[string]string{}, []string{"syscall", fmt.Sprint(unix.SYS_CLONE3)}
	for name, n := range refused {
		names[fmt.Sprint(n)] = name
		args = append(args, fmt.Sprint(n))
	}
	_, out := b.Do(t, b.Step(t, args...))
	lines := out.Lines()
	if want := fmt.Sprintf("%d ENOSYS", unix.SYS_CLONE3); lines[0] != want {
		t.Errorf("clone3: got %q", lines[0])
	}
	if len(lines) != len(refused)+1 {
		t.Fatalf("%d answers for %d calls: %q", len(lines), len(refused)+1, lines)
	}
	for _, l := range lines[1:] {
		n, answer, _ := strings.Cut(l, " ")
		if answer != "EPERM" {
			t.Errorf("%s: got %s, want EPERM", names[n], answer)
		}
	}
}

func (b *Bench) sockets(t *testing.T) {
	inside := "ok" // a step with a network of its own may use it
	if b.Tier < sandbox.T2 {
		inside = "EAFNOSUPPORT"
	}
	for _, s := range []struct {
		name         string
		family, kind int
		want         string
	}{
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM, inside},
		{"inet", unix.AF_INET, unix.SOCK_STREAM, inside},
		{"inet6", unix.AF_INET6, unix.SOCK_DGRAM, inside},
		{"netlink", unix.AF_NETLINK, unix.SOCK_RAW, "EAFNOSUPPORT"},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, "EAFNOSUPPORT"},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, "EAFNOSUPPORT"},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET, "EAFNOSUPPORT"},
		{"bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, "EAFNOSUPPORT"},
		{"xdp", unix.AF_XDP, unix.SOCK_RAW, "EAFNOSUPPORT"},
		{"tipc", unix.AF_TIPC, unix.SOCK_STREAM, "EAFNOSUPPORT"},
	} {
		t.Run(s.name, func(t *testing.T) { b.wantOutput(t, s.want, "socket", fmt.Sprint(s.family), fmt.Sprint(s.kind), "0") })
	}
	if b.Tier >= sandbox.T2 {
		t.Run("raw", func(t *testing.T) {
			b.wantOutput(t, "EPERM", "socket", fmt.Sprint(unix.AF_INET), fmt.Sprint(unix.SOCK_RAW), fmt.Sprint(unix.IPPROTO_ICMP))
		})
	}
}

func (b *Bench) files(t *testing.T) {
	secret := filepath.Join(filepath.Dir(b.Step(t).Dir), fmt.Sprintf("host-secret-%d", os.Getpid()))
	if err := os.WriteFile(secret, []byte("s"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(secret) })
	hidden := []string{secret, "/etc/shadow", "/root", "/home", "/var/log", "/sys/kernel", "/etc/hostname", "/etc/resolv.conf", "/dev/vda", "/dev/mem", "/proc/1/environ"}
	for _, p := range hidden {
		_, out := b.Do(t, b.Step(t, "read", p))
		if got := strings.TrimSpace(out.String()); got != "ENOENT" && got != "EACCES" {
			t.Errorf("reading %s: %s", p, got)
		}
	}
	for _, p := range []string{"/x", "/usr/x", "/usr/bin/sh", "/etc/x", "/etc/passwd", "/dev/x", "/proc/sys/kernel/hostname", filepath.Dir(b.payload) + "/x", b.payload} {
		_, out := b.Do(t, b.Step(t, "create", p))
		switch got := strings.TrimSpace(out.String()); got {
		case "EACCES", "EROFS", "EPERM", "ENOENT", "ETXTBSY":
		default:
			t.Errorf("writing %s: %s", p, got)
		}
	}
	b.wantOutput(t, "ok", "create", "in-the-work-folder")
	b.wantOutput(t, "ok", "create", "/dev/null")
	if b.Tier >= sandbox.T2 {
		b.wantOutput(t, "ok", "create", "/tmp/x")
		b.wantOutput(t, "ENOENT", "read", "/tmp/x") // of the step before
	}
}

func (b *Bench) bombs(t *testing.T) {
	t.Run("forks", func(t *testing.T) {
		spec := b.Step(t, "fork", "400")
		spec.Policy.Limits.Processes = 60
		r, out := b.Do(t, spec)
		if r.Protections.Layers["processes"] == "not limited" {
			t.Skipf("this machine cannot bound a step's processes in tier %d, and the protections say so", b.Tier)
		}
		if !strings.HasPrefix(out.String(), "stopped at ") {
			t.Errorf("%s %d: %q", r.Cause, r.ExitCode, out)
		}
	})
	t.Run("memory", func(t *testing.T) {
		spec := b.Step(t, "memory", fmt.Sprint(1<<30))
		spec.Policy.Limits.MemoryBytes = 256 << 20
		r, out := b.Do(t, spec)
		if strings.Contains(out.String(), "took it") {
			t.Errorf("%s %d: %q", r.Cause, r.ExitCode, out)
		}
		if strings.HasPrefix(r.Protections.Layers["memory"], "cgroup") && (r.Cause != sandbox.OverLimit || r.Limit != "memory") {
			t.Errorf("the machine can tell: %s %q", r.Cause, r.Limit)
		}
	})
}

func (b *Bench) network(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Error("a step reached a listener of the host")
			c.Close()
		}
	}()
	for _, target := range []string{l.Addr().String(), "1.1.1.1:443", "169.254.169.254:80", "[2606:4700:4700::1111]:443"} {
		_, out := b.Do(t, b.Step(t, "connect", "tcp", target))
		if got := strings.TrimSpace(out.String()); got == "ok" || strings.Contains(got, "timeout") {
			t.Errorf("%s: %s", target, got)
		}
	}
	b.wantOutput(t, "does not resolve", "resolve", "example.com")
}

func (b *Bench) processes(t *testing.T) {
	_, out := b.Do(t, b.Step(t, "processes"))
	if n := len(out.Lines()); n != 2 {
		t.Errorf("the step sees %d processes: %s", n, out)
	}
	r, out := b.Do(t, b.Step(t, "init"))
	wantEnd(t, r, sandbox.Exited, 3)
	for _, l := range out.Lines() {
		if strings.HasSuffix(l, "ok") {
			t.Errorf("process 1 is open: %s", l)
		}
	}
}

// echo answers every line with the line, until the test ends.
func echo(t *testing.T) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				fmt.Fprint(c, line)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func (b *Bench) egress(t *testing.T) {
	listed, other := echo(t), echo(t)
	spec := b.Step(t, "tunnel", listed.String(), other.String(), "localhost:80", "169.254.169.254:80", fmt.Sprintf("[::ffff:127.0.0.1]:%d", other.Port), "elsewhere.example:443")
	spec.Policy.Egress = []sandbox.Endpoint{{Host: "127.0.0.1", Port: listed.Port}, {Host: "localhost", Port: 80}}
	r, out := b.Do(t, spec)
	want := []string{listed.String() + " 200", "answer ping", other.String() + " 403", "localhost:80 403", "169.254.169.254:80 403",
		fmt.Sprintf("[::ffff:127.0.0.1]:%d 403", other.Port), "elsewhere.example:443 403"}
	if strings.Join(out.Lines(), "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", out, strings.Join(want, "\n"))
	}
	if len(r.Egress) != 6 {
		t.Fatalf("%d attempts were recorded: %+v", len(r.Egress), r.Egress)
	}
	first := r.Egress[0]
	if first.Decision != "allowed" || first.BytesUp != 5 || first.BytesDown != 5 || first.Address != listed.String() {
		t.Errorf("the allowed attempt: %+v", first)
	}
	for _, e := range r.Egress[1:] {
		if e.Decision != "refused" || e.Reason == "" || e.Time.Before(first.Time) {
			t.Errorf("a refused attempt: %+v", e)
		}
	}
	if r.Protections.Layers["network"] != "proxy" {
		t.Errorf("the protections say network %q", r.Protections.Layers["network"])
	}
	plain := b.Step(t, "get", fmt.Sprintf("http://%s/", listed))
	plain.Policy.Egress = spec.Policy.Egress
	r, out = b.Do(t, plain)
	if out.String() != "405\n" || len(r.Egress) != 1 || r.Egress[0].Decision != "refused" {
		t.Errorf("plain HTTP: %q %+v", out, r.Egress)
	}
	direct := b.Step(t, "connect", "tcp", other.String())
	direct.Policy.Egress = spec.Policy.Egress
	direct.Policy.Limits.Wall = 30 * time.Second
	if _, out := b.Do(t, direct); strings.TrimSpace(out.String()) != "ECONNREFUSED" {
		t.Errorf("around the proxy: %q", out)
	}
}
