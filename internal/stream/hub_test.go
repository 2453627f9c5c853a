package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// rig is a hub over a store whose driver the test writes to.
type rig struct {
	*testing.T
	driver *memory.Driver
	store  *kernel.Store
	hub    *Hub
	seqs   map[work.RunID]int64
}

// counted counts the looks at the feed.
type counted struct {
	*kernel.Store
	looks chan struct{}
}

func (c counted) Feed(ctx context.Context, tenant work.Tenant, after int64, limit int) (store.FeedPage, error) {
	select {
	case c.looks <- struct{}{}:
	default:
	}
	return c.Store.Feed(ctx, tenant, after, limit)
}

func newRig(t *testing.T) (*rig, counted) {
	d := memory.New()
	s := kernel.New(d, kernel.Options{Now: func() work.Time { return 1 }})
	c := counted{s, make(chan struct{}, 1<<20)}
	r := &rig{T: t, driver: d, store: s, hub: NewHub(c, 0), seqs: map[work.RunID]int64{}}
	t.Cleanup(func() { r.hub.Close(); _ = s.Close() })
	return r, c
}

// happen appends events with data of a size to a run.
func (r *rig) happen(tenant work.Tenant, run work.RunID, n, size int) {
	r.Helper()
	key := work.RunID(string(tenant) + string(run))
	events := make([]work.Event, n)
	for i := range events {
		r.seqs[key]++
		events[i] = work.Event{
			Tenant: tenant, Run: run, Seq: r.seqs[key], Time: 1, Type: work.StepQueued, Step: "a", Data: fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", size)),
		}
	}
	if err := r.driver.Update(context.Background(), func(tx kernel.Tx) error { return tx.AppendEvents(tenant, run, events) }); err != nil {
		r.Fatal(err)
	}
	r.store.Wake()
}

func (r *rig) follow(tenant work.Tenant, after int64) *Subscription {
	r.Helper()
	s, err := r.hub.Tenant(r.Context(), tenant, "ann", store.Position{Incarnation: 1, Number: after})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(s.Close)
	return s
}

func (r *rig) end(tenant work.Tenant) int64 {
	r.Helper()
	end, err := r.store.FeedEnd(r.Context(), tenant)
	if err != nil {
		r.Fatal(err)
	}
	return end.Number
}

// take reads n frames and checks that each run's come in order, without gaps, from where they should.
func (r *rig) take(s *Subscription, n int, next map[work.RunID]int64) (ids []string) {
	r.Helper()
	for len(ids) < n {
		items, err := s.Next(r.Context(), 2*time.Minute)
		if err != nil || len(items) == 0 {
			r.Fatalf("after %d of %d frames: %v", len(ids), n, err)
		}
		for _, i := range items {
			var f Frame
			if err := json.Unmarshal(i.JSON, &f); err != nil || f.ID != i.ID || f.Type != i.Type || f.CorrelationID == "" || f.Project != DefaultProject || f.State != work.Queued {
				r.Fatalf("the frame %s: %v", i.JSON, err)
			}
			if next[f.Run]++; f.Sequence != next[f.Run] {
				r.Fatalf("event %d of %s, not %d", f.Sequence, f.Run, next[f.Run])
			}
			ids = append(ids, i.ID)
		}
	}
	if len(ids) > n {
		r.Fatalf("%d frames, not %d", len(ids), n)
	}
	return ids
}

// Whoever begins anywhere gets everything from there on, once; and of another tenant nothing.
func TestFollowTenant(t *testing.T) {
	r, _ := newRig(t)
	r.happen("acme", "run_1", 3, 1)
	r.happen("zenith", "run_1", 5, 1)
	all, live := r.follow("acme", 0), r.follow("acme", r.end("acme"))
	ids := r.take(all, 3, map[work.RunID]int64{})
	go func() {
		for i := range 50 {
			r.happen("acme", work.RunID(fmt.Sprint("run_", i%3)), 40, 10)
			r.happen("zenith", "run_9", 1, 1)
		}
	}()
	ids = append(ids, r.take(all, 2000, map[work.RunID]int64{"run_1": 3})...)
	r.take(live, 2000, map[work.RunID]int64{"run_1": 3})
	for _, at := range []int{0, 2, 700, 1999} {
		p, err := store.ParsePosition(ids[at])
		if err != nil {
			t.Fatal(err)
		}
		seen := map[work.RunID]int64{}
		for _, e := range ids[:at+1] {
			_ = e
		}
		before, err := r.store.Feed(t.Context(), "acme", 0, at+1)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range before.Events {
			seen[e.Run] = e.Seq
		}
		again := r.take(r.follow("acme", p.Number), len(ids)-at-1, seen)
		for i := range again {
			if again[i] != ids[at+1+i] {
				t.Fatalf("the second time frame %d has the id %s, not %s", at+1+i, again[i], ids[at+1+i])
			}
		}
	}
}

