package plan

import (
	"fmt"
	"maps"
	"slices"

	"orrery.example/orrery/internal/work"
)

// This file compares what holds a run back: gates, endpoints, secrets, sandboxes and limits.

func (d *differ) approval(id work.StepID, x, y *work.ApprovalSpec) {
	if x.Required != y.Required {
		d.say("gate", id, worse(y.Required < x.Required), "%s needs %s instead of %d", id, work.Count(y.Required, "approval"), x.Required)
	}
	if x.TTLMs != y.TTLMs {
		d.say("gate", id, Info, "%s stays open for %s instead of %s", id, span(y.TTLMs), span(x.TTLMs))
	}
	if x.AllowSubmitter != y.AllowSubmitter {
		d.say("gate", id, worse(y.AllowSubmitter), "%s: whoever submits the run %s approve it", id, map[bool]string{true: "may", false: "may not"}[y.AllowSubmitter])
	}
	if len(x.Approvers) > 0 && len(y.Approvers) == 0 {
		d.say("gate", id, Danger, "%s can be approved by anyone who may approve, not only by the people named before", id)
		return
	}
	for _, who := range y.Approvers {
		if !slices.Contains(x.Approvers, who) {
			d.say("gate", id, worse(len(x.Approvers) > 0), "%s can be approved by %s", id, who)
		}
	}
	for _, who := range x.Approvers {
		if !slices.Contains(y.Approvers, who) {
			d.say("gate", id, Info, "%s cannot be approved by %s any more", id, who)
		}
	}
}

func worse(yes bool) Severity {
	if yes {
		return Danger
	}
	return Info
}

func (d *differ) policy(id work.StepID, x, y *work.PolicySpec) {
	if x.FailAction != y.FailAction {
		d.say("gate", id, worse(y.FailAction == "continue"), "%s: when a rule fails the run goes by %q instead of %q", id, y.FailAction, x.FailAction)
	}
	d.engine(id, x.Engine, y.Engine)
	pairs(x.Rules, y.Rules, func(r work.Rule) string { return r.ID },
		func(r work.Rule) { d.say("gate", id, Info, "%s has a new rule %s: %s", id, r.ID, r.Require) },
		func(r work.Rule) { d.say("gate", id, Danger, "%s has no rule %s any more (%s)", id, r.ID, r.Require) },
		func(a, b work.Rule) {
			if a.Require != b.Require {
				d.say("gate", id, Danger, "%s: the rule %s requires %s instead of %s", id, a.ID, b.Require, a.Require)
			}
			if a.Message != b.Message {
				d.say("gate", id, Info, "%s: the rule %s says %q instead of %q", id, a.ID, b.Message, a.Message)
			}
		})
	if len(x.Rules) == len(y.Rules) && !slices.EqualFunc(x.Rules, y.Rules, func(a, b work.Rule) bool { return a.ID == b.ID }) {
		d.say("gate", id, Info, "%s has its rules in another order", id)
	}
}

// engine compares which policy engine is asked, and what.
func (d *differ) engine(id work.StepID, x, y *work.EngineSpec) {
	switch {
	case x == nil && y == nil:
		return
	case x == nil:
		d.say("gate", id, Info, "%s asks the policy engine %s for %s", id, y.Name, y.Path)
		return
	case y == nil:
		d.say("gate", id, Danger, "%s does not ask the policy engine %s any more", id, x.Name)
		return
	}
	if x.Name != y.Name || x.Path != y.Path {
		d.say("gate", id, Danger, "%s asks %s for %s instead of %s for %s", id, y.Name, y.Path, x.Name, x.Path)
	}
	if !maps.Equal(x.Parameters, y.Parameters) {
		d.say("gate", id, Warning, "%s asks with other parameters", id)
	}
	if x.OnUnavailable != y.OnUnavailable || x.TTLMs != y.TTLMs {
		d.say("gate", id, Info, "%s waits otherwise while the policy engine gives no answer", id)
	}
}

// reach compares what a program may see and use.
func (d *differ) reach(id work.StepID, x, y *work.RunSpec) {
	a, b := &x.Sandbox, &y.Sandbox
	if a.MinTier != b.MinTier {
		d.say("sandbox", id, worse(b.MinTier < a.MinTier), "%s runs in a sandbox of tier %s instead of %s", id, b.MinTier, a.MinTier)
	}
	pairs(a.Egress, b.Egress, endpoint,
		func(e work.Egress) { d.say("endpoint", id, Warning, "%s may reach %s", id, endpoint(e)) },
		func(e work.Egress) { d.say("endpoint", id, Info, "%s may not reach %s any more", id, endpoint(e)) }, func(_, _ work.Egress) {})
	pairs(a.ReadOnly, b.ReadOnly, func(s string) string { return s },
		func(s string) { d.say("sandbox", id, Warning, "%s may read %s of the worker", id, s) },
		func(s string) { d.say("sandbox", id, Info, "%s may not read %s of the worker any more", id, s) }, func(_, _ string) {})
	d.secrets(id, x.Secrets, y.Secrets)
	for _, l := range []struct {
		name string
		x, y int64
	}{
		{"memory (bytes)", a.MemoryBytes, b.MemoryBytes}, {"processor time (ms)", a.CPUMs, b.CPUMs}, {"processes", int64(a.Processes), int64(b.Processes)},
		{"disk (bytes)", a.DiskBytes, b.DiskBytes}, {"the size of a file (bytes)", a.FileBytes, b.FileBytes}, {"output (bytes)", a.OutputBytes, b.OutputBytes},
	} {
		if l.x != l.y {
			d.say("resource", id, Info, "%s: the limit of %s is %s instead of %s", id, l.name, bound(l.y), bound(l.x))
		}
	}
}

func bound(n int64) string {
	if n == 0 {
		return "the default"
	}
	return itoa(int(n))
}

func (d *differ) secrets(id work.StepID, x, y map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(y)) {
		if was, had := x[name]; !had {
			d.say("secret", id, Warning, "%s gets the secret %s as %s", id, y[name], name)
		} else if was != y[name] {
			d.say("secret", id, Warning, "%s gets the secret %s as %s instead of %s", id, y[name], name, was)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(x)) {
		if _, has := y[name]; !has {
			d.say("secret", id, Info, "%s does not get the secret %s any more", id, x[name])
		}
	}
}

// pairs walks two lists by name: what is only in the second, only in the first, or in both. The order is that of names.
func pairs[T any](x, y []T, name func(T) string, added, removed func(T), both func(a, b T)) {
	old, fresh := make(map[string]T, len(x)), make(map[string]T, len(y))
	names := make([]string, 0, len(x)+len(y))
	for _, v := range x {
		old[name(v)] = v
		names = append(names, name(v))
	}
	for _, v := range y {
		fresh[name(v)] = v
		names = append(names, name(v))
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		a, had := old[n]
		b, has := fresh[n]
		switch {
		case !had:
			added(b)
		case !has:
			removed(a)
		default:
			both(a, b)
		}
	}
}

// asks says what opens a policy gate.
func asks(p *work.PolicySpec) string {
	if p.Engine != nil {
		return fmt.Sprintf("it asks the policy engine %s for %s", p.Engine.Name, p.Engine.Path)
	}
	return work.Count(len(p.Rules), "rule")
}
