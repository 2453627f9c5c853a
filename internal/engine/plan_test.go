package engine_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/work"
)

// parsePlan reads the plan of a script: one step a line, indented under the block that it is inside of.
//
//	plan maxParallel=2 timeout=1h
//	  run build retry=3 backoff=1s
//	  map shard needs=build range=0..3
//	    run work
//	  finally run sweep
func parsePlan(lines []string) (*work.Plan, error) {
	p := &work.Plan{Version: work.PlanVersion, Pack: work.PackRef{Name: "script", Version: "1.0.0", Digest: canonical.Digest(nil)}}
	o, err := parseOptions(splitWords(lines[0])[1:])
	if err != nil {
		return nil, err
	}
	p.MaxParallel, p.TimeoutMs = o.number("maxParallel", 0), o.millis("timeout", 0)
	p.ContinueOnError = o.flag("continueOnError")
	if key := o.text("concurrency"); key != "" {
		p.Concurrency = &work.Concurrency{Key: key, Max: 1}
	}
	for _, name := range o.prefixed("output.") {
		p.Outputs = append(p.Outputs, work.RunOutput{Name: name, Value: o.text("output." + name)})
	}
	for _, name := range o.prefixed("input.") {
		p.Inputs = append(p.Inputs, work.Input{Name: name, Type: "string", Value: quoted(o.text("input." + name))})
	}
	if err := o.done(); err != nil {
		return nil, err
	}
	type open struct {
		depth  int
		id     work.StepID
		prefix string
	}
	around := []open{{depth: 0}}
	for _, line := range lines[1:] {
		depth := len(line) - len(strings.TrimLeft(line, " "))
		for around[len(around)-1].depth >= depth {
			around = around[:len(around)-1]
		}
		block := around[len(around)-1]
		spec, err := parseStep(splitWords(line), block.id, block.prefix)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
		p.Steps = append(p.Steps, *spec)
		prefix := block.prefix
		switch spec.Kind {
		case work.KindMap:
			prefix = string(spec.ID) + "[*]::"
		case work.KindPack:
			prefix = string(spec.ID) + "/"
		}
		around = append(around, open{depth, spec.ID, prefix})
	}
	return p, nil
}

func parseStep(words []string, parent work.StepID, prefix string) (*work.PlanStep, error) {
	s := &work.PlanStep{Parent: parent}
	if words[0] == "finally" {
		s.Finally = true
		words = words[1:]
	}
	if len(words) < 2 {
		return nil, fmt.Errorf("a step has a kind and a name")
	}
	kind := words[0]
	s.ID = work.StepID(prefix + words[1])
	o, err := parseOptions(words[2:])
	if err != nil {
		return nil, err
	}
	for _, need := range o.list("needs") {
		s.Needs = append(s.Needs, work.StepID(prefix+need))
	}
	s.When, s.ContinueOnError = o.text("when"), o.flag("continueOnError")
	switch kind {
	case "run":
		s.Kind, s.Run = work.KindRun, runSpec(o)
	case "parallel":
		s.Kind = work.KindParallel
		s.Parallel = &work.ParallelSpec{MaxParallel: o.number("maxParallel", 0), ContinueOnError: o.flag("goOn")}
	case "map":
		s.Kind, s.Map = work.KindMap, mapSpec(o)
	case "pack":
		s.Kind, s.Pack = work.KindPack, groupSpec(o)
	case "gate":
		s.Kind = work.KindApproval
		s.Approval = &work.ApprovalSpec{
			Required: o.number("required", 1), TTLMs: o.millis("ttl", time.Hour), Approvers: o.list("approvers"),
			AllowSubmitter: o.flag("allowSubmitter"),
		}
	case "policy":
		s.Kind = work.KindPolicy
		s.Policy = &work.PolicySpec{FailAction: "halt"}
		if action := o.text("fail"); action != "" {
			s.Policy.FailAction = action
		}
		for _, id := range o.prefixed("rule.") {
			s.Policy.Rules = append(s.Policy.Rules, work.Rule{ID: id, Require: o.text("rule." + id), Message: "no " + id})
		}
	default:
		return nil, fmt.Errorf("there is no kind %q", kind)
	}
	return s, o.done()
}

func runSpec(o *options) *work.RunSpec {
	r := &work.RunSpec{
		Runner: "noop", Sandbox: work.SandboxSpec{MinTier: "t0"},
		TimeoutMs: o.millis("timeout", 10*time.Minute), GraceMs: o.millis("grace", 10*time.Second),
		Retry: work.RetrySpec{
			MaxAttempts: o.number("retry", 1), BackoffMs: o.millis("backoff", 0), FactorMilli: int64(o.number("factor", 1000)),
			MaxBackoffMs: o.millis("maxBackoff", 0), Jitter: o.flag("jitter"), OnClass: o.list("onClass"),
		},
		Priority: o.number("priority", 0),
	}
	for _, code := range o.list("onExit") {
		n, _ := strconv.Atoi(code)
		r.Retry.OnExit = append(r.Retry.OnExit, n)
	}
	if key := o.text("concurrency"); key != "" {
		r.Concurrency = &work.Concurrency{Key: key, Max: o.number("max", 1)}
	}
	if arg := o.text("arg"); arg != "" {
		r.Command = []string{"tool", arg}
	}
	return r
}

