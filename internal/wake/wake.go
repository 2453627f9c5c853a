// Package wake is the contract of hints between servers: something was committed, have a look.
//
// A hint is never more than that. It may be lost, come twice, late or without a cause, and it says nothing of what has changed. Whoever
// waits for hints looks by himself from time to time as well; without any hints at all a system is slower and nothing else.
package wake

import "context"

// Hints connects the servers of one store.
type Hints interface {
	// Announce tells the other servers that something was committed. It returns at once, whatever the state of the network: several
	// announcements in a short time become one.
	Announce()

	// Listen returns a channel that gets a value after announcements of other servers; several become one. It is closed when ctx ends
	// or the hints are closed.
	Listen(ctx context.Context) <-chan struct{}

	// Close ends it. It is no error to close twice.
	Close() error
}

// Listeners is the part that every driver has: those who listen in this process. The zero value is ready.
type Listeners struct {
	set listenerSet
}

// Listen is that of Hints.
func (l *Listeners) Listen(ctx context.Context) <-chan struct{} { return l.set.listen(ctx) }

// Tell gives every listener a value, unless it has one that it has not taken yet.
func (l *Listeners) Tell() { l.set.tell() }

// Close closes every channel.
func (l *Listeners) Close() { l.set.close() }
