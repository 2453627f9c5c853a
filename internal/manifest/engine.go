package manifest

import (
	"regexp"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/work"
)

// decisionPath is a decision of a policy engine: no step of it leads anywhere but further down.
var decisionPath = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)

const maxPath = 256

func policyFields() []string {
	return []string{"rules", "failAction", "message", "engine", "path", "parameters", "onUnavailable", "ttl"}
}

// engineField reads what a policy gate says of a policy engine.
func (r *reader) engineField(spec *work.PolicySpec, f field) {
	if spec.Engine == nil {
		spec.Engine = &work.EngineSpec{OnUnavailable: "wait", TTLMs: defaultTTL}
	}
	e := spec.Engine
	switch f.name {
	case "engine":
		e.Name = r.name(f.value, "a policy engine", stepName, "use letters, digits, underscore and dash")
	case "path", "policy":
		e.Path = r.text(f.value, f.name)
		if len(e.Path) > maxPath || !decisionPath.MatchString(e.Path) {
			r.problem(f.value, "write words with slashes between them: release/allow", "%q is no path of a decision", e.Path)
		}
	case "parameters":
		e.Parameters = map[string]string{}
		for _, p := range r.fields(f.value, "parameters") {
			e.Parameters[p.name] = r.template(p.value, "the parameter "+p.name)
		}
	case "onUnavailable":
		e.OnUnavailable = r.text(f.value, f.name)
		if e.OnUnavailable != "wait" && e.OnUnavailable != "fail" {
			r.problem(f.value, "write wait or fail", "onUnavailable cannot be %q", e.OnUnavailable)
		}
	case "ttl":
		e.TTLMs = r.duration(f.value, f.name)
	}
}

// engineDone sees that a gate has either rules or the whole of a question.
func (r *reader) engineDone(s *Step, n *yaml.Node) {
	spec := s.Spec.Policy
	if spec.Engine == nil {
		return
	}
	switch {
	case len(spec.Rules) > 0:
		r.problem(n, "make two gates of it", "the policy gate %s has rules and a policy engine", quoted(s))
	case spec.Engine.Name == "":
		r.problem(n, "add engine: with the name that the engine has where the pack runs", "the policy gate %s names no engine", quoted(s))
	case spec.Engine.Path == "":
		r.problem(n, "add path: with the decision to ask for", "the policy gate %s names no decision", quoted(s))
	}
}
