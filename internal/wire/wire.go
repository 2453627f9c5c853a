// Package wire translates between the words of the domain and the types of the worker protocol, in both directions.
//
// Whatever goes out and comes back is the same again; what comes in from outside is checked for its form here and nowhere else.
package wire

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Token translates a token for the way out.
func Token(t work.Token) api.WorkerToken { return api.WorkerToken(t) }

// Lease translates what names an attempt for the way out.
func Lease(c store.AckCommand) api.WorkerLease {
	return api.WorkerLease{Run: string(c.Run), Step: string(c.Step), Token: Token(c.Token)}
}

// Leases translates several.
func Leases(cs []store.AckCommand) []api.WorkerLease {
	out := make([]api.WorkerLease, 0, len(cs))
	for _, c := range cs {
		out = append(out, Lease(c))
	}
	return out
}

// FromLease puts an attempt into a tenant.
func FromLease(tenant work.Tenant, l api.WorkerLease) store.AckCommand {
	return store.AckCommand{Tenant: tenant, Run: work.RunID(l.Run), Step: work.StepID(l.Step), Token: work.Token(l.Token)}
}

// FromLeases puts several attempts into a tenant.
func FromLeases(tenant work.Tenant, ls []api.WorkerLease) []store.AckCommand {
	out := make([]store.AckCommand, 0, len(ls))
	for _, l := range ls {
		out = append(out, FromLease(tenant, l))
	}
	return out
}

// Grant translates a lease for the way out. Error: fault.Internal for values that are no JSON.
func Grant(g *store.Grant) (api.WorkerGrant, error) {
	bindings, err := json.Marshal(g.Bindings)
	if err != nil {
		return api.WorkerGrant{}, fault.Wrap(fault.Internal, err, "the values of step %q", g.Step)
	}
	request := g.Request
	if !json.Valid(request) {
		request = nil // no request that was ever signed; the worker will see for itself
	}
	return api.WorkerGrant{
		Run: string(g.Run), RunName: g.RunName, PlanHash: string(g.PlanHash), Step: string(g.Step), Attempt: g.Attempt,
		Token: Token(g.Token), Deadline: g.Deadline.String(), Trace: g.Trace, State: g.TraceState,
		Baggage: g.Baggage, Bindings: bindings, Request: request,
	}, nil
}

// FromGrant reads a lease that came in. Error: fault.Invalid.
func FromGrant(tenant work.Tenant, g *api.WorkerGrant) (store.Grant, error) {
	out := store.Grant{
		Tenant: tenant, Run: work.RunID(g.Run), RunName: g.RunName, Step: work.StepID(g.Step), Attempt: g.Attempt,
		Token: work.Token(g.Token), Trace: g.Trace, TraceState: g.State, Baggage: g.Baggage, Request: g.Request,
	}
	var err error
	if out.PlanHash, err = work.ParseDigest(g.PlanHash); err != nil {
		return out, fault.New(fault.Invalid, "the plan hash of a lease: %v", err)
	}
	if out.Deadline, err = instant(g.Deadline); err != nil {
		return out, err
	}
	out.Bindings, err = bindings(g.Bindings)
	return out, err
}

// bindings reads values as the engine makes them: whole numbers are int64.
func bindings(raw json.RawMessage) (*engine.Bindings, error) {
	b := &engine.Bindings{}
	if len(raw) == 0 {
		return b, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(b); err != nil {
		return nil, fault.New(fault.Invalid, "the values of a lease: %v", err)
	}
	for _, values := range []map[string]any{b.Inputs, b.Steps, b.Vars, b.Run} {
		for k := range values {
			v, err := whole(values[k])
			if err != nil {
				return nil, err
			}
			values[k] = v
		}
	}
	return b, nil
}

func whole(v any) (any, error) {
	var err error
	switch x := v.(type) {
	case json.Number:
		n, err := x.Int64()
		if err != nil {
			return nil, fault.New(fault.Invalid, "the values of a lease: %s is no whole number", x)
		}
		return n, nil
	case []any:
		for i := range x {
			if x[i], err = whole(x[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range x {
			if x[k], err = whole(x[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// instant reads a time, "" for none.
func instant(s string) (work.Time, error) {
	if s == "" {
		return 0, nil
	}
	t, err := work.ParseTime(s)
	if err != nil {
		return 0, fault.New(fault.Invalid, "%v", err)
	}
	return t, nil
}

// Lines translates output for the way out.
func Lines(c *store.LinesCommand) api.WorkerOutput {
	out := api.WorkerOutput{
		WorkerLease: Lease(store.AckCommand{Run: c.Run, Step: c.Step, Token: c.Token}), From: c.From,
		Lines: make([]api.WorkerLine, 0, len(c.Lines)),
	}
	for _, l := range c.Lines {
		out.Lines = append(out.Lines, api.WorkerLine{Time: l.Time.String(), Level: l.Level, Type: l.EventType, Message: l.Message})
	}
	return out
}

// FromLines reads output that came in. Error: fault.Invalid.
func FromLines(tenant work.Tenant, o *api.WorkerOutput) (store.LinesCommand, error) {
	lease := FromLease(tenant, o.WorkerLease)
	out := store.LinesCommand{
		Tenant: tenant, Run: lease.Run, Step: lease.Step, Token: lease.Token, From: o.From, Lines: make([]work.LogLine, 0, len(o.Lines)),
	}
	if o.From < 1 {
		return out, fault.New(fault.Invalid, "lines are numbered from 1")
	}
	for i := range o.Lines {
		l := &o.Lines[i]
		at, err := instant(l.Time)
		if err != nil {
			return out, err
		}
		if err := checkLine(l); err != nil {
			return out, err
		}
		out.Lines = append(out.Lines, work.LogLine{Time: at, Level: l.Level, EventType: l.Type, Message: l.Message})
	}
	return out, nil
}

// maxLine bounds one line of output, some more than what a worker cuts its lines at.
const maxLine = 64 << 10

func checkLine(l *api.WorkerLine) error {
	switch l.Level {
	case "trace", "debug", "info", "warn", "error":
	default:
		return fault.New(fault.Invalid, "%q is no level of a line", l.Level)
	}
	switch l.Type {
	case "step.stdout", "step.stderr", "step.message", "step.truncated", "step.progress":
	default:
		return fault.New(fault.Invalid, "%q is no type of a line", l.Type)
	}
	if len(l.Message) > maxLine {
		return fault.New(fault.Invalid, "a line has %d bytes, the limit is %d", len(l.Message), maxLine)
	}
	if bytes.IndexByte([]byte(l.Message), '\n') >= 0 {
		return fault.New(fault.Invalid, "a line has no line break inside")
	}
	return nil
}

// Result translates the outcome of one entry for the way out.
func Result(err error) api.WorkerResult {
	if err == nil {
		return api.WorkerResult{}
	}
	e := &api.Error{Code: string(fault.CodeOf(err)), Message: err.Error()}
	var known *fault.Error
	if asFault(err, &known) {
		e.Hint = known.Hint
	}
	if fault.CodeOf(err) == fault.Internal {
		e.Message = "the server could not do it"
	}
	return api.WorkerResult{Error: e}
}

// FromResult reads the outcome of one entry.
func FromResult(r api.WorkerResult) error {
	if r.Error == nil {
		return nil
	}
	return FromError(r.Error)
}

// FromError reads an error that came in; a code that nobody knows is fault.Internal.
func FromError(e *api.Error) error {
	code := fault.Code(e.Code)
	if !known(code) {
		code = fault.Internal
	}
	return &fault.Error{Code: code, Message: e.Message, Hint: e.Hint, Where: e.Where}
}
