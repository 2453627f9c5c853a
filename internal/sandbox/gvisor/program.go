package gvisor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"orrery.example/orrery/internal/sandbox/linux"
)

// program is the executable runsc that was proved to work.
type program struct {
	path    string // absolute, without links
	version string
	digest  string // "sha256:…" of the file
	detail  string // for the record of protections
	info    fs.FileInfo
}

// find looks the program up, and says which one it is.
func find(name string) (*program, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; install gVisor's runsc, or name it with --runsc or ORRERY_RUNSC", name, errors.Unwrap(err))
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	p := &program{path: path}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if p.info, err = file.Stat(); err != nil {
		return nil, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return nil, err
	}
	p.digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if p.version, err = version(path); err != nil {
		return nil, err
	}
	return p, nil
}

// unchanged reports whether the file is still the one that was read.
func (p *program) unchanged() bool {
	now, err := os.Stat(p.path)
	if err != nil || !os.SameFile(now, p.info) || now.Size() != p.info.Size() {
		return false
	}
	was, is := p.info.Sys().(*syscall.Stat_t), now.Sys().(*syscall.Stat_t)
	return was.Ctim == is.Ctim && was.Mtim == is.Mtim
}

// versionWait bounds the question for the version.
const versionWait = 10 * time.Second

// version returns what the program says about itself. One that was built with the go command says nothing; there the module's version counts.
func version(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	scan := bufio.NewScanner(bytes.NewReader(out))
	for scan.Scan() {
		if v, ok := strings.CutPrefix(scan.Text(), "runsc version "); ok && v != "VERSION_MISSING" {
			return strings.TrimPrefix(v, "release-"), nil
		}
	}
	if build, err := buildinfo.ReadFile(path); err == nil && build.Main.Version != "" {
		return build.Main.Version, nil
	}
	return "", fmt.Errorf("%s does not say which version it is", path)
}

// guest is the program as package linux starts it.
func (p *program) guest() linux.Guest {
	layers := map[string]string{}
	if p.detail != "" {
		layers[linux.LayerGVisor] = p.detail
	}
	return linux.Guest{Program: p.path, Command: command, Config: bundle, Layers: layers}
}
