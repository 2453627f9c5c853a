package linux

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// identity returns the host user a step runs as: one of its own when the worker is root, else the worker's.
func (d *Driver) identity() (int, func(), error) {
	if !d.root {
		return os.Geteuid(), func() {}, nil
	}
	id, err := d.ids.take()
	if err != nil {
		return 0, nil, err
	}
	return id, func() { d.ids.give(id) }, nil
}

// socketpair returns the worker's and the shim's end of a control socket that keeps packets apart. The shim reads the end of
// the worker's life from it, which holds however the worker dies. (A parent-death signal would fire when the thread ends that
// happened to start the shim.)
func socketpair() (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// streams are the step's three standard files, as the shim gets them, and the worker's ends.
type streams struct {
	theirs [3]*os.File
	stdin  *os.File // nil when the step has no input
	stdout *os.File
	stderr *os.File
}

func (x *execution) openStreams() (*streams, error) {
	s := &streams{}
	var err error
	if x.spec.Stdin == nil {
		s.theirs[0], err = os.Open(os.DevNull)
	} else {
		s.theirs[0], s.stdin, err = pipe(1)
	}
	if err == nil {
		s.stdout, s.theirs[1], err = pipe(0)
	}
	if err == nil {
		s.stderr, s.theirs[2], err = pipe(0)
	}
	if err == nil && x.driver.root && x.tier != sandbox.T0 {
		// Without this a step could not open /dev/stdout again: the pipe would be root's.
		for _, f := range s.theirs[1:] {
			if err == nil {
				err = f.Chown(x.id, x.id)
			}
		}
		if err == nil && s.stdin != nil {
			err = s.theirs[0].Chown(x.id, x.id)
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// pipe returns a pipe of which the worker keeps one end, 0 to read or 1 to write: its own goes through the poller, the other blocks, as programs
// expect it.
func pipe(kept int) (read, write *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	err = unix.SetNonblock(ends[kept], true)
	return os.NewFile(uintptr(ends[0]), "|0"), os.NewFile(uintptr(ends[1]), "|1"), err
}

func (s *streams) close() {
	for _, f := range append(s.theirs[:], s.stdin, s.stdout, s.stderr) {
		f.Close() // a nil file only returns an error
	}
}

// openTrees takes the trees of the order's mounts while the worker is still root: the step's user could not walk to a source
// below a closed folder. An ordinary worker may not clone here; its shim does, in its own namespace, as the same user. A shim to copy is
// handed over by every worker.
func (x *execution) openTrees() ([]*os.File, error) {
	var trees []*os.File
	for i := range x.order.Mounts {
		m := &x.order.Mounts[i]
		var fd int
		var err error
		switch m.Kind {
		case shim.MountLink, shim.MountText:
			continue
		case shim.MountProgram:
			fd, err = unix.FcntlInt(x.driver.program().file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		default:
			if !x.driver.root || x.tier < sandbox.T2 {
				continue
			}
			fd, err = shim.CloneTree(m.Source, m.Kind)
		}
		if err != nil {
			closeAll(trees)
			return nil, err
		}
		m.FD = shim.FirstTreeFD + len(trees)
		trees = append(trees, os.NewFile(uintptr(fd), m.Source))
	}
	return trees, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// start executes the shim with its streams, control socket, order and trees.
func (x *execution) start(s *streams) error {
	trees, err := x.openTrees()
	if err != nil {
		return err
	}
	defer closeAll(trees)
	memory, err := x.order.File()
	if err != nil {
		return err
	}
	defer memory.Close()
	control, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	l := launch{args: []string{shim.Name}, files: []*os.File{s.theirs[0], s.theirs[1], s.theirs[2], theirs, memory, nil, nil}, id: x.id}
	if x.guest != nil {
		if err := x.equip(l.files[shim.GuestControlFD:]); err != nil {
			control.Close()
			return err
		}
		defer closeAll(l.files[shim.GuestControlFD:shim.FirstTreeFD])
		l.namespaces, l.rights = allNamespaces(), guestRights()
	} else if x.tier >= sandbox.T2 {
		l.namespaces = allNamespaces()
	}
	l.files = append(l.files, trees...)
	x.process, err = x.driver.launch(l)
	if err != nil {
		control.Close()
		return err
	}
	x.control = control
	return nil
}
