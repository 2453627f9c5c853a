package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/redact"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/workspace"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// plans remembers the graphs of plans whose hash this worker has checked.
type plans struct {
	mu sync.Mutex
	m  map[work.Digest]*engine.Graph
}

const knownPlans = 64

// graph returns the plan of a lease after checking that it is the one that the hash names.
func (w *Worker) graph(ctx context.Context, tenant work.Tenant, hash work.Digest) (*engine.Graph, error) {
	w.plans.mu.Lock()
	defer w.plans.mu.Unlock()
	if g := w.plans.m[hash]; g != nil {
		return g, nil
	}
	raw, err := w.source.Plan(ctx, tenant, hash)
	if err != nil {
		return nil, err
	}
	if got := canonical.Digest(raw); got != hash {
		return nil, fault.New(fault.PlanMismatch, "the plan hashes to %s, the lease is for %s", got, hash)
	}
	var plan work.Plan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return nil, fault.New(fault.Invalid, "the plan cannot be read: %v", err)
	}
	g, err := engine.NewGraph(&plan, hash)
	if err != nil {
		return nil, err
	}
	if w.plans.m == nil || len(w.plans.m) >= knownPlans {
		w.plans.m = map[work.Digest]*engine.Graph{}
	}
	w.plans.m[hash] = g
	return g, nil
}

// attempt is one execution under one lease.
type attempt struct {
	w      *Worker
	grant  *store.Grant
	trace  string // W3C traceparent for what the step does
	graph  *engine.Graph
	spec   *work.RunSpec
	report work.ReportedData

	dir      string // the workspace
	rendered rendered
	redactor *redact.Redactor
	folded   *redact.Redactor // finds secrets in lower case, as they are in names of hosts
	lines    *lines           // nil before and after there may be output
}

// begin checks the plan and finds the step in it. It reports false after filling in the report. An error is one that passes: nothing is
// decided then.
func (a *attempt) begin(ctx context.Context) (bool, error) {
	a.report = work.ReportedData{Token: a.grant.Token, Worker: a.w.Name, StartedAt: a.w.Now(), State: work.Failed}
	g, err := a.w.graph(ctx, a.grant.Tenant, a.grant.PlanHash)
	if fault.Passing(err) {
		return false, err
	}
	if err != nil {
		a.refuse(work.EndedByPlanMismatch, "plan", err)
		return false, nil
	}
	spec := g.Spec(a.grant.Step)
	if spec == nil || spec.Run == nil {
		a.refuse(work.EndedByPlanMismatch, "plan", fault.New(fault.PlanMismatch, "the plan has no run step %q", a.grant.Step))
		return false, nil
	}
	if a.w.Admit != nil {
		err := a.w.Admit(ctx, a.grant, g)
		if fault.Passing(err) {
			return false, err
		}
		if err != nil {
			a.distrust(err)
			return false, nil
		}
	}
	a.graph, a.spec = g, spec.Run
	return true, nil
}

// inline runs a step that needs no process at all, and reports whether it did or the attempt has ended otherwise.
func (a *attempt) inline(ctx context.Context) bool {
	good, err := a.begin(ctx)
	if err != nil {
		return false // execute tries again, where waiting holds up nobody else
	}
	if !good {
		return true
	}
	if a.spec.Runner != "noop" || len(a.spec.With) > 0 || len(a.spec.Outputs) > 0 {
		return false
	}
	a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell}
	a.report.EndedAt = a.w.Now()
	return true
}

// distrust refuses a step that nobody whom the worker trusts has asked for in this form.
func (a *attempt) distrust(err error) {
	switch fault.CodeOf(err) {
	case fault.PlanMismatch:
		a.refuse(work.EndedByPlanMismatch, "plan", err)
	case fault.Untrusted, fault.Unverified:
		a.refuse(work.EndedByDistrust, "untrusted", err)
	default: // it could not be found out
		a.refuse(work.EndedByInput, "input", err)
	}
	a.w.Log.Warn("a step is refused", "run", a.grant.Run, "step", a.grant.Step, "error", err)
}

func (a *attempt) refuse(code work.ReasonCode, class string, err error) {
	a.report.State, a.report.Class = work.Failed, class
	a.report.Reason = work.Reason{Code: code, Message: a.mask(err.Error())}
	a.report.EndedAt = a.w.Now()
}

func (a *attempt) mask(s string) string {
	if a.redactor == nil {
		return s
	}
	return a.redactor.String(s)
}

