// Package broker is the contract of what keeps published events for others: streams of NATS, streams of Valkey.
package broker

import (
	"context"

	"orrery.example/orrery/internal/work"
)

// Message is one event on its way out.
type Message struct {
	ID   string // its position in the feed of its tenant, like 1-4711; rises from message to message
	Run  work.RunID
	Type string // of the event, like run.ended
	Body []byte // the frame as streams have it, JSON
}

// Target is one broker. Its methods are called by one goroutine at a time.
type Target interface {
	// Publish hands over messages of a tenant, in their order, and returns how many of them the broker has acknowledged: all of them, or those
	// before the error. Messages that the broker has already are left out, where it can tell. Errors: fault.Unavailable when the broker cannot
	// be reached; fault.Conflict and fault.Exhausted when it does not take what this tenant has for it, but may take what others have.
	Publish(ctx context.Context, tenant work.Tenant, messages []Message) (int, error)

	// Name tells targets apart: where messages go, without the secrets of getting there.
	Name() string

	// Close gives the connection up.
	Close() error
}
