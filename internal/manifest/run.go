package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/work"
)

// What a run step has when its author says nothing.
const (
	defaultTimeout = 3600 * 1000
	defaultGrace   = 10 * 1000
	defaultTier    = "t2"
)

const templateHint = `hand the value over as a variable: env: {NAME: ${{ … }}}, and use "$NAME" in the script; so no value can become a command`

// defaults are what the pack says about all of its run steps.
type defaults struct {
	env       map[string]string
	secrets   map[string]string
	envUses   []Use
	retry     *work.RetrySpec
	sandbox   work.SandboxSpec
	approvals map[string]work.ApprovalSpec
	queue     string
}

var queueName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

const queueRule = "1 to 63 small letters, digits, dots, dashes and underscores, beginning and ending with a letter or digit"

// queue reads the name of a queue; the default one has none in a plan.
func (r *reader) queue(n *yaml.Node) string {
	name := r.name(n, "a queue", queueName, queueRule)
	if name == work.DefaultQueue {
		return ""
	}
	return name
}

// customKind is a runner that certain workers offer: the slash tells it from the built-ins of any version.
var customKind = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}$`)

// Builtins returns the runners that a step can use by name.
func Builtins() []string { return []string{"bundle.ingest", "http", "noop"} }

func (r *reader) run(s *Step, n *yaml.Node, fields []field) {
	spec := &work.RunSpec{TimeoutMs: defaultTimeout, GraceMs: defaultGrace, Sandbox: r.defaults.sandbox}
	s.Spec.Run = spec
	spec.Sandbox.ReadOnly = slices.Clone(spec.Sandbox.ReadOnly)
	spec.Retry, spec.Queue = work.RetrySpec{MaxAttempts: 1}, r.defaults.queue
	if r.defaults.retry != nil {
		spec.Retry = *r.defaults.retry
	}
	if spec.Sandbox.MinTier == "" {
		spec.Sandbox.MinTier = defaultTier
	}
	if n.Kind == yaml.ScalarNode {
		spec.Runner, spec.Script = "shell", r.script(n, "run")
	} else {
		r.invocation(s, n)
	}
	var limits, resources bool
	for _, f := range fields {
		switch f.name {
		case "sandbox":
			limits = true
			r.sandbox(f.value, &spec.Sandbox)
		case "resources":
			resources = true
			r.resources(f.value, &spec.Sandbox)
		case "env":
			spec.Env, spec.Secrets = r.environment(f.value)
		case "artifacts":
			r.artifacts(s, f.value)
		case "outputs":
			spec.Outputs = r.outputs(f.value)
		case "timeout":
			spec.TimeoutMs = r.duration(f.value, "timeout")
		case "grace":
			spec.GraceMs = r.duration(f.value, "grace")
		case "retry":
			spec.Retry = r.retry(f.value)
		case "cache":
			spec.Cache = r.cache(f.value)
		case "concurrency":
			spec.Concurrency = r.concurrency(f.value)
		case "priority":
			spec.Priority = int(r.integer(f.value, "priority", -1000, 1000))
		case "queue":
			spec.Queue = r.queue(f.value)
		case "labels":
			spec.Labels = r.labels(f.value)
		case "egress":
			spec.Sandbox.Egress = r.egress(f.value)
		}
	}
	if limits && resources {
		r.problem(n, "put memory, cpu, processes and disk under sandbox", "the step %s has both sandbox and resources", quoted(s))
	}
	r.inherit(s, spec)
	r.checkHTTP(s, n)
}

// inherit adds the environment of the pack, as far as the step does not set it itself.
func (r *reader) inherit(s *Step, spec *work.RunSpec) {
	if len(r.defaults.env)+len(r.defaults.secrets) == 0 {
		return
	}
	env, secrets := maps.Clone(r.defaults.env), maps.Clone(r.defaults.secrets)
	for name := range spec.Secrets {
		delete(env, name)
	}
	for name := range spec.Env {
		delete(secrets, name)
	}
	maps.Copy(env, spec.Env)
	maps.Copy(secrets, spec.Secrets)
	spec.Env, spec.Secrets = orNil(env), orNil(secrets)
	s.Uses = append(s.Uses, r.defaults.envUses...)
}

func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

func (r *reader) script(n *yaml.Node, what string) string {
	text := r.text(n, what)
	r.noTemplate(n, text, "the text of a script", templateHint)
	if strings.TrimSpace(text) == "" && n.Tag != "!!null" {
		r.problem(n, "", "%s is empty", what)
	}
	return text
}

func invocationFields() []string {
	return []string{"shell", "command", "python", "uses", "with", "args", "dir"}
}

// invocation reads the long form of run.
func (r *reader) invocation(s *Step, n *yaml.Node) {
	spec := s.Spec.Run
	var what, args, with *field
	fields := r.fields(n, "run")
	for i, f := range fields {
		switch f.name {
		case "shell", "command", "python", "uses":
			if what != nil {
				r.problem(f.key, "make two steps of it", "run has either %s or %s", what.name, f.name)
				continue
			}
			what = &fields[i]
		case "with":
			with = &fields[i]
		case "args":
			args = &fields[i]
		case "dir":
			spec.Dir = strings.TrimSuffix(r.relative(f.value, "dir"), "/")
			r.noTemplate(f.value, f.value.Value, "dir", "")
			if spec.Dir == "." {
				spec.Dir = ""
			}
		default:
			if slices.Contains(runFields(), f.name) {
				r.problem(f.key, "put it beside run, not inside of it", "run has no field %q", f.name)
				continue
			}
			r.unknown(f, "run", invocationFields())
		}
	}
	if what == nil {
		if n.Kind == yaml.MappingNode {
			r.problem(n, "write run: with a shell script, or one of shell, command, python and uses inside of it", "run says nothing to run")
		}
		return
	}
	r.what(s, *what)
	if args != nil {
		if what.name != "shell" && what.name != "python" {
			r.problem(args.key, "append them to command", "only shell and python have args")
		}
		spec.Args = r.words(args.value, "args")
	}
	if with != nil && what.name != "uses" {
		r.problem(with.key, "use env for values, args for arguments", "only uses has with")
		with = nil
	}
	if what.name == "uses" {
		r.parameters(s, n, with)
	}
}

// what reads which of the runners is meant.
func (r *reader) what(s *Step, f field) {
	spec := s.Spec.Run
	switch f.name {
	case "shell":
		spec.Runner, spec.Script = "shell", r.script(f.value, "shell")
	case "command":
		spec.Runner = "process"
		spec.Command = r.words(f.value, "command")
		if f.value.Kind == yaml.SequenceNode && (len(spec.Command) == 0 || spec.Command[0] == "") {
			r.problem(f.value, "the first entry is the program", "the command is empty")
		}
	case "python":
		spec.Runner = "python"
		text := r.text(f.value, "python")
		if strings.HasSuffix(text, ".py") && !strings.ContainsAny(text, "\n ") {
			spec.File = r.relative(f.value, "python")
			s.Files = append(s.Files, Word{spec.File, Pos{f.value.Line, f.value.Column}})
		} else {
			spec.Script = r.script(f.value, "python")
		}
	case "uses":
		name := strings.TrimPrefix(r.text(f.value, "uses"), "builtin:")
		spec.Runner = name
		if !slices.Contains(Builtins(), name) && !customKind.MatchString(name) {
			r.problem(f.value, Choices(name, Builtins()), "there is no built-in %q", name)
		}
	}
}

// words reads a list of templates.
func (r *reader) words(n *yaml.Node, what string) []string {
	elements := r.list(n, what)
	out := make([]string, 0, len(elements))
	for _, e := range elements {
		out = append(out, r.template(e, "an entry of "+what))
	}
	return out
}

// parameters reads what a built-in is told, and holds it to what the built-in knows.
func (r *reader) parameters(s *Step, n *yaml.Node, with *field) {
	spec := s.Spec.Run
	known := map[string][]string{
		"bundle.ingest": {"path", "checksum", "checksumSha256"},
		"http":          {"url", "method", "headers", "body", "expect", "file"},
		"noop":          nil,
	}[spec.Runner]
	if with != nil {
		spec.With = map[string]json.RawMessage{}
		for _, f := range r.fields(with.value, "with") {
			if slices.Contains(Builtins(), spec.Runner) && spec.Runner != "noop" && !slices.Contains(known, f.name) {
				r.unknown(f, spec.Runner, known)
				continue
			}
			r.templatesIn(f.value)
			spec.With[f.name] = r.json(f.value, "with."+f.name)
		}
		if len(spec.With) == 0 {
			spec.With = nil
		}
	}
	has := func(name string) bool { _, ok := spec.With[name]; return ok }
	switch {
	case spec.Runner == "bundle.ingest" && !(has("path") && (has("checksum") || has("checksumSha256"))):
		r.problem(n, "with: {path: file.tar.gz, checksumSha256: 64 hexadecimal digits}", "bundle.ingest needs path and checksumSha256")
	case spec.Runner == "http" && !has("url"):
		r.problem(n, "with: {url: https://example.org/}", "http needs url")
	}
}

// checkHTTP holds a url that is written out to the endpoints that the step may reach.
func (r *reader) checkHTTP(s *Step, n *yaml.Node) {
	spec := s.Spec.Run
	var text string
	if spec.Runner != "http" || json.Unmarshal(spec.With["url"], &text) != nil || expression.HasExpression(text) {
		return
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		r.problem(n, "", "%q is no http or https address", short(text))
		return
	}
	port := 443
	if u.Scheme == "http" {
		port = 80
	}
	if p, err := strconv.Atoi(u.Port()); err == nil {
		port = p
	}
	if !slices.Contains(spec.Sandbox.Egress, work.Egress{Host: u.Hostname(), Port: port}) {
		r.problem(n, fmt.Sprintf(`add egress: ["%s:%d"] to the step`, u.Hostname(), port), "the step calls %s without being allowed to", u.Host)
	}
}

// environment reads variables. A value that is exactly ${{ inputs.NAME }} of a secret input becomes a secret.
func (r *reader) environment(n *yaml.Node) (env, secrets map[string]string) {
	env, secrets = map[string]string{}, map[string]string{}
	for _, f := range r.fields(n, "env") {
		r.checkName(f.key, "a variable", variableName, "use letters, digits and underscore, not beginning with a digit")
		if strings.HasPrefix(f.name, "ORRERY_") {
			r.problem(f.key, "choose another name", "variables that begin with ORRERY_ are set by the worker")
		}
		if f.value.Kind == yaml.ScalarNode {
			if name := r.secretInput(f.value.Value); name != "" {
				secrets[f.name] = name
				continue
			}
		}
		env[f.name] = r.template(f.value, "env."+f.name)
	}
	return orNil(env), orNil(secrets)
}

func (r *reader) packEnv(n *yaml.Node) {
	outer := r.uses
	r.uses = &r.defaults.envUses
	r.defaults.env, r.defaults.secrets = r.environment(n)
	r.uses = outer
	if r.defaults.env == nil {
		r.defaults.env = map[string]string{}
	}
	if r.defaults.secrets == nil {
		r.defaults.secrets = map[string]string{}
	}
}

func (r *reader) labels(n *yaml.Node) map[string]string {
	out := map[string]string{}
	for _, f := range r.fields(n, "labels") {
		r.checkName(f.key, "a label", labelName, "use letters, digits, dot, dash, slash and underscore")
		out[f.name] = r.text(f.value, "labels."+f.name)
		r.noTemplate(f.value, out[f.name], "a label", "")
	}
	return orNil(out)
}

// egress reads the endpoints a step may reach.
func (r *reader) egress(n *yaml.Node) []work.Egress {
	var out []work.Egress
	for _, e := range r.list(n, "egress") {
		if endpoint, ok := r.endpoint(e); ok {
			out = append(out, endpoint)
		}
	}
	slices.SortFunc(out, func(a, b work.Egress) int {
		if c := strings.Compare(a.Host, b.Host); c != 0 {
			return c
		}
		return a.Port - b.Port
	})
	return slices.Compact(out)
}

var schemed = regexp.MustCompile(`^([a-z]+)://([^/:]+)(:[0-9]+)?`)

