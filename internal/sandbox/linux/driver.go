// Package linux runs steps in a sandbox of the Linux kernel: namespaces around a private root, Landlock, a system-call filter
// and limits, put up by a shim: a small program that this one carries, or, where a build carries none, this one again.
//
// A program that links the driver can be its own shim: package shim takes over before main when it was started as one.
package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
	"orrery.example/orrery/internal/sandbox/seccomp"
)

// Config is what an operator decides about isolation.
type Config struct {
	// Shim is the executable of a program that is nothing but the shim: package image has it. Empty means that the running program, which
	// has the same code, is executed again.
	Shim string
	// AllowUnsandboxed permits tier 0 to a plan that asks for it on a machine with nothing stronger.
	AllowUnsandboxed bool
	// ReadOnly are host paths every step may read besides the base system, for example a language installed in /opt.
	ReadOnly []string
	// CgroupRoot is a cgroup v2 folder delegated to the worker, with no process in it. Empty means: look for a writable v1
	// hierarchy, and otherwise go without, under the label t2-nolimits.
	CgroupRoot string
	// HostIDs is the first of 4096 host user ids that steps of a worker running as root get, one each. Zero means 2000000000.
	// Nothing else on the machine may use them.
	HostIDs int
	// Disable withholds layers by name, as if the machine lacked them.
	Disable []string
	// Logger receives what the probe found. Nil means nowhere.
	Logger *slog.Logger
}

// hostIDCount is how many steps a worker running as root can have at once.
const hostIDCount = 4096

func (c Config) withDefaults() Config {
	if c.HostIDs == 0 {
		c.HostIDs = 2_000_000_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return c
}

func (c Config) validate() error {
	for _, p := range c.ReadOnly {
		if !filepath.IsAbs(p) {
			return fault.New(fault.Invalid, "read-only path %q is not absolute", p)
		}
	}
	for _, name := range c.Disable {
		if !knownLayer(name) {
			return fault.New(fault.Invalid, "there is no layer %q to withhold", name)
		}
	}
	if c.HostIDs < 0 {
		return fault.New(fault.Invalid, "host ids cannot start at %d", c.HostIDs)
	}
	return nil
}

// Driver implements sandbox.Driver. Make one with New.
type Driver struct {
	config   Config
	root     bool  // steps get host users of their own
	confined error // why steps cannot be given a user, although this one is root
	base     []shim.Mount
	filters  map[sandbox.Tier]seccomp.Program
	ids      *idPool
	groups   atomic.Int64 // numbers the groups of this process
	buffers  sync.Pool    // *[]byte of outputChunk, for reading output
	program  func() *program

	mu       sync.Mutex
	found    sandbox.Capability
	foundAt  time.Time
	controls cgroups
}

// New compiles the filters and reads the layout of the base system. It tries nothing yet: Probe does.
func New(config Config) (*Driver, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	d := &Driver{config: config, ids: newIDPool(config.HostIDs, hostIDCount)}
	d.program = sync.OnceValue(d.findProgram)
	if os.Geteuid() == 0 {
		d.root, d.confined = standing(config.HostIDs)
	}
	d.filters = map[sandbox.Tier]seccomp.Program{}
	for tier, sockets := range map[sandbox.Tier]seccomp.Sockets{sandbox.T1: seccomp.PairsOnly, sandbox.T2: seccomp.InternetAndUnix} {
		filter, err := seccomp.Compile(sockets)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "the system-call filter does not compile")
		}
		d.filters[tier] = filter
	}
	base, err := baseSystem(config.ReadOnly)
	if err != nil {
		return nil, err
	}
	d.base = base
	return d, nil
}

var _ sandbox.Driver = (*Driver)(nil)

// DefaultLimits are the limits of a step that sets none.
func DefaultLimits() sandbox.Limits {
	return sandbox.Limits{
		Wall:        time.Hour,
		CPU:         time.Hour,
		MemoryBytes: 2 << 30,
		Processes:   512,
		FileBytes:   4 << 30,
		DiskBytes:   8 << 30,
		OutputBytes: 64 << 20,
		Grace:       10 * time.Second,
	}
}

func fill[T time.Duration | int64 | int](name string, v, standard T) (T, error) {
	if v < 0 {
		return 0, fault.New(fault.Invalid, "the limit %s is negative", name)
	}
	if v == 0 {
		return standard, nil
	}
	return v, nil
}

