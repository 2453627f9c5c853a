package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// asker is the processor time of who only asks and waits: it is shown, and is not part of what a job costs.
const asker = "client"

// usage is processor time, user and system, by who used it.
type usage map[string]time.Duration

// meter measures the processor time of processes and what they have started. This process is PID 0.
type meter struct {
	who   map[string][]int
	begin usage
	from  time.Time
}

func measure(who map[string][]int) *meter {
	m := &meter{who: who}
	m.begin, m.from = m.now(), time.Now()
	return m
}

func (m *meter) now() usage {
	u := usage{}
	for who, pids := range m.who {
		for _, pid := range pids {
			u[who] += used(pid)
		}
	}
	return u
}

// used returns what was used since measure.
func (m *meter) used() usage {
	u := m.now()
	for who := range u {
		u[who] -= m.begin[who]
	}
	return u
}

func (m *meter) elapsed() time.Duration { return time.Since(m.from) }

// used is the processor time of a process, its living children, and those that have ended. The kernel counts that of others in steps of 10 ms.
func used(pid int) time.Duration {
	if pid == 0 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			panic(err) // cannot fail for oneself
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	type entry struct {
		parent int
		ticks  int64
	}
	all := map[int]entry{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		number := func(i int) int64 {
			n, _ := strconv.ParseInt(f[i], 10, 64)
			return n
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		// State, parent; from the twelfth on: user and system time, and those of children that were waited for.
		all[id] = entry{int(number(1)), number(11) + number(12) + number(13) + number(14)}
	}
	var ticks int64
	for id, e := range all {
		for at := id; at > 1; at = all[at].parent {
			if at == pid {
				ticks += e.ticks
				break
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// resident is the memory of a process in MiB.
func resident(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}

// process is a server or a worker.
type process struct {
	cmd   *exec.Cmd
	ended chan error
	begun time.Time
}

// start runs a program that ends with this one. With a word to wait for, it returns the rest of the first line of its output that begins so.
func start(word, program string, args ...string) (*process, string, error) {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if os.Getenv("BENCH_QUIET") != "" {
		cmd.Stderr = io.Discard
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	p := &process{cmd: cmd, ended: make(chan error, 1), begun: time.Now()}
	started, found := make(chan error, 1), make(chan string, 1)
	go func() {
		runtime.LockOSThread() // the child ends with the thread that started it
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), word); ok {
				select {
				case found <- rest:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, pipe) // a line that is too long
		p.ended <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, "", err
	}
	if word == "" {
		return p, "", nil
	}
	select {
	case rest := <-found:
		return p, rest, nil
	case err := <-p.ended:
		return nil, "", fmt.Errorf("%s ended before it was ready: %w", filepath.Base(program), errors.Join(err, io.ErrUnexpectedEOF))
	case <-time.After(time.Minute):
		p.stop()
		return nil, "", fmt.Errorf("%s does not get ready", filepath.Base(program))
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends it politely, and after some seconds otherwise.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}
