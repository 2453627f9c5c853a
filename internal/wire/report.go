package wire

import (
	"encoding/json"
	"errors"
	"slices"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func asFault(err error, into **fault.Error) bool { return errors.As(err, into) }

func known(c fault.Code) bool { return slices.Contains(fault.Codes(), c) }

// Report translates the end of an attempt for the way out. The name of the worker is not part of it: the server knows who asks.
func Report(c *store.ReportCommand) api.WorkerReport {
	r := &c.Report
	out := api.WorkerReport{
		Run: string(c.Run), Step: string(c.Step), Token: Token(r.Token), State: string(r.State),
		Reason: api.WorkerReason{Code: string(r.Reason.Code), Subject: r.Reason.Subject, Message: r.Reason.Message},
		Class:  r.Class, ExitCode: r.ExitCode, StartedAt: r.StartedAt.String(), EndedAt: r.EndedAt.String(), Rendered: string(r.Rendered),
		Outputs: r.Outputs, Artifacts: artifacts(r.Artifacts), Protections: r.Protections, Egress: r.Egress, CacheKey: string(r.CacheKey),
		Transcript: api.WorkerTranscript{Lines: r.Transcript.Lines, Digest: string(r.Transcript.Digest), Dropped: r.Transcript.Dropped},
	}
	if r.Usage != nil {
		out.Usage = &api.WorkerUsage{WallMs: r.Usage.WallMs, CPUMs: r.Usage.CPUMs, MaxRSSBytes: r.Usage.MaxRSSBytes}
	}
	if r.CachedFrom != nil {
		out.CachedFrom = origin(*r.CachedFrom)
	}
	if s := r.Signed; s != nil {
		out.Signed = &api.WorkerSignature{Certificate: s.Certificate, Sig: s.Sig}
		if s.Batch != nil {
			out.Signed.Batch = &api.WorkerBatch{Index: s.Batch.Index, Size: s.Batch.Size, Proof: s.Batch.Proof}
		}
	}
	return out
}

// FromReport reads the end of an attempt that came in, from the worker of that name. Error: fault.Invalid.
func FromReport(worker string, r *api.WorkerReport) (store.ReportCommand, error) {
	in := &reader{}
	out := store.ReportCommand{Run: work.RunID(r.Run), Step: work.StepID(r.Step), Report: work.ReportedData{
		Token: work.Token(r.Token), Worker: worker, State: work.State(r.State), Class: r.Class, ExitCode: r.ExitCode,
		Reason:    work.Reason{Code: work.ReasonCode(r.Reason.Code), Subject: r.Reason.Subject, Message: r.Reason.Message},
		StartedAt: in.time(r.StartedAt), EndedAt: in.time(r.EndedAt), Rendered: in.digest(r.Rendered), Outputs: in.object("outputs", r.Outputs),
		Artifacts: in.artifacts(r.Artifacts), Protections: in.json("protections", r.Protections), Egress: in.json("egress", r.Egress),
		CacheKey:   in.digest(r.CacheKey),
		Transcript: work.Transcript{Lines: r.Transcript.Lines, Digest: in.digest(r.Transcript.Digest), Dropped: r.Transcript.Dropped},
	}}
	if r.Usage != nil {
		out.Report.Usage = &work.Usage{WallMs: r.Usage.WallMs, CPUMs: r.Usage.CPUMs, MaxRSSBytes: r.Usage.MaxRSSBytes}
	}
	if r.CachedFrom != nil {
		out.Report.CachedFrom = &work.CacheOrigin{Run: work.RunID(r.CachedFrom.Run), Step: work.StepID(r.CachedFrom.Step), Attempt: r.CachedFrom.Attempt}
	}
	if s := r.Signed; s != nil {
		out.Report.Signed = &work.ResultSignature{Certificate: s.Certificate, Sig: s.Sig}
		if s.Batch != nil {
			out.Report.Signed.Batch = &work.ResultBatch{Index: s.Batch.Index, Size: s.Batch.Size, Proof: s.Batch.Proof}
		}
	}
	in.ending(&out.Report)
	return out, in.err
}

// Cached translates an earlier result for the way out.
func Cached(c *store.CachedResult) api.WorkerCached {
	return api.WorkerCached{Origin: *origin(c.Origin), Outputs: c.Outputs, Artifacts: artifacts(c.Artifacts)}
}

// FromCached reads an earlier result that came in. Error: fault.Invalid.
func FromCached(c *api.WorkerCached) (*store.CachedResult, error) {
	in := &reader{}
	out := &store.CachedResult{
		Origin:  work.CacheOrigin{Run: work.RunID(c.Origin.Run), Step: work.StepID(c.Origin.Step), Attempt: c.Origin.Attempt},
		Outputs: in.object("outputs", c.Outputs), Artifacts: in.artifacts(c.Artifacts),
	}
	return out, in.err
}

func origin(o work.CacheOrigin) *api.WorkerOrigin {
	return &api.WorkerOrigin{Run: string(o.Run), Step: string(o.Step), Attempt: o.Attempt}
}

func artifacts(in []work.Artifact) []api.WorkerArtifact {
	var out []api.WorkerArtifact
	for _, a := range in {
		out = append(out, api.WorkerArtifact{Name: a.Name, Path: a.Path, Digest: string(a.Digest), Size: a.Size, Executable: a.Executable})
	}
	return out
}

// reader reads parts of a message and keeps the first mistake.
type reader struct{ err error }

func (in *reader) note(format string, args ...any) {
	if in.err == nil {
		in.err = fault.New(fault.Invalid, format, args...)
	}
}

func (in *reader) time(s string) work.Time {
	t, err := instant(s)
	if err != nil {
		in.note("%v", err)
	}
	return t
}

func (in *reader) digest(s string) work.Digest {
	if s == "" {
		return ""
	}
	d, err := work.ParseDigest(s)
	if err != nil {
		in.note("%v", err)
	}
	return d
}

// json returns a document in its canonical form: it goes into a history that is hashed.
func (in *reader) json(what string, raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	out, err := canonical.Transform(raw)
	if err != nil {
		in.note("%s: %v", what, err)
	}
	return out
}

func (in *reader) object(what string, raw json.RawMessage) json.RawMessage {
	out := in.json(what, raw)
	if len(out) > 0 && out[0] != '{' {
		in.note("%s is a JSON object", what)
	}
	return out
}

func (in *reader) artifacts(list []api.WorkerArtifact) []work.Artifact {
	var out []work.Artifact
	for i, a := range list {
		d := in.digest(a.Digest)
		switch {
		case d == "" || a.Name == "" || a.Path == "" || a.Size < 0:
			in.note("an artifact has a name, a path, a digest and a size")
		case i > 0 && (a.Name < list[i-1].Name || a.Name == list[i-1].Name && a.Path <= list[i-1].Path):
			in.note("artifacts are sorted by name, then path, each once")
		}
		out = append(out, work.Artifact{Name: a.Name, Path: a.Path, Digest: d, Size: a.Size, Executable: a.Executable})
	}
	return out
}

// ending holds a report to what every end has.
func (in *reader) ending(r *work.ReportedData) {
	switch r.State {
	case work.Succeeded:
		if r.Reason.Code != work.EndedWell {
			in.note("an attempt that succeeded has the reason %s", work.EndedWell)
		}
	case work.Failed, work.TimedOut, work.Cancelled:
		if r.Reason.Code == "" || r.Reason.Code == work.EndedWell {
			in.note("an attempt that did not succeed says why")
		}
	default:
		in.note("%q is no end of an attempt", r.State)
	}
	switch {
	case r.StartedAt == 0 || r.EndedAt < r.StartedAt:
		in.note("an attempt starts before it ends")
	case r.Transcript.Lines < 0 || r.Transcript.Dropped < 0 || (r.Transcript.Lines == 0) != (r.Transcript.Digest == ""):
		in.note("a transcript has a digest when it has lines, and only then")
	}
}
