package linux

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// ownProcesses is what the shim's own threads add to a count of the step's processes.
const ownProcesses = 8

// groupPrefix begins the names of all groups; the worker's process id follows.
const groupPrefix = "orrery-"

// cgroups is where groups for steps are made.
type cgroups struct {
	version      string // "v1", "v2", or empty: none
	memory, pids string // parent folders; the same one in v2
}

// group limits the whole tree of one step.
type group struct {
	version      string
	memory, pids string
}

// findCgroups looks for a place where this process may limit others: a delegated v2 folder, else the v1 hierarchies.
func findCgroups(delegated string) (cgroups, error) {
	if delegated != "" {
		return delegatedCgroups(delegated)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return cgroups{}, err
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			paths[controller] = filepath.Join("/sys/fs/cgroup", controller, parts[2])
		}
	}
	found := cgroups{version: "v1", memory: paths["memory"], pids: paths["pids"]}
	if found.memory == "" || found.pids == "" {
		return cgroups{}, errors.New("no v1 memory and pids hierarchy, and no delegated v2 folder configured")
	}
	for _, dir := range []string{found.memory, found.pids} {
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return cgroups{}, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return found, nil
}

func delegatedCgroups(dir string) (cgroups, error) {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return cgroups{}, err
	}
	for _, need := range []string{"memory", "pids"} {
		if !strings.Contains(" "+strings.TrimSpace(string(available))+" ", " "+need+" ") {
			return cgroups{}, fmt.Errorf("%s has no %s controller", dir, need)
		}
	}
	if err := write(dir, "cgroup.subtree_control", "+memory +pids"); err != nil {
		return cgroups{}, err
	}
	return cgroups{version: "v2", memory: dir, pids: dir}, nil
}

func write(dir, name, value string) error { return overwrite(filepath.Join(dir, name), value) }

// overwrite writes to a file of the kernel, which is there. Package os would also wait for such files with epoll.
func overwrite(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// sweep removes the groups of workers that died too suddenly to do it. The kernel keeps a group that still has a process.
func (c cgroups) sweep() {
	for _, parent := range []string{c.memory, c.pids} {
		groups, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, g := range groups {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(g), groupPrefix), "-")
			if n, err := strconv.Atoi(pid); err == nil && unix.Kill(n, 0) == unix.ESRCH {
				_ = os.Remove(g)
			}
		}
	}
}

// create makes the group of one step and sets its limits.
func (c cgroups) create(name string, limits sandbox.Limits) (*group, error) {
	// Two workers of one process count their steps alike, so the name ends with something of its own.
	name = fmt.Sprintf("%s%d-%s-%s", groupPrefix, os.Getpid(), name, rand.Text()[:8])
	g := &group{version: c.version, memory: filepath.Join(c.memory, name), pids: filepath.Join(c.pids, name)}
	for _, dir := range g.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.remove()
			return nil, err
		}
	}
	memory, swap := "memory.max", "memory.swap.max"
	swapValue := "0"
	if c.version == "v1" {
		memory, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
		swapValue = strconv.FormatInt(limits.MemoryBytes, 10)
	}
	err := write(g.memory, memory, strconv.FormatInt(limits.MemoryBytes, 10))
	if err == nil {
		err = write(g.pids, "pids.max", strconv.Itoa(limits.Processes+ownProcesses))
	}
	if err != nil {
		g.remove()
		return nil, err
	}
	// A machine without swap accounting has no such file, and then no swap worth a limit.
	_ = write(g.memory, swap, swapValue)
	return g, nil
}

func (g *group) dirs() []string {
	if g.memory == g.pids {
		return []string{g.memory}
	}
	return []string{g.memory, g.pids}
}

func (g *group) add(pid int) error {
	for _, dir := range g.dirs() {
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// exceeded names the limit the group ran into, or nothing.
func (g *group) exceeded() string {
	events := "memory.events"
	if g.version == "v1" {
		events = "memory.oom_control"
	}
	if counter(g.memory, events, "oom_kill") > 0 {
		return limitMemory
	}
	if counter(g.pids, "pids.events", "max") > 0 {
		return limitProcesses
	}
	return ""
}

func counter(dir, file, key string) int {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, found := strings.CutPrefix(line, key+" "); found {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}

// remove deletes the group. The kernel may hold an empty group for a moment after its last process was reaped.
func (g *group) remove() {
	for _, dir := range g.dirs() {
		for wait := time.Millisecond; wait < time.Second; wait *= 2 {
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(wait)
		}
	}
}

// resourceLimits are the limits of every single process. Where no group bounds the tree's memory, each process's data is bounded:
// not its address space, of which some language runtimes reserve far more than they use.
func resourceLimits(l sandbox.Limits, tier sandbox.Tier, grouped bool) []shim.Limit {
	wanted := []shim.Limit{
		{Resource: unix.RLIMIT_CPU, Value: int((l.CPU + time.Second - 1) / time.Second)},
		{Resource: unix.RLIMIT_FSIZE, Value: int(l.FileBytes)},
		{Resource: unix.RLIMIT_NOFILE, Value: 8192},
		{Resource: unix.RLIMIT_CORE, Value: 0},
	}
	if !grouped {
		wanted = append(wanted, shim.Limit{Resource: unix.RLIMIT_DATA, Value: int(l.MemoryBytes)})
	}
	// The kernel counts processes per user: only in an own user namespace are they this step's alone.
	if tier == sandbox.T2 {
		wanted = append(wanted, shim.Limit{Resource: unix.RLIMIT_NPROC, Value: l.Processes + ownProcesses})
	}
	for i, w := range wanted {
		wanted[i] = attainable(w)
	}
	return wanted
}

// attainable lowers a limit to what this process may have at most.
func attainable(l shim.Limit) shim.Limit {
	var now unix.Rlimit
	if err := unix.Getrlimit(l.Resource, &now); err == nil && now.Max != unix.RLIM_INFINITY && uint64(l.Value) > now.Max {
		l.Value = int(now.Max)
	}
	return l
}
