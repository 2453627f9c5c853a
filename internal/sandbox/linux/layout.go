package linux

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// baseSystem lists what every step sees of the host: programs and libraries, and of /etc only what the loader, TLS and time
// zones need. User names, the host's name and its addresses are made up.
func baseSystem(extra []string) ([]shim.Mount, error) {
	var base []shim.Mount
	for _, p := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
		"/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki", "/etc/alternatives", "/etc/localtime", "/etc/services"} {
		m, err := mirror(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "base system")
		}
		base = append(base, m)
	}
	for name, content := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/:/bin/sh\nstep:x:1000:1000:step:/step:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"/etc/group":         "root:x:0:\nstep:x:1000:\nnogroup:x:65534:\n",
		"/etc/hosts":         "127.0.0.1 localhost step\n::1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	} {
		base = append(base, shim.Mount{Kind: shim.MountText, Source: content, Target: name, FD: -1})
	}
	slices.SortFunc(base, func(a, b shim.Mount) int { return strings.Compare(a.Target, b.Target) })
	for _, d := range shim.Devices() {
		base = append(base, shim.Mount{Kind: shim.MountDevice, Source: d, Target: d, FD: -1})
	}
	for target, source := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2", "/dev/shm": "/tmp"} {
		base = append(base, shim.Mount{Kind: shim.MountLink, Source: source, Target: target, FD: -1})
	}
	return expose(base, extra)
}

// mirror repeats a link as a link, so that /bin stays what it is on a merged system, and binds anything else.
func mirror(path string) (shim.Mount, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return shim.Mount{}, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		if err != nil {
			return shim.Mount{}, err
		}
		return shim.Mount{Kind: shim.MountLink, Source: to, Target: path, FD: -1}, nil
	}
	return shim.Mount{Kind: shim.MountReadOnly, Source: path, Target: path, FD: -1}, nil
}

// expose adds read-only host paths to a layout. A path that leads through a link is bound where it really is, and the link is
// repeated, so both names work inside.
func expose(layout []shim.Mount, paths []string) ([]shim.Mount, error) {
	layout = slices.Clone(layout)
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return nil, fault.New(fault.Invalid, "read-only path %q is not absolute", p)
		}
		p = filepath.Clean(p)
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "read-only path %s", p)
		}
		for _, own := range []string{"/", "/proc", "/dev", "/sys", WorkPath} {
			if real == own || (own != "/" && beneath(own, real)) {
				return nil, fault.New(fault.Invalid, "read-only path %s leads to %s, which belongs to the sandbox", p, own)
			}
		}
		if !covered(layout, real) {
			layout = append(layout, shim.Mount{Kind: shim.MountReadOnly, Source: real, Target: real, FD: -1})
		}
		if p != real && !covered(layout, p) {
			layout = append(layout, shim.Mount{Kind: shim.MountLink, Source: real, Target: p, FD: -1})
		}
	}
	return layout, nil
}

func beneath(folder, path string) bool { return strings.HasPrefix(path, folder+"/") }

// covered reports whether a path is already visible through an entry of the layout, also through a link such as /lib.
func covered(layout []shim.Mount, path string) bool {
	for _, m := range layout {
		if m.Kind != shim.MountText && (path == m.Target || beneath(m.Target, path)) {
			return true
		}
	}
	return false
}
