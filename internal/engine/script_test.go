package engine_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/work"
)

var update = flag.Bool("update", false, "write what the engine does into the scripts of testdata")

// TestScripts drives the engine through every script in testdata: commands above a line of dashes, what they lead to below
// it. After every command the rows are audited, and after every script its history is replayed.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

const dashes = "----"

func runScript(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := &script{}
	for i, block := range strings.Split(strings.TrimRight(string(raw), "\n"), "\n\n") {
		commands, want, found := strings.Cut(block, "\n"+dashes)
		if !found {
			commands, found = strings.CutSuffix(block, dashes)
		}
		if !found && *update && !onlyComment(block) {
			found = true
		}
		if i > 0 {
			out.WriteString("\n")
		}
		if !found {
			out.WriteString(block + "\n")
			continue
		}
		want = strings.TrimPrefix(want, "\n")
		got := s.block(t, commands)
		fmt.Fprintf(&out, "%s\n%s\n%s", commands, dashes, got)
		if !*update && strings.TrimRight(got, "\n") != strings.TrimRight(want, "\n") {
			t.Errorf("%s: after\n%s\n\nthe script says\n%s\n\nand the engine does\n%s", file, commands, want, got)
		}
	}
	s.replay(t)
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func onlyComment(block string) bool {
	for _, line := range strings.Split(block, "\n") {
		if !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// script is a run that the commands of a file are about.
type script struct {
	canonical []byte
	graph     *engine.Graph
	history   *replay.History
	now       work.Time
	shown     int // events that have been printed
	runs      int
}

const epoch = work.Time(1_750_000_000_000_000)

func (s *script) block(t *testing.T, commands string) string {
	t.Helper()
	lines := strings.Split(commands, "\n")
	for len(lines) > 0 && strings.HasPrefix(lines[0], "#") {
		lines = lines[1:]
	}
	if len(lines) > 0 && strings.HasPrefix(lines[0], "plan") {
		s.replay(t)
		return s.plan(t, lines)
	}
	var out strings.Builder
	for _, line := range lines {
		if strings.HasPrefix(line, "#") {
			continue
		}
		text, err := s.command(splitWords(line))
		if err != nil {
			text += fmt.Sprintf("%s: %v\n", fault.CodeOf(err), err)
		}
		out.WriteString(s.news() + text)
		if s.history == nil {
			continue
		}
		if err := s.history.Err(); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		for _, finding := range replay.Audit(s.graph.Plan, s.history.Run(), s.history.Steps()) {
			t.Errorf("after %q: %s", line, finding)
		}
	}
	if out.Len() == 0 {
		return "nothing happens\n"
	}
	return out.String()
}

func (s *script) plan(t *testing.T, lines []string) string {
	p, err := parsePlan(lines)
	if err != nil {
		t.Fatal(err)
	}
	s.history, s.shown, s.now = nil, 0, epoch
	if s.canonical, s.graph, err = prepare(p); err != nil {
		return fmt.Sprintf("%s: %v\n", fault.CodeOf(err), err)
	}
	return fmt.Sprintf("%d steps\n", len(p.Steps))
}

// replay checks that the history is what its stimuli lead to.
func (s *script) replay(t *testing.T) {
	t.Helper()
	if s.history == nil {
		return
	}
	r, err := replay.Scheduler(s.canonical, s.history.Events())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Identical() {
		t.Errorf("the history does not replay: %s", r.Divergence)
	}
}

// news prints the events since the last time.
func (s *script) news() string {
	if s.history == nil {
		return ""
	}
	var out strings.Builder
	events := s.history.Events()
	for i := s.shown; i < len(events); i++ {
		out.WriteString(describe(&events[i]) + "\n")
	}
	s.shown = len(events)
	return out.String()
}

func since(t work.Time) string { return (time.Duration(t-epoch) * time.Microsecond).String() }

// describe spells an event for people: what it is about and what its data say beside hashes and names that never change.
func describe(e *work.Event) string {
	s := fmt.Sprintf("%-17s", e.Type)
	if e.Step != "" {
		s += " " + string(e.Step)
	}
	if e.Attempt > 0 {
		s += fmt.Sprintf(" #%d", e.Attempt)
	}
	var d struct {
		State     work.State      `json:"state"`
		Reason    json.RawMessage `json:"reason"`
		Held      bool            `json:"held"`
		Total     *int            `json:"total"`
		Items     json.RawMessage `json:"items"`
		Outputs   json.RawMessage `json:"outputs"`
		At        work.Time       `json:"at"`
		Of        int             `json:"of"`
		Required  int             `json:"required"`
		Expires   work.Time       `json:"expires"`
		Decision  string          `json:"decision"`
		Approver  string          `json:"approver"`
		Allowed   *bool           `json:"allowed"`
		Charge    bool            `json:"charge"`
		Run       work.RunID      `json:"run"`
		Name      string          `json:"name"`
		Queue     work.QueueEntry `json:"queue"`
		Results   []work.RuleResult
		Submitter string `json:"submitter"`
	}
	if len(e.Data) > 0 {
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return s + " " + err.Error()
		}
	}
	add := func(format string, args ...any) { s += " " + fmt.Sprintf(format, args...) }
	if d.State != "" {
		add("%s", d.State)
	}
	var reason work.Reason
	if json.Unmarshal(d.Reason, &reason) == nil && reason.Code != "" && reason.Code != work.EndedWell {
		add("%s", reason.Code)
		if reason.Subject != "" {
			add("(%s)", reason.Subject)
		}
		if reason.Message != "" {
			add("%q", reason.Message)
		}
	}
	switch e.Type {
	case work.StepExpanded:
		add("%d items %s", *d.Total, d.Items)
	case work.StepRetrying:
		add("at %s of %d", since(d.At), d.Of)
	case work.StepWaiting:
		add("for %d until %s", d.Required, since(d.Expires))
	case work.GateDecided:
		add("%s by %s", d.Decision, d.Approver)
	case work.PolicyDecided:
		add("allowed %t", *d.Allowed)
	case work.StepCarried:
		add("from %s", d.Run)
	case work.RunSubmitted:
		add("by %s", d.Submitter)
	case work.RunCancelAsked, work.RunPaused, work.RunResumed:
		add("by %s", d.Name)
	}
	if d.Held {
		add("held")
	}
	if d.Charge {
		add("charged")
	}
	if d.Queue.Concurrency != "" {
		add("key %s of %d", d.Queue.Concurrency, d.Queue.Max)
	}
	if len(d.Outputs) > 0 && e.Type != work.StepReported {
		add("%s", d.Outputs)
	}
	return strings.TrimRight(s, " ")
}
