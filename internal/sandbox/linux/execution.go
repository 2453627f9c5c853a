package linux

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/egress"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// The limits a Result can name.
const (
	limitMemory    = "memory"
	limitDisk      = "disk"
	limitProcesses = "processes"
	limitCPU       = "cpu"
	limitFileSize  = "file-size"
)

// execution is one run of one step.
type execution struct {
	driver    *Driver
	spec      sandbox.Spec
	tier      sandbox.Tier
	limits    sandbox.Limits
	order     *shim.Order
	id        int // host user
	group     *group
	watchDisk bool
	cleanups  []func()

	guest       *Guest // the second kernel of tier 3
	inner       *shim.Order
	voice       *net.UnixConn // the control socket of the shim on it
	process     *process
	unborn      error // why the shim did not come to run; known when the process is gone
	unheld      error // why the limits could not be put on it; known when the shim has been heard
	control     *net.UnixConn
	protections sandbox.Protections
	kernel      string // of tier 3, when it has ended

	mu      sync.Mutex
	records []sandbox.EgressRecord
}

func (x *execution) release() {
	for _, f := range slices.Backward(x.cleanups) {
		f()
	}
}

// ending is what the shim told about itself before it ended.
type ending struct {
	failure  *stageFailure
	kernel   string // the release and version of the second kernel
	exceeded bool   // memory, on a second kernel
	ended    bool
	status   unix.WaitStatus
	usage    sandbox.Usage
}

type stageFailure struct {
	stage, text string
	errno       syscall.Errno
}

func (f *stageFailure) Error() string { return f.text }

// Unwrap tells what the machine has run out of, if that is why.
func (f *stageFailure) Unwrap() error {
	if f.errno == 0 {
		return nil
	}
	return f.errno
}

// verdict is why the worker ended the step, if it did.
type verdict struct {
	cause sandbox.Cause
	limit string
}

func (x *execution) run(ctx context.Context) (sandbox.Result, error) {
	began := time.Now()
	s, err := x.openStreams()
	if err != nil {
		return sandbox.Result{}, fault.Wrap(fault.Sandbox, err, "streams of step %s", x.spec.Name)
	}
	err = x.start(s)
	closeAll(s.theirs[:])
	if err != nil {
		s.close()
		return sandbox.Result{}, fault.Wrap(fault.Sandbox, err, "step %s: the shim does not start", x.spec.Name)
	}
	defer x.control.Close()
	out := &sink{left: x.limits.OutputBytes, buffers: &x.driver.buffers}
	out.pump(s.stdout, x.spec.Stdout)
	out.pump(s.stderr, x.spec.Stderr)
	if s.stdin != nil {
		feed(s.stdin, x.spec.Stdin)
	}
	proxy := egress.NewProxy(egress.NewDialer(x.spec.Policy.Egress, x.record))
	defer proxy.Close()
	heard := make(chan ending, 1)
	go func() { heard <- x.hear(proxy) }()
	why := x.await(ctx)
	if x.tier < sandbox.T2 {
		_ = s.stdout.SetReadDeadline(time.Now().Add(grace))
		_ = s.stderr.SetReadDeadline(time.Now().Add(grace))
	}
	told := <-heard
	dropped, outErr := out.result()
	proxy.Close()
	result := sandbox.Result{OutputDropped: dropped, Usage: told.usage, Protections: x.protections, Egress: x.attempts()}
	result.Usage.Wall = time.Since(began)
	if err := x.judge(&result, told, why); err != nil {
		return result, err
	}
	return result, fault.Wrap(fault.Internal, outErr, "step %s: its output could not be kept", x.spec.Name)
}

// await follows the process until it is gone, and ends it when the caller, the clock or the disk says so.
func (x *execution) await(ctx context.Context) verdict {
	gone := make(chan struct{})
	go func() {
		_, x.unborn = x.process.wait()
		close(gone)
	}()
	wall := time.NewTimer(x.limits.Wall)
	defer wall.Stop()
	disk := make(chan struct{}, 1)
	if x.watchDisk {
		watching, stop := context.WithCancel(context.Background())
		defer stop()
		go watchDisk(watching, x.spec.Dir, x.limits.DiskBytes, func() { disk <- struct{}{} })
	}
	var why verdict
	cancelled, patience := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-gone:
			return why
		case <-cancelled:
			cancelled = nil
			if why.cause == "" {
				why.cause = sandbox.Cancelled
			}
			_ = x.tell(shim.MsgTerminate)
			timer := time.NewTimer(x.limits.Grace)
			defer timer.Stop()
			patience = timer.C
		case <-patience:
			x.kill()
		case <-wall.C:
			if why.cause == "" {
				why.cause = sandbox.TimedOut
			}
			x.kill()
		case <-disk:
			if why.cause == "" {
				why = verdict{cause: sandbox.OverLimit, limit: limitDisk}
			}
			x.kill()
		}
	}
}

// kill ends the tree: with process 1 of its namespace, or through the shim where there is none.
func (x *execution) kill() {
	if x.tier >= sandbox.T2 {
		x.process.kill()
		return
	}
	if _, err := x.control.Write([]byte{shim.MsgKill}); err != nil {
		x.process.kill()
	}
}

// admit lets the shim go on, within its group. Before it is heard it shares the memory of the worker, which no group of a step may hold: what
// ends a group that has too much ends all who share it.
func (x *execution) admit() {
	if x.group != nil {
		x.unheld = x.group.add(x.process.pid)
	}
	if x.unheld == nil {
		x.unheld = x.tell(shim.MsgGo)
	}
	if x.unheld != nil {
		x.kill()
	}
}

