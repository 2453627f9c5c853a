package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox/linux/fork"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// launch is how a shim is started.
type launch struct {
	args       []string
	files      []*os.File // its descriptors, from 0; nil leaves a gap
	namespaces uintptr    // to be made for it; none leave it among the worker's
	id         int        // the host user that it is in namespaces of its own
	rights     []uintptr  // what it may do there, besides building the sandbox
}

// process is a shim that was started.
type process struct {
	pid    int
	file   *os.File     // of the kernel, readable when the process has ended: waiting for it takes no thread, as waiting in package os does
	script *fork.Script // the child reads it until it is the shim
}

// watch finds the process of a child that nobody has waited for yet.
func watch(pid int, script *fork.Script) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), script: script}, nil
}

// wait returns when the shim is gone. An error says why it did not start. It is called once.
func (p *process) wait() (status unix.WaitStatus, err error) {
	defer p.file.Close()
	conn, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var refused error
	err = conn.Read(func(uintptr) bool {
		var ended int
		for {
			if ended, refused = unix.Wait4(p.pid, &status, unix.WNOHANG, nil); refused != unix.EINTR {
				return ended != 0 || refused != nil
			}
		}
	})
	return status, errors.Join(err, refused, p.script.Failure())
}

// kill ends the process, which may be gone already.
func (p *process) kill() {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
}

// launch starts a shim, and returns before it runs: what goes wrong in between is what Wait says.
func (d *Driver) launch(l launch) (*process, error) {
	program := d.program()
	if program.failed != nil {
		return nil, program.failed
	}
	var mapped [2]int
	if l.namespaces != 0 {
		if err := unix.Pipe2(mapped[:], unix.O_CLOEXEC); err != nil {
			return nil, err
		}
		defer unix.Close(mapped[1])
		defer unix.Close(mapped[0])
	}
	script := &fork.Script{}
	script.Add("session", unix.SYS_SETSID)
	if l.namespaces == 0 {
		arrange(script, l.files, int(program.file.Fd()))
	} else {
		arrange(script, l.files, int(program.file.Fd()), mapped[0])
		d.become(script, l, len(l.files)+1)
	}
	if err := execute(script, len(l.files), l.args); err != nil {
		return nil, err
	}
	pid, err := script.Start(l.namespaces)
	runtime.KeepAlive(l.files)
	if err != nil {
		return nil, err
	}
	p, err := watch(pid, script)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	if l.namespaces != 0 {
		if err = d.mapUser(pid, l.id); err == nil {
			_, err = unix.Write(mapped[1], []byte{1})
		}
	}
	if err != nil {
		p.kill()
		_, _ = p.wait()
		return nil, err
	}
	return p, nil
}

// become adds what makes the child a user of its namespaces, once the worker has named him there and written to a pipe: one with the rights to
// build the sandbox.
//
// They are ambient capabilities of the new user namespace: they survive the execution of the shim by a user who is not root inside, and end
// at the step's own execution. The change of user makes the memory of a worker that is root undumpable, since the child shares it for a
// moment; that is meant to be so.
func (d *Driver) become(script *fork.Script, l launch, mapped int) {
	// If the worker dies the read ends, and what comes next is refused.
	script.Add("users", unix.SYS_READ, uintptr(mapped), script.Pointer(unsafe.Pointer(new(byte))), 1)
	if d.root {
		script.Add("groups", unix.SYS_SETGROUPS, 0, 0)
	}
	script.Add("group", unix.SYS_SETRESGID, shim.InsideID, shim.InsideID, shim.InsideID)
	script.Add("user", unix.SYS_SETRESUID, shim.InsideID, shim.InsideID, shim.InsideID)
	rights := append([]uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP}, l.rights...)
	var set [2]unix.CapUserData
	for _, c := range rights {
		s := &set[c/32]
		s.Effective |= 1 << (c % 32)
		s.Permitted, s.Inheritable = s.Effective, s.Effective
	}
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	script.Add("capabilities", unix.SYS_CAPSET, script.Pointer(unsafe.Pointer(header)), script.Pointer(unsafe.Pointer(&set)))
	for _, c := range rights {
		script.Add("capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c)
	}
}

// arrange adds what puts files at the descriptors 0, 1, 2, …, and others, which end with the execution of the shim, behind them; all else is
// closed. A child that kept what the worker has open would hold its locks, too, and the ends of the pipes by which others learn that it died.
func arrange(script *fork.Script, files []*os.File, others ...int) {
	from := make([]int, 0, len(files)+len(others))
	for _, f := range files {
		if f == nil {
			from = append(from, -1)
			continue
		}
		from = append(from, int(f.Fd()))
	}
	from = append(from, others...)
	free := max(slices.Max(from)+1, len(from))
	for i, fd := range from {
		if fd >= 0 && fd < len(from) { // it may be in the way of another
			script.Add("descriptors", unix.SYS_DUP3, uintptr(fd), uintptr(free), 0)
			from[i] = free
			free++
		}
	}
	for i, fd := range from {
		switch {
		case fd < 0:
			script.Add("descriptors", unix.SYS_CLOSE_RANGE, uintptr(i), uintptr(i), 0)
		case i < len(files):
			script.Add("descriptors", unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
		default:
			script.Add("descriptors", unix.SYS_DUP3, uintptr(fd), uintptr(i), unix.O_CLOEXEC)
		}
	}
	script.Add("descriptors", unix.SYS_CLOSE_RANGE, uintptr(len(from)), uintptr(^uint32(0)), 0)
}

// mapUser gives the one user of a user namespace a name on the host.
func (d *Driver) mapUser(pid, id int) error {
	gid := id
	if !d.root {
		gid = os.Getegid()
		if err := d.describe(pid, "setgroups", "deny"); err != nil {
			return err
		}
	}
	return errors.Join(d.describe(pid, "uid_map", fmt.Sprintf("%d %d 1\n", shim.InsideID, id)), d.describe(pid, "gid_map", fmt.Sprintf("%d %d 1\n", shim.InsideID, gid)))
}

func (d *Driver) describe(pid int, file, text string) error {
	return overwrite("/proc/"+strconv.Itoa(pid)+"/"+file, text)
}
