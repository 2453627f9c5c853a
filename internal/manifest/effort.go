package manifest

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/work"
)

// packRetry reads how run steps are tried again: retry, or failure.retries with the fields of the long form's origin.
func (r *reader) packRetry(f field) {
	if f.name == "retry" {
		r.setRetry(f, r.retry(f.value))
		return
	}
	for _, inner := range r.fields(f.value, "failure") {
		switch inner.name {
		case "message":
			r.text(inner.value, "message")
		case "retries":
			spec := work.RetrySpec{MaxAttempts: 1, FactorMilli: 1000}
			for _, g := range r.fields(inner.value, "retries") {
				switch g.name {
				case "maxAttempts":
					spec.MaxAttempts = int(r.integer(g.value, "maxAttempts", 1, 100))
				case "backoffSeconds":
					spec.BackoffMs = 1000 * r.integer(g.value, "backoffSeconds", 0, 86_400)
				default:
					r.unknown(g, "retries", []string{"maxAttempts", "backoffSeconds"})
				}
			}
			if spec.MaxAttempts == 1 {
				spec = work.RetrySpec{MaxAttempts: 1}
			} else {
				spec.MaxBackoffMs = spec.BackoffMs
			}
			r.setRetry(inner, spec)
		default:
			r.unknown(inner, "failure", []string{"retries", "message"})
		}
	}
}

func (r *reader) setRetry(f field, spec work.RetrySpec) {
	if r.defaults.retry != nil {
		r.problem(f.key, "keep retry", "the pack says twice how steps are tried again, with retry and failure.retries")
		return
	}
	r.defaults.retry = &spec
}

// retry reads a number of attempts, or a mapping.
func (r *reader) retry(n *yaml.Node) work.RetrySpec {
	spec := work.RetrySpec{MaxAttempts: 3, BackoffMs: 1000, FactorMilli: 2000, MaxBackoffMs: 300_000, Jitter: true}
	if n.Kind == yaml.ScalarNode {
		spec.MaxAttempts = int(r.integer(n, "retry", 1, 100))
	} else {
		for _, f := range r.fields(n, "retry") {
			switch f.name {
			case "max", "maxAttempts":
				spec.MaxAttempts = int(r.integer(f.value, f.name, 1, 100))
			case "backoff":
				spec.BackoffMs = r.duration(f.value, "backoff")
			case "factor":
				spec.FactorMilli = r.factor(f.value)
			case "maxBackoff":
				spec.MaxBackoffMs = r.duration(f.value, "maxBackoff")
			case "jitter":
				spec.Jitter = r.boolean(f.value, "jitter")
			case "on":
				r.retryOn(f.value, &spec)
			default:
				r.unknown(f, "retry", []string{"max", "maxAttempts", "backoff", "factor", "maxBackoff", "jitter", "on"})
			}
		}
	}
	if spec.MaxAttempts == 1 {
		return work.RetrySpec{MaxAttempts: 1} // what would be waited for never happens, so it is not part of the plan
	}
	return spec
}

// factor reads a number such as 2 or 1.5 in thousandths.
func (r *reader) factor(n *yaml.Node) int64 {
	text := r.text(n, "factor")
	whole, part, _ := strings.Cut(text, ".")
	milli, err := strconv.ParseInt(whole+(part + "000")[:3], 10, 64)
	if !fraction.MatchString(text) || len(part) > 3 || err != nil || milli < 1000 || milli > 100_000 {
		r.problem(n, "write a number from 1 to 100 with at most three digits after the dot", "factor cannot be %q", text)
		return 2000
	}
	return milli
}

func (r *reader) retryOn(n *yaml.Node, spec *work.RetrySpec) {
	for _, f := range r.fields(n, "on") {
		switch f.name {
		case "exit":
			for _, e := range one(f.value) {
				spec.OnExit = append(spec.OnExit, int(r.integer(e, "an exit code", 1, 255)))
			}
			slices.Sort(spec.OnExit)
			spec.OnExit = slices.Compact(spec.OnExit)
		case "class":
			for _, e := range one(f.value) {
				spec.OnClass = append(spec.OnClass, r.name(e, "an error class", retryableClass, "use letters, digits, dot, dash and underscore"))
			}
			slices.Sort(spec.OnClass)
			spec.OnClass = slices.Compact(spec.OnClass)
		default:
			r.unknown(f, "on", []string{"exit", "class"})
		}
	}
}

