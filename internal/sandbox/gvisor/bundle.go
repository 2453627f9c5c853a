package gvisor

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"orrery.example/orrery/internal/sandbox/linux"
)

// platform is how gVisor takes a step's system calls. KVM would be faster, but it hangs on machines that are virtual themselves.
const platform = "systrap"

// command is the command line of runsc. Every choice that matters is made here; its defaults may change.
func command(room linux.Room) []string {
	network := "none"
	if room.Network {
		network = "host" // of the walls: a loopback, and the recording proxy on it
	}
	args := []string{
		"--root=" + path.Join(room.State, "runsc"), "--platform=" + platform, "--network=" + network,
		"--ignore-cgroups", // the group around it is there already
		"--overlay2=none",  // what the step leaves is to be found on the host
		"--host-uds=none", "--host-fifo=none", "--net-raw=false",
		"run", "--bundle=" + room.Config,
	}
	for i := range linux.PassedFDs {
		args = append(args, fmt.Sprintf("--pass-fd=%d:%d", linux.PassedFD+i, i))
	}
	return append(args, "step")
}

// bundle is the description of the container, as the Open Container Initiative defines it. Its process is the shim, which becomes root on
// this kernel, and the step does not. Neither the step's command nor its environment are in it.
func bundle(room linux.Room) (string, error) {
	rights := []string{"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_RESOURCE", "CAP_KILL", "CAP_DAC_OVERRIDE"}
	user := []specs.LinuxIDMapping{{ContainerID: uint32(room.User), HostID: uint32(room.User), Size: 1}}
	spec := specs.Spec{
		Version:  specs.Version,
		Hostname: "step",
		Root:     &specs.Root{Path: room.Root, Readonly: true},
		Process: &specs.Process{
			User: specs.User{UID: uint32(room.User), GID: uint32(room.User)},
			Args: []string{filepath.Base(room.Init)}, Env: []string{"PATH=" + filepath.Dir(room.Init), "GOMAXPROCS=1", "GOGC=off"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: rights, Effective: rights, Permitted: rights, Inheritable: rights, Ambient: rights},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec"}},
			{Destination: "/sys", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "ro", "mode=0755"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "nodev", "noexec"}},
			{Destination: "/tmp", Type: "bind", Source: room.Tmp, Options: []string{"rbind", "rw", "nosuid", "nodev"}},
			{Destination: linux.WorkPath, Type: "bind", Source: room.Work, Options: []string{"rbind", "rw", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			UIDMappings: user, GIDMappings: user,
			Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
		},
	}
	text, err := json.Marshal(spec)
	return string(text), err
}
