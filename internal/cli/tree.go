package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"orrery.example/orrery/internal/work"
)

// tree draws a run in place on a terminal: blocks with their children, finished siblings of a map in one line.
type tree struct {
	c     *cli
	w     io.Writer
	plan  *work.Plan
	drawn int // lines on the screen
}

type branch struct {
	step     *stepProgress
	spec     *work.PlanStep
	children []*branch
}

// grow arranges what has happened, and what is still to come, by containment.
func (t *tree) grow(p *progress, parent func(work.StepID) work.StepID) []*branch {
	at := map[work.StepID]*branch{}
	var top []*branch
	add := func(s *stepProgress, spec *work.PlanStep) {
		b := &branch{step: s, spec: spec}
		at[s.id] = b
		if up := at[parent(s.id)]; up != nil {
			up.children = append(up.children, b)
			return
		}
		if parent(s.id) == "" {
			top = append(top, b)
		}
	}
	spec := map[work.StepID]*work.PlanStep{}
	inMap := map[work.StepID]bool{}
	for i := range t.plan.Steps {
		s := &t.plan.Steps[i]
		spec[s.ID] = s
		inMap[s.ID] = strings.Contains(string(s.ID), "[*]")
	}
	for i := range t.plan.Steps {
		s := &t.plan.Steps[i]
		if inMap[s.ID] {
			continue
		}
		known := p.steps[s.ID]
		if known == nil {
			known = &stepProgress{id: s.ID, state: work.Pending}
		}
		add(known, s)
	}
	for _, id := range p.order {
		if at[id] == nil {
			add(p.steps[id], spec[id.Template()])
		}
	}
	return top
}

// lines draws the branches; finished children of a map with many are counted, not shown.
func (t *tree) lines(bs []*branch, depth int, now work.Time) []string {
	var out []string
	const shown = 6
	fine := 0
	for i, b := range bs {
		if len(bs) > shown && strings.Contains(string(b.step.id), "]::") && (b.step.state == work.Succeeded || b.step.state == work.Skipped) {
			fine++
			continue
		}
		mark := "├─"
		if i == len(bs)-1 {
			mark = "└─"
		}
		out = append(out, strings.Repeat("│  ", depth)+mark+" "+t.line(b, now))
		out = append(out, t.lines(b.children, depth+1, now)...)
	}
	if fine > 0 {
		out = append(out, strings.Repeat("│  ", depth)+"├─ "+t.c.paint(t.w, "32", fmt.Sprintf("✓ %d more done", fine)))
	}
	return out
}

func (t *tree) line(b *branch, now work.Time) string {
	s := b.step
	glyph := t.c.paint(t.w, stateColor(s.state), s.state.Word().Glyph)
	name := s.id.Local()
	if item := s.id.Indices(); len(item) > 0 && strings.HasSuffix(s.id.Scope(), "]::") {
		name += " [" + item[len(item)-1] + "]"
	}
	text := fmt.Sprintf("%s %-28s", glyph, name)
	switch {
	case s.ended != 0 && s.state != work.Skipped:
		text += fmt.Sprintf("%8s", duration(s.ended.Sub(s.started)))
	case s.state == work.Running || s.state == work.Waiting:
		text += fmt.Sprintf("%8s", duration(now.Sub(s.started)))
	default:
		text += strings.Repeat(" ", 8)
	}
	switch {
	case s.state == work.Waiting && s.engine != "":
		text += "  asks the policy engine " + s.engine + ", until " + s.reason.Until.Std().Local().Format(time.DateTime)
		if s.reason.Message != "" {
			text += ": " + s.reason.Message
		}
	case s.state == work.Waiting:
		text += "  waits for approval, until " + s.reason.Until.Std().Local().Format(time.DateTime)
	case s.state == work.Retrying:
		text += fmt.Sprintf("  %s; tries again", s.reason.Message)
	case s.attempt > 1:
		text += fmt.Sprintf("  attempt %d", s.attempt)
	case s.cached:
		text += "  from cache"
	case s.total > 0:
		text += "  " + work.Count(s.total, "item")
	}
	if s.state.Failure() && s.reason.Message != "" {
		text += "  " + s.reason.Message
	}
	return text
}

// draw replaces what is on the screen. Lines beyond the screen's height are left out from the top: what moves is below.
func (t *tree) draw(lines []string) {
	width, height, ok := terminal(t.w)
	if !ok {
		return
	}
	if limit := height - 2; len(lines) > limit && limit > 0 {
		lines = append([]string{fmt.Sprintf("… %d more", len(lines)-limit+1)}, lines[len(lines)-limit+1:]...)
	}
	var b strings.Builder
	b.WriteString("\x1b[?2026h")
	t.erase(&b)
	for _, l := range lines {
		b.WriteString(clip(l, width))
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[?2026l")
	t.drawn = len(lines)
	_, _ = io.WriteString(t.w, b.String()) // a terminal that is gone is noticed by the signal
}

func (t *tree) erase(b *strings.Builder) {
	if t.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\x1b[J", t.drawn)
	}
	t.drawn = 0
}

// clear takes the tree off the screen so that something can be printed above it.
func (t *tree) clear() {
	var b strings.Builder
	t.erase(&b)
	_, _ = io.WriteString(t.w, b.String())
}

// clip cuts a line at a width, not counting colours.
func clip(s string, width int) string {
	n := 0
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			end := strings.IndexByte(s[i:], 'm')
			if end < 0 {
				return s[:i]
			}
			i += end + 1
			continue
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		if n++; n > width-1 {
			return s[:i] + "\x1b[0m"
		}
		i += size
	}
	return s
}
