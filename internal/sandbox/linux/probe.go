package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// The layers. A probe tries each by using it.
const (
	LayerUser        = "user-namespace"
	LayerMount       = "mount-namespace"
	LayerPID         = "pid-namespace"
	LayerNetwork     = "network-namespace"
	LayerIPC         = "ipc-namespace"
	LayerUTS         = "uts-namespace"
	LayerCgroupSpace = "cgroup-namespace"
	LayerRoot        = "private-root" // new mounts, own /proc, pivot_root
	LayerLandlock    = "landlock"
	LayerSeccomp     = "seccomp"
	LayerRlimits     = "rlimits"
	LayerCgroup      = "cgroup" // memory and process limits of the whole tree; without it the label says nolimits
	LayerGVisor      = "gvisor" // a second kernel; package gvisor has it
	LayerShim        = "shim"   // the program that puts the others up; no tier depends on which one it is
)

// probeValidity is how long an answer holds: what a machine allows changes when an operator changes it.
const probeValidity = time.Hour

// probeWait bounds one attempt. A kernel that hangs on a layer does not have it.
const probeWait = 10 * time.Second

type namespace struct {
	layer string
	flag  uintptr
}

func namespaces() []namespace {
	return []namespace{
		{LayerUser, unix.CLONE_NEWUSER}, {LayerMount, unix.CLONE_NEWNS}, {LayerPID, unix.CLONE_NEWPID}, {LayerNetwork, unix.CLONE_NEWNET},
		{LayerIPC, unix.CLONE_NEWIPC}, {LayerUTS, unix.CLONE_NEWUTS}, {LayerCgroupSpace, unix.CLONE_NEWCGROUP},
	}
}

func allNamespaces() (flags uintptr) {
	for _, n := range namespaces() {
		flags |= n.flag
	}
	return flags
}

// required lists the layers a tier cannot do without.
func required(tier sandbox.Tier) []string {
	shared := []string{LayerLandlock, LayerSeccomp, LayerRlimits}
	switch tier {
	case sandbox.T1:
		return shared
	case sandbox.T2:
		return append([]string{LayerUser, LayerMount, LayerPID, LayerNetwork, LayerIPC, LayerUTS, LayerCgroupSpace, LayerRoot}, shared...)
	case sandbox.T3: // Landlock is of the host's kernel, and the step does not run on that
		return []string{LayerUser, LayerMount, LayerPID, LayerNetwork, LayerIPC, LayerUTS, LayerCgroupSpace, LayerRoot, LayerSeccomp, LayerRlimits, LayerGVisor}
	}
	return nil
}

func knownLayer(name string) bool {
	all := append(required(sandbox.T2), LayerCgroup, LayerGVisor, LayerShim)
	return slices.Contains(all, name)
}

func has(found sandbox.Capability, layer string) bool {
	return slices.ContainsFunc(found.Layers, func(l sandbox.Layer) bool { return l.Name == layer && l.Available })
}

func missingLayer(found sandbox.Capability, tier sandbox.Tier) string {
	for _, layer := range required(tier) {
		if !has(found, layer) {
			return layer
		}
	}
	return ""
}

// Probe implements sandbox.Driver. An answer is kept for an hour.
func (d *Driver) Probe(ctx context.Context) sandbox.Capability {
	found, _ := d.probe(ctx)
	return found
}

// probe tries every layer. An error says that the machine has run out of something, files for example: then nothing is known about the layers,
// and they are tried again the next time.
func (d *Driver) probe(ctx context.Context) (sandbox.Capability, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.foundAt.IsZero() && time.Since(d.foundAt) < probeValidity {
		return d.found, nil
	}
	found, short := sandbox.Capability{}, error(nil)
	proved := d.tryTogether(ctx)
	for _, try := range d.trials() {
		layer := sandbox.Layer{Name: try.layer}
		if detail, ok := proved[try.layer]; ok {
			layer.Available, layer.Detail = true, detail
		} else if slices.Contains(d.config.Disable, try.layer) {
			layer.Detail = "withheld by configuration"
		} else if detail, err := try.attempt(ctx); err != nil {
			layer.Detail = err.Error() + try.remedy
			if err := fault.Wrap(fault.Sandbox, err, "the layer %s of the sandbox cannot be tried", try.layer); fault.CodeOf(err) == fault.Exhausted {
				short, layer.Detail = err, "not tried: "+text(err)
			}
		} else {
			layer.Available, layer.Detail = true, detail
		}
		found.Layers = append(found.Layers, layer)
	}
	for tier := sandbox.T2; tier > sandbox.T0; tier-- {
		if missingLayer(found, tier) == "" {
			found.Tier = tier
			break
		}
	}
	found.Label = label(found.Tier, has(found, LayerCgroup))
	if found.Tier == sandbox.T0 && !d.config.AllowUnsandboxed {
		found.Label = "none"
	}
	if ctx.Err() == nil && short == nil { // an interrupted probe proves nothing
		d.found, d.foundAt = found, time.Now()
	}
	d.config.Logger.Info("sandbox probed", "tier", found.Tier, "label", found.Label)
	return found, short
}

// text is an error with what to do about it.
func text(err error) string {
	var e *fault.Error
	if errors.As(err, &e) && e.Hint != "" {
		return err.Error() + "; " + e.Hint
	}
	return err.Error()
}

