package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where something was measured.
type machine struct {
	When       string            `json:"when"`
	Processors int               `json:"processors"`
	Model      string            `json:"model"`
	MemoryGiB  int               `json:"memoryGiB"`
	Kernel     string            `json:"kernel"`
	System     string            `json:"system"`
	Files      string            `json:"files"` // filesystem of the temporary folder
	LoadBefore string            `json:"loadBefore"`
	LoadAfter  string            `json:"loadAfter"`
	Commit     string            `json:"commit"`
	Versions   map[string]string `json:"versions"`
}

// load is the load of the last 1, 5 and 15 minutes.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}

func about(orrery string) machine {
	m := machine{
		When: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Processors: runtime.NumCPU(), LoadBefore: load(),
		Model: field("/proc/cpuinfo", "model name"), System: strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`),
		Versions: map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go")},
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryGiB = int((info.Totalram*uint64(info.Unit) + 1<<29) >> 30)
	}
	m.Files = first("findmnt", "-n", "-o", "FSTYPE", "-T", os.TempDir())
	m.Commit = first("git", "describe", "--always", "--dirty")
	m.Versions["Orrery"] = first(orrery, "version")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) > 0 { // the pattern is right
		m.Versions["PostgreSQL"] = first(found[len(found)-1], "--version")
	}
	m.Versions["Redis"] = first("redis-server", "--version")
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			for path, name := range map[string]string{
				"github.com/riverqueue/river": "River", "github.com/hibiken/asynq": "Asynq", "github.com/nats-io/nats-server/v2": "NATS",
				"github.com/mikestefanello/backlite": "backlite", "go.temporal.io/sdk": "Temporal SDK", "modernc.org/sqlite": "modernc.org/sqlite",
			} {
				if d.Path == path {
					m.Versions[name] = d.Version
				}
			}
		}
	}
	return m
}

// field returns what follows a name at the begin of a line, and a colon or an equals sign.
func field(file, name string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Trim(rest, " \t:=\n")
		}
	}
	return ""
}

// first is the first line that a program prints.
func first(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
