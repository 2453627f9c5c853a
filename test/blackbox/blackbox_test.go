// Package blackbox tests the program as its users have it: the real binary in a shell, and every command that the documents show.
package blackbox

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// place is what all tests share: the tree, and a folder with the program.
var place struct{ root, bin string }

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Most of a script's time is waiting, so more of them than processors go on at once, unless somebody says otherwise.
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", "4")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "orrery-blackbox-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	place.root, place.bin = root, filepath.Join(dir, "bin")
	// Steps that run as somebody else, and tests that do, must reach the program.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.Command("./scripts/build.sh", filepath.Join(place.bin, "orrery")) // as users get it
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the program cannot be built: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// longest bounds one script or page, on a machine that has much else to do.
const longest = 5 * time.Minute

var (
	earlyLeaver = regexp.MustCompile(`[^|]\| *grep -[a-zA-Z]*q.*`)
	background  = regexp.MustCompile(`(?m)^[^#\n]*[^2&]>\s*([^\s;&|]+)[^;|\n]*[^&]&(?:\s|$)`)
)

// unsteady says what in a script goes well on most days only, "" for nothing.
func unsteady(script string) string {
	// Under pipefail the command before a grep that leaves at its first hit dies of a broken pipe, now and then.
	if at := earlyLeaver.FindString(script); at != "" {
		return fmt.Sprintf("%q: grep into /dev/null instead, which reads to the end", at)
	}
	// The file of a command in the background is emptied when the command gets to it: until then it has what the last one wrote.
	written := map[string]bool{}
	for _, command := range background.FindAllStringSubmatch(script, -1) {
		if written[command[1]] && command[1] != "/dev/null" {
			return fmt.Sprintf("%q writes a file that an earlier command has written: give it one of its own", command[0])
		}
		written[command[1]] = true
	}
	return ""
}

func TestUnsteady(t *testing.T) {
	for script, is := range map[string]bool{
		"echo a | grep -q a":                        true,
		"echo a | grep a >/dev/null || grep -q a b": false,
		"a > out 2> err & pid=$!\nb > out &":        true,
		"a > out 2>&1 & pid=$!\n\tb > out &":        true,
		"a > out &\nb > other &":                    false,
		"a > out 2>&1 & pid=$!\nb > out && c":       false,
	} {
		if got := unsteady(script); got != "" != is {
			t.Errorf("%q: %q", script, got)
		}
	}
}

// shell runs a bash script in a folder with the program on PATH and an environment of its own, and returns what it wrote to both streams.
func shell(t *testing.T, dir, script string) (string, error) {
	t.Helper()
	if why := unsteady(script); why != "" {
		t.Fatal(why)
	}
	home := t.TempDir()
	file := filepath.Join(home, "script.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), longest)
	defer stop()
	cmd := exec.CommandContext(ctx, "bash", file)
	cmd.Dir = dir
	cmd.Env = environment(home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	// What a script that failed has left running. Nobody is there when it cleaned up after itself.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return string(out), err
}

// environment is that of a person who has just logged in. What Go needs to build is kept.
func environment(home string) []string {
	env := []string{
		"HOME=" + home, "TMPDIR=" + home, "LC_ALL=C.UTF-8", "NO_COLOR=1", "ROOT=" + place.root, "BIN=" + place.bin, "USER=ada",
		"PATH=" + place.bin + ":" + os.Getenv("PATH"),
	}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO") {
			env = append(env, v)
		}
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOFLAGS"} {
		if os.Getenv(name) == "" {
			env = append(env, name+"="+goEnv(name))
		}
	}
	return env
}

var known = map[string]string{}

// goEnv asks once: another home folder must not mean another cache.
func goEnv(name string) string { return known[name] }

func init() {
	out, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOFLAGS").Output()
	if err != nil {
		return // the build says what is wrong
	}
	values := strings.Split(string(out), "\n")
	for i, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOFLAGS"} {
		known[name] = values[i]
	}
}

// copyTree copies files and folders of the tree into a folder. What examples gather before they run stays behind.
func copyTree(t *testing.T, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		from := filepath.Join(place.root, name)
		err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(place.root, path)
			if err != nil {
				return err
			}
			target := filepath.Join(to, rel)
			if d.IsDir() {
				if rel == "examples/release-check/input" {
					return fs.SkipDir
				}
				return os.MkdirAll(target, 0o755)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return os.WriteFile(target, raw, info.Mode().Perm())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copySource copies what it takes to build the program.
func copySource(t *testing.T, to string) {
	t.Helper()
	entries, err := os.ReadDir(place.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case ".git", "bin", "docs", "test":
		default:
			copyTree(t, to, e.Name())
		}
	}
}

// folder makes a folder for a test that other users may enter, too.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
