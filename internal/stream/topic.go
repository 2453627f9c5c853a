package stream

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Item is a frame that is ready to be sent. Several followers have the same one: it is only read.
type Item struct {
	Number int64
	ID     string
	Type   string
	Step   work.StepID
	JSON   []byte
}

// topic is something that is followed: its window, and the one reader that fills it.
type topic struct {
	h           *Hub
	key         topicKey
	incarnation int64
	about       About
	life        context.Context
	stop        context.CancelFunc
	followers   int // under the lock of the hub

	mu      sync.Mutex
	window  []Item
	bytes   int
	base    int64 // everything behind it, up to end, is in the window
	end     int64 // what has been read
	ended   *Frame
	failed  error
	changed chan struct{} // closed when there is something new
}

func newTopic(h *Hub, key topicKey, end store.Position, a About) *topic {
	t := &topic{h: h, key: key, incarnation: end.Incarnation, about: a, base: end.Number, end: end.Number, changed: make(chan struct{})}
	t.life, t.stop = context.WithCancel(h.life)
	return t
}

// read fills the window until nobody follows any more.
func (t *topic) read() {
	wake := t.h.store.Watch(t.life)
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	failures, apart := 0, leastApart
	for {
		more, err := t.step()
		if failures = failures + 1; err == nil {
			failures = 0
		}
		if err != nil && t.life.Err() == nil && (failures > patience || !passes(err)) {
			t.tell(func() { t.failed = err })
			return
		}
		if t.life.Err() != nil || t.over() {
			return
		}
		if more {
			continue
		}
		select {
		case <-t.life.Done():
			return
		case <-time.After(apart):
		}
		if apart = min(2*apart, pause); len(wake) == 0 {
			apart = leastApart
		}
		select {
		case <-t.life.Done():
			return
		case _, open := <-wake:
			if !open { // the store is closed
				t.tell(func() { t.failed = fault.New(fault.Unavailable, "the store is closed") })
				return
			}
		case <-look.C:
		}
	}
}

func (t *topic) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended != nil
}

// step reads one page.
func (t *topic) step() (more bool, err error) {
	end, err := t.endOfRun(t.life)
	if err != nil {
		return false, err
	}
	items, _, err := t.page(t.life, t.end)
	if err != nil {
		return false, err
	}
	if len(items) == 0 && end == nil {
		return false, nil
	}
	more = len(items) == page
	t.tell(func() {
		for i := range items {
			t.push(items[i])
		}
		if !more {
			t.ended = end
		}
	})
	return more, nil
}

// patience is how many looks may fail in a row before the stream ends: the store may be away for a moment.
const patience = 30

func passes(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unavailable, fault.Locked, fault.Internal, fault.Exhausted:
		return true
	}
	return false
}

func (t *topic) tell(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *topic) push(i Item) {
	t.window = append(t.window, i)
	t.bytes += len(i.JSON)
	t.end = i.Number
	drop := 0
	for len(t.window)-drop > WindowFrames || t.bytes > WindowBytes && len(t.window)-drop > 1 {
		t.bytes -= len(t.window[drop].JSON)
		t.base = t.window[drop].Number
		drop++
	}
	if drop > 0 {
		clear(t.window[:drop])
		t.window = t.window[drop:]
	}
}

// endOfRun returns the last frame of a run's stream when the run has ended: read before the page, so that the page is all there is.
func (t *topic) endOfRun(ctx context.Context) (*Frame, error) {
	if t.key.kind == tenantEvents {
		return nil, nil
	}
	run, err := t.h.store.Run(ctx, t.key.tenant, string(t.key.run))
	if err != nil || !run.State.Terminal() {
		return nil, err
	}
	a, last := AboutRun(&run), Ended
	if t.key.kind == runLines {
		last = string(work.RunEnded) // as the API of task packs has it; a history has this event already
	}
	return &Frame{
		Type: last, Tenant: run.Tenant, Project: a.Project, CorrelationID: a.Trace, JobType: JobType, Run: run.ID, RunName: a.Name, Pack: a.Pack, State: run.State,
	}, nil
}

