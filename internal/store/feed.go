package store

import (
	"context"
	"strconv"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Feed is the history of all runs of a tenant as one list, for those who follow a tenant. The list only grows at its end: whoever has read
// up to a position has seen every event before it, whatever servers wrote them and in whatever order they committed. Within it
// the events of a run are in their own order. Audit entries are not in it.
type Feed interface {
	// Feed returns at most limit events behind a position; below 0 it begins with the first that is kept, and nothing is lost.
	Feed(ctx context.Context, tenant work.Tenant, after int64, limit int) (FeedPage, error)

	// FeedEnd returns the position of the last event that is in the list now, and the incarnation of the store that positions belong to.
	FeedEnd(ctx context.Context, tenant work.Tenant) (Position, error)
}

// FeedEvent is an event at its position.
type FeedEvent struct {
	Position int64
	work.Event
}

// FeedPage is a part of the list.
type FeedPage struct {
	Events []FeedEvent
	Lost   bool // events behind the position that was asked for have been deleted since: list the runs again
}

// Position is a place in the feeds of a store. Positions grow, with gaps. A store that was restored from a backup counts again from
// where the backup ended, so that positions of another incarnation mean nothing.
type Position struct {
	Incarnation int64
	Number      int64
}

// String returns the text of a position, as clients hold it: incarnation, dash, number.
func (p Position) String() string {
	return strconv.FormatInt(p.Incarnation, 10) + "-" + strconv.FormatInt(p.Number, 10)
}

// ParsePosition reads what String wrote. Error: fault.Invalid.
func ParsePosition(text string) (Position, error) {
	before, after, ok := strings.Cut(text, "-")
	incarnation, err1 := strconv.ParseUint(before, 10, 63)
	number, err2 := strconv.ParseUint(after, 10, 63)
	p := Position{int64(incarnation), int64(number)}
	if !ok || err1 != nil || err2 != nil || p.String() != text {
		return Position{}, fault.New(fault.Invalid, "a position looks like 1-4711").WithHint("send the position of a frame as it is")
	}
	return p, nil
}

// ChunkEvents is how many events share one stored piece at most; the position of an event is that of its piece times this, plus
// its place in it.
const ChunkEvents = 256
