package linux

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/egress"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// Guest is a second kernel: a program that is started inside the walls of tier 2 and runs the step there, on system calls of its own. What
// it starts is the shim again, as its process 1, with the descriptors that begin at PassedFD; the shim starts and ends the step as in tier 2.
type Guest struct {
	Program string                     // host path of its executable
	Command func(Room) []string        // its arguments after the program's name
	Config  func(Room) (string, error) // its description of the room, a file named config.json in Room.Config
	Layers  map[string]string          // what it adds to the record of protections
}

// Room tells a second kernel what lies where inside the walls.
type Room struct {
	Root    string // the root of the step, to be seen read-only
	Work    string // the step's work folder, to be seen at WorkPath
	Tmp     string // the step's temporary folder, to be seen at /tmp
	Config  string // the folder of its description
	State   string // a folder that it may write to
	Init    string // the program to start, seen from the step's root: the only one in its folder
	Network bool   // the step may use the loopback of the walls, where the recording proxy is
	User    int    // who it is within the walls, and whose the work folder is
}

// PassedFD is the first of PassedFDs descriptors that a second kernel hands to the program it starts, as 0, 1, 2, …
const (
	PassedFD  = shim.PassedFD
	PassedFDs = 5
)

// What a second kernel takes itself, beside what the step has.
const (
	kernelMemory    = 192 << 20
	kernelProcesses = 512
	kernelFiles     = 1 << 20
)

// guestRights are what a second kernel builds its own walls with, within its user namespace.
func guestRights() []uintptr {
	return []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SYS_CHROOT, unix.CAP_SETUID, unix.CAP_SETGID}
}

// RunGuest runs a step on a second kernel. Nothing is checked but the walls: who has the kernel has proved it with RehearseGuest.
func (d *Driver) RunGuest(ctx context.Context, spec sandbox.Spec, g Guest) (sandbox.Result, error) {
	limits, err := validate(spec)
	if err != nil {
		return sandbox.Result{}, err
	}
	if err := d.walls(ctx); err != nil {
		return sandbox.Result{}, err
	}
	return (&execution{driver: d, spec: spec, tier: sandbox.T3, limits: limits, watchDisk: true, guest: &g}).all(ctx)
}

// walls reports the first layer of tier 3, beside the second kernel, that the machine does not have.
func (d *Driver) walls(ctx context.Context) error {
	found, short := d.probe(ctx)
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Interrupted, err, "the step was not started")
	}
	if short != nil {
		return short
	}
	if missing := missingLayer(found, sandbox.T3); missing != LayerGVisor {
		return Lacks(found, sandbox.T3, missing)
	}
	return nil
}

// RehearseGuest starts a second kernel, has the shim on it do everything but start a program, and returns the name of that kernel. It must be
// another than the host's: a program that only starts what it is told to is no kernel.
func (d *Driver) RehearseGuest(ctx context.Context, g Guest) (string, error) {
	if err := d.walls(ctx); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "orrery-rehearsal-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	spec := sandbox.Spec{Name: "rehearsal", Command: []string{"rehearsal"}, Dir: dir}
	x := &execution{driver: d, spec: spec, tier: sandbox.T3, limits: DefaultLimits(), guest: &g}
	defer x.release()
	if err := x.prepare(); err != nil {
		return "", err
	}
	x.inner.Rehearse = true
	result, err := x.run(ctx)
	release, version, _ := strings.Cut(x.kernel, " ")
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return "", err
	}
	if release == unix.ByteSliceToString(host.Release[:]) || version == unix.ByteSliceToString(host.Version[:]) {
		return "", fmt.Errorf("it runs steps on the host's own kernel, %s", x.kernel)
	}
	if err != nil {
		return "", err
	}
	if result.Cause != sandbox.Exited || result.ExitCode != 0 {
		return "", fmt.Errorf("the rehearsal ended with %s %d", result.Cause, result.ExitCode)
	}
	return release, nil
}

// hostLimits are the limits of the group that holds everything: on a second kernel that is more than the step.
func (x *execution) hostLimits() sandbox.Limits {
	l := x.limits
	if x.guest != nil {
		l.MemoryBytes += kernelMemory
		l.Processes = 4*l.Processes + kernelProcesses
	}
	return l
}

