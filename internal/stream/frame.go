package stream

import (
	"cmp"
	"encoding/json"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Frame is one message of a stream, the same over every transport.
type Frame struct {
	Type          string          `json:"eventType"`
	ID            string          `json:"id,omitempty"` // where to go on behind this frame; "" for frames of the stream itself
	Tenant        work.Tenant     `json:"tenant"`
	Project       string          `json:"project"`
	CorrelationID string          `json:"correlationId"` // trace id
	JobType       string          `json:"jobType,omitempty"`
	TaskRunner    string          `json:"taskRunnerId,omitempty"`
	Run           work.RunID      `json:"runId,omitempty"`
	RunName       string          `json:"runName,omitempty"`
	Pack          string          `json:"pack,omitempty"`
	State         work.State      `json:"state,omitempty"` // of the step, or of the run where no step is named, after this
	Sequence      int64           `json:"sequence,omitempty"`
	Time          work.Time       `json:"timestamp,omitzero"`
	Step          work.StepID     `json:"stepId,omitempty"`
	Attempt       int             `json:"attempt,omitempty"`
	Level         string          `json:"level,omitempty"`
	Message       string          `json:"message,omitempty"`
	Data          json.RawMessage `json:"data,omitempty"`
}

// Types of frames that are about the stream itself.
const (
	Opened  = "stream.opened"  // the first; its data say what the stream promises
	Resync  = "stream.resync"  // the last: list from the id on, then come back
	Closing = "stream.closing" // the last: the server stops; come back with the id of the last frame
	Ended   = "stream.ended"   // the last: the run has ended and everything was sent
)

// JobType is what every job of Orrery is today: a step of a run of a pack.
const JobType = "pack-run"

// DefaultProject is the project of a run that names none.
const DefaultProject = "default"

// About is what frames say of the run they belong to.
type About struct {
	Name, Pack, Project, Trace string
}

// AboutRun returns it of a run.
func AboutRun(r *work.Run) About {
	return about(r.ID, r.Name, r.Pack.Name, r.TraceParent, r.Project)
}

func about(id work.RunID, name, pack, trace, project string) About {
	a := About{Name: name, Pack: pack, Project: project, Trace: string(id)}
	if len(trace) == 55 {
		a.Trace = trace[3:35]
	}
	if a.Project == "" {
		a.Project = DefaultProject
	}
	return a
}

// EventFrame returns the frame of an event.
func EventFrame(e *work.Event, a About) Frame {
	if e.Run == store.IncidentStream {
		return incidentFrame(e)
	}
	f := Frame{
		Type: string(e.Type), Tenant: e.Tenant, Project: a.Project, CorrelationID: a.Trace, JobType: JobType, Run: e.Run, RunName: a.Name, Pack: a.Pack,
		State: StateAfter(e), Sequence: e.Seq, Time: e.Time, Step: e.Step, Attempt: e.Attempt, Data: e.Data,
	}
	if e.Type == work.StepClaimed || e.Type == work.StepReported {
		var who struct {
			Worker string `json:"worker"`
		}
		if json.Unmarshal(e.Data, &who) == nil {
			f.TaskRunner = who.Worker
		}
	}
	return f
}

// incidentFrame returns the frame of what concerns a tenant and no run. What belongs together has the id of the incident.
func incidentFrame(e *work.Event) Frame {
	var i struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(e.Data, &i) // incident mode has none
	return Frame{
		Type: string(e.Type), Tenant: e.Tenant, Project: DefaultProject, CorrelationID: cmp.Or(i.ID, string(store.IncidentStream)), Sequence: e.Seq, Time: e.Time, Data: e.Data,
	}
}

func lineFrame(tenant work.Tenant, l *work.LogLine, a About) Frame {
	return Frame{
		Type: l.EventType, Tenant: tenant, Project: a.Project, CorrelationID: a.Trace, JobType: JobType, Run: l.Run, RunName: a.Name, Pack: a.Pack,
		Sequence: l.Seq, Time: l.Time, Step: l.Step, Attempt: l.Attempt, Level: l.Level, Message: l.Message,
	}
}

// StateAfter returns the state that an event puts its step into, or its run when it names no step; "" when it does not change it.
func StateAfter(e *work.Event) work.State {
	switch e.Type {
	case work.RunSubmitted, work.RunQueued, work.StepQueued:
		return work.Queued
	case work.RunStarted, work.StepStarted, work.StepClaimed:
		return work.Running
	case work.StepWaiting:
		return work.Waiting
	case work.StepRetrying:
		return work.Retrying
	case work.StepCarried:
		return work.Succeeded
	case work.RunEnded, work.StepEnded:
		var end struct {
			State work.State `json:"state"`
		}
		if json.Unmarshal(e.Data, &end) == nil {
			return end.State
		}
	}
	return ""
}