// A follower that has caught up and then takes nothing is told to come back; the window has its bounds meanwhile, and the others go on.
func TestSlowFollower(t *testing.T) {
	for name, test := range map[string]struct{ events, size int }{
		"many": {WindowFrames + 300, 1}, "large": {60, WindowBytes / 20},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := newRig(t)
			r.happen("acme", "run_1", 1, 1)
			slow, quick := r.follow("acme", 0), r.follow("acme", 0)
			at := r.take(slow, 1, map[work.RunID]int64{})
			r.take(quick, 1, map[work.RunID]int64{})
			if items, err := slow.Next(t.Context(), time.Millisecond); err != nil || len(items) > 0 { // it has caught up
				t.Fatal(items, err)
			}
			r.hub.slow = time.Hour
			next := map[work.RunID]int64{"run_1": 1}
			for sent := 0; sent < test.events; {
				n := min(30, test.events-sent)
				r.happen("acme", "run_1", n, test.size)
				r.take(quick, n, next)
				sent += n
			}
			topic := slow.topic
			topic.mu.Lock()
			if len(topic.window) > WindowFrames || topic.bytes > WindowBytes {
				t.Errorf("the window has %d frames of %d bytes", len(topic.window), topic.bytes)
			}
			topic.mu.Unlock()
			r.hub.slow = 0
			_, err := slow.Next(t.Context(), 2*time.Minute)
			var gap *Gap
			if !errors.As(err, &gap) || gap.ID != at[0] {
				t.Fatalf("the slow follower got %v", err)
			}
			p, err := store.ParsePosition(gap.ID)
			if err != nil {
				t.Fatal(err)
			}
			r.take(r.follow("acme", p.Number), test.events, map[work.RunID]int64{"run_1": 1})
		})
	}
}

// Fifty followers cost the store what one does.
func TestOneReader(t *testing.T) {
	r, c := newRig(t)
	var all []*Subscription
	for range 50 {
		all = append(all, r.follow("acme", r.end("acme")))
	}
	for i := range 20 {
		r.happen("acme", work.RunID(fmt.Sprint("run_", i)), 1, 1)
		for _, s := range all {
			r.take(s, 1, map[work.RunID]int64{})
		}
	}
	if looks := len(c.looks); looks > 200 {
		t.Errorf("%d looks at the store for 20 events", looks)
	}
	for _, s := range all {
		s.Close()
		s.Close()
	}
	if len(r.hub.topics) != 0 || len(r.hub.callers) != 0 {
		t.Errorf("left over: %v, %v", r.hub.topics, r.hub.callers)
	}
}

