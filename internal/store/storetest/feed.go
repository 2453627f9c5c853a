package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// feedPatience is how long what is committed may take to be settled: others may be writing to the same server.
const feedPatience = 2 * time.Minute

// readFeed reads the feed of a tenant in pages until it has as many events as there are.
func readFeed(t testing.TB, d kernel.Driver, tenant work.Tenant, want, page int) []store.FeedEvent {
	t.Helper()
	var out []store.FeedEvent
	after := int64(0)
	for deadline := time.Now().Add(feedPatience); ; {
		upTo, err := d.Settled(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var got []store.FeedEvent
		if err := d.View(context.Background(), func(r kernel.Reader) error {
			var err error
			got, err = r.Feed(tenant, after, upTo, page)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if page > 0 && len(got) > page {
			t.Fatalf("%d events, not at most %d", len(got), page)
		}
		out = append(out, got...)
		if len(got) > 0 {
			after = got[len(got)-1].Position
		} else if len(out) >= want || time.Now().After(deadline) {
			return out
		}
	}
}

// checkFeed: positions grow, and every run has its events from the first on, in order.
func checkFeed(t testing.TB, tenant work.Tenant, events []store.FeedEvent, want int) {
	t.Helper()
	last, next := int64(0), map[work.RunID]int64{}
	for _, e := range events {
		if e.Tenant != tenant || e.Run == store.AuditStream || e.Position <= last || e.Seq != next[e.Run]+1 {
			t.Fatalf("event %d of %s/%s at %d after position %d and event %d", e.Seq, e.Tenant, e.Run, e.Position, last, next[e.Run])
		}
		last, next[e.Run] = e.Position, e.Seq
	}
	if len(events) != want {
		t.Fatalf("%d events, not %d", len(events), want)
	}
}

// feed: the histories of all runs of a tenant come as one list, wherever a reader goes on, and each tenant has its own.
func feed(t *testing.T, d kernel.Driver) {
	appendTo := func(tenant work.Tenant, run work.RunID, from, n int) {
		events := make([]work.Event, n)
		for i := range events {
			events[i] = work.Event{Tenant: tenant, Run: run, Seq: int64(from + i), Time: 1, Type: work.StepDue, Data: fmt.Appendf(nil, `{"n":%d}`, from+i)}
		}
		mustUpdate(t, d, func(tx kernel.Tx) error { return tx.AppendEvents(tenant, run, events) })
	}
	appendTo("acme", "run_1", 1, 3)
	appendTo("zenith", "run_1", 1, 2)
	appendTo("acme", store.AuditStream, 1, 2)
	appendTo("acme", "run_2", 1, store.ChunkEvents+44)
	appendTo("acme", "run_1", 4, 1)
	appendTo("zenith", "run_9", 1, 1)
	const all = 4 + store.ChunkEvents + 44
	for _, page := range []int{0, 1, 7, 300, 1000} {
		checkFeed(t, "acme", readFeed(t, d, "acme", all, page), all)
	}
	checkFeed(t, "zenith", readFeed(t, d, "zenith", 3, 0), 3)
	if none := readFeed(t, d, "nobody", 0, 0); len(none) != 0 {
		t.Errorf("a tenant without runs has %d events", len(none))
	}
	end := func(tenant work.Tenant, upTo int64) int64 {
		var at int64
		if err := d.View(context.Background(), func(r kernel.Reader) error {
			var err error
			at, err = r.FeedEnd(tenant, upTo)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return at
	}
	settled, err := d.Settled(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	last := readFeed(t, d, "acme", all, 0)[all-1].Position
	if at := end("acme", settled); at < last || at > settled {
		t.Errorf("the feed ends at %d, its last event is at %d", at, last)
	}
	if at := end("nobody", settled); at != 0 {
		t.Errorf("an empty feed ends at %d", at)
	}
	before := end("acme", settled)
	appendTo("acme", "run_3", 1, 1)
	checkFeed(t, "acme", readFeed(t, d, "acme", all+1, 0), all+1)
	if at := readFeed(t, d, "acme", all+1, 0)[all].Position; at <= before {
		t.Errorf("an event after the end %d is at %d", before, at)
	}
}

// testFeed: whoever follows while several write misses nothing and sees nothing twice.
func testFeed(t *testing.T, h Harness) {
	r := newRig(t, h.Open(t))
	r.session(acme, "s")
	const writers, runs = 4, 8
	subs := make([][]store.Submission, writers)
	for w := range subs {
		for range runs {
			subs[w] = append(subs[w], r.submission(acme, plan(nil, runStep("a"), runStep("b"))))
		}
	}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for _, s := range subs[w] {
				if out := r.Submit(r.ctx(), []store.Submission{s}); out[0].Err != nil {
					r.Error(out[0].Err)
				}
			}
		})
	}
	written := make(chan struct{})
	go func() { group.Wait(); close(written) }()
	seen, after := []store.FeedEvent(nil), int64(0)
	for wake, ended := r.Watch(r.ctx()), false; ; {
		page, err := r.Feed(r.ctx(), acme, after, 5)
		r.must("feed", err)
		if seen = append(seen, page.Events...); len(page.Events) > 0 {
			after = page.Events[len(page.Events)-1].Position
			continue
		}
		if ended {
			break
		}
		select {
		case <-wake:
		case <-written:
			ended = true
		}
	}
	want := 0
	for _, sub := range slices.Concat(subs...) {
		want += int(r.run(acme, sub.Run.ID).Seq)
	}
	seen = append(seen, readFeed(t, r.driver, acme, want, 0)[len(seen):]...) // what was not settled yet
	checkFeed(t, acme, seen, want)
	end, err := r.FeedEnd(r.ctx(), acme)
	r.must("end", err)
	if end.Incarnation != r.driver.Incarnation() || end.Number < seen[want-1].Position {
		r.Errorf("the feed ends at %s, its last event is at %d", end, seen[want-1].Position)
	}
}
