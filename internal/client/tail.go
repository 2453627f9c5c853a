package client

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"sync"
	"time"

	orrery "orrery.example/orrery"
	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Tail is what happens to one run from now on, as the server sends it: a store.History in which nothing has to be looked for. Numbers decide
// what is new, so that nothing is missed and nothing comes twice, whatever happens to connections and to the server. Where streams do not get
// through, it looks every now and then.
type Tail struct {
	Store
	run    work.RunID
	say    func(format string, args ...any)
	wake   chan struct{}
	events chan work.Event
	lines  chan work.LogLine

	mu      sync.Mutex
	looks   bool // streams do not get through
	failed  error
	lost    time.Time // since when there is no server, zero while there is
	told    bool      // that there is none
	streams *orrery.Client
}

var _ store.History = (*Tail)(nil)

// tailWindow is how many events and lines are kept for a follower that is busy; then the server waits for him.
const tailWindow = 1024

// Tail follows a run behind an event and a line, until ctx ends. Say tells people what becomes of the connection.
func (s Store) Tail(ctx context.Context, run work.RunID, event, line int64, say func(format string, args ...any)) (*Tail, error) {
	t := &Tail{
		Store: s, run: run, say: say, wake: make(chan struct{}, 1),
		events: make(chan work.Event, tailWindow), lines: make(chan work.LogLine, tailWindow),
	}
	var err error
	t.streams, err = orrery.NewClient(orrery.Config{Server: s.URL, Token: s.Token, Tenant: string(s.Tenant), HTTP: s.http, Stream: t.connection})
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "follow %s", run)
	}
	go pump(ctx, t, t.streams.Follow(ctx, string(run), strconv.FormatInt(event, 10)), t.events, t.event)
	go pump(ctx, t, t.streams.FollowLogs(ctx, string(run), strconv.FormatInt(line, 10)), t.lines, t.line)
	return t, nil
}

// pump takes what a stream brings. The frame behind the last, about the end itself, has no number.
func pump[T any](ctx context.Context, t *Tail, frames iter.Seq2[api.Frame, error], into chan<- T, read func(*api.Frame) (T, error)) {
	defer t.hint()
	for f, err := range frames {
		if err == nil && f.Sequence == 0 {
			continue
		}
		var item T
		if err == nil {
			item, err = read(&f)
		}
		if err != nil {
			t.end(ctx, err)
			return
		}
		select {
		case into <- item:
			t.hint()
		case <-ctx.Done():
			return
		}
	}
}

func (t *Tail) event(f *api.Frame) (work.Event, error) {
	at, err := work.ParseTime(f.Timestamp)
	return work.Event{
		Tenant: t.Tenant, Run: t.run, Seq: f.Sequence, Time: at, Type: work.EventType(f.EventType), Step: work.StepID(f.StepID), Attempt: f.Attempt, Data: f.Data,
	}, err
}

func (t *Tail) line(f *api.Frame) (work.LogLine, error) {
	at, err := work.ParseTime(f.Timestamp)
	return work.LogLine{
		Run: t.run, Seq: f.Sequence, Time: at, Level: f.Level, EventType: f.EventType, Step: work.StepID(f.StepID), Attempt: f.Attempt, Message: f.Message,
	}, err
}

func (t *Tail) hint() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// end notes why a stream does not go on.
func (t *Tail) end(ctx context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch code := orrery.Code(err); {
	case ctx.Err() != nil || t.failed != nil:
	case code == "STREAM_BLOCKED" || code == "RESYNC":
		if !t.looks {
			t.say("streams of the server do not get through (%v): looking every %s", err, lookEvery)
		}
		t.looks = true
	default:
		t.failed = foreign(err)
	}
}

// foreign makes the error that the server had, when it had one.
func foreign(err error) error {
	var e *orrery.Error
	if !errors.As(err, &e) {
		return err
	}
	return &fault.Error{Code: fault.Code(e.Reply.Code), Message: e.Reply.Message, Hint: e.Reply.Hint}
}

// A follower is told about a server that has not come back for a moment, and gives up after a while.
const (
	lostMoment = 2 * time.Second
	lostWhile  = 5 * time.Minute
)

// connection is told that there is a server, with nil, or why there is none.
func (t *Tail) connection(lost error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case lost == nil:
		if t.told {
			t.say("the server is back")
		}
		t.lost, t.told = time.Time{}, false
	case t.lost.IsZero():
		t.lost = now
	case now.Sub(t.lost) > lostWhile:
		return fault.New(fault.Unavailable, "the server has not answered for %s", lostWhile).WithHint("the run does not depend on this command: orrery runs watch %s", t.run)
	case !t.told && now.Sub(t.lost) > lostMoment:
		t.say("the server does not answer; following goes on when it is back")
		t.told = true
	}
	return nil
}

// mode returns whether the store has to be asked, or why nothing comes any more.
func (t *Tail) mode() (looks bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.looks, t.failed
}

// Watch implements store.History.
func (t *Tail) Watch(ctx context.Context) <-chan struct{} {
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		ticks := t.Store.Watch(ctx)
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.wake:
			case <-ticks:
				if looks, _ := t.mode(); !looks {
					continue
				}
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints
}

// Events implements store.History for the run.
func (t *Tail) Events(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	looks, err := t.mode()
	if !looks || err != nil {
		return arrived(t.events, limit, func(e *work.Event) bool { return e.Seq >= from }), err
	}
	out, err := t.Store.Events(ctx, tenant, run, from, limit)
	return out, t.patient(ctx, err)
}

// Lines implements store.History for the run.
func (t *Tail) Lines(ctx context.Context, tenant work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	looks, err := t.mode()
	if !looks || err != nil {
		return arrived(t.lines, limit, func(l *work.LogLine) bool { return l.Seq >= from }), err
	}
	out, err := t.Store.Lines(ctx, tenant, run, from, limit)
	return out, t.patient(ctx, err)
}

// patient waits for a server that looks find away, as streams do.
func (t *Tail) patient(ctx context.Context, err error) error {
	if err == nil || fault.CodeOf(err) == fault.Unavailable && ctx.Err() == nil {
		return t.connection(err)
	}
	return err
}

// arrived takes what has come and is new, at most limit.
func arrived[T any](from <-chan T, limit int, fresh func(*T) bool) []T {
	var out []T
	for len(out) < limit {
		select {
		case item := <-from:
			if fresh(&item) {
				out = append(out, item)
			}
		default:
			return out
		}
	}
	return out
}
