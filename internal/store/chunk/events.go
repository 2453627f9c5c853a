package chunk

import (
	"encoding/binary"
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/work"
)

// eventTypes are written as their position. New ones go to the end: positions are in stores.
var eventTypes = [...]work.EventType{
	work.RunSubmitted, work.RunAdmitted, work.RunCancelAsked, work.RunPaused, work.RunResumed, work.RunDue,
	work.StepClaimed, work.StepAcked, work.StepReported, work.StepRevoked, work.StepDue, work.GateDecided,
	work.RunQueued, work.RunStarted, work.RunStopping, work.RunEnded,
	work.StepQueued, work.StepStarted, work.StepExpanded, work.StepWaiting, work.StepRetrying, work.StepEnded,
	work.StepCarried, work.StepCancelAsked, work.PolicyDecided, work.PolicyAsked, work.PolicyUnavailable,
}

// What the byte before each event says.
const (
	eventSameStep    = 1 << 0 // as the event before
	eventLinked      = 1 << 1 // Prev is the hash of the event before
	eventHasData     = 1 << 2
	eventUnknownType = 1 << 3 // written as text
)

// AppendEvents appends the stored form of events that follow each other in one run.
func AppendEvents(dst []byte, events []work.Event) []byte {
	dst = append(dst, eventsV1)
	dst = binary.AppendUvarint(dst, uint64(len(events)))
	var before work.Event
	for i := range events {
		e := &events[i]
		kind := slices.Index(eventTypes[:], e.Type)
		flags := byte(0)
		if e.Step == before.Step {
			flags |= eventSameStep
		}
		if e.Prev == before.Hash {
			flags |= eventLinked
		}
		if len(e.Data) > 0 {
			flags |= eventHasData
		}
		if kind < 0 {
			flags |= eventUnknownType
		}
		dst = append(dst, flags)
		if kind < 0 {
			dst = appendText(dst, string(e.Type))
		} else {
			dst = append(dst, byte(kind))
		}
		dst = binary.AppendVarint(dst, int64(e.Time-before.Time))
		if flags&eventSameStep == 0 {
			dst = appendText(dst, string(e.Step))
		}
		dst = binary.AppendVarint(dst, int64(e.Attempt))
		if flags&eventLinked == 0 {
			dst = appendDigest(dst, e.Prev)
		}
		dst = appendDigest(dst, e.Hash)
		if flags&eventHasData != 0 {
			dst = appendText(dst, string(e.Data))
		}
		before = *e
	}
	return dst
}

// Events returns the events of a stored form whose first has the number first. Error: fault.Internal for bytes that
// AppendEvents did not write.
func Events(tenant work.Tenant, run work.RunID, first int64, body []byte) ([]work.Event, error) {
	c := cursor{rest: body}
	if c.one() != eventsV1 {
		return nil, damaged("events", run, first)
	}
	count := c.number()
	if count > uint64(len(body))/5 { // an event has five bytes at least
		return nil, damaged("events", run, first)
	}
	events := make([]work.Event, 0, count)
	var before work.Event
	for i := range int64(count) {
		e := work.Event{Tenant: tenant, Run: run, Seq: first + i, Step: before.Step, Prev: before.Hash}
		flags := c.one()
		if flags&eventUnknownType != 0 {
			e.Type = work.EventType(c.text())
		} else if kind := int(c.one()); kind < len(eventTypes) {
			e.Type = eventTypes[kind]
		} else {
			c.broken = true
		}
		e.Time = before.Time + work.Time(c.signed())
		if flags&eventSameStep == 0 {
			e.Step = work.StepID(c.text())
		}
		e.Attempt = int(c.signed())
		if flags&eventLinked == 0 {
			e.Prev = c.digest()
		}
		e.Hash = c.digest()
		if flags&eventHasData != 0 {
			if data := c.text(); data != "" { // no writer says that there is data and gives none
				e.Data = json.RawMessage(data)
			}
		}
		events = append(events, e)
		before = e
	}
	if c.broken || len(c.rest) > 0 {
		return nil, damaged("events", run, first)
	}
	return events, nil
}
