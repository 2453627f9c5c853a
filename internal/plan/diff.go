package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// Severity says how closely a change must be looked at.
type Severity string

// The severities.
const (
	Info    Severity = "info"
	Warning Severity = "warning" // more may happen than before: a new endpoint, secret or program
	Danger  Severity = "danger"  // something that held the run back is gone or weaker: a gate, a rule, a sandbox
)

// Change is one difference between two plans, in words.
type Change struct {
	Kind     string      `json:"kind"`           // pack, input, file, output, setting, order, step-added, step-removed, step-changed, gate, endpoint, secret, sandbox, resource
	Step     work.StepID `json:"step,omitempty"` // "" for the plan as a whole
	Severity Severity    `json:"severity"`
	Text     string      `json:"text"`
}

// Diff says what is different in plan b, seen from plan a. The order is fixed: the plan as a whole, then the steps by id.
// Two plans without a difference have the same hash, and the other way round.
func Diff(a, b *work.Plan) []Change {
	d := &differ{}
	d.pack(a, b)
	d.inputs(a, b)
	d.files(a, b)
	d.steps(a, b)
	return d.changes
}

type differ struct{ changes []Change }

func (d *differ) say(kind string, step work.StepID, severity Severity, format string, args ...any) {
	d.changes = append(d.changes, Change{kind, step, severity, fmt.Sprintf(format, args...)})
}

func (d *differ) pack(a, b *work.Plan) {
	if a.Version != b.Version {
		d.say("pack", "", Warning, "the version of the plan document is %s instead of %s", b.Version, a.Version)
	}
	switch {
	case a.Pack.Name != b.Pack.Name:
		d.say("pack", "", Warning, "the pack is %s %s instead of %s %s", b.Pack.Name, b.Pack.Version, a.Pack.Name, a.Pack.Version)
	case a.Pack.Version != b.Pack.Version:
		d.say("pack", "", Info, "the pack has version %s instead of %s", b.Pack.Version, a.Pack.Version)
	}
	if a.Pack.Digest != b.Pack.Digest {
		d.say("pack", "", Info, "the pack's digest is %s instead of %s", b.Pack.Digest.Short(), a.Pack.Digest.Short())
	}
	if a.MaxParallel != b.MaxParallel {
		d.say("setting", "", Info, "%s steps run at once instead of %s", limit(b.MaxParallel), limit(a.MaxParallel))
	}
	if a.ContinueOnError != b.ContinueOnError {
		d.say("setting", "", Warning, "after a failure the run %s", map[bool]string{true: "goes on", false: "stops"}[b.ContinueOnError])
	}
	if a.TimeoutMs != b.TimeoutMs {
		d.say("setting", "", Info, "the run may take %s instead of %s", span(b.TimeoutMs), span(a.TimeoutMs))
	}
	if key(a.Concurrency) != key(b.Concurrency) {
		d.say("setting", "", Info, "the concurrency key of the run is %s instead of %s", key(b.Concurrency), key(a.Concurrency))
	}
	switch {
	case a.Sealed && !b.Sealed:
		d.say("sandbox", "", Danger, "the pack is not sealed any more")
	case b.Sealed && !a.Sealed:
		d.say("sandbox", "", Info, "the pack is sealed now")
	}
	pairs(a.Outputs, b.Outputs, func(o work.RunOutput) string { return o.Name },
		func(o work.RunOutput) { d.say("output", "", Info, "the output %s is new: %s", o.Name, o.Value) },
		func(o work.RunOutput) { d.say("output", "", Info, "the output %s is gone", o.Name) },
		func(x, y work.RunOutput) {
			if x != y {
				d.say("output", "", Info, "the output %s is %s instead of %s", x.Name, y.Value, x.Value)
			}
		})
}

func limit(n int) string {
	if n == 0 {
		return "any number of"
	}
	return itoa(n)
}

func key(c *work.Concurrency) string {
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%q (%d)", c.Key, c.Max)
}

// span writes milliseconds as people do.
func span(ms int64) string {
	if ms == 0 {
		return "any time"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		size int64
	}{{"d", 86_400_000}, {"h", 3_600_000}, {"m", 60_000}, {"s", 1000}, {"ms", 1}} {
		if n := ms / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			ms -= n * u.size
		}
	}
	return b.String()
}