func (r *reader) endpoint(n *yaml.Node) (work.Egress, bool) {
	var host, port string
	if n.Kind == yaml.MappingNode {
		for _, f := range r.fields(n, "an endpoint") {
			switch f.name {
			case "host":
				host = r.text(f.value, "host")
			case "port":
				port = r.text(f.value, "port")
			default:
				r.unknown(f, "an endpoint", []string{"host", "port"})
			}
		}
	} else {
		text := r.text(n, "an endpoint")
		if m := schemed.FindStringSubmatch(text); m != nil {
			r.problem(n, fmt.Sprintf("write %q", m[2]+":443"), "an endpoint is a host and a port, not an address (%s)", short(text))
			return work.Egress{}, false
		}
		colon := strings.LastIndexByte(text, ':')
		if colon < 0 {
			r.problem(n, fmt.Sprintf("write %q", text+":443"), "the endpoint %q has no port", short(text))
			return work.Egress{}, false
		}
		host, port = strings.Trim(text[:colon], "[]"), text[colon+1:]
	}
	host = strings.ToLower(host)
	p, err := strconv.Atoi(port)
	_, notAddress := netip.ParseAddr(host)
	if err != nil || !decimal.MatchString(port) || p < 1 || p > 65535 || notAddress != nil && (!hostName.MatchString(host) || len(host) > 253) {
		hint := `write "host:443", with the full name of the host`
		if strings.Contains(host, "*") {
			hint = "name every host; wildcards are not supported"
		}
		r.problem(n, hint, "%q is no endpoint", short(host+":"+port))
		return work.Egress{}, false
	}
	return work.Egress{Host: host, Port: p}, true
}