// tell sends an order to the shim that has the step.
func (x *execution) tell(message byte) error {
	if x.voice != nil {
		if _, err := x.voice.Write([]byte{message}); err != nil || message != shim.MsgGo {
			return err
		}
	}
	_, err := x.control.Write([]byte{message})
	return err
}

// listen collects what a shim says until its end of the socket is closed.
func (x *execution) listen(control *net.UnixConn, proxy *egress.Proxy) ending {
	var e ending
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, on, _, _, err := control.ReadMsgUnix(buf, oob)
		if errors.Is(err, unix.ECONNRESET) {
			// The shim ended before it had read everything. The kernel tells that first, once, and then what the shim had said.
			n, on, _, _, err = control.ReadMsgUnix(buf, oob)
		}
		if err != nil || n == 0 {
			return e
		}
		r := shim.NewReader(buf[1:n])
		switch buf[0] {
		case shim.MsgReady:
			if control == x.control {
				x.admit()
			}
		case shim.MsgListener:
			if l, err := listener(oob[:on]); err == nil {
				proxy.Serve(l)
			}
		case shim.MsgFailed:
			e.failure = &stageFailure{stage: r.Text(), errno: syscall.Errno(r.Int()), text: r.Text()}
		case shim.MsgEnded:
			e.ended = true
			e.status = unix.WaitStatus(r.Int())
			e.usage.User = time.Duration(r.Int()) * time.Microsecond
			e.usage.System = time.Duration(r.Int()) * time.Microsecond
			e.usage.MaxRSSBytes = int64(r.Int()) << 10
		case shim.MsgKernel:
			e.kernel = r.Text() + " " + r.Text()
		case shim.MsgExceeded:
			e.exceeded = true
		}
		if x.guest != nil && control == x.voice && (e.ended || e.exceeded || e.failure != nil) {
			x.kill() // nothing that the second kernel would still do is worth waiting for
		}
	}
}

func listener(oob []byte) (net.Listener, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil || len(fds) != 1 {
			continue
		}
		f := os.NewFile(uintptr(fds[0]), "proxy")
		defer f.Close()
		return net.FileListener(f)
	}
	return nil, errors.New("the shim sent no listener")
}

// judge turns what happened into a cause. What the worker decided comes first, then what the kernel did for a limit.
func (x *execution) judge(result *sandbox.Result, told ending, why verdict) error {
	if x.unborn != nil {
		return fault.Wrap(fault.Sandbox, x.unborn, "step %s: the shim does not start", x.spec.Name)
	}
	exceeded := x.exceeded(told)
	if f := told.failure; f != nil {
		// A second kernel that was ended has not failed.
		if f.stage != shim.StageKernel || exceeded != limitMemory && why.cause == "" {
			return x.broken(f)
		}
	}
	result.Cause, result.Limit = why.cause, why.limit
	result.ExitCode = 128 + int(unix.SIGKILL)
	if told.ended {
		result.ExitCode = told.status.ExitStatus()
		if told.status.Signaled() {
			result.ExitCode = 128 + int(told.status.Signal())
		}
	}
	if why.cause != "" {
		return nil
	}
	if !told.ended {
		if exceeded == limitMemory { // the kernel chose process 1
			result.Cause, result.Limit = sandbox.OverLimit, limitMemory
			return nil
		}
		if x.unheld != nil {
			return fault.Wrap(fault.Sandbox, x.unheld, "step %s: its limits could not be set", x.spec.Name)
		}
		return fault.New(fault.Sandbox, "step %s: the sandbox ended without a word", x.spec.Name)
	}
	result.Cause = sandbox.Exited
	if told.status.Signaled() {
		result.Cause = sandbox.Signaled
	}
	result.Limit = x.limitOf(told, exceeded, result.ExitCode)
	if result.Limit != "" {
		result.Cause = sandbox.OverLimit
	}
	return nil
}

// exceeded names the limit that the whole tree ran into, or nothing.
func (x *execution) exceeded(told ending) string {
	if told.exceeded {
		return limitMemory
	}
	if x.group == nil {
		return ""
	}
	return x.group.exceeded()
}

// broken is the error of a step that did not start.
func (x *execution) broken(f *stageFailure) error {
	if f.stage == shim.StageCommand {
		cause := strings.TrimPrefix(f.text, "command: ")
		if f.errno != 0 {
			cause = f.errno.Error()
		}
		return fault.New(fault.Invalid, "step %s: %s cannot be executed: %s", x.spec.Name, x.spec.Command[0], cause).
			WithHint("the command is looked up in the step's own PATH, among the base system and the read-only paths of its policy")
	}
	return fault.Wrap(fault.Sandbox, f, "step %s: the sandbox could not be built", x.spec.Name)
}

func (x *execution) limitOf(told ending, exceeded string, code int) string {
	signal := told.status.Signal()
	switch {
	case signal == unix.SIGXCPU, signal == unix.SIGKILL && told.usage.User+told.usage.System >= x.limits.CPU:
		return limitCPU
	case signal == unix.SIGXFSZ:
		return limitFileSize
	case exceeded != "" && code != 0:
		return exceeded
	case x.watchDisk && diskUsage(x.spec.Dir, x.limits.DiskBytes) > x.limits.DiskBytes:
		return limitDisk
	}
	return ""
}

func (x *execution) record(r sandbox.EgressRecord) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.records = append(x.records, r)
}

// attempts returns the connection attempts in the order they were made; they were recorded as they ended.
func (x *execution) attempts() []sandbox.EgressRecord {
	x.mu.Lock()
	defer x.mu.Unlock()
	slices.SortStableFunc(x.records, func(a, b sandbox.EgressRecord) int { return a.Time.Compare(b.Time) })
	return x.records
}
