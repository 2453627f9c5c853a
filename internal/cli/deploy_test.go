package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const deploy = "../../deploy"

// Every command line in deploy/ is one that the program takes, and every variable one that it reads.
func TestDeployedCommandLines(t *testing.T) {
	var lines [][]string
	execStart := regexp.MustCompile(`(?m)^ExecStart=\S*/orrery (.*)$`)
	walk(t, "systemd", ".service", func(name, text string) {
		found := execStart.FindAllStringSubmatch(text, -1)
		if len(found) != 1 {
			t.Errorf("%s has %d commands", name, len(found))
		}
		for _, f := range found {
			lines = append(lines, strings.Fields(f[1]))
		}
	})
	lines = append(lines, composed(t)...)
	lines = append(lines, charted(t)...)
	for _, line := range lines {
		takes(t, line)
	}
	if len(lines) < 8 {
		t.Errorf("only %d command lines were found", len(lines))
	}
}

// composed are the commands of the compose file: of the services that run this program, and of their health checks.
func composed(t *testing.T) (lines [][]string) {
	var file struct {
		Services map[string]struct {
			Image       string         `yaml:"image"`
			Command     []string       `yaml:"command"`
			Environment map[string]any `yaml:"environment"`
			Healthcheck struct {
				Test []string `yaml:"test"`
			} `yaml:"healthcheck"`
		} `yaml:"services"`
	}
	raw, err := os.ReadFile(deploy + "/compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for name, s := range file.Services {
		if !strings.HasPrefix(s.Image, "orrery:") {
			continue
		}
		lines = append(lines, s.Command)
		if test := s.Healthcheck.Test; len(test) > 2 && test[1] == "/orrery" {
			lines = append(lines, test[2:])
		}
		for variable := range s.Environment {
			reads(t, name, variable)
		}
	}
	return lines
}

// charted are the arguments in the templates of the chart. What is between braces is a value.
func charted(t *testing.T) (lines [][]string) {
	item := regexp.MustCompile(`(?m)^\s+- ((?:worker|server|up)|--[a-z-]+=.*)$`)
	inline := regexp.MustCompile(`(?m)^\s+args: \[(.*)\]$`)
	value := regexp.MustCompile(`\{\{.*?\}\}`)
	variable := regexp.MustCompile(`\{name: ([A-Z_]+), value`)
	walk(t, "helm/orrery/templates", ".yaml", func(name, text string) {
		for _, f := range inline.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Split(f[1], ", "))
		}
		for _, f := range variable.FindAllStringSubmatch(text, -1) {
			reads(t, name, f[1])
		}
		var line []string
		for _, f := range item.FindAllStringSubmatch(text, -1) {
			line = append(line, value.ReplaceAllString(f[1], "1"))
		}
		if line != nil {
			lines = append(lines, line)
		}
	})
	var values struct {
		Server struct {
			Settings map[string]string `yaml:"settings"`
		} `yaml:"server"`
	}
	raw, err := os.ReadFile(deploy + "/helm/orrery/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, &values); err != nil {
		t.Fatal(err)
	}
	for name := range values.Server.Settings {
		reads(t, "values.yaml", "ORRERY_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
	}
	return lines
}

func walk(t *testing.T, at, ending string, fn func(name, text string)) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(filepath.Join(deploy, at), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ending) {
			return err
		}
		found++
		raw, err := os.ReadFile(path)
		fn(filepath.Base(path), string(raw))
		return err
	})
	if err != nil || found == 0 {
		t.Fatalf("%s: %d files, %v", at, found, err)
	}
}

// takes fails the test when the program would refuse the command line for its form.
func takes(t *testing.T, line []string) {
	t.Helper()
	c := &cli{}
	cmd, rest, err := c.root().Find(line)
	if err != nil || cmd.Name() != line[0] {
		t.Errorf("%q: %v", line, err)
		return
	}
	cmd.InheritedFlags() // those of the root join in
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", line, err)
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%q: %v", line, err)
	}
}

// reads fails the test when no setting, and nothing else of the program, goes by the variable.
func reads(t *testing.T, where, variable string) {
	t.Helper()
	known := []string{"ORRERY_DATA", "ORRERY_SERVER", "ORRERY_TOKEN_FILE", "ORRERY_CONFIG"}
	for _, s := range serverSettings() {
		known = append(known, s.Env())
	}
	if !slices.Contains(known, variable) {
		t.Errorf("%s: nothing reads %s", where, variable)
	}
}
