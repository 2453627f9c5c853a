package manifest

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/work"
)

const defaultTTL = 24 * 3600 * 1000 // milliseconds

// gateOf reads gate: {approval: …} or gate: {policy: …}.
func (r *reader) gateOf(s *Step, n *yaml.Node) {
	fields := r.fields(n, "gate")
	for _, f := range fields {
		switch f.name {
		case "approval", "policy":
			if s.Spec.Kind != "" {
				r.problem(f.key, "make two steps of it", "a gate is either an approval or a policy")
				continue
			}
			if f.name == "approval" {
				s.Spec.Kind = work.KindApproval
				r.approval(s, f.value)
			} else {
				s.Spec.Kind = work.KindPolicy
				r.policy(s, f.value)
			}
		case "message":
			s.Message = r.text(f.value, "message")
		default:
			r.unknown(f, "gate", []string{"approval", "policy", "message"})
		}
	}
	if s.Spec.Kind == "" && n.Kind == yaml.MappingNode {
		r.problem(n, "add approval: {} or policy: {rules: […]}", "the gate %s has neither approval nor policy", quoted(s))
	}
}

func approvalFields() []string {
	return []string{"id", "required", "ttl", "expiresAfter", "autoExpireAfter", "approvers", "grants", "allowSubmitter", "message", "reasonTemplate", "description"}
}

// approvals reads the gates that the long form may declare in one place; a gate refers to one by its id.
func (r *reader) approvals(n *yaml.Node) {
	for _, e := range r.list(n, "approvals") {
		spec := work.ApprovalSpec{Required: 1, TTLMs: defaultTTL}
		id := ""
		for _, f := range r.fields(e, "an approval") {
			if f.name == "id" {
				id = r.name(f.value, "the id of an approval", stepName, "use letters, digits, underscore and dash")
				continue
			}
			r.approvalField(&spec, nil, f)
		}
		if _, twice := r.defaults.approvals[id]; twice || id == "" {
			r.problem(e, "give it an id of its own", "an approval needs an id that no other has")
			continue
		}
		r.defaults.approvals[id] = spec
	}
}

// approval reads a gate that people open.
func (r *reader) approval(s *Step, n *yaml.Node) {
	spec := work.ApprovalSpec{Required: 1, TTLMs: defaultTTL}
	s.Spec.Approval = &spec
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	fields := r.fields(n, "approval")
	for _, f := range fields {
		if f.name == "id" {
			declared, ok := r.defaults.approvals[r.text(f.value, "id")]
			if !ok {
				known := make([]string, 0, len(r.defaults.approvals))
				for id := range r.defaults.approvals {
					known = append(known, id)
				}
				r.problem(f.value, Choices(f.value.Value, known), "there is no approval %q in spec.approvals", f.value.Value)
				continue
			}
			spec = declared
		}
	}
	for _, f := range fields {
		if f.name != "id" {
			r.approvalField(&spec, s, f)
		}
	}
	if len(spec.Approvers) > 0 && spec.Required > len(spec.Approvers) {
		r.problem(n, "name more people, or lower required", "the gate needs %s, but only %d may give one", work.Count(spec.Required, "approval"), len(spec.Approvers))
	}
}

func (r *reader) approvalField(spec *work.ApprovalSpec, s *Step, f field) {
	switch f.name {
	case "required":
		spec.Required = int(r.integer(f.value, "required", 1, 100))
	case "ttl", "expiresAfter", "autoExpireAfter":
		spec.TTLMs = r.duration(f.value, f.name)
	case "approvers", "grants":
		spec.Approvers = r.texts(f.value, f.name)
		slices.Sort(spec.Approvers)
		spec.Approvers = slices.Compact(spec.Approvers)
	case "allowSubmitter":
		spec.AllowSubmitter = r.boolean(f.value, "allowSubmitter")
	case "message", "reasonTemplate", "description":
		text := r.text(f.value, f.name)
		r.noTemplate(f.value, text, "a message", "show values through the plan, which approvers see")
		if s != nil {
			s.Message = text
		}
	default:
		r.unknown(f, "approval", approvalFields())
	}
}

// policy reads a gate that rules open.
func (r *reader) policy(s *Step, n *yaml.Node) {
	spec := &work.PolicySpec{FailAction: "halt"}
	s.Spec.Policy = spec
	for _, f := range r.fields(n, "policy") {
		switch f.name {
		case "engine", "path", "policy", "parameters", "onUnavailable", "ttl":
			r.engineField(spec, f)
		case "rules":
			for i, e := range r.list(f.value, "rules") {
				spec.Rules = append(spec.Rules, r.rule(e, i))
			}
		case "failAction":
			spec.FailAction = r.text(f.value, "failAction")
			if spec.FailAction != "halt" && spec.FailAction != "continue" {
				r.problem(f.value, "write halt or continue", "failAction cannot be %q", spec.FailAction)
			}
		case "message":
			s.Message = r.text(f.value, "message")
		default:
			r.unknown(f, "policy", policyFields())
		}
	}
	r.engineDone(s, n)
	if spec.Engine == nil && len(spec.Rules) == 0 && n.Kind == yaml.MappingNode {
		r.problem(n, "add rules: [{id: tested, require: steps.test.status == 'succeeded'}], or engine: and path: of a policy engine", "the policy gate %s has no rules", quoted(s))
	}
	seen := map[string]bool{}
	for _, rule := range spec.Rules {
		if seen[rule.ID] {
			r.problem(n, "give each rule an id of its own", "two rules are called %q", rule.ID)
		}
		seen[rule.ID] = true
	}
}

func (r *reader) rule(n *yaml.Node, index int) work.Rule {
	rule := work.Rule{ID: fmt.Sprintf("rule-%d", index+1)}
	if n.Kind == yaml.ScalarNode {
		rule.Require = r.bare(n, "a rule")
		return rule
	}
	for _, f := range r.fields(n, "a rule") {
		switch f.name {
		case "id":
			rule.ID = r.name(f.value, "the id of a rule", stepName, "use letters, digits, underscore and dash")
		case "require":
			rule.Require = r.bare(f.value, "require")
		case "message":
			rule.Message = r.text(f.value, "message")
			r.noTemplate(f.value, rule.Message, "a message", "")
		default:
			r.unknown(f, "a rule", []string{"id", "require", "message"})
		}
	}
	if rule.Require == "" && n.Kind == yaml.MappingNode {
		r.problem(n, "add require: with an expression that must be true", "the rule requires nothing")
	}
	return rule
}