func (d *differ) inputs(a, b *work.Plan) {
	show := func(in work.Input) string {
		if in.Secret != "" {
			return in.Secret
		}
		return clip(string(in.Value))
	}
	pairs(a.Inputs, b.Inputs, func(in work.Input) string { return in.Name },
		func(in work.Input) { d.say("input", "", Info, "the input %s is new: %s", in.Name, show(in)) },
		func(in work.Input) { d.say("input", "", Info, "the input %s is gone", in.Name) },
		func(x, y work.Input) {
			switch {
			case x.Secret != y.Secret:
				d.say("secret", "", Warning, "the secret %s is taken from %s instead of %s", x.Name, show(y), show(x))
			case x.Type != y.Type:
				d.say("input", "", Info, "the input %s has type %s instead of %s", x.Name, y.Type, x.Type)
			}
			if !bytes.Equal(x.Value, y.Value) {
				d.say("input", "", Info, "the input %s is %s instead of %s", x.Name, show(y), show(x))
			}
		})
}

func (d *differ) files(a, b *work.Plan) {
	pairs(a.Files, b.Files, func(f work.File) string { return f.Path },
		func(f work.File) { d.say("file", "", Info, "the file %s is new", f.Path) },
		func(f work.File) { d.say("file", "", Info, "the file %s is gone", f.Path) },
		func(x, y work.File) {
			switch {
			case x.Digest != y.Digest || x.Size != y.Size:
				d.say("file", "", Warning, "the file %s has another content (%d bytes instead of %d)", x.Path, y.Size, x.Size)
			case x.Executable != y.Executable:
				d.say("file", "", Info, "the file %s %s", x.Path, map[bool]string{true: "is executable now", false: "is not executable any more"}[y.Executable])
			}
		})
}