// orderGuest writes two orders: one for the shim that builds the walls and starts the kernel, one for the shim on that kernel.
func (x *execution) orderGuest(layout []shim.Mount) error {
	room := Room{
		Root: shim.GuestRoot, Work: shim.GuestRoot + WorkPath, Tmp: shim.GuestRoot + "/tmp", Config: "/kernel", State: "/tmp", Init: "/.orrery/" + shim.Name,
		Network: len(x.spec.Policy.Egress) > 0, User: shim.InsideID,
	}
	config, err := x.guest.Config(room)
	if err != nil {
		return fault.Wrap(fault.Sandbox, err, "the second kernel of step %s", x.spec.Name)
	}
	first, err := x.driver.init(room.Root + room.Init)
	if err != nil {
		return fault.Wrap(fault.Sandbox, err, "the second kernel of step %s", x.spec.Name)
	}
	program := path.Join(room.Config, path.Base(x.guest.Program))
	o := x.order
	o.Tier, o.Kernel, o.Dir, o.Proxied = int(sandbox.T2), true, "/", room.Network
	o.TmpBytes = int(min(x.limits.MemoryBytes, mostTmp))
	o.Argv, o.Env = append([]string{program}, x.guest.Command(room)...), []string{"PATH=" + room.Config}
	o.Limits = []shim.Limit{attainable(shim.Limit{Resource: unix.RLIMIT_NOFILE, Value: kernelFiles}), {Resource: unix.RLIMIT_CORE}}
	for _, m := range layout {
		switch {
		case m.Kind == shim.MountDevice: // for the kernel itself; the step's are made by it
		case strings.HasPrefix(m.Target, "/dev/"):
			continue
		default:
			m.Target = room.Root + m.Target
		}
		o.Mounts = append(o.Mounts, m)
	}
	o.Mounts = append(o.Mounts,
		first,
		shim.Mount{Kind: shim.MountReadOnly, Source: x.guest.Program, Target: program, FD: -1},
		shim.Mount{Kind: shim.MountText, Source: config, Target: path.Join(room.Config, "config.json"), FD: -1},
		shim.Mount{Kind: shim.MountWritable, Source: x.spec.Dir, Target: room.Work, FD: -1},
	)
	x.inner = &shim.Order{
		Tier: int(sandbox.T3), Argv: x.spec.Command, Env: x.spec.Env, Dir: WorkPath, UID: shim.InsideID,
		Limits: resourceLimits(x.limits, sandbox.T3, x.group != nil), Filter: x.driver.filters[sandbox.T2].Filter, Processes: x.limits.Processes + ownProcesses,
	}
	if x.group == nil {
		x.inner.MemoryBytes = int(x.limits.MemoryBytes)
	}
	if room.Network {
		x.inner.Env = withProxy(x.inner.Env)
	}
	return nil
}

// init is the shim as the second kernel starts it: a copy of the one that was carried, or this program's file. That must be the same one as
// this process is: an update may have put another version in its place.
func (d *Driver) init(target string) (shim.Mount, error) {
	p := d.program()
	if p.failed != nil {
		return shim.Mount{}, p.failed
	}
	if !p.own {
		return shim.Mount{Kind: shim.MountProgram, Target: target, FD: -1}, nil
	}
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return shim.Mount{}, err
	}
	file, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		return shim.Mount{}, fmt.Errorf("the file of this program is gone; start the worker again (%w)", err)
	}
	if there, err := os.Stat(file); err != nil || !os.SameFile(running, there) {
		return shim.Mount{}, fmt.Errorf("%s is not this program any more; start the worker again", file)
	}
	return shim.Mount{Kind: shim.MountReadOnly, Source: file, Target: target, FD: -1}, nil
}

// equip gives the shim on a second kernel its control socket and its order.
func (x *execution) equip(files []*os.File) error {
	voice, theirs, err := socketpair()
	if err != nil {
		return err
	}
	order, err := x.inner.File()
	if err != nil {
		voice.Close()
		theirs.Close()
		return err
	}
	files[0], files[1], x.voice = theirs, order, voice
	return nil
}

// hear listens to the shim and, in tier 3, to the one on the second kernel, whose word about the step counts.
func (x *execution) hear(proxy *egress.Proxy) ending {
	if x.voice == nil {
		return x.listen(x.control, proxy)
	}
	defer x.voice.Close()
	inside := make(chan ending, 1)
	go func() { inside <- x.listen(x.voice, proxy) }()
	outer, told := x.listen(x.control, proxy), <-inside
	if !told.ended && !told.exceeded && told.failure == nil {
		told.failure = outer.failure
	}
	x.kernel = told.kernel
	return told
}
