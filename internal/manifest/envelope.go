package manifest

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/work"
)

func metadataFields() []string {
	return []string{"name", "version", "description", "tags", "license", "maintainers", "tenantVisibility", "annotations"}
}

func specFields() []string {
	return []string{"inputs", "steps", "finally", "outputs", "maxParallel", "continueOnError", "timeout", "retry", "failure", "success",
		"concurrency", "sealed", "env", "sandbox", "secrets", "approvals", "queue"}
}

// envelope reads the two forms of a pack: apiVersion, kind, metadata and spec, or all fields side by side.
func (r *reader) envelope(m *Manifest, root *yaml.Node) {
	r.secret, r.uses = m.secret, &m.uses
	r.defaults.approvals = map[string]work.ApprovalSpec{}
	top := r.fields(root, "a pack")
	long := slices.ContainsFunc(top, func(f field) bool {
		return f.name == "apiVersion" || f.name == "kind" || f.name == "metadata" || f.name == "spec"
	})
	if !long {
		var spec []field
		for _, f := range top {
			switch {
			case slices.Contains(metadataFields(), f.name):
				r.metadata(m, f)
			case slices.Contains(specFields(), f.name):
				spec = append(spec, f)
			default:
				r.unknown(f, "a pack", append(metadataFields(), specFields()...))
			}
		}
		r.spec(m, root, spec)
		return
	}
	r.long(m, root, top)
}

func (r *reader) long(m *Manifest, root *yaml.Node, top []field) {
	var version, kind, spec *yaml.Node
	for _, f := range top {
		switch f.name {
		case "apiVersion":
			version = f.value
			if v := r.text(f.value, "apiVersion"); v != "orrery/v1" && v != "stellaops.io/pack.v1" {
				r.problem(f.value, "write apiVersion: orrery/v1", "apiVersion cannot be %q", v)
			}
		case "kind":
			kind = f.value
			if v := r.text(f.value, "kind"); v != "TaskPack" {
				r.problem(f.value, "write kind: TaskPack", "kind cannot be %q", v)
			}
		case "metadata":
			for _, inner := range r.fields(f.value, "metadata") {
				if !slices.Contains(metadataFields(), inner.name) {
					r.unknown(inner, "metadata", metadataFields())
					continue
				}
				r.metadata(m, inner)
			}
		case "spec":
			spec = f.value
		default:
			hint := Choices(f.name, []string{"apiVersion", "kind", "metadata", "spec"})
			if slices.Contains(specFields(), f.name) {
				hint = "put it under spec"
			} else if slices.Contains(metadataFields(), f.name) {
				hint = "put it under metadata"
			}
			r.problem(f.key, hint, "a pack with apiVersion and kind has no field %q at the top", f.name)
		}
	}
	if version == nil || kind == nil {
		r.problem(root, "begin with apiVersion: orrery/v1 and kind: TaskPack, or leave metadata and spec away and write their fields side by side",
			"apiVersion and kind belong together")
	}
	if spec == nil {
		r.problem(root, "add spec: with steps:", "the pack has no spec")
		return
	}
	var fields []field
	for _, f := range r.fields(spec, "spec") {
		if !slices.Contains(specFields(), f.name) {
			r.unknown(f, "spec", specFields())
			continue
		}
		fields = append(fields, f)
	}
	r.spec(m, spec, fields)
}

func (r *reader) metadata(m *Manifest, f field) {
	switch f.name {
	case "name":
		m.Name = r.name(f.value, "the name of a pack", packName, "use small letters, digits, dot, dash and underscore, beginning and ending with a letter or digit")
	case "version":
		m.Version = r.name(f.value, "the version of a pack", packVersion, "use letters, digits, dot, dash, plus and underscore, as in 1.2.0")
	case "description":
		m.Description = r.text(f.value, "description")
	case "license":
		m.License = r.text(f.value, "license")
	case "tags":
		m.Tags = r.texts(f.value, "tags")
	case "tenantVisibility":
		m.TenantVisibility = r.texts(f.value, "tenantVisibility")
	case "annotations":
		m.Annotations = r.stringMap(f.value, "annotations")
	case "maintainers":
		for _, e := range r.list(f.value, "maintainers") {
			m.Maintainers = append(m.Maintainers, r.maintainer(e))
		}
	}
}