// one returns the elements of a list; a single value counts as a list of one.
func one(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

func (r *reader) cache(n *yaml.Node) *work.CacheSpec {
	if n.Kind == yaml.ScalarNode {
		if !r.boolean(n, "cache") {
			return nil
		}
		return &work.CacheSpec{}
	}
	spec := &work.CacheSpec{}
	for _, f := range r.fields(n, "cache") {
		if f.name != "key" {
			r.unknown(f, "cache", []string{"key"})
			continue
		}
		spec.Key = r.template(f.value, "key")
	}
	return spec
}

// concurrency reads a key, or {key, max}.
func (r *reader) concurrency(n *yaml.Node) *work.Concurrency {
	spec := &work.Concurrency{Max: 1}
	if n.Kind == yaml.ScalarNode {
		spec.Key = r.template(n, "concurrency")
	} else {
		for _, f := range r.fields(n, "concurrency") {
			switch f.name {
			case "key":
				spec.Key = r.template(f.value, "key")
			case "max":
				spec.Max = int(r.integer(f.value, "max", 1, 1_000_000))
			default:
				r.unknown(f, "concurrency", []string{"key", "max"})
			}
		}
	}
	if spec.Key == "" && (n.Kind == yaml.MappingNode || n.Tag == "!!str") {
		r.problem(n, `write concurrency: {key: deploy, max: 1}`, "concurrency needs a key")
	}
	return spec
}

func limitFields() []string { return []string{"memory", "processes", "cpu", "disk"} }

// sandbox reads what a step may see and use into spec, over what is there.
func (r *reader) sandbox(n *yaml.Node, spec *work.SandboxSpec) {
	for _, f := range r.fields(n, "sandbox") {
		switch f.name {
		case "tier":
			spec.MinTier = r.text(f.value, "tier")
			if !slices.Contains([]string{"t0", "t1", "t2", "t3"}, spec.MinTier) {
				r.problem(f.value, "t0 is no isolation, t2 the default, t3 the strongest", "there is no tier %q", spec.MinTier)
				spec.MinTier = defaultTier
			}
		case "readOnly":
			spec.ReadOnly = nil
			for _, e := range r.list(f.value, "readOnly") {
				spec.ReadOnly = append(spec.ReadOnly, r.absolute(e))
			}
			slices.Sort(spec.ReadOnly)
			spec.ReadOnly = slices.Compact(spec.ReadOnly)
		case "file":
			spec.FileBytes = r.bytes(f.value, "file")
		case "output":
			spec.OutputBytes = r.bytes(f.value, "output")
		default:
			if !r.limit(f, spec) {
				r.unknown(f, "sandbox", append(limitFields(), "tier", "readOnly", "file", "output"))
			}
		}
	}
}

// resources is the name that other systems have for a part of sandbox.
func (r *reader) resources(n *yaml.Node, spec *work.SandboxSpec) {
	for _, f := range r.fields(n, "resources") {
		if !r.limit(f, spec) {
			r.unknown(f, "resources", limitFields())
		}
	}
}

func (r *reader) limit(f field, spec *work.SandboxSpec) bool {
	switch f.name {
	case "memory":
		spec.MemoryBytes = r.bytes(f.value, "memory")
	case "disk":
		spec.DiskBytes = r.bytes(f.value, "disk")
	case "processes":
		spec.Processes = int(r.integer(f.value, "processes", 1, 1_000_000))
	case "cpu":
		spec.CPUMs = r.duration(f.value, "cpu")
	default:
		return false
	}
	return true
}

func (r *reader) absolute(n *yaml.Node) string {
	p := r.text(n, "a path")
	if !strings.HasPrefix(p, "/") || strings.Contains(p+"/", "/../") || strings.Contains(p+"/", "/./") || strings.Contains(p, "//") || expression.HasExpression(p) {
		r.problem(n, "write the full path on the worker, such as /opt/tools", "%q is no clean absolute path", short(p))
	}
	if len(p) > 1 {
		p = strings.TrimSuffix(p, "/")
	}
	return p
}

// artifacts reads which outputs of earlier steps are put into the workspace.
func (r *reader) artifacts(s *Step, n *yaml.Node) {
	for _, e := range r.list(n, "artifacts") {
		var use work.ArtifactUse
		var from *yaml.Node
		for _, f := range r.fields(e, "an artifact") {
			switch f.name {
			case "from":
				from = f.value
				r.from(&use, f.value)
			case "to":
				if use.To = r.relative(f.value, "to"); use.To == "." {
					use.To = "./" // the workspace is a folder, however it is written
				}
				r.noTemplate(f.value, f.value.Value, "to", "")
			default:
				r.unknown(f, "an artifact", []string{"from", "to"})
			}
		}
		if from == nil || use.To == "" {
			if e.Kind == yaml.MappingNode {
				r.problem(e, "write {from: build.binary, to: bin/}", "an artifact needs from and to")
			}
			continue
		}
		s.Spec.Run.Artifacts = append(s.Spec.Run.Artifacts, use)
		*r.uses = append(*r.uses, Use{Artifact: use.Step, Output: use.Output, text: scalarPosition{node: from, lines: r.lines}})
	}
}

func (r *reader) from(use *work.ArtifactUse, n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		for _, f := range r.fields(n, "from") {
			switch f.name {
			case "step":
				use.Step = work.StepID(r.name(f.value, "the id of a step", stepName, "name a step by its id"))
			case "output":
				use.Output = r.name(f.value, "an output", inputName, nameRule)
			default:
				r.unknown(f, "from", []string{"step", "output"})
			}
		}
	} else {
		step, output, _ := strings.Cut(r.text(n, "from"), ".")
		use.Step, use.Output = work.StepID(step), output
	}
	if !stepName.MatchString(string(use.Step)) || !inputName.MatchString(use.Output) {
		r.problem(n, "write from: build.binary, or from: {step: build, output: binary}", "from names no output of a step")
	}
}