// execute runs the attempt from workspace to report. A panic is a failed attempt, not a dead worker.
func (a *attempt) execute(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			a.report.Outputs, a.report.Artifacts = nil, nil
			a.refuse(work.EndedBySandbox, "internal", fmt.Errorf("the worker failed: %v", p))
			a.endLines() // what was stored of it is part of the evidence
		}
		if a.report.EndedAt == 0 {
			a.report.EndedAt = a.w.Now()
		}
	}()
	a.trace = a.grant.Trace
	if a.w.Observe != nil {
		var through func(*work.ReportedData)
		a.trace, through = a.w.Observe(a.grant)
		defer func() { through(&a.report) }()
	}
	ack := time.AfterFunc(ackAfter, func() { a.ack(ctx) })
	defer ack.Stop()
	defer a.clean()
	if a.ready(ctx) {
		a.lines = newLines(a.w, a.grant, a.redactor, a.limit())
		a.runKind(ctx)
		a.endLines()
		if a.report.State == work.Succeeded {
			a.collect(ctx)
		}
	}
	if err := context.Cause(ctx); err != nil && a.report.State != work.Succeeded {
		a.report.State = work.Cancelled
		a.report.Reason = work.Reason{Code: work.EndedByCancel, Message: err.Error()}
		a.report.Class = "cancelled"
	}
}

// ready does everything that comes before the runner, and reports false when the attempt has ended already.
func (a *attempt) ready(ctx context.Context) bool {
	if a.spec == nil {
		good := false
		err := a.patiently(ctx, func() (err error) { good, err = a.begin(ctx); return err })
		if err != nil {
			a.refuse(work.EndedByInput, "input", err)
		}
		if err != nil || !good {
			return false
		}
	}
	hit := false
	err := a.patiently(ctx, func() error { return a.prepare(ctx) })
	if err == nil {
		err = a.patiently(ctx, func() (err error) { hit, err = a.lookUp(ctx); return err })
	}
	if err != nil {
		a.refuse(work.EndedByInput, "input", err)
	}
	return err == nil && !hit
}

// patiently does something again for as long as it fails for a reason that passes, such as a full disk: that is no fault of the step, and
// what it did so far is worth waiting for. The attempt can be cancelled meanwhile, and its time limit stands.
func (a *attempt) patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !fault.Passing(err) || ctx.Err() != nil {
			return err
		}
		a.w.Log.Warn("a step waits", "run", a.grant.Run, "step", a.grant.Step, "error", a.mask(err.Error()))
		again := time.NewTimer(resendEvery)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}

func (a *attempt) endLines() {
	if l := a.lines; l != nil {
		a.lines = nil
		a.report.Transcript = l.close()
	}
}

func (a *attempt) ack(ctx context.Context) {
	errs := a.w.source.Ack(context.WithoutCancel(ctx), []store.AckCommand{{
		Session: a.grant.Session, Tenant: a.grant.Tenant, Run: a.grant.Run, Step: a.grant.Step, Token: a.grant.Token,
	}})
	if fault.CodeOf(errs[0]) == fault.Stale {
		a.w.cancel(keyOf(a.grant), errLost)
	}
}

func (a *attempt) limit() int64 {
	if a.spec.Sandbox.OutputBytes > 0 {
		return a.spec.Sandbox.OutputBytes
	}
	return defaultOutput
}

// defaultOutput is how many bytes of output are kept of an attempt that sets no limit.
const defaultOutput = 16 << 20

func (a *attempt) runKind(ctx context.Context) {
	switch a.spec.Runner {
	case "process", "shell", "python":
		a.runProcess(ctx)
	case "bundle.ingest":
		a.ingest(ctx)
	case "http":
		a.request(ctx)
	case "noop":
		a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell}
	default:
		a.refuse(work.WaitsForCapability, "runner", fault.New(fault.Invalid, "this worker has no runner %q", a.spec.Runner))
	}
}

// command returns the argv of a step that is a process.
func (a *attempt) command() []string {
	switch a.spec.Runner {
	case "shell":
		return append([]string{"/bin/sh", "-e", "-c", a.spec.Script, "sh"}, a.rendered.Args...)
	case "python":
		if a.spec.File != "" {
			file := a.spec.File // from the workspace; the step may begin in a folder of it
			if below, err := filepath.Rel(a.spec.Dir, file); err == nil {
				file = below
			}
			return append([]string{"python3", file}, a.rendered.Args...)
		}
		return append([]string{"python3", "-c", a.spec.Script}, a.rendered.Args...)
	default:
		return a.rendered.Command
	}
}

func (a *attempt) runProcess(ctx context.Context) {
	dir := a.dir
	argv := a.command()
	if a.spec.Dir != "" {
		// The sandbox starts in the workspace; the step asked for a folder below it.
		argv = append([]string{"/bin/sh", "-c", `cd "$1" && shift && exec "$@"`, "sh", a.spec.Dir}, argv...)
	}
	spec := sandbox.Spec{
		Name: string(a.grant.Step), Command: argv, Env: a.environment(), Dir: dir, Policy: a.policy(),
		Stdout: a.lines.stream("step.stdout", "info"), Stderr: a.lines.stream("step.stderr", "warn"),
	}
	var res sandbox.Result
	var after error // of a step that was started: it is not started again
	err := a.patiently(ctx, func() (err error) {
		if res, err = a.w.Sandbox.Run(ctx, spec); res.Cause != "" {
			after, err = err, nil
		}
		return err
	})
	if err == nil {
		err = after
	}
	if err != nil {
		code, class := work.EndedBySandbox, "sandbox"
		if fault.CodeOf(err) == fault.SandboxUnavailable {
			code, class = work.SandboxUnavailable, "sandbox-unavailable"
		}
		a.refuse(code, class, err)
		return
	}
	a.measured(&res)
	a.judge(&res)
}

