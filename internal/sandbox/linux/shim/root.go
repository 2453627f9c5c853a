package shim

import (
	"errors"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// WorkPath is where a step of tier 2 finds its work folder, whatever the folder is called on the host: the same step sees the same paths on every worker.
const WorkPath = "/step"

// ProxyPort is where the recording proxy listens on the step's own loopback.
const ProxyPort = 3128

// privateRoot builds a root out of nothing but the order's mounts and moves into it. The host's tree is gone afterwards.
//
// Every source is cloned before anything is mounted: a mount in between could hide a source that lies below it.
func (s *shim) privateRoot() error {
	if err := unix.Sethostname([]byte("step")); err != nil {
		return at("host name", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return at("private mounts", err)
	}
	for i := range s.order.Mounts {
		m := &s.order.Mounts[i]
		if m.FD >= 0 || m.Kind == MountLink || m.Kind == MountText {
			continue
		}
		var err error
		if m.FD, err = CloneTree(m.Source, m.Kind); err != nil {
			return at("bind", err)
		}
	}
	closed := unix.MOUNT_ATTR_RDONLY
	if s.order.Kernel {
		closed = 0 // a second kernel maps users of its own there
	}
	proc, err := filesystem("proc", closed)
	if err != nil {
		return at("proc", err)
	}
	tmp, err := filesystem("tmpfs", 0, "size", strconv.Itoa(s.order.TmpBytes), "nr_inodes", "1m", "mode", "1777")
	if err != nil {
		return at("tmpfs", err)
	}
	size := 1 << 20
	if s.order.Kernel {
		size = 8 << 20 // the shim is copied there
	}
	root, err := filesystem("tmpfs", 0, "size", strconv.Itoa(size), "mode", "0755")
	if err != nil {
		return at("tmpfs", err)
	}
	// A folder that exists and has nothing that a step could be shown: the old tree is thrown away.
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return at("root", err)
	}
	place := "/tmp"
	if s.order.Kernel {
		own, err := filesystem("tmpfs", 0, "size", strconv.Itoa(kernelTmp), "mode", "0700")
		if err != nil {
			return at("tmpfs", err)
		}
		if err := attach(root, own, place); err != nil {
			return at("tmpfs", err)
		}
		place = GuestRoot + place
	}
	if err := attach(root, tmp, place); err != nil {
		return at("tmpfs", err)
	}
	if err := s.furnish(root, proc); err != nil {
		return at("bind", err)
	}
	return at("pivot_root", enter(root))
}

func (s *shim) furnish(root, proc int) error {
	if err := attach(root, proc, "/proc"); err != nil {
		return err
	}
	for _, m := range s.order.Mounts {
		var err error
		switch m.Kind {
		case MountLink:
			err = plant(root, m.Target, func(name string) error { return unix.Symlinkat(m.Source, root, name) })
		case MountText:
			err = plant(root, m.Target, func(name string) error { return writeFile(root, name, m.Source) })
		case MountProgram:
			err = plant(root, m.Target, func(name string) error { return copyProgram(root, name, m.FD) })
		default:
			err = attach(root, m.FD, m.Target)
			for try := 0; try < replacements && errors.Is(err, unix.ENOENT); try++ {
				if m.FD, err = CloneTree(m.Source, m.Kind); err == nil {
					err = attach(root, m.FD, m.Target)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enter makes root the root, throws the old tree away and closes the new one against writing.
func enter(root int) error {
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV})
}

// replacements is how often a file may be replaced while it is bound. What was found is gone then, and cannot be mounted; what has come in its
// place can.
const replacements = 20

// CloneTree takes a detached copy of the tree at a host path, with what a step may not do there already switched off.
func CloneTree(source string, kind int) (int, error) {
	fd, err := -1, error(unix.ENOENT)
	for try := 0; try < replacements && err == unix.ENOENT; try++ {
		fd, err = unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	}
	if err != nil {
		return -1, &callError{"open_tree " + source, err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	switch kind {
	case MountReadOnly:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV
	case MountWritable:
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	case MountDevice:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC // read-only keeps the node's mode and times; the device is written all the same
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd)
		return -1, &callError{"mount_setattr " + source, err}
	}
	return fd, nil
}

// filesystem makes a detached mount of a new file system. Options come in pairs.
func filesystem(kind string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			return -1, &callError{options[i], err}
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// attach mounts a detached tree at a path below root, on a folder or a file according to what the tree is.
func attach(root, tree int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return &callError{target, err}
	}
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	err := plant(root, target, func(name string) error {
		if folder {
			return unix.Mkdirat(root, name, 0o755)
		}
		return writeFile(root, name, "")
	})
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", root, target[1:], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &callError{"move_mount " + target, err}
	}
	return unix.Close(tree)
}

// plant makes the folders above a target and then the target itself, unless it is there.
func plant(root int, target string, leaf func(name string) error) error {
	name := strings.TrimPrefix(path.Clean(target), "/")
	for i := range name {
		if name[i] != '/' {
			continue
		}
		if err := unix.Mkdirat(root, name[:i], 0o755); err != nil && err != unix.EEXIST {
			return &callError{"/" + name[:i], err}
		}
	}
	if err := leaf(name); err != nil && err != unix.EEXIST {
		return &callError{target, err}
	}
	return nil
}

func writeFile(root int, name, content string) error {
	fd, err := unix.Openat(root, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(content))
	return err
}

// copyProgram writes what is behind a descriptor into a file that can be executed.
func copyProgram(root int, name string, from int) error {
	fd, err := unix.Openat(root, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o555)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for offset := int64(0); ; {
		n, err := unix.Sendfile(fd, from, &offset, 1<<20)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// network raises the loopback and, when the step may go out, opens the proxy's listener and hands it to the worker: only the
// listener crosses the namespace's border.
func (s *shim) network() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	if !s.order.Proxied {
		return nil
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: ProxyPort, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return err
	}
	return unix.Sendmsg(ControlFD, []byte{MsgListener}, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
}