func (d *differ) steps(a, b *work.Plan) {
	before, after := gatesBefore(a), gatesBefore(b)
	old, fresh := byStep(a), byStep(b)
	at := make(map[work.StepID]int, len(b.Steps))
	for i := range b.Steps {
		at[b.Steps[i].ID] = i
	}
	last, moved := -1, 0
	for i := range a.Steps {
		if j, ok := at[a.Steps[i].ID]; ok {
			if j < last {
				moved++
			}
			last = max(last, j)
		}
	}
	if moved > 0 {
		d.say("order", "", Info, "%d of the steps come earlier in the order", moved)
	}
	ids := slices.Sorted(maps.Keys(old))
	for id := range fresh {
		if old[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		x, y := old[id], fresh[id]
		switch {
		case y == nil:
			d.removed(x)
		case x == nil:
			d.added(y)
		default:
			d.changed(x, y)
			d.ungated(id, y.Kind, before[id], after[id])
		}
	}
}

func byStep(p *work.Plan) map[work.StepID]*work.PlanStep {
	out := make(map[work.StepID]*work.PlanStep, len(p.Steps))
	for i := range p.Steps {
		out[p.Steps[i].ID] = &p.Steps[i]
	}
	return out
}

// ungated says which gates a program had to wait for and has not any more.
func (d *differ) ungated(id work.StepID, kind work.StepKind, before, after []work.StepID) {
	if kind != work.KindRun {
		return
	}
	for _, gate := range before {
		if _, still := slices.BinarySearch(after, gate); !still {
			d.say("gate", id, Danger, "%s does not wait for the gate %s any more", id, gate)
		}
	}
}

func isGate(s *work.PlanStep) bool {
	return s.Kind == work.KindApproval || s.Kind == work.KindPolicy
}

func (d *differ) removed(s *work.PlanStep) {
	if isGate(s) {
		d.say("gate", s.ID, Danger, "the gate %s (%s) is gone", s.ID, s.Kind)
		return
	}
	d.say("step-removed", s.ID, Info, "the step %s (%s) is gone", s.ID, what(s))
}

func (d *differ) added(s *work.PlanStep) {
	switch {
	case s.Kind == work.KindApproval:
		d.say("gate", s.ID, Info, "the gate %s is new: %s", s.ID, work.Count(s.Approval.Required, "approval"))
	case s.Kind == work.KindPolicy:
		d.say("gate", s.ID, Info, "the gate %s is new: %s", s.ID, asks(s.Policy))
	case s.Kind == work.KindRun:
		d.say("step-added", s.ID, Warning, "the step %s (%s) is new", s.ID, what(s))
		d.reach(s.ID, &work.RunSpec{Sandbox: work.SandboxSpec{MinTier: "t2"}}, s.Run)
	default:
		d.say("step-added", s.ID, Info, "the step %s (%s) is new", s.ID, what(s))
	}
}

func what(s *work.PlanStep) string {
	if s.Run != nil {
		return "run " + s.Run.Runner
	}
	return string(s.Kind)
}

// changed compares two steps of one name field by field; what protects is compared in words of its own.
func (d *differ) changed(x, y *work.PlanStep) {
	if x.Kind != y.Kind {
		severity := Warning
		if isGate(x) {
			severity = Danger
		}
		d.say("step-changed", x.ID, severity, "%s is %s instead of %s", x.ID, what(y), what(x))
		if y.Run != nil {
			d.reach(x.ID, &work.RunSpec{Sandbox: work.SandboxSpec{MinTier: "t2"}}, y.Run)
		}
		return
	}
	d.field(x.ID, "parent", x.Parent, y.Parent, Info)
	d.field(x.ID, "needs", x.Needs, y.Needs, Info)
	d.field(x.ID, "when", x.When, y.When, gateSeverity(x, Info))
	d.field(x.ID, "finally", x.Finally, y.Finally, Info)
	d.field(x.ID, "continueOnError", x.ContinueOnError, y.ContinueOnError, gateSeverity(x, Info))
	switch x.Kind {
	case work.KindApproval:
		d.approval(x.ID, x.Approval, y.Approval)
	case work.KindPolicy:
		d.policy(x.ID, x.Policy, y.Policy)
	case work.KindRun:
		d.reach(x.ID, x.Run, y.Run)
		d.fields(x.ID, x.Run, y.Run, "sandbox", "secrets")
	case work.KindParallel:
		d.fields(x.ID, x.Parallel, y.Parallel)
	case work.KindMap:
		d.fields(x.ID, x.Map, y.Map)
	case work.KindPack:
		d.secrets(x.ID, x.Pack.Secrets, y.Pack.Secrets)
		d.fields(x.ID, x.Pack, y.Pack, "secrets")
	}
}

func gateSeverity(s *work.PlanStep, otherwise Severity) Severity {
	if isGate(s) {
		return Danger
	}
	return otherwise
}

// field compares one field by its JSON.
func (d *differ) field(id work.StepID, name string, x, y any, severity Severity) {
	a, b := shown(x), shown(y)
	if a != b {
		d.say("step-changed", id, severity, "%s: %s is %s instead of %s", id, name, clip(b), clip(a))
	}
}

// fields compares two values field by field, but for some.
func (d *differ) fields(id work.StepID, x, y any, except ...string) {
	a, b := members(x), members(y)
	names := slices.Sorted(maps.Keys(a))
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(except, name) && !bytes.Equal(a[name], b[name]) {
			d.say("step-changed", id, fieldSeverity(name), "%s: %s is %s instead of %s", id, name, clip(orNone(b[name])), clip(orNone(a[name])))
		}
	}
}

// fieldSeverity is higher for what decides which program runs.
func fieldSeverity(name string) Severity {
	switch name {
	case "command", "script", "file", "runner", "args", "with", "env", "ref":
		return Warning
	default:
		return Info
	}
}

func members(v any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	raw, err := canonical.MarshalUpTo(v, MaxBytes)
	if err != nil || json.Unmarshal(raw, &out) != nil {
		return map[string]json.RawMessage{}
	}
	return out
}

func orNone(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "nothing"
	}
	return string(raw)
}

func shown(v any) string {
	raw, err := canonical.MarshalUpTo(v, MaxBytes)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	if s := string(raw); s != `""` && s != "null" {
		return s
	}
	return "nothing"
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}