func (a *attempt) measured(res *sandbox.Result) {
	a.report.ExitCode = res.ExitCode
	a.report.Usage = &work.Usage{
		WallMs: res.Usage.Wall.Milliseconds(), CPUMs: (res.Usage.User + res.Usage.System).Milliseconds(), MaxRSSBytes: res.Usage.MaxRSSBytes,
	}
	// Both are plain structs of ours: marshalling them cannot fail.
	a.report.Protections, _ = json.Marshal(res.Protections)
	if len(res.Egress) > 0 {
		a.report.Egress, _ = json.Marshal(a.egressRecords(res.Egress))
	}
	a.lines.drop(res.OutputDropped)
}

// egressRecords are the attempts to connect as they go into the history. A step chooses the names it asks for, and may ask for a secret.
func (a *attempt) egressRecords(records []sandbox.EgressRecord) []sandbox.EgressRecord {
	out := slices.Clone(records)
	for i := range out {
		out[i].Time = out[i].Time.UTC().Truncate(time.Microsecond)
		out[i].Host = a.folded.String(a.mask(out[i].Host))
		out[i].Reason = a.folded.String(a.mask(out[i].Reason))
	}
	return out
}

func (a *attempt) judge(res *sandbox.Result) {
	switch res.Cause {
	case sandbox.Exited:
		if res.ExitCode == 0 {
			a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell}
			return
		}
		a.fail(work.Failed, work.EndedByExit, "exit", fmt.Sprintf("exit code %d", res.ExitCode))
	case sandbox.TimedOut:
		a.fail(work.TimedOut, work.EndedByTimeout, "timeout", fmt.Sprintf("stopped after %s", time.Duration(a.spec.TimeoutMs)*time.Millisecond))
	case sandbox.Cancelled:
		a.fail(work.Cancelled, work.EndedByCancel, "cancelled", "stopped on request")
	case sandbox.OverLimit:
		a.fail(work.Failed, work.EndedByLimit, "limit", "over its limit of "+res.Limit)
	default:
		a.fail(work.Failed, work.EndedBySignal, "signal", fmt.Sprintf("ended by signal %d", res.ExitCode-128))
	}
}

func (a *attempt) fail(state work.State, code work.ReasonCode, class, message string) {
	a.report.State, a.report.Class = state, class
	a.report.Reason = work.Reason{Code: code, Message: message}
}

// environment is everything the step sees of the worker's.
func (a *attempt) environment() []string {
	inside := a.w.Inside(a.dir)
	env := map[string]string{
		"PATH": a.w.Path, "HOME": inside, "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1",
		"ORRERY_TENANT": string(a.grant.Tenant), "ORRERY_RUN": string(a.grant.Run), "ORRERY_RUN_NAME": a.grant.RunName,
		"ORRERY_STEP": string(a.grant.Step), "ORRERY_ATTEMPT": fmt.Sprint(a.grant.Attempt), "ORRERY_PLAN_HASH": string(a.grant.PlanHash),
		"ORRERY_OUTPUT": filepath.Join(inside, outputFile),
	}
	for name, value := range a.traceHeaders() {
		env[strings.ToUpper(name)] = value
	}
	for k, v := range a.rendered.Env {
		env[k] = v
	}
	for k, v := range a.rendered.secrets {
		env[k] = string(v)
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// traceHeaders are what the step is told of its trace, by the names of the headers that it would send on.
func (a *attempt) traceHeaders() map[string]string {
	out := map[string]string{}
	for name, value := range map[string]string{"traceparent": a.trace, "tracestate": a.grant.TraceState, "baggage": a.grant.Baggage} {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

func (a *attempt) policy() sandbox.Policy {
	s := a.spec.Sandbox
	p := sandbox.Policy{
		ReadOnly: s.ReadOnly,
		Limits: sandbox.Limits{
			Wall: time.Duration(a.spec.TimeoutMs) * time.Millisecond, CPU: time.Duration(s.CPUMs) * time.Millisecond,
			MemoryBytes: s.MemoryBytes, Processes: s.Processes, FileBytes: s.FileBytes, DiskBytes: s.DiskBytes,
			OutputBytes: a.limit(), Grace: time.Duration(a.spec.GraceMs) * time.Millisecond,
		},
	}
	if t := strings.TrimPrefix(s.MinTier, "t"); len(t) == 1 {
		p.MinTier = sandbox.Tier(t[0] - '0')
	}
	for _, e := range s.Egress {
		p.Egress = append(p.Egress, sandbox.Endpoint{Host: e.Host, Port: e.Port})
	}
	return p
}

func (a *attempt) clean() {
	if a.dir == "" {
		return
	}
	if err := workspace.Remove(a.dir); err != nil {
		a.w.Log.Warn("a workspace is left over", "dir", a.dir, "error", err)
	}
}
