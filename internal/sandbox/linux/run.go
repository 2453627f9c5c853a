package linux

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/shim"
	"orrery.example/orrery/internal/sandbox/workspace"
)

// mostTmp is the size of /tmp, unless the step's memory is smaller.
const mostTmp = 1 << 30

// Run implements sandbox.Driver. In tier 2 the work folder is WorkPath inside. What the step leaves there belongs, on the host,
// to the worker's user or, under a root worker, to the step's own user id.
func (d *Driver) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	limits, err := validate(spec)
	if err != nil {
		return sandbox.Result{}, err
	}
	tier, err := d.choose(ctx, spec.Policy)
	if err != nil {
		return sandbox.Result{}, err
	}
	return (&execution{driver: d, spec: spec, tier: tier, limits: limits, watchDisk: true}).all(ctx)
}

func (x *execution) all(ctx context.Context) (sandbox.Result, error) {
	defer x.release()
	if err := x.prepare(); err != nil {
		return sandbox.Result{}, err
	}
	return x.run(ctx)
}

func validate(spec sandbox.Spec) (sandbox.Limits, error) {
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		return sandbox.Limits{}, fault.New(fault.Invalid, "step %s has no command", spec.Name)
	}
	for _, text := range append(append([]string{}, spec.Command...), spec.Env...) {
		if strings.ContainsRune(text, 0) {
			return sandbox.Limits{}, fault.New(fault.Invalid, "step %s: %q contains a zero byte", spec.Name, text)
		}
	}
	for _, e := range spec.Env {
		if strings.IndexByte(e, '=') < 1 {
			return sandbox.Limits{}, fault.New(fault.Invalid, "step %s: environment entry %q is not NAME=value", spec.Name, e)
		}
	}
	if !filepath.IsAbs(spec.Dir) {
		return sandbox.Limits{}, fault.New(fault.Invalid, "step %s: work folder %q is not an absolute path", spec.Name, spec.Dir)
	}
	if info, err := os.Lstat(spec.Dir); err != nil || !info.IsDir() {
		return sandbox.Limits{}, fault.New(fault.Invalid, "step %s: work folder %s is not a folder", spec.Name, spec.Dir)
	}
	for _, e := range spec.Policy.Egress {
		if e.Host == "" || e.Port < 1 || e.Port > 65535 {
			return sandbox.Limits{}, fault.New(fault.Invalid, "step %s: %s:%d is no endpoint", spec.Name, e.Host, e.Port)
		}
	}
	return withDefaults(spec.Policy.Limits)
}

// prepare takes what the execution needs from the machine: a user, a folder that is its own, a group, an order.
func (x *execution) prepare() error {
	d := x.driver
	x.id = os.Geteuid()
	gid := os.Getegid()
	if x.tier != sandbox.T0 {
		id, give, err := d.identity()
		if err != nil {
			return err
		}
		x.cleanups = append(x.cleanups, give)
		x.id = id
		if d.root {
			gid = id
		}
	}
	if err := workspace.Own(x.spec.Dir, x.id, gid); err != nil {
		return err
	}
	if err := x.limitGroup(); err != nil {
		return err
	}
	layout, err := expose(d.base, x.spec.Policy.ReadOnly)
	if err != nil {
		return err
	}
	x.order = &shim.Order{
		Tier: int(x.tier), Argv: x.spec.Command, Env: x.spec.Env, Dir: x.spec.Dir, UID: -1,
		Limits: resourceLimits(x.limits, x.tier, x.group != nil),
	}
	x.protections = sandbox.Protections{Tier: x.tier, Label: label(x.tier, x.group != nil), Layers: x.layers()}
	switch x.tier {
	case sandbox.T3:
		return x.orderGuest(layout)
	case sandbox.T2:
		x.orderPrivateRoot(layout)
	case sandbox.T1:
		return x.orderShared(layout)
	}
	return nil
}

func (x *execution) limitGroup() error {
	found := x.driver.Probe(context.Background())
	if !has(found, LayerCgroup) {
		return nil
	}
	x.driver.mu.Lock()
	controls := x.driver.controls
	x.driver.mu.Unlock()
	name := strconv.FormatInt(x.driver.groups.Add(1), 10)
	g, err := controls.create(name, x.hostLimits())
	if err != nil {
		return fault.Wrap(fault.Sandbox, err, "cgroup of step %s", x.spec.Name)
	}
	x.group = g
	x.cleanups = append(x.cleanups, g.remove)
	return nil
}

