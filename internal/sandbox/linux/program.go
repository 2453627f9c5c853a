package linux

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/linux/fork"
	"orrery.example/orrery/internal/sandbox/linux/shim"
)

// program is what is started as the shim: the same code in either case.
type program struct {
	file   *os.File
	own    bool          // the worker's own program, executed again
	layer  sandbox.Layer // what a probe and the evidence say about it
	failed error         // nothing can be started at all
}

// findProgram finds out, once, what is to be started as the shim: the one that was built for it, from memory, or this program where the build carries
// none or the machine does not execute memory.
func (d *Driver) findProgram() *program {
	p, err := d.carried()
	if err == nil {
		return p
	}
	p = &program{own: true, layer: sandbox.Layer{Name: LayerShim, Available: errors.Is(err, errNoneCarried), Detail: "this program itself: " + err.Error()}}
	fd, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		p.failed = fmt.Errorf("this program does not find itself: %w", err)
		return p
	}
	p.file = os.NewFile(uintptr(fd), "shim")
	return p
}

var errNoneCarried = errors.New("the build carries no shim")

// carried puts the shim that the build carries into memory that nobody can change any more, this process included, and tries it.
func (d *Driver) carried() (*program, error) {
	if len(d.config.Shim) == 0 {
		return nil, errNoneCarried
	}
	if slices.Contains(d.config.Disable, LayerShim) {
		return nil, errors.New("the other is withheld by configuration")
	}
	fd, err := unix.MemfdCreate(shim.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 memory is executable without being asked
		fd, err = unix.MemfdCreate(shim.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memory for the shim: %w", err)
	}
	p := &program{file: os.NewFile(uintptr(fd), "shim")}
	if err := d.seal(p.file); err != nil {
		p.file.Close()
		return nil, err
	}
	p.layer = sandbox.Layer{Name: LayerShim, Available: true, Detail: ShimDigest(d.config.Shim)}
	return p, nil
}

// ShimDigest names a shim in evidence: "sha256:…" of the executable, and "none" for no bytes.
func ShimDigest(executable string) string {
	if executable == "" {
		return "none"
	}
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(executable), len(executable))) // megabytes that are not copied
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (d *Driver) seal(file *os.File) error {
	if _, err := file.WriteString(d.config.Shim); err != nil {
		return fmt.Errorf("memory for the shim: %w", err)
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return fmt.Errorf("memory for the shim cannot be sealed: %w", err)
	}
	script := &fork.Script{}
	if err := execute(script, int(file.Fd()), []string{shim.Name, shim.Hello}); err != nil {
		return err
	}
	pid, err := script.Run()
	if err != nil {
		return fmt.Errorf("the machine does not execute the shim from memory: %w", err)
	}
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if err != nil || status.ExitStatus() != 0 {
		return fmt.Errorf("the shim does not start from memory: %v, wait status %#x", err, uint32(status))
	}
	return nil
}

// execute adds the execution of a file. What the shim is told comes in memory, never by arguments, which everybody on the machine can read.
func execute(script *fork.Script, file int, args []string) error {
	empty, err := script.Text("")
	if err != nil {
		return err
	}
	argv, err := script.Vector(args)
	if err != nil {
		return err
	}
	// It allocates little, once, and has nothing to run in parallel.
	env, err := script.Vector([]string{"GOMAXPROCS=1", "GOGC=off"})
	if err != nil {
		return err
	}
	script.Add("execution of the shim", unix.SYS_EXECVEAT, uintptr(file), empty, argv, env, unix.AT_EMPTY_PATH)
	return nil
}

// tryShim tells which shim is used.
func (d *Driver) tryShim(context.Context) (string, error) {
	p := d.program()
	if !p.layer.Available {
		return "", errors.New(p.layer.Detail)
	}
	return p.layer.Detail, p.failed
}
