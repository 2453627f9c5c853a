package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// small makes a folder on a filesystem of its own with room for some megabytes.
func small(t *testing.T) *folder {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("making a filesystem needs a right that this user does not have")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := newFolder(t)
	f.dir = filepath.Join(disk, "data")
	return f
}

// fill takes all the room that is left, and returns what gives it back.
func (f *folder) fill() (empty func()) {
	f.t.Helper()
	name := filepath.Join(filepath.Dir(f.dir), "filler")
	file, err := os.Create(name)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		f.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		f.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			f.t.Error(err)
		}
	}
}

// A command on a full disk says so and ends; what there was can be read, and after there is room everything goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	f := small(t)
	f.must(0, f.pack("many")...)
	before := f.only()
	empty := f.fill()
	r := f.run("run", "testdata/many", "-i", "mark=another", "-o", "json")
	if r.code == 0 || !bytes.Contains(r.stderr, []byte(`"error"`)) {
		t.Errorf("a run on a full disk: %s", r)
	}
	empty()
	if runs := f.runs(); len(runs) > 2 || runs[len(runs)-1].Run != before.Run {
		t.Errorf("the runs are %+v", runs)
	}
	f.proven(before.Run)
	f.must(0, "run", "testdata/many", "-i", "mark=another", "-o", "json")
	f.clean()
}

// A disk that gets full while a run goes on keeps it waiting, and it says what for. With room it ends, and its evidence is whole: no
// line of output is missing.
func TestDiskFullMeanwhile(t *testing.T) {
	t.Parallel()
	f := small(t)
	l := f.start(f.pack("talks")...)
	f.working()
	empty := f.fill()
	f.wakeUp()
	eventually(t, "the step has said everything", func() bool { return len(f.payloads("od"))+len(f.payloads("sleep")) == 0 })
	select {
	case <-l.done:
		t.Errorf("it ended on a full disk: %s", l.end())
	case <-time.After(2 * time.Second):
	}
	empty()
	r := l.end()
	if r.code != 0 || !bytes.Contains(r.stderr, []byte("Warning: ")) {
		t.Errorf("%d bytes of output, exit %d: %s", len(r.stdout), r.code, r.stderr)
	}
	run := f.only()
	if h := f.proven(run.Run); h.ended != "succeeded" || h.succeeded["long"] != 1 {
		t.Errorf("the history is %+v", h)
	}
	if lines := bytes.Count(members(t, f.evidence(run.Run))["transcripts/long.ndjson"], []byte("\n")); lines < 200_000/16 {
		t.Errorf("%d lines are in the evidence", lines)
	}
	f.clean()
}

// A data folder that cannot be written is left as it is: whoever wants to change something is told so, and what was kept is whole
// when it can be written again.
func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	f := small(t)
	f.must(0, f.pack("many")...)
	run := f.only()
	f.must(0, "verify", run.Run)
	disk := filepath.Dir(f.dir)
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{f.pack("many"), append(f.pack("many"), "--new"), {"runs", "resume", run.Name}} {
		r := f.run(append(args, "-o", "json")...)
		if r.code == 0 || !bytes.Contains(r.stderr, []byte("read-only")) {
			t.Errorf("%s", r)
		}
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	f.proven(run.Run)
	f.clean()
}

// With too few open files a run ends well, or says what is missing, or says that it waits for that; it never damages what is kept.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	said, well := 0, 0
	for _, limit := range []int{10, 22, 30, 48, 128} {
		f := newFolder(t)
		ctx, stop := context.WithTimeout(t.Context(), commandLimit)
		c := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, limit), "sh", binary}, f.pack("many")...)...)
		c.Env = append(os.Environ(), "ORRERY_DATA="+f.dir, "ORRERY_IDENTITY=submitter")
		stderr, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		waits, told := false, strings.Builder{}
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&told, lines.Text())
			if strings.Contains(lines.Text(), "a step waits") || strings.Contains(lines.Text(), "and wait:") { // until somebody gives it more, which nobody does
				waits = true
				_ = c.Process.Kill() // it may have ended
			}
		}
		_ = c.Wait() // how it ended is in the state
		hung := ctx.Err() != nil
		stop()
		switch code := c.ProcessState.ExitCode(); {
		case hung:
			t.Errorf("with %d open files it hangs: %s", limit, &told)
		case waits:
			said++
		case code == 0:
			well++
		case strings.Contains(told.String(), "panic") || told.Len() == 0:
			t.Errorf("with %d open files: exit %d, %s", limit, code, &told)
		default:
			said++
		}
		r := f.run(append(f.pack("many"), "-o", "json")...) // a run that failed is told once more, or a new one begins
		if r.code != 0 {
			f.must(0, append(f.pack("many"), "--new", "-o", "json")...)
		}
		for _, run := range f.runs() {
			f.must(0, "verify", run.Run)
		}
		f.clean()
	}
	if well == 0 || said == 0 {
		t.Errorf("void: %d limits were enough, %d were not", well, said)
	}
}

// A run, its evidence and its verification need no network: they work where there is none at all, and nothing connects.
func TestOffline(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	c := exec.CommandContext(t.Context(), "/bin/sh", "-ec", `
		"$1" run testdata/many -i mark="$2" -o json
		"$1" verify "$("$1" runs list -o json | tr -d ' \n' | sed 's/.*"run":"\([^"]*\)".*/\1/')"
	`, "sh", binary, f.mark)
	c.Env = append(os.Environ(), "ORRERY_DATA="+f.dir, "ORRERY_IDENTITY=submitter")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 { // others may do that in a user namespace of their own only
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	out, err := c.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skip("this user may make no network namespace")
	}
	if os.Getuid() != 0 && bytes.Contains(out, []byte("lacks the layer user-namespace")) {
		t.Skip("user namespaces do not nest here")
	}
	if err != nil || !bytes.HasSuffix(bytes.TrimSpace(out), []byte("VALID")) {
		t.Errorf("%v: %s", err, out)
	}
}

// While a run of steps without egress goes on, neither the program nor its steps have a socket of the network open.
func TestNoSockets(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	l := f.start(f.pack("slow")...)
	f.working()
	looked := 0
	for _, pid := range append(survivors(f.mark), l.cmd.Process.Pid) {
		inodes := network(pid)
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			to, err := os.Readlink(link)
			if err != nil {
				continue // closed meanwhile
			}
			looked++
			if inode, ok := strings.CutPrefix(to, "socket:["); ok && inodes[strings.TrimSuffix(inode, "]")] {
				t.Errorf("process %d has the socket %s of the network", pid, to)
			}
		}
	}
	f.wakeUp()
	if r := l.end(); r.code != 0 || looked < 10 {
		t.Errorf("%d open files were looked at: %s", looked, r)
	}
	f.clean()
}

// network returns the inodes of all sockets of the network that a process could have.
func network(pid int) map[string]bool {
	found := map[string]bool{}
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, kind))
		if err != nil {
			continue // the process is gone, or the kernel has no such thing
		}
		for line := range strings.Lines(string(raw)) {
			for _, field := range strings.Fields(line) {
				found[field] = true
			}
		}
	}
	return found
}

// The check for sockets finds one where there is one.
func TestNoSocketsFinds(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inodes := network(os.Getpid())
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, link := range links {
		to, _ := os.Readlink(link) // the folder's own is gone by now
		found = found || inodes[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")]
	}
	if !found {
		t.Error("a listening socket is not found")
	}
}
