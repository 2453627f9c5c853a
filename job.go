package orrery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/api"
)

// Job is one attempt at a step, for its handler. Its methods are safe for concurrent use.
type Job struct {
	Run, RunName, Step string
	Attempt            int
	Trace              string // W3C traceparent
	TraceState         string
	Baggage            string         // W3C baggage of whoever asked for the run
	With               map[string]any // the parameters of the step, templates filled in; whole numbers are json.Number

	w     *Worker
	grant *api.WorkerGrant
	spec  *spec

	mu        sync.Mutex
	outputs   map[string]any
	artifacts []api.WorkerArtifact
	lines     []api.WorkerLine
	count     int64 // lines so far, sent or not
	digest    hash.Hash
	sending   sync.Mutex
}

// EffectKey names what the step does, whatever attempt does it. A system that keeps such keys takes the effect once, however often the
// step is tried.
func (j *Job) EffectKey() string { return j.Run + "/" + j.Step }

// EffectToken names this attempt and orders it among all of the step: a system that remembers the greatest one can refuse an attempt
// that has lost its lease. Tokens of one step compare as text.
func (j *Job) EffectToken() string {
	return fmt.Sprintf("%s@%016d.%016d", j.EffectKey(), j.grant.Token.Incarnation, j.grant.Token.Epoch)
}

// Log adds a line to the output of the step.
func (j *Job) Log(format string, args ...any) { j.say("step.message", fmt.Sprintf(format, args...)) }

// Progress says how far the step is.
func (j *Job) Progress(percent int, format string, args ...any) {
	j.say("step.progress", fmt.Sprintf("%d%% %s", percent, fmt.Sprintf(format, args...)))
}

func (j *Job) say(kind, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.SplitSeq(strings.ToValidUTF8(text, "\uFFFD"), "\n") {
		for {
			part := line
			if len(part) > maxLine {
				part = strings.ToValidUTF8(part[:maxLine], "")
			}
			j.lines = append(j.lines, api.WorkerLine{Time: instant(time.Now()), Level: "info", Type: kind, Message: part})
			j.digest.Write([]byte(part + "\n"))
			j.count++
			if line = line[len(part):]; line == "" {
				break
			}
		}
	}
}

// maxLine is what longer lines are cut at.
const maxLine = 16 << 10

// Output sets a value that the step declares under outputs. Numbers are whole.
func (j *Job) Output(name string, value any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.outputs[name] = value
}