func (r *reader) maintainer(n *yaml.Node) Maintainer {
	if n.Kind == yaml.ScalarNode {
		return Maintainer{Name: r.text(n, "a maintainer")}
	}
	var out Maintainer
	for _, f := range r.fields(n, "a maintainer") {
		switch f.name {
		case "name":
			out.Name = r.text(f.value, "name")
		case "email":
			out.Email = r.text(f.value, "email")
		default:
			r.unknown(f, "a maintainer", []string{"name", "email"})
		}
	}
	return out
}

// spec reads first what the steps refer to, wherever it stands in the file.
func (r *reader) spec(m *Manifest, at *yaml.Node, fields []field) {
	for _, f := range fields {
		switch f.name {
		case "inputs":
			r.inputs(m, f.value)
		case "secrets":
			r.secrets(m, f.value)
		case "sealed":
			m.Sealed = r.boolean(f.value, "sealed")
		case "approvals":
			r.approvals(f.value)
		}
	}
	slices.SortStableFunc(m.Inputs, func(a, b Input) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range fields {
		switch f.name {
		case "env":
			r.packEnv(f.value)
		case "retry", "failure":
			r.packRetry(f)
		case "sandbox":
			r.sandbox(f.value, &r.defaults.sandbox)
		case "maxParallel":
			m.MaxParallel = int(r.integer(f.value, "maxParallel", 1, 1_000_000))
		case "continueOnError":
			m.ContinueOnError = r.boolean(f.value, "continueOnError")
		case "timeout":
			m.TimeoutMs = r.duration(f.value, "timeout")
		case "concurrency":
			before := len(m.uses)
			m.Concurrency = r.concurrency(f.value)
			for i := before; i < len(m.uses); i++ {
				m.uses[i].Early = true
			}
		case "queue":
			r.defaults.queue = r.queue(f.value)
		case "success":
			r.message(f.value, "success")
		}
	}
	steps := false
	for _, f := range fields {
		switch f.name {
		case "steps":
			steps = true
			m.Steps = r.steps(f.value, "steps", "step-")
		case "finally":
			m.Finally = r.steps(f.value, "finally", "finally-")
		case "outputs":
			r.uses = &m.uses
			m.Outputs = r.results(f.value)
		}
	}
	if !steps {
		r.problem(at, "add steps: with at least one step, for example - run: echo hello", "the pack has no steps")
	}
}

// message reads a mapping whose only field is for people.
func (r *reader) message(n *yaml.Node, what string) {
	for _, f := range r.fields(n, what) {
		if f.name != "message" {
			r.unknown(f, what, []string{"message"})
			continue
		}
		r.text(f.value, "message")
	}
}

// results reads the outputs of a pack or group: a mapping of templates, or a list of {name, value} or {name, expression}.
func (r *reader) results(n *yaml.Node) []Output {
	var out []Output
	if n.Kind == yaml.MappingNode {
		for _, f := range r.fields(n, "outputs") {
			r.checkName(f.key, "an output", inputName, nameRule)
			out = append(out, Output{work.RunOutput{Name: f.name, Value: r.template(f.value, "outputs."+f.name)}, Pos{f.key.Line, f.key.Column}})
		}
	} else {
		for _, e := range r.list(n, "outputs") {
			out = append(out, r.resultEntry(e))
		}
	}
	slices.SortStableFunc(out, func(a, b Output) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name {
			r.report(out[i].Pos, "keep one of them", "the output %q is declared twice", out[i].Name)
		}
	}
	return out
}

func (r *reader) resultEntry(n *yaml.Node) Output {
	out := Output{Pos: Pos{n.Line, n.Column}}
	given := 0
	for _, f := range r.fields(n, "an output of the pack") {
		switch f.name {
		case "name":
			out.Name = r.name(f.value, "an output", inputName, nameRule)
		case "value":
			given++
			out.Value = r.template(f.value, "value")
		case "expression":
			given++
			out.Value = "${{ " + r.bare(f.value, "expression") + " }}"
		case "type", "description":
			r.text(f.value, f.name)
		default:
			r.unknown(f, "an output of the pack", []string{"name", "value", "expression", "type", "description"})
		}
	}
	if n.Kind == yaml.MappingNode && (out.Name == "" || given != 1) {
		r.problem(n, "write {name: version, value: ${{ steps.build.outputs.version }}}", "an output of the pack needs a name and one of value and expression")
	}
	return out
}

const nameRule = "use letters, digits, underscore and dash, beginning with a letter or underscore"
