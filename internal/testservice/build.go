package testservice

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"orrery.example/orrery/internal/fault"
)

// runsc is gVisor, the second kernel of sandbox tier 3. The version is fixed, so that a test means the same everywhere.
const (
	runsc        = "gvisor.dev/gvisor/runsc"
	runscVersion = "v0.0.0-20260905035102-160fafc42237"
)

// buildTimeout allows for many dependencies on a small machine that does other things, too. A program is built once and kept in the user's
// cache.
const buildTimeout = 15 * time.Minute

// Runsc returns the path of gVisor's runsc. The first time on a machine it is built with the go command.
func Runsc(t testing.TB) string {
	t.Helper()
	path, err := built(runsc, runscVersion)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Prebuild builds the programs that tests would build otherwise, which takes minutes that no test has.
func Prebuild() error {
	_, err := built(gateway, gatewayVersion)
	_, err2 := built(runsc, runscVersion)
	_, err3 := built(opa, opaVersion)
	_, err4 := installProvider()
	return errors.Join(err, err2, err3, err4)
}

// built returns the path of a program from the module proxy. Any number of processes may ask for it at once: one builds, the others wait.
func built(module, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "orrery-testservice", version)
	program := filepath.Join(dir, path.Base(module))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(program+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it the lock ends
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", module+"@"+version)
	cmd.Dir = os.TempDir() // not within this module, whose go.mod it must not see
	// It is moved into place when it is whole: nobody finds half of it.
	unfinished := filepath.Join(dir, "unfinished")
	cmd.Env = append(os.Environ(), "GOBIN="+unfinished, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fault.New(fault.NotFound, "the test needs %s, which could not be built: %v\n%s", path.Base(module), err, out).
			WithHint("GOBIN=%s go install %s@%s", dir, module, version)
	}
	return program, os.Rename(filepath.Join(unfinished, path.Base(module)), program)
}