// page reads the store behind a number.
func (t *topic) page(ctx context.Context, after int64) (items []Item, lost bool, err error) {
	switch t.key.kind {
	case runLines:
		lines, err := t.h.store.Lines(ctx, t.key.tenant, t.key.run, after+1, page)
		if err != nil {
			return nil, false, err
		}
		for i := range lines {
			f := lineFrame(t.key.tenant, &lines[i], t.about)
			items = append(items, item(f, f.Sequence, strconv.FormatInt(f.Sequence, 10)))
		}
	case runEvents:
		events, err := t.h.store.Events(ctx, t.key.tenant, t.key.run, after+1, page)
		if err != nil {
			return nil, false, err
		}
		for i := range events {
			f := EventFrame(&events[i], t.about)
			items = append(items, item(f, f.Sequence, strconv.FormatInt(f.Sequence, 10)))
		}
	default:
		found, err := t.h.store.Feed(ctx, t.key.tenant, after, page)
		if err != nil {
			return nil, false, err
		}
		for i := range found.Events {
			e := &found.Events[i]
			a, err := t.h.aboutRun(ctx, &e.Event)
			if err != nil {
				return nil, false, err
			}
			items = append(items, item(EventFrame(&e.Event, a), e.Position, t.id(e.Position)))
		}
		lost = found.Lost
	}
	return items, lost, nil
}

func (t *topic) id(number int64) string {
	if t.key.kind != tenantEvents {
		return strconv.FormatInt(number, 10)
	}
	return store.Position{Incarnation: t.incarnation, Number: number}.String()
}

func item(f Frame, number int64, id string) Item {
	f.ID = id
	raw, err := json.Marshal(f)
	if err != nil { // what is in the store is JSON
		raw = []byte("{}")
	}
	return Item{Number: number, ID: id, Type: f.Type, Step: f.Step, JSON: raw}
}

// Next waits for what comes next: a few items, or none when wait has passed. Errors: io.EOF behind the end of the run's stream, Gap for a
// follower that fell behind, and that of ctx.
func (s *Subscription) Next(ctx context.Context, wait time.Duration) ([]Item, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	busy := time.Since(s.away)
	defer func() { s.away = time.Now() }()
	for {
		items, catchUp, changed, err := s.look(busy > s.h.slow)
		if err != nil || len(items) > 0 {
			return items, err
		}
		if catchUp > 0 {
			if items, err = s.behind(ctx, catchUp); err != nil || len(items) > 0 {
				return items, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.h.life.Done():
			return nil, fault.New(fault.Unavailable, "the server stops")
		case <-timer.C:
			return nil, nil
		case <-changed:
		}
	}
}

// look takes what the window has. Slow says that the follower was busy for long before. CatchUp is where the window begins when the follower is not there yet, 0 when it is.
func (s *Subscription) look(slow bool) (items []Item, catchUp int64, changed <-chan struct{}, err error) {
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.gap != nil:
		return nil, 0, nil, s.gap
	case t.failed != nil:
		return nil, 0, nil, t.failed
	case s.after < t.base && s.live && slow:
		return nil, 0, nil, &Gap{ID: t.id(s.after), Why: "the follower is too slow: what comes next is not kept here any more"}
	case s.after < t.base:
		s.live = false
		return nil, t.base, nil, nil
	}
	s.live = true
	from := len(t.window)
	for from > 0 && t.window[from-1].Number > s.after {
		from--
	}
	if rest := t.window[from:]; len(rest) > 0 {
		items = append(items, rest[:min(len(rest), page)]...)
		s.after = items[len(items)-1].Number
		return items, 0, nil, nil
	}
	if t.ended != nil {
		return nil, 0, nil, io.EOF
	}
	return nil, 0, t.changed, nil
}

// behind reads a page of what is older than the window.
func (s *Subscription) behind(ctx context.Context, base int64) ([]Item, error) {
	items, lost, err := s.topic.page(ctx, s.after)
	if err != nil {
		return nil, err
	}
	if lost {
		return nil, &Gap{ID: s.topic.id(s.after), Why: "events behind this position have been deleted"}
	}
	if n := len(items); n > 0 {
		s.after = items[n-1].Number
	}
	if len(items) < page { // nothing is left between
		s.after = max(s.after, base)
	}
	return items, nil
}

// End returns the last frame of a run's stream, nil before its end.
func (s *Subscription) End() *Frame {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	return s.topic.ended
}

// Place returns the id to go on behind.
func (s *Subscription) Place() string { return s.topic.id(s.after) }
