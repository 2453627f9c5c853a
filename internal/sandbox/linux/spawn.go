package linux

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// shimEnv keeps the shim small: it allocates little, once, and has nothing to run in parallel.
func shimEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=off"} }

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

// isolation describes a child in new namespaces, where the host user id appears as insideID and nothing else exists.
//
// The rights to build the sandbox come as ambient capabilities of the new user namespace: they survive the execution of the
// shim by a user who is not root inside, and end at the step's own execution.
func (d *Driver) isolation(flags uintptr, id int, caps ...uintptr) *syscall.SysProcAttr {
	gid := id
	if !d.root {
		gid = os.Getegid()
	}
	return &syscall.SysProcAttr{
		Setsid:                     true,
		Cloneflags:                 flags,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: shim.InsideID, HostID: id, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: shim.InsideID, HostID: gid, Size: 1}},
		GidMappingsEnableSetgroups: d.root,
		Credential:                 &syscall.Credential{Uid: shim.InsideID, Gid: shim.InsideID, NoSetGroups: !d.root},
		AmbientCaps:                append([]uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP}, caps...),
	}
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
	open := func(read, write **os.File) {
		if err == nil {
			*read, *write, err = os.Pipe()
		}
	}
	if x.spec.Stdin == nil {
		s.theirs[0], err = os.Open(os.DevNull)
	} else {
		open(&s.theirs[0], &s.stdin)
	}
	open(&s.stdout, &s.theirs[1])
	open(&s.stderr, &s.theirs[2])
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

func (s *streams) close() {
	for _, f := range append(s.theirs[:], s.stdin, s.stdout, s.stderr) {
		f.Close() // a nil file only returns an error
	}
}

// cloneTrees takes the trees of the order's mounts while the worker is still root: the step's user could not walk to a source
// below a closed folder. An ordinary worker may not clone here; its shim does, in its own namespace, as the same user.
func (x *execution) cloneTrees() ([]*os.File, error) {
	if !x.driver.root || x.tier < sandbox.T2 {
		return nil, nil
	}
	var trees []*os.File
	for i := range x.order.Mounts {
		m := &x.order.Mounts[i]
		if m.Kind == shim.MountLink || m.Kind == shim.MountText {
			continue
		}
		fd, err := shim.CloneTree(m.Source, m.Kind)
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
	trees, err := x.cloneTrees()
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
	attr := &syscall.SysProcAttr{Setsid: true}
	files := []*os.File{s.theirs[0], s.theirs[1], s.theirs[2], theirs, memory, nil, nil}
	if x.guest != nil {
		if err := x.equip(files[shim.GuestControlFD:]); err != nil {
			control.Close()
			return err
		}
		defer closeAll(files[shim.GuestControlFD:shim.FirstTreeFD])
		attr = x.driver.isolation(allNamespaces(), x.id, guestRights()...)
	} else if x.tier >= sandbox.T2 {
		attr = x.driver.isolation(allNamespaces(), x.id)
	}
	files = append(files, trees...)
	process, err := os.StartProcess(x.driver.config.ShimPath, []string{shim.Name}, &os.ProcAttr{Env: shimEnv(), Files: files, Sys: attr})
	if err != nil {
		control.Close()
		return err
	}
	x.process, x.control = process, control
	return nil
}
