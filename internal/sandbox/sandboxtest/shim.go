package sandboxtest

import (
	"os"
	"os/exec"
	"path/filepath"
)

// shimVariable names the file of the shim for the processes of a suite. With the value ownProgram the program of the tests is its own shim.
const (
	shimVariable = "SANDBOX_TEST_SHIM"
	ownProgram   = "own"
)

// OwnProgram is the environment of a suite that runs again without a shim of its own.
const OwnProgram = shimVariable + "=" + ownProgram

// CarriedShim is the environment of a suite that runs again as somebody else, with the shim of this one.
func CarriedShim() string { return shimVariable + "=" + os.Getenv(shimVariable) }

// buildShim builds the shim as a release carries it, unless the environment names one, and returns what removes it.
func buildShim() (remove func(), err error) {
	if os.Getenv(shimVariable) != "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "sandbox-shim-")
	if err != nil {
		return nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	file := filepath.Join(dir, "shim")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", file, "orrery.example/orrery/cmd/orrery-sandbox-shim")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err = build.Run(); err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Setenv(shimVariable, file)
	}
	if err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// Shim returns the shim that the suite runs with, for linux.Config: empty for the program itself.
func Shim() string {
	file := os.Getenv(shimVariable)
	if file == ownProgram {
		return ""
	}
	executable, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	return string(executable)
}

// Main runs tests with the shim as a release carries it, and returns the exit code.
func Main(run func() int) int {
	remove, err := buildShim()
	if err != nil {
		os.Stderr.WriteString("the shim of the sandbox does not build: " + err.Error() + "\n")
		return 1
	}
	defer remove()
	return run()
}