// A position of a store that was restored since, and one whose surroundings were deleted, cannot be gone on from.
func TestGap(t *testing.T) {
	r, _ := newRig(t)
	r.happen("acme", "run_1", 3, 1)
	end := r.end("acme")
	s, err := r.hub.Tenant(t.Context(), "acme", "ann", store.Position{Incarnation: 2, Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Next(t.Context(), 2*time.Minute)
	var gap *Gap
	if !errors.As(err, &gap) || gap.ID != (store.Position{Incarnation: 1, Number: end}).String() {
		t.Errorf("another incarnation: %v", err)
	}
}

// One account has so many streams and no more.
func TestStreamsOfOneCaller(t *testing.T) {
	r, _ := newRig(t)
	for range PerCaller {
		r.follow("acme", 0)
	}
	if _, err := r.hub.Tenant(t.Context(), "acme", "ann", store.Position{Incarnation: 1}); err == nil {
		t.Error("there is no limit")
	}
	if _, err := r.hub.Tenant(t.Context(), "acme", "bob", store.Position{Incarnation: 1}); err != nil {
		t.Errorf("another account: %v", err)
	}
}

// The streams of a run end behind its last event and its last line.
func TestFollowRun(t *testing.T) {
	r, _ := newRig(t)
	run := work.Run{Tenant: "acme", ID: "run_1", Name: "amber-fox", State: work.Running, Phase: work.PhaseMain, Created: 1,
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Project: "apollo"}
	put := func() {
		t.Helper()
		row := run
		if err := r.driver.Update(t.Context(), func(tx kernel.Tx) error { return tx.PutRun(&row) }); err != nil {
			t.Fatal(err)
		}
		r.store.Wake()
	}
	put()
	r.happen("acme", "run_1", 3, 1)
	if err := r.driver.Update(t.Context(), func(tx kernel.Tx) error {
		return tx.AppendLines("acme", "run_1", []work.LogLine{{Run: "run_1", Seq: 1, EventType: "step.stdout", Message: "hello"}})
	}); err != nil {
		t.Fatal(err)
	}
	events, err := r.hub.Events(&run, "ann", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	lines, err := r.hub.Lines(&run, "ann", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	want := func(s *Subscription, id string, check func(Frame) bool) {
		t.Helper()
		items, err := s.Next(t.Context(), 2*time.Minute)
		if err != nil || len(items) == 0 {
			t.Fatalf("%v, %v", items, err)
		}
		var f Frame
		if err := json.Unmarshal(items[0].JSON, &f); err != nil || items[0].ID != id || f.CorrelationID != "4bf92f3577b34da6a3ce929d0e0e4736" || f.Project != "apollo" || f.RunName != "amber-fox" || !check(f) {
			t.Errorf("the first frame is %s", items[0].JSON)
		}
	}
	want(events, "2", func(f Frame) bool { return f.Sequence == 2 && f.State == work.Queued })
	want(lines, "1", func(f Frame) bool { return f.Message == "hello" && f.State == "" })
	if items, err := lines.Next(t.Context(), time.Millisecond); err != nil || len(items) != 0 {
		t.Errorf("while nothing happens: %v, %v", items, err)
	}
	run.State, run.Phase, run.Ended = work.Failed, work.PhaseEnded, 5
	put()
	for s, last := range map[*Subscription]string{events: Ended, lines: "run.ended"} {
		if _, err := s.Next(t.Context(), 2*time.Minute); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
		if f := s.End(); f == nil || f.Type != last || f.State != work.Failed {
			t.Errorf("the last frame is %+v", f)
		}
	}
}

// Every frame says whose it is, to which project, job type and correlation it belongs, and which worker caused it.
func TestJ4_Provenance(t *testing.T) {
	a := about("run_1", "amber", "hello", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "blue")
	claimed := &work.Event{Tenant: "acme", Run: "run_1", Seq: 4, Type: work.StepClaimed, Step: "a", Attempt: 2, Data: json.RawMessage(`{"worker":"w1"}`)}
	line := &work.LogLine{Run: "run_1", Seq: 9, EventType: "step.stdout", Step: "a", Attempt: 2}
	for _, f := range []Frame{EventFrame(claimed, a), lineFrame("acme", line, a)} {
		if f.Tenant != "acme" || f.Project != "blue" || f.JobType != "pack-run" || f.CorrelationID != "4bf92f3577b34da6a3ce929d0e0e4736" || f.Run != "run_1" || f.Attempt != 2 {
			t.Errorf("a frame says %+v", f)
		}
	}
	if f := EventFrame(claimed, a); f.TaskRunner != "w1" {
		t.Errorf("the worker is %q", f.TaskRunner)
	}
	// A run without a project or a trace has both nevertheless, and so has what belongs to no run.
	if f := EventFrame(claimed, about("run_1", "amber", "hello", "", "")); f.Project != "default" || f.CorrelationID != "run_1" {
		t.Errorf("without a project: %+v", f)
	}
	incident := &work.Event{Tenant: "acme", Run: store.IncidentStream, Seq: 1, Type: "incident.opened", Data: json.RawMessage(`{"id":"inc_1"}`)}
	if f := EventFrame(incident, About{}); f.Tenant != "acme" || f.Project != "default" || f.CorrelationID != "inc_1" || f.Run != "" {
		t.Errorf("an incident says %+v", f)
	}
}
