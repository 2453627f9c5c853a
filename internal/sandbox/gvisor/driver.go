// Package gvisor runs steps on a second kernel: gVisor, started as the program runsc inside the walls of package linux, so that a step's
// system calls do not reach the kernel of the machine.
//
// Steps that ask for less than tier 3 are passed on to package linux.
package gvisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux"
)

// Config is what an operator decides about the second kernel.
type Config struct {
	// Program is the host path of runsc, or a name that is looked up in PATH. Empty means "runsc".
	Program string
	// Disable withholds layers by name, as if the machine lacked them; linux.LayerGVisor is this driver's.
	Disable []string
	// Logger receives what the probe found. Nil means nowhere.
	Logger *slog.Logger
}

// Driver implements sandbox.Driver. Make one with New.
type Driver struct {
	config Config
	walls  *linux.Driver

	mu    sync.Mutex
	found *found
}

// found is what the last probe of the second kernel said.
type found struct {
	at      time.Time
	program *program // nil when there is none
	layer   sandbox.Layer
	short   error // the machine had run out of something, so nothing is known
}

// New returns the driver of all tiers. The walls are those of tiers 0 to 2, and stand around the second kernel, too.
func New(config Config, walls *linux.Driver) *Driver {
	if config.Program == "" {
		config.Program = "runsc"
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Driver{config: config, walls: walls}
}

var _ sandbox.Driver = (*Driver)(nil)

// Walls returns the driver of the lower tiers, whose probe is much cheaper.
func (d *Driver) Walls() sandbox.Driver { return d.walls }

// probeValidity is how long an answer holds; another program at the same path ends it earlier.
const probeValidity = time.Hour

// probeWait bounds the start of a container. A platform that hangs does not work.
const probeWait = 30 * time.Second

// Probe implements sandbox.Driver: what package linux finds, and whether a container does start on a second kernel. An answer is kept for an hour.
func (d *Driver) Probe(ctx context.Context) sandbox.Capability {
	capability := d.walls.Probe(ctx)
	f := d.try(ctx, capability)
	capability.Layers = append(slices.Clone(capability.Layers), f.layer)
	if capability.Tier == sandbox.T2 && f.layer.Available {
		// The label says whether limits hold as the walls say it.
		capability.Tier, capability.Label = sandbox.T3, "t3"+capability.Label[len("t2"):]
	}
	return capability
}

// try answers whether tier 3 works, from memory where nothing has changed.
func (d *Driver) try(ctx context.Context, walls sandbox.Capability) *found {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.found; f != nil && time.Since(f.at) < probeValidity && (f.program == nil || f.program.unchanged()) {
		return f
	}
	f := &found{at: time.Now(), layer: sandbox.Layer{Name: linux.LayerGVisor}}
	if walls.Tier < sandbox.T2 {
		f.layer.Detail = "not tried: it needs the layers of tier t2 around it"
	} else if slices.Contains(d.config.Disable, linux.LayerGVisor) {
		f.layer.Detail = "withheld by configuration"
	} else if p, err := d.start(ctx); err != nil {
		f.layer.Detail = err.Error()
		if fault.CodeOf(fault.Wrap(fault.Sandbox, err, "")) == fault.Exhausted {
			f.short = fault.Wrap(fault.Sandbox, err, "the second kernel cannot be tried")
		}
	} else {
		f.program, f.layer.Available, f.layer.Detail = p, true, p.detail
	}
	if ctx.Err() == nil && f.short == nil && walls.Tier >= sandbox.T2 {
		d.found = f
	}
	d.config.Logger.Info("second kernel probed", "available", f.layer.Available, "detail", f.layer.Detail)
	return f
}

// start finds the program and starts a container with it.
func (d *Driver) start(ctx context.Context) (*program, error) {
	p, err := find(d.config.Program)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	kernel, err := d.walls.RehearseGuest(ctx, p.guest())
	if err != nil {
		return nil, fmt.Errorf("%s does not start a container: %w", p.path, err)
	}
	p.detail = fmt.Sprintf("runsc %s %s, platform %s, kernel %s", p.version, p.digest, platform, kernel)
	return p, nil
}

// Run implements sandbox.Driver. In tier 3 the work folder is linux.WorkPath inside, as in tier 2.
func (d *Driver) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	if spec.Policy.MinTier != sandbox.T3 {
		return d.walls.Run(ctx, spec)
	}
	walls := d.walls.Probe(ctx)
	f := d.try(ctx, walls)
	if err := ctx.Err(); err != nil {
		return sandbox.Result{}, fault.Wrap(fault.Interrupted, err, "the step was not started")
	}
	if f.short != nil {
		return sandbox.Result{}, f.short
	}
	if f.program == nil {
		if walls.Tier < sandbox.T2 {
			return d.walls.Run(ctx, spec) // which refuses it, and names the layer
		}
		walls.Layers = append(slices.Clone(walls.Layers), f.layer)
		return sandbox.Result{}, linux.Lacks(walls, sandbox.T3, linux.LayerGVisor)
	}
	return d.walls.RunGuest(ctx, spec, f.program.guest())
}
