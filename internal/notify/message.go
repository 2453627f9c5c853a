package notify

import (
	"encoding/json"
	"fmt"
	"strings"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Message is what is told: the body of a webhook.
type Message struct {
	Type      string    `json:"type"`
	Timestamp work.Time `json:"timestamp"`
	Data      Subject   `json:"data"`

	position int64
}

// Subject is what a message is about.
type Subject struct {
	Tenant        work.Tenant `json:"tenant"`
	Project       string      `json:"project"`
	CorrelationID string      `json:"correlationId"`
	JobType       string      `json:"jobType,omitempty"`
	Run           work.RunID  `json:"runId,omitempty"`
	RunName       string      `json:"runName,omitempty"`
	Pack          string      `json:"pack,omitempty"`
	State         work.State  `json:"state,omitempty"`
	Reason        string      `json:"reason,omitempty"`
	Step          work.StepID `json:"stepId,omitempty"`
	Attempt       int         `json:"attempt,omitempty"`
	Sequence      int64       `json:"sequence,omitempty"` // of the event in the history of the run
	PlanHash      work.Digest `json:"planHash,omitempty"`
	Required      int         `json:"required,omitempty"` // approvals
	Approvers     []string    `json:"approvers,omitempty"`
	Expires       work.Time   `json:"expires,omitzero"`
	Incident      string      `json:"incidentId,omitempty"`
	Cause         string      `json:"cause,omitempty"`   // of the incident
	Subject       string      `json:"subject,omitempty"` // likewise: a class of dead letters, a broker
	Message       string      `json:"message,omitempty"` // likewise
	By            string      `json:"by,omitempty"`      // who has resolved it
}

// messageOf returns what an event of the feed is told as; nil for nothing. What it says of the run is filled in later.
func messageOf(e *work.Event) *Message {
	if e.Run == store.IncidentStream {
		return incidentOf(e)
	}
	m := &Message{Timestamp: e.Time, Data: Subject{Tenant: e.Tenant, Run: e.Run, Step: e.Step, Attempt: e.Attempt, Sequence: e.Seq}}
	switch e.Type {
	case work.StepWaiting:
		var w work.WaitingData
		if json.Unmarshal(e.Data, &w) != nil {
			return nil
		}
		m.Type, m.Data.PlanHash, m.Data.Required, m.Data.Approvers, m.Data.Expires = ApprovalNeeded, w.PlanHash, w.Required, w.Approvers, w.Expires
		m.Data.State = work.Waiting
	case work.RunEnded, work.StepEnded:
		var end work.EndedData
		if json.Unmarshal(e.Data, &end) != nil || e.Type == work.StepEnded && end.State != work.Dead {
			return nil
		}
		m.Type, m.Data.State, m.Data.Reason = RunEnded, end.State, string(end.Reason.Code)
		if e.Type == work.StepEnded {
			m.Type = DeadLetter
		}
	default:
		return nil
	}
	return m
}

// incidentOf returns what an event of incidents is told as; nil for nothing.
func incidentOf(e *work.Event) *Message {
	var i struct {
		ID, Cause, Subject, State, Message string
		Resolved                           *work.Actor
	}
	if string(e.Type) != IncidentOpened && string(e.Type) != IncidentClosed || json.Unmarshal(e.Data, &i) != nil {
		return nil
	}
	m := &Message{Type: string(e.Type), Timestamp: e.Time, Data: Subject{
		Tenant: e.Tenant, Project: "default", CorrelationID: i.ID, Incident: i.ID, Cause: i.Cause, Subject: i.Subject, State: work.State(i.State), Message: i.Message, Sequence: e.Seq,
	}}
	if i.Resolved != nil {
		m.Data.By, m.Data.Reason = i.Resolved.Name, i.Resolved.Reason
	}
	return m
}

// line says a message in one line of text, for people.
func (m *Message) line() string {
	d := &m.Data
	run := fmt.Sprintf("run %s of %s (tenant %s)", d.RunName, d.Pack, d.Tenant)
	switch m.Type {
	case RunEnded:
		return fmt.Sprintf("%s ended: %s, %s", run, d.State, d.Reason)
	case ApprovalNeeded:
		return fmt.Sprintf("%s needs %d approvals at %s before %s", run, d.Required, d.Step, d.Expires)
	case IncidentOpened:
		return fmt.Sprintf("incident %s of the tenant %s: %s", d.Incident, d.Tenant, d.Message)
	case IncidentClosed:
		return fmt.Sprintf("incident %s of the tenant %s is resolved by %s: %s", d.Incident, d.Tenant, d.By, d.Reason)
	case DeadLetter:
		return fmt.Sprintf("step %s of %s is dead after attempt %d: %s", d.Step, run, d.Attempt, d.Reason)
	default:
		return fmt.Sprintf("a test of notifications of the tenant %s", d.Tenant)
	}
}

// next says what a person can do, as a command.
func (m *Message) next() string {
	switch m.Type {
	case ApprovalNeeded:
		return "orrery approve " + m.Data.RunName
	case IncidentOpened:
		return "orrery incidents show " + m.Data.Incident
	case RunEnded, DeadLetter:
		return "orrery runs why " + m.Data.RunName
	default:
		return ""
	}
}

// plain drops what would end a line or a header.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
