package testservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"orrery.example/orrery/internal/fault"
)

// startTimeout is how long a server may take until it answers.
const startTimeout = 60 * time.Second

// find returns the path of a program, in the search path or in one of the places where Debian puts it.
func find(program, debianPackage string, places ...string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, pattern := range places {
		found, err := filepath.Glob(filepath.Join(pattern, program))
		if err == nil && len(found) > 0 {
			slices.Sort(found)
			return found[len(found)-1], nil
		}
	}
	return "", fault.New(fault.NotFound, "the test needs %s, which is not installed", program).
		WithHint("apt-get install %s", debianPackage)
}

// account is who a server runs as: somebody ordinary when this process is root, else whoever it is.
func account() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fault.New(fault.NotFound, "there is no ordinary user to run a server as").WithHint("adduser --system nobody")
}

// folder makes a temporary folder that belongs to who a server runs as. Sockets lie in it, so its name is short.
func folder(who *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp("", "orrery-svc-")
	if err != nil {
		return "", err
	}
	if who != nil {
		err = os.Chown(dir, int(who.Uid), int(who.Gid))
	}
	return dir, err
}

// command prepares a program that ends with this process: the kernel kills it when the thread that started it is gone. Threads of the
// Go runtime come and go, so whoever starts it keeps one for as long as it runs.
func command(who *syscall.Credential, dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// output runs a program to its end.
func output(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out.String())
	}
	return nil
}

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	log   *tail
	ended chan struct{}
	err   error
}

// start runs a server and waits until ready says so, or the server has ended.
func start(cmd *exec.Cmd, ready func() error) (*process, error) {
	p := &process{cmd: cmd, log: &tail{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the server
		err := cmd.Start()
		if started <- err; err == nil {
			p.err = cmd.Wait()
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		err := ready()
		if err == nil {
			return p, nil
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("%s ended at once: %w\n%s", filepath.Base(cmd.Path), errors.Join(p.err, err), p.log)
		case <-ctx.Done():
			p.kill(syscall.SIGKILL)
			return nil, fmt.Errorf("%s does not answer: %w\n%s", filepath.Base(cmd.Path), err, p.log)
		case <-look.C:
		}
	}
}

// kill sends a signal to the server and everything it has started, and waits for its end.
func (p *process) kill(s syscall.Signal) {
	var family []int
	if s == syscall.SIGKILL {
		family = children(p.cmd.Process.Pid)
	}
	_ = p.cmd.Process.Signal(s) // it may have ended by itself
	for _, pid := range family {
		_ = syscall.Kill(pid, s)
	}
	<-p.ended
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for _, pid := range family {
		for running(pid) {
			<-look.C
		}
	}
}

// running reports whether a process is there and not only its exit status.
func running(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !bytes.Contains(text, []byte(") Z "))
}

// children returns the processes that a server has started. Each may be in a group of its own, as PostgreSQL's are.
func children(of int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var out []int
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// After the name, which may have anything in it, come the state and the parent.
		var state string
		var parent int
		if _, err := fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &parent); err != nil || parent != of {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// answers reports whether something listens at an address.
func answers(address string) func() error {
	return func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// tail keeps the end of what a server says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const maxTail = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - maxTail; extra > 0 {
		t.text = t.text[extra:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

var _ io.Writer = (*tail)(nil)