// File keeps bytes as a file of an output that the step declares with a path. They are uploaded when File returns.
func (j *Job) File(ctx context.Context, output, path string, data []byte) error {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	for try := 0; ; try++ {
		res, err := j.w.c.send(ctx, http.MethodPut, "worker/blobs/"+digest, nil, bytes.NewReader(data))
		if err == nil {
			res.Body.Close()
			break
		}
		if Code(err) != codeUnavailable && Code(err) != codeExhausted || try == 8 || !pause(ctx, 200*time.Millisecond<<try) {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.artifacts = append(j.artifacts, api.WorkerArtifact{Name: output, Path: path, Digest: digest, Size: int64(len(data))})
	return nil
}

// Artifact reads a file that an earlier step produced, by where the step wants it: the text after "to:" in the pack.
func (j *Job) Artifact(ctx context.Context, to string) ([]byte, error) {
	var b struct {
		Artifacts []struct {
			To       string             `json:"to"`
			Artifact api.WorkerArtifact `json:"artifact"`
		} `json:"artifacts"`
	}
	if err := json.Unmarshal(j.grant.Bindings, &b); err != nil {
		return nil, err
	}
	for _, a := range b.Artifacts {
		if a.To != to {
			continue
		}
		raw, err := j.w.read(ctx, "blobs/"+a.Artifact.Digest)
		if err == nil && digestOf(raw) != a.Artifact.Digest {
			err = failure(codeUnavailable, "the file came with other bytes")
		}
		return raw, err
	}
	return nil, failure(codeInput, "the step takes no file at %q", to)
}

// failed is an error with a class for rules of retry.
type failed struct {
	class string
	cause error
}

func (f *failed) Error() string { return f.cause.Error() }
func (f *failed) Unwrap() error { return f.cause }

// Fail gives an error a class, which the rules of retry in a pack may name.
func Fail(class string, err error) error { return &failed{class, err} }

// attempt runs a job from its checks to its report.
func (w *Worker) attempt(ctx context.Context, g *api.WorkerGrant) api.WorkerReport {
	j := &Job{
		Run: g.Run, RunName: g.RunName, Step: g.Step, Attempt: g.Attempt, Trace: g.Trace, TraceState: g.State, Baggage: g.Baggage, w: w, grant: g,
		outputs: map[string]any{}, digest: sha256.New(),
	}
	r := api.WorkerReport{
		Run: g.Run, Step: g.Step, Token: g.Token, StartedAt: instant(time.Now()),
		Protections: json.RawMessage(`{"label":"handler","layers":{},"tier":0}`),
	}
	sent := make(chan struct{})
	flush, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(sent)
		for pause(flush, 100*time.Millisecond) {
			j.flush(ctx)
		}
	}()
	err := j.run(ctx)
	stop()
	<-sent
	j.end(ctx, &r, err)
	for !j.flush(ctx) && context.Cause(ctx) != ErrLost {
		<-time.After(200 * time.Millisecond)
	}
	r.EndedAt = instant(time.Now())
	if j.count > 0 {
		r.Transcript = api.WorkerTranscript{Lines: j.count, Digest: "sha256:" + hex.EncodeToString(j.digest.Sum(nil))}
	}
	return r
}

// run checks the lease and calls the handler. A panic is a failed attempt, not a dead worker.
func (j *Job) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Fail("panic", fmt.Errorf("the handler broke: %v", p))
		}
	}()
	p, err := j.w.plan(ctx, j.grant)
	if err != nil {
		j.w.config.Log("%s of %s is refused: %v", j.Step, j.Run, err)
		return err
	}
	if err := j.prepare(p); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, time.Duration(j.spec.TimeoutMs)*time.Millisecond)
	defer stop()
	if err := j.w.handlers[j.spec.Runner](ctx, j); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Fail("timeout", err)
		}
		return err
	}
	for _, o := range j.spec.Outputs {
		_, value := j.outputs[o.Name]
		file := slices.ContainsFunc(j.artifacts, func(a api.WorkerArtifact) bool { return a.Name == o.Name })
		if !o.Optional && !value && !file {
			return failure(codeOutput, "the output %q is missing", o.Name)
		}
	}
	return nil
}

var index = regexp.MustCompile(`\[\d+\]::`)

func (j *Job) prepare(p *plan) error {
	id := index.ReplaceAllString(j.Step, "[*]::")
	for _, s := range p.Steps {
		if s.ID == id {
			j.spec = s.Run
		}
	}
	if j.spec == nil || j.w.handlers[j.spec.Runner] == nil {
		return failure(codePlanMismatch, "the plan has no step %q that this worker could run", j.Step)
	}
	values := map[string]any{}
	if err := decode(j.grant.Bindings, &values); err != nil {
		return failure(codeInput, "the values of the step: %v", err)
	}
	if err := checkInputs(p, id, values["inputs"]); err != nil {
		return err
	}
	j.With = map[string]any{}
	for name, raw := range j.spec.With {
		var v any
		if err := decode(raw, &v); err != nil {
			return failure(codeInput, "the parameter %q: %v", name, err)
		}
		var err error
		if j.With[name], err = fill(v, values); err != nil {
			return err
		}
	}
	return nil
}

