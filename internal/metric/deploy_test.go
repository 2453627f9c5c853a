package metric_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/metric"
	"orrery.example/orrery/internal/store"
)

const root = "../.."

var update = flag.Bool("update", false, "write docs/reference/metrics.md")

func definitions() []metric.Definition {
	m := metric.New("test", 0)
	m.Gauges(func(context.Context) ([]store.Census, error) { return nil, nil })
	return m.Definitions()
}

type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func rules(t testing.TB, name string) (out []rule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy/prometheus", name))
	if err == nil {
		err = yaml.Unmarshal(raw, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

// panels are the expressions of the dashboard, by title.
func panels(t testing.TB) map[string][]string {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy/grafana/orrery.json"))
	if err == nil {
		err = json.Unmarshal(raw, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			out[p.Title] = append(out[p.Title], q.Expr)
		}
	}
	return out
}

func promtool(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

// J21: everything that the dashboard and the alerts ask for is there, with the labels that they ask by.
func TestJ21_DashboardAndAlertsKnowTheMetrics(t *testing.T) {
	known := map[string][]string{"up": {"job", "instance"}}
	for _, d := range definitions() {
		names := []string{d.Name}
		if d.Type == "histogram" {
			names = []string{d.Name + "_bucket", d.Name + "_sum", d.Name + "_count"}
		}
		for _, n := range names {
			known[n] = append([]string{"le", "job", "instance"}, d.Labels...)
		}
	}
	for _, n := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes"} { // of the library
		known[n] = []string{"job", "instance"}
	}
	for _, r := range rules(t, "rules.yaml") {
		known[r.Record] = []string{"tenant"}
	}
	series := regexp.MustCompile(`\b((?:orchestrator|process|go)_[a-z0-9_]+|orrery:[a-z0-9_]+:[a-z0-9_]+|up)\b(?:\{([^}]*)\})?`)
	label := regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	asked := 0
	check := func(where, expr string) {
		found := series.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing: %s", where, expr)
		}
		for _, f := range found {
			asked++
			labels, ok := known[f[1]]
			if !ok {
				t.Errorf("%s asks for %s, which nobody has", where, f[1])
				continue
			}
			for _, l := range label.FindAllStringSubmatch(f[2], -1) {
				if !slices.Contains(labels, l[1]) {
					t.Errorf("%s asks %s by %s, it has %v", where, f[1], l[1], labels)
				}
			}
		}
	}
	for _, file := range []string{"rules.yaml", "alerts.yaml"} {
		for _, r := range rules(t, file) {
			check(file+": "+r.Record+r.Alert, r.Expr)
		}
	}
	var all []string
	for title, exprs := range panels(t) {
		for _, e := range exprs {
			check("the panel "+title, e)
			all = append(all, e)
		}
	}
	if asked < 90 {
		t.Errorf("only %d series are asked for: the files are not what they were", asked)
	}

	// What Grafana asks is PromQL once its variables are filled in.
	type group struct {
		Name  string              `yaml:"name"`
		Rules []map[string]string `yaml:"rules"`
	}
	g := group{Name: "dashboard"}
	for i, e := range all {
		e = strings.NewReplacer("$__rate_interval", "5m", "$tenant", ".*").Replace(e)
		g.Rules = append(g.Rules, map[string]string{"record": fmt.Sprintf("panel:%d", i), "expr": e})
	}
	raw, err := yaml.Marshal(map[string]any{"groups": []group{g}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// J21: the rules are valid, the alerts come and keep quiet as they should, and each names a page that is there.
func TestJ21_Alerts(t *testing.T) {
	dir := t.TempDir()
	for from, name := range map[string]string{"deploy/prometheus/rules.yaml": "rules.yaml", "deploy/prometheus/alerts.yaml": "alerts.yaml", "internal/metric/testdata/alerts.yaml": "test.yaml"} {
		raw, err := os.ReadFile(filepath.Join(root, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "check", "rules", filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "alerts.yaml"))
	promtool(t, "test", "rules", filepath.Join(dir, "test.yaml"))
	alerts := rules(t, "alerts.yaml")
	for _, r := range alerts {
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		page := r.Annotations["runbook"]
		raw, err := os.ReadFile(filepath.Join(root, page))
		if page == "" || err != nil || !strings.HasPrefix(page, "docs/runbooks/") {
			t.Errorf("%s: the runbook %q: %v", r.Alert, page, err)
		} else if !strings.Contains(string(raw), "`"+r.Alert+"`") {
			t.Errorf("%s does not name the alert %s", page, r.Alert)
		}
	}
	if len(alerts) < 15 {
		t.Errorf("there are %d alerts", len(alerts))
	}
}

const (
	begin = "<!-- metrics: written by `make docs`, checked by the tests -->\n"
	end   = "<!-- end of metrics -->\n"
)

// The reference lists what there is.
func TestReference(t *testing.T) {
	var table strings.Builder
	table.WriteString("\n| metric | type | labels | in | |\n|---|---|---|---|---|\n")
	for _, d := range definitions() {
		labels := make([]string, len(d.Labels))
		for i, l := range d.Labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Type, strings.Join(labels, ", "), d.Role, d.Help)
	}
	table.WriteString("\n")
	name := filepath.Join(root, "docs/reference/metrics.md")
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("docs/reference/metrics.md has lost its marks")
	}
	want := before + begin + table.String() + end + after
	if want == string(raw) {
		return
	}
	if !*update {
		t.Fatal("docs/reference/metrics.md is not what the metrics are; run: make docs")
	}
	if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
