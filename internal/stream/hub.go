// Package stream hands what happens to those who follow: the history of a run, its output, or everything that happens in a tenant.
//
// All followers of one thing share one reader of the store and one bounded window of what came last. A follower that begins further back
// reads the store itself, page by page, until it has caught up; one that is busy while the window passes by is told to come back. So no
// follower holds memory or a commit, however slow it is, and what it has missed is in the store.
package stream

import (
	"context"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Bounds. They are documented in docs/tasks/streams.md.
const (
	WindowFrames = 2048    // frames that are kept of what is followed
	WindowBytes  = 4 << 20 // and their bytes
	PerCaller    = 100     // streams of one account at once
	page         = 256     // what is read and handed on at once

	slowAfter  = 5 * time.Second        // how long a follower may be busy with what it was given
	lookAgain  = time.Second            // a hint of the store may get lost
	leastApart = 500 * time.Microsecond // between two looks,
	pause      = 5 * time.Millisecond   // and while commits come all the time, so that many small ones are read together
	maxAbout   = 4096                   // runs that are remembered
)

// Store is what is followed.
type Store interface {
	store.History
	store.Feed
	Run(ctx context.Context, tenant work.Tenant, idOrName string) (work.Run, error)
}

// Hub knows what is followed. It is safe for concurrent use.
type Hub struct {
	// Heartbeat is how long a stream may be silent; then it shows that it lives, and asks whether its caller may still read.
	Heartbeat time.Duration

	slow  time.Duration // a follower that stays away for so long while the window passes by is too slow
	store Store
	life  context.Context
	stop  context.CancelFunc

	mu      sync.Mutex
	topics  map[topicKey]*topic
	callers map[string]int
	about   map[runKey]About
}

// What can be followed.
type kind int

const (
	tenantEvents kind = iota
	runEvents
	runLines
)

type runKey struct {
	tenant work.Tenant
	run    work.RunID
}

type topicKey struct {
	runKey
	kind kind
}

// NewHub returns a hub over a store, with a heartbeat of 15 seconds unless another is given. Close ends it.
func NewHub(s Store, heartbeat time.Duration) *Hub {
	if heartbeat <= 0 {
		heartbeat = 15 * time.Second
	}
	h := &Hub{Heartbeat: heartbeat, slow: slowAfter, store: s, topics: map[topicKey]*topic{}, callers: map[string]int{}, about: map[runKey]About{}}
	h.life, h.stop = context.WithCancel(context.Background())
	return h
}

// Close ends all streams.
func (h *Hub) Close() { h.stop() }

// Subscription is one follower's place in a stream. It is used by one goroutine.
type Subscription struct {
	h      *Hub
	topic  *topic
	caller string
	after  int64
	live   bool      // it has caught up
	away   time.Time // when it was handed something last
	gap    *Gap      // from the start
	About  About
	once   sync.Once
}

// Heartbeat is that of the hub.
func (s *Subscription) Heartbeat() time.Duration { return s.h.Heartbeat }

// Tenant follows everything that happens in a tenant, behind a position.
func (h *Hub) Tenant(ctx context.Context, tenant work.Tenant, caller string, after store.Position) (*Subscription, error) {
	end, err := h.store.FeedEnd(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if after.Incarnation != end.Incarnation { // one that is greater than the end comes from a server that has seen more already
		s, err := h.subscribe(topicKey{runKey{tenant, ""}, tenantEvents}, caller, end.Number, end, About{})
		if s != nil {
			s.gap = &Gap{ID: end.String(), Why: "the store was restored from a backup since"}
		}
		return s, err
	}
	return h.subscribe(topicKey{runKey{tenant, ""}, tenantEvents}, caller, after.Number, end, About{})
}

// Events follows the history of a run, behind a sequence number.
func (h *Hub) Events(run *work.Run, caller string, after int64) (*Subscription, error) {
	return h.subscribe(topicKey{runKey{run.Tenant, run.ID}, runEvents}, caller, after, store.Position{Number: run.Seq}, AboutRun(run))
}

// Lines follows the output of a run, behind a sequence number.
func (h *Hub) Lines(run *work.Run, caller string, after int64) (*Subscription, error) {
	return h.subscribe(topicKey{runKey{run.Tenant, run.ID}, runLines}, caller, after, store.Position{Number: run.LogSeq}, AboutRun(run))
}

func (h *Hub) subscribe(key topicKey, caller string, after int64, end store.Position, a About) (*Subscription, error) {
	caller = string(key.tenant) + "\x00" + caller
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life.Err() != nil {
		return nil, fault.New(fault.Unavailable, "the server stops")
	}
	if h.callers[caller] >= PerCaller {
		return nil, fault.New(fault.Exhausted, "an account has %d streams at most", PerCaller).WithHint("follow the tenant instead of each run")
	}
	h.callers[caller]++
	t := h.topics[key]
	if t == nil {
		t = newTopic(h, key, end, a)
		h.topics[key] = t
		go t.read()
	}
	t.followers++
	return &Subscription{h: h, topic: t, caller: caller, after: after, About: a, away: time.Now()}, nil
}

// Close gives the place back. It is no error to close twice.
func (s *Subscription) Close() {
	s.once.Do(func() {
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		if s.h.callers[s.caller]--; s.h.callers[s.caller] == 0 {
			delete(s.h.callers, s.caller)
		}
		if s.topic.followers--; s.topic.followers == 0 {
			s.topic.stop()
			delete(s.h.topics, s.topic.key)
		}
	})
}

// aboutRun returns what frames say of a run, from memory where it has been asked before.
func (h *Hub) aboutRun(ctx context.Context, e *work.Event) (About, error) {
	if e.Run == store.IncidentStream {
		return About{}, nil
	}
	key := runKey{e.Tenant, e.Run}
	h.mu.Lock()
	a, known := h.about[key]
	h.mu.Unlock()
	if known {
		return a, nil
	}
	run, err := h.store.Run(ctx, e.Tenant, string(e.Run))
	switch {
	case err == nil:
		a = AboutRun(&run)
	case fault.CodeOf(err) == fault.NotFound: // deleted meanwhile
		a = about(e.Run, "", "", "", "")
	default:
		return a, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.about) >= maxAbout {
		clear(h.about)
	}
	h.about[key] = a
	return a, nil
}

// Gap is the error of a follower that cannot go on where it is: what lies between has to be listed.
type Gap struct {
	ID  string // where to list from
	Why string
}

// Error implements error.
func (g *Gap) Error() string { return g.Why }

// List returns the frames of a tenant behind a position, at most limit. Error: Gap.
func (h *Hub) List(ctx context.Context, tenant work.Tenant, after store.Position, limit int) ([]Frame, error) {
	found, err := h.store.Feed(ctx, tenant, after.Number, limit)
	if err != nil {
		return nil, err
	}
	if found.Lost {
		return nil, &Gap{ID: after.String(), Why: "events behind this position have been deleted"}
	}
	frames := make([]Frame, len(found.Events))
	for i := range found.Events {
		e := &found.Events[i]
		a, err := h.aboutRun(ctx, &e.Event)
		if err != nil {
			return nil, err
		}
		frames[i] = EventFrame(&e.Event, a)
		frames[i].ID = store.Position{Incarnation: after.Incarnation, Number: e.Position}.String()
	}
	return frames, nil
}