func withDefaults(l sandbox.Limits) (sandbox.Limits, error) {
	d := DefaultLimits()
	var errs [8]error
	l.Wall, errs[0] = fill("wall", l.Wall, d.Wall)
	l.CPU, errs[1] = fill("cpu", l.CPU, d.CPU)
	l.MemoryBytes, errs[2] = fill("memory", l.MemoryBytes, d.MemoryBytes)
	l.Processes, errs[3] = fill("processes", l.Processes, d.Processes)
	l.FileBytes, errs[4] = fill("file size", l.FileBytes, d.FileBytes)
	l.DiskBytes, errs[5] = fill("disk", l.DiskBytes, d.DiskBytes)
	l.OutputBytes, errs[6] = fill("output", l.OutputBytes, d.OutputBytes)
	l.Grace, errs[7] = fill("grace", l.Grace, d.Grace)
	return l, errors.Join(errs[:]...)
}

// choose picks the strongest tier this machine has for a policy, or refuses and names the layer that is missing.
func (d *Driver) choose(ctx context.Context, policy sandbox.Policy) (sandbox.Tier, error) {
	found, short := d.probe(ctx)
	if err := ctx.Err(); err != nil {
		return 0, fault.Wrap(fault.Interrupted, err, "the step was not started")
	}
	if short != nil {
		return 0, short
	}
	if policy.MinTier < sandbox.T0 || policy.MinTier > sandbox.T3 {
		return 0, fault.New(fault.Invalid, "there is no sandbox tier %d", policy.MinTier)
	}
	if policy.MinTier == sandbox.T3 {
		return 0, Lacks(found, sandbox.T3, missingLayer(found, sandbox.T3))
	}
	missing := missingLayer(found, sandbox.T2)
	if missing == "" {
		return sandbox.T2, nil
	}
	if policy.MinTier == sandbox.T2 || len(policy.Egress) > 0 {
		return 0, Lacks(found, sandbox.T2, missing)
	}
	if missing = missingLayer(found, sandbox.T1); missing == "" {
		return sandbox.T1, nil
	}
	if policy.MinTier == sandbox.T1 {
		return 0, Lacks(found, sandbox.T1, missing)
	}
	if !d.config.AllowUnsandboxed {
		return 0, fault.New(fault.SandboxUnavailable, "this machine has no isolation to offer (%s is missing), and the operator does not allow steps to run without", missing).
			WithHint("start the worker with --allow-unsandboxed if steps may see and change everything its user can")
	}
	return sandbox.T0, nil
}

// Lacks is the refusal of a step that needs a tier of which a machine does not have a layer.
func Lacks(found sandbox.Capability, tier sandbox.Tier, layer string) error {
	detail := "not probed"
	for _, l := range found.Layers {
		if l.Name == layer {
			detail = l.Detail
		}
	}
	return fault.New(fault.SandboxUnavailable, "this machine lacks the layer %s, which sandbox tier t%d needs: %s", layer, tier, detail).
		WithHint("run the step on a worker that has it, or ask for a lower tier in the pack")
}

// idPool hands out host user ids, one per running step, so that two steps of a root worker are strangers to each other.
type idPool struct {
	mu    sync.Mutex
	first int
	next  int
	taken []bool
}

func newIDPool(first, count int) *idPool {
	// Two workers on one machine start at different places; a clash costs nothing but a shared process quota.
	return &idPool{first: first, next: os.Getpid() % count, taken: make([]bool, count)}
}

func (p *idPool) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.taken {
		slot := p.next
		p.next = (p.next + 1) % len(p.taken)
		if !p.taken[slot] {
			p.taken[slot] = true
			return p.first + slot, nil
		}
	}
	return 0, fault.New(fault.Exhausted, "all %d host user ids for steps are in use", len(p.taken))
}

func (p *idPool) give(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[id-p.first] = false
}

func label(tier sandbox.Tier, limited bool) string {
	if tier == sandbox.T0 || limited {
		return fmt.Sprintf("t%d", tier)
	}
	return fmt.Sprintf("t%d-nolimits", tier)
}

// Where a step of tier 2 finds its work folder and its way out, whatever the machine.
const (
	WorkPath  = shim.WorkPath
	ProxyPort = shim.ProxyPort
)
