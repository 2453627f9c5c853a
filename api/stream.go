package api

import "encoding/json"

// Frame is one message of a stream: an event of a run, a line of output, or something about the stream itself. Over server-sent events
// eventType is the event and id the id of the message, too; over a WebSocket every message is a frame.
type Frame struct {
	EventType     string          `json:"eventType"`
	ID            string          `json:"id,omitempty"` // to go on behind this frame
	Tenant        string          `json:"tenant"`
	Project       string          `json:"project"`
	CorrelationID string          `json:"correlationId"` // trace id of the run
	JobType       string          `json:"jobType,omitempty"`
	TaskRunnerID  string          `json:"taskRunnerId,omitempty"` // the worker, of events that a worker causes
	RunID         string          `json:"runId,omitempty"`
	RunName       string          `json:"runName,omitempty"`
	Pack          string          `json:"pack,omitempty"`
	State         string          `json:"state,omitempty"`    // of the step, or of the run where no step is named, after this
	Sequence      int64           `json:"sequence,omitempty"` // of the event or line within its run, from 1, without gaps
	Timestamp     string          `json:"timestamp,omitempty"`
	StepID        string          `json:"stepId,omitempty"`
	Attempt       int             `json:"attempt,omitempty"`
	Level         string          `json:"level,omitempty"`
	Message       string          `json:"message,omitempty"`
	Data          json.RawMessage `json:"data,omitempty"`
}

// FrameList is a part of the events of a tenant.
type FrameList struct {
	Items []Frame `json:"items"`
	End   string  `json:"end"` // to go on behind, in a list or a stream
}

// StreamTicket opens one WebSocket.
type StreamTicket struct {
	Ticket    string   `json:"ticket"`
	Protocols []string `json:"protocols"` // to be given to the WebSocket as its subprotocols
	Expires   string   `json:"expires"`
}