func (x *execution) orderPrivateRoot(layout []shim.Mount) {
	o := x.order
	o.Mounts = append(layout, shim.Mount{Kind: shim.MountWritable, Source: x.spec.Dir, Target: WorkPath, FD: -1})
	o.TmpBytes = int(min(x.limits.MemoryBytes, mostTmp))
	o.Dir = WorkPath
	o.Readable, o.Writable = []string{"/"}, []string{WorkPath, "/tmp"}
	o.ABI, _ = shim.LandlockABI() // the probe has used this very version
	o.Filter = x.driver.filters[sandbox.T2].Filter
	if len(x.spec.Policy.Egress) > 0 {
		o.Proxied = true
		o.Env = withProxy(o.Env)
	}
}

// orderShared is tier 1: the host's tree with all but the base system closed, and a temporary folder of the step's own because the host's /tmp is everybody's.
func (x *execution) orderShared(layout []shim.Mount) error {
	o := x.order
	tmp, err := os.MkdirTemp("", "orrery-step-")
	if err != nil {
		return fault.Wrap(fault.Sandbox, err, "temporary folder of step %s", x.spec.Name)
	}
	x.cleanups = append(x.cleanups, func() { _ = workspace.Remove(tmp) })
	if x.driver.root {
		o.UID = x.id
		if err := os.Chown(tmp, x.id, x.id); err != nil {
			return fault.Wrap(fault.Sandbox, err, "temporary folder of step %s", x.spec.Name)
		}
	}
	for _, m := range layout {
		if m.Kind == shim.MountReadOnly {
			o.Readable = append(o.Readable, m.Target)
		}
	}
	o.Writable = []string{x.spec.Dir, tmp}
	o.Env = override(o.Env, "TMPDIR="+tmp)
	o.ABI, _ = shim.LandlockABI()
	o.Filter = x.driver.filters[sandbox.T1].Filter
	return nil
}

// withProxy points the usual variables at the step's own end of the proxy, whatever the step's environment said.
func withProxy(env []string) []string {
	url := fmt.Sprintf("http://127.0.0.1:%d", ProxyPort)
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"} {
		env = override(env, name+"="+url)
	}
	return override(override(env, "no_proxy=localhost,127.0.0.1"), "NO_PROXY=localhost,127.0.0.1")
}

func override(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, name+"=") {
			out = append(out, e)
		}
	}
	return append(out, entry)
}

// layers says, for the evidence, what held this execution.
func (x *execution) layers() map[string]string {
	found := x.driver.Probe(context.Background())
	layers := map[string]string{}
	details := map[string]string{}
	for _, l := range found.Layers {
		details[l.Name] = l.Detail
	}
	for _, name := range required(x.tier) {
		layers[name] = details[name]
	}
	layers[LayerShim] = details[LayerShim]
	layers[LayerRlimits] = "cpu, file-size, open-files, no core"
	layers["memory"] = "rlimit of each process's data"
	layers["processes"] = "not limited"
	switch x.tier {
	case sandbox.T3:
		layers["memory"], layers["processes"] = "watched", "the second kernel"
		maps.Copy(layers, x.guest.Layers)
	case sandbox.T2:
		layers["processes"] = "rlimit in the user namespace"
	}
	if x.group != nil {
		layers[LayerCgroup] = x.group.version
		layers["memory"] = "cgroup " + x.group.version
		if x.guest == nil {
			layers["processes"] = "cgroup " + x.group.version
		}
	}
	layers["user"] = "the worker's"
	if x.driver.root && x.tier != sandbox.T0 {
		layers["user"] = "host id " + strconv.Itoa(x.id)
	}
	layers["disk"] = "watched"
	switch {
	case x.tier == sandbox.T0:
		layers["network"] = "the host's"
	case len(x.spec.Policy.Egress) > 0:
		layers["network"] = "proxy"
	default:
		layers["network"] = "none"
	}
	if x.tier == sandbox.T1 {
		layers[LayerSeccomp] = x.driver.filters[sandbox.T1].Digest
	}
	return layers
}

// grace bounds how long output is awaited after the shim of a tier without a process namespace ended: a process that killed
// its own shim may hold the pipe.
const grace = 5 * time.Second