func outputFields() []string { return []string{"name", "path", "type", "optional", "description"} }

// outputs reads what a step leaves: a mapping of name to path or declaration, or a list of declarations with a name each.
func (r *reader) outputs(n *yaml.Node) []work.StepOutput {
	var out []work.StepOutput
	if n.Kind == yaml.MappingNode {
		for _, f := range r.fields(n, "outputs") {
			r.checkName(f.key, "an output", inputName, nameRule)
			o := work.StepOutput{Name: f.name}
			r.output(&o, f.value)
			out = append(out, o)
		}
	} else {
		for _, e := range r.list(n, "outputs") {
			var o work.StepOutput
			r.output(&o, e)
			if o.Name == "" && e.Kind == yaml.MappingNode {
				r.problem(e, "add name:", "this output has no name")
			}
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b work.StepOutput) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name && out[i].Name != "" {
			r.problem(n, "keep one of them", "the output %q is declared twice", out[i].Name)
		}
	}
	return out
}

func valueTypes() []string { return []string{"string", "integer", "boolean", "json"} }

func (r *reader) output(o *work.StepOutput, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		if slices.Contains(valueTypes(), n.Value) {
			r.problem(n, "write {type: "+n.Value+"} for a value, or ./"+n.Value+" for a file of that name", "it is not clear whether %q is a type or a path", n.Value)
			return
		}
		o.Path = r.relative(n, "the path of an output")
		return
	}
	for _, f := range r.fields(n, "an output") {
		switch f.name {
		case "name":
			o.Name = r.name(f.value, "an output", inputName, nameRule)
		case "path":
			o.Path = r.relative(f.value, "the path of an output")
			r.noTemplate(f.value, f.value.Value, "path", "use a pattern such as out/*.json")
		case "type":
			o.Type = r.text(f.value, "type")
			if !slices.Contains(append(valueTypes(), "file"), o.Type) {
				r.problem(f.value, Choices(o.Type, append(valueTypes(), "file")), "an output cannot have the type %q", o.Type)
			}
		case "optional":
			o.Optional = r.boolean(f.value, "optional")
		case "description":
			r.text(f.value, "description")
		default:
			r.unknown(f, "an output", outputFields())
		}
	}
	switch {
	case o.Path != "" && o.Type != "" && o.Type != "file":
		r.problem(n, "a file has a path, a value has a type", "the output has both a path and the type %q", o.Type)
	case o.Path == "" && o.Type == "file":
		r.problem(n, "add path:", "a file needs a path")
	case o.Path == "" && o.Type == "":
		o.Type = "string"
	}
	if o.Path != "" {
		o.Type = ""
	}
}