func mapSpec(o *options) *work.MapSpec {
	m := &work.MapSpec{
		Item: "item", Index: "index", MaxItems: o.number("maxItems", 100_000), MaxParallel: o.number("maxParallel", 0),
		ContinueOnError: o.flag("goOn"), Expression: o.text("items"),
	}
	if name := o.text("as"); name != "" {
		m.Item, m.Index = name, name+"Index"
	}
	for _, v := range o.list("static") {
		m.Static = append(m.Static, quoted(v))
	}
	if r := o.text("range"); r != "" {
		m.Range = &work.Range{Step: 1}
		fmt.Sscanf(r, "%d..%d/%d", &m.Range.Start, &m.Range.End, &m.Range.Step)
	}
	return m
}

func groupSpec(o *options) *work.GroupSpec {
	g := &work.GroupSpec{ContinueOnError: o.flag("goOn")}
	for _, name := range o.prefixed("with.") {
		if g.With == nil {
			g.With = map[string]string{}
			g.Ref = &work.PackRef{Name: "inner", Version: "1.0.0", Digest: canonical.Digest(nil)}
		}
		g.With[name] = o.text("with." + name)
	}
	for _, name := range o.prefixed("output.") {
		g.Outputs = append(g.Outputs, work.RunOutput{Name: name, Value: o.text("output." + name)})
	}
	return g
}

func quoted(s string) json.RawMessage {
	raw, _ := json.Marshal(s) // cannot fail: a string
	return raw
}

// prepare gives a plan its canonical bytes, its hash and its graph.
func prepare(p *work.Plan) ([]byte, *engine.Graph, error) {
	hash, raw, err := canonical.DigestOf(p)
	if err != nil {
		return nil, nil, err
	}
	var again work.Plan // what every reader of the bytes sees
	if err := json.Unmarshal(raw, &again); err != nil {
		return nil, nil, err
	}
	g, err := engine.NewGraph(&again, hash)
	return raw, g, err
}

// options are the words of a line after its subject: name=value, or a name alone.
type options struct {
	values map[string]string
	used   map[string]bool
}

func parseOptions(words []string) (*options, error) {
	o := &options{values: map[string]string{}, used: map[string]bool{}}
	for _, w := range words {
		name, value, found := strings.Cut(w, "=")
		if !found {
			value = "true"
		}
		if _, twice := o.values[name]; twice {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		o.values[name] = value
	}
	return o, nil
}

func (o *options) text(name string) string {
	o.used[name] = true
	return o.values[name]
}

func (o *options) flag(name string) bool { return o.text(name) == "true" }

func (o *options) number(name string, otherwise int) int {
	if n, err := strconv.Atoi(o.text(name)); err == nil {
		return n
	}
	return otherwise
}

func (o *options) duration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(o.text(name)); err == nil {
		return d
	}
	return otherwise
}

func (o *options) millis(name string, otherwise time.Duration) int64 {
	return o.duration(name, otherwise).Milliseconds()
}

func (o *options) list(name string) []string {
	if v := o.text(name); v != "" {
		return strings.Split(v, ",")
	}
	return nil
}

// prefixed returns what follows the prefix in the names that have it, sorted.
func (o *options) prefixed(prefix string) []string {
	var out []string
	for name := range o.values {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			out = append(out, rest)
		}
	}
	slices.Sort(out)
	return out
}

// done reports an option that nobody asked for: a script with a spelling mistake must not pass.
func (o *options) done() error {
	for name := range o.values {
		if !o.used[name] {
			return fmt.Errorf("there is no option %q here", name)
		}
	}
	return nil
}

// splitWords splits a line at spaces outside of double quotes and of ${{ }}.
func splitWords(line string) []string {
	var out []string
	var word strings.Builder
	inQuotes, braces := false, 0
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\'':
			inQuotes = !inQuotes
			continue
		case strings.HasPrefix(line[i:], "${{"):
			braces++
		case strings.HasPrefix(line[i:], "}}") && braces > 0:
			braces--
		}
		if c == ' ' && !inQuotes && braces == 0 {
			if word.Len() > 0 {
				out = append(out, word.String())
				word.Reset()
			}
			continue
		}
		word.WriteByte(c)
	}
	if word.Len() > 0 {
		out = append(out, word.String())
	}
	return out
}