func decode(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

// checkInputs holds the inputs of a lease to those of the plan. Inside of a sub-pack they may come from earlier steps.
func checkInputs(p *plan, id string, given any) error {
	inputs, _ := given.(map[string]any)
	if strings.Contains(id, "/") {
		return nil
	}
	for name, v := range inputs {
		same := false
		for _, in := range p.Inputs {
			if in.Name == name {
				var want any
				if err := decode(in.Value, &want); err != nil {
					return failure(codePlanMismatch, "the input %q: %v", name, err)
				}
				a, errA := json.Marshal(v)
				b, errB := json.Marshal(want)
				same = errA == nil && errB == nil && bytes.Equal(a, b)
			}
		}
		if !same {
			return failure(codePlanMismatch, "the input %q has another value than in the plan", name)
		}
	}
	return nil
}

var (
	expression = regexp.MustCompile(`\$\{\{\s*(.*?)\s*\}\}`)
	whole      = regexp.MustCompile(`^\$\{\{[^}]*\}\}$`)
	path       = regexp.MustCompile(`^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*$`)
)

// fill puts values in the place of expressions, which may be paths; whatever needs more is refused.
func fill(v any, values map[string]any) (any, error) {
	var err error
	switch x := v.(type) {
	case string:
		if whole.MatchString(x) {
			return value(expression.FindStringSubmatch(x)[1], values)
		}
		out := expression.ReplaceAllStringFunc(x, func(m string) string {
			v, e := value(expression.FindStringSubmatch(m)[1], values)
			err = cmp.Or(err, e)
			if s, ok := v.(string); ok {
				return s
			}
			raw, e := json.Marshal(v)
			err = cmp.Or(err, e)
			return string(raw)
		})
		return out, err
	case []any:
		for i := range x {
			if x[i], err = fill(x[i], values); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for _, k := range slices.Collect(maps.Keys(x)) {
			if x[k], err = fill(x[k], values); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func value(text string, values map[string]any) (any, error) {
	parts := strings.Split(text, ".")
	if !path.MatchString(text) {
		return nil, failure(codeInput, "this worker evaluates paths only, not %q", text)
	}
	var v any = values
	if parts[0] != "inputs" && parts[0] != "steps" && parts[0] != "run" {
		v = values["vars"]
	}
	for _, p := range parts {
		m, _ := v.(map[string]any)
		next, ok := m[p]
		if !ok {
			return nil, failure(codeInput, "there is no value %q", text)
		}
		v = next
	}
	return v, nil
}

// flush sends the lines that have gathered, and reports whether none are left.
func (j *Job) flush(ctx context.Context) bool {
	j.sending.Lock()
	defer j.sending.Unlock()
	j.mu.Lock()
	lines := j.lines[:min(len(j.lines), 500)]
	from := j.count - int64(len(j.lines)) + 1
	j.mu.Unlock()
	if len(lines) == 0 {
		return true
	}
	call, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer stop()
	var out api.WorkerResults
	lease := api.WorkerLease{Run: j.Run, Step: j.Step, Token: j.grant.Token}
	err := j.w.c.once(call, http.MethodPost, "worker/logs", nil, api.WorkerLogs{
		Session: j.w.session, Batches: []api.WorkerOutput{{WorkerLease: lease, From: from, Lines: lines}},
	}, &out)
	if err != nil || len(out.Results) != 1 {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = j.lines[len(lines):]
	if out.Results[0].Error != nil {
		j.lines = nil // the lease is gone: nobody will ever take them
	}
	return len(j.lines) == 0
}

// end says in the report how the attempt ended.
func (j *Job) end(ctx context.Context, r *api.WorkerReport, err error) {
	var f *failed
	class := "handler"
	if errors.As(err, &f) {
		class = f.class
	}
	switch {
	case err == nil:
		r.State, r.Reason = "succeeded", api.WorkerReason{Code: "SUCCEEDED"}
		slices.SortFunc(j.artifacts, func(a, b api.WorkerArtifact) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Path, b.Path))
		})
		r.Artifacts = j.artifacts
		if len(j.outputs) > 0 {
			var e error
			if r.Outputs, e = json.Marshal(j.outputs); e != nil {
				r.State, r.Class, r.Reason = "failed", "output", api.WorkerReason{Code: codeOutput, Message: e.Error()}
			}
		}
		return
	case ctx.Err() != nil:
		r.State, r.Class, r.Reason.Code = "cancelled", "cancelled", "CANCELLED"
	case class == "timeout":
		r.State, r.Class, r.Reason.Code = "timed-out", "timeout", "TIMEOUT"
	default:
		r.State, r.Class, r.ExitCode, r.Reason.Code = "failed", class, 1, "EXIT_CODE"
		for code, class := range map[string]string{
			codeUntrusted: "untrusted", codePlanMismatch: "plan", codeInput: "input", codeOutput: "output", codeUnavailable: "input",
		} {
			if Code(err) == code {
				r.Class, r.Reason.Code = class, code
			}
		}
		if r.Reason.Code == codeUnavailable {
			r.Reason.Code = codeInput
		}
	}
	r.Reason.Message = err.Error()
}