// tryTogether uses many layers in one process, and returns those that were proved by it, with what there is to say of each. On a machine that has
// them all that saves ten processes; what is not proved is tried alone, so that it can be named.
func (d *Driver) tryTogether(ctx context.Context) map[string]string {
	proved := map[string]string{}
	withheld := func(layers ...string) bool {
		return slices.ContainsFunc(layers, func(l string) bool { return slices.Contains(d.config.Disable, l) })
	}
	rooms := []string{LayerRoot}
	for _, n := range namespaces() {
		rooms = append(rooms, n.layer)
	}
	if d.confined == nil && !withheld(rooms...) {
		if detail, err := d.tryRoot(ctx); err == nil {
			for _, layer := range rooms {
				proved[layer] = "created"
			}
			proved[LayerRoot] = detail
		}
	}
	abi, err := shim.LandlockABI()
	if err != nil || abi < shim.LeastABI || withheld(LayerLandlock, LayerSeccomp, LayerRlimits) {
		return proved
	}
	filter := d.filters[sandbox.T2]
	o := &shim.Order{Tier: 1, ABI: abi, Readable: []string{"/usr"}, Filter: filter.Filter, Limits: resourceLimits(DefaultLimits(), 0, true)}
	if d.rehearse(ctx, o) == nil {
		proved[LayerLandlock], proved[LayerSeccomp], proved[LayerRlimits] = landlockDetail(abi), filter.Digest, rlimitsDetail
	}
	return proved
}

func landlockDetail(abi int) string { return fmt.Sprintf("abi %d", abi) }

const rlimitsDetail = "set"

// trial is the attempt to use one layer.
type trial struct {
	layer   string
	attempt func(context.Context) (string, error)
	remedy  string
}

func (d *Driver) trials() []trial {
	all := []trial{{LayerShim, d.tryShim, ""}}
	for _, n := range namespaces() {
		if d.confined != nil {
			all = append(all, trial{n.layer, func(context.Context) (string, error) { return "", d.confined }, ""})
			continue
		}
		all = append(all, trial{n.layer, func(ctx context.Context) (string, error) {
			return "created", d.tryNamespaces(ctx, unix.CLONE_NEWUSER|n.flag)
		}, "; check user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"})
	}
	return append(all,
		trial{LayerRoot, d.tryRoot, "; a masked /proc around the worker, as in a default container, forbids a fresh one inside"},
		trial{LayerLandlock, d.tryLandlock, "; Landlock needs Linux 6.7 or newer and landlock in the lsm= list"},
		trial{LayerSeccomp, d.trySeccomp, "; the kernel needs CONFIG_SECCOMP_FILTER"},
		trial{LayerRlimits, d.tryRlimits, ""},
		trial{LayerCgroup, d.tryCgroup, "; delegate a cgroup v2 folder to the worker's user (systemd: Delegate=yes)"},
	)
}

func (d *Driver) tryNamespaces(ctx context.Context, flags uintptr) error {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	id, release, err := d.identity()
	if err != nil {
		return err
	}
	defer release()
	process, err := d.launch(launch{args: []string{shim.Name, shim.Hello}, files: make([]*os.File, 3), namespaces: flags, id: id})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, process.kill)
	defer stop()
	status, err := process.wait()
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("the shim ended with wait status %#x", uint32(status))
	}
	return nil
}

// rehearse runs an order that ends in an exit instead of a program.
func (d *Driver) rehearse(ctx context.Context, o *shim.Order) error {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	o.Rehearse, o.Dir, o.UID = true, "/", -1
	id, release, err := d.identity()
	if err != nil {
		return err
	}
	defer release()
	x := &execution{driver: d, order: o, id: id, tier: sandbox.Tier(o.Tier), limits: DefaultLimits()}
	result, err := x.run(ctx)
	if err != nil {
		return err
	}
	if result.Cause != sandbox.Exited || result.ExitCode != 0 {
		return fmt.Errorf("the rehearsal ended with %s %d", result.Cause, result.ExitCode)
	}
	return nil
}

func (d *Driver) tryRoot(ctx context.Context) (string, error) {
	return "pivot_root", d.rehearse(ctx, &shim.Order{Tier: 2, Mounts: slices.Clone(d.base), TmpBytes: 1 << 20})
}

func (d *Driver) tryLandlock(ctx context.Context) (string, error) {
	abi, err := shim.LandlockABI()
	if err != nil {
		return "", fmt.Errorf("no Landlock: %w", err)
	}
	if abi < shim.LeastABI {
		return "", fmt.Errorf("version %d of Landlock, and %d is the least", abi, shim.LeastABI)
	}
	return landlockDetail(abi), d.rehearse(ctx, &shim.Order{Tier: 1, ABI: abi, Readable: []string{"/usr"}})
}

func (d *Driver) trySeccomp(ctx context.Context) (string, error) {
	filter := d.filters[sandbox.T2]
	return filter.Digest, d.rehearse(ctx, &shim.Order{Tier: 1, Filter: filter.Filter})
}

func (d *Driver) tryRlimits(ctx context.Context) (string, error) {
	return rlimitsDetail, d.rehearse(ctx, &shim.Order{Tier: 0, Limits: resourceLimits(DefaultLimits(), 0, true)})
}

func (d *Driver) tryCgroup(context.Context) (string, error) {
	controls, err := findCgroups(d.config.CgroupRoot)
	if err != nil {
		return "", err
	}
	controls.sweep()
	group, err := controls.create("probe", DefaultLimits())
	if err != nil {
		return "", err
	}
	group.remove()
	d.controls = controls
	return controls.version, nil
}
