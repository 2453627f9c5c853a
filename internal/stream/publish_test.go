package stream

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/valkey-io/valkey-go"

	"orrery.example/orrery/internal/broker"
	brokernats "orrery.example/orrery/internal/broker/nats"
	brokervalkey "orrery.example/orrery/internal/broker/valkey"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/work"
)

// outlet is a kind of broker, and how to read what it keeps of the tenant t.
type outlet struct {
	name  string
	start func() (*testservice.Broker, error)
	open  func(url string) (broker.Target, error)
	kept  func(t *testing.T, url string) []string
}

func outlets() []outlet {
	return []outlet{
		{"nats", testservice.StartNATS, func(url string) (broker.Target, error) { return brokernats.Open(url) }, keptByNATS},
		{"valkey", testservice.StartValkey, func(url string) (broker.Target, error) { return brokervalkey.Open(url) }, keptByValkey},
	}
}

func keptByNATS(t *testing.T, url string) (frames []string) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "ORRERY")
	if err != nil {
		t.Fatal(err)
	}
	for n := s.CachedInfo().State.FirstSeq; n <= s.CachedInfo().State.LastSeq; n++ {
		m, err := s.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != "orrery.events.t.step.queued" {
			t.Fatalf("the subject %s", m.Subject)
		}
		frames = append(frames, string(m.Data))
	}
	return frames
}

func keptByValkey(t *testing.T, url string) (frames []string) {
	t.Helper()
	o, err := valkey.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.DisableCache, o.ForceSingleClient = true, true
	c, err := valkey.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	found, err := c.Do(t.Context(), c.B().Xrange().Key("orrery:events:t").Start("-").End("+").Build()).AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		var f Frame
		if err := json.Unmarshal([]byte(e.FieldValues["frame"]), &f); err != nil || f.ID != e.ID || f.Type != e.FieldValues["eventType"] {
			t.Fatalf("the entry %s is %v: %v", e.ID, e.FieldValues, err)
		}
		frames = append(frames, e.FieldValues["frame"])
	}
	return frames
}

func (r *rig) publisher(target broker.Target, clock *atomic.Int64) *Publisher {
	return &Publisher{
		Hub: r.hub, Records: r.store, Target: target, Shared: true, holder: "one", Log: slog.New(slog.DiscardHandler),
		Now: func() work.Time { return work.Time(clock.Load()) },
	}
}

func tenantT(context.Context) ([]work.Tenant, error) { return []work.Tenant{"t"}, nil }

// frames are what a follower of the tenant t from the beginning gets.
func (r *rig) frames() (out []string) {
	r.Helper()
	s := r.follow("t", 0)
	defer s.Close()
	for {
		items, err := s.Next(r.Context(), 50*time.Millisecond)
		if err != nil {
			r.Fatal(err)
		}
		if len(items) == 0 {
			return out
		}
		for _, i := range items {
			out = append(out, string(i.JSON))
		}
	}
}

// first leaves out what comes again.
func first(frames []string) (out []string) {
	seen := map[string]bool{}
	for _, f := range frames {
		if !seen[f] {
			seen[f], out = true, append(out, f)
		}
	}
	return out
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames, not %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("frame %d is %s, not %s", i, got[i], want[i])
		}
	}
}

// eventually waits until the cursor of a publisher is at the end of the feed.
func (r *rig) eventually(p *Publisher) {
	r.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c, _, err := p.cursor(r.Context(), "t")
		if err == nil && c.Position == r.end("t") {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("not published: %+v, %v", c, err)
		}
		rest(r.Context(), r.store.Watch(r.Context()), 50*time.Millisecond)
	}
}

// What is committed while the broker is killed and away arrives when it is back, in order, as streams have it; and what was published by a server
// that was lost before it noted that arrives again at most.
func TestT10_BrokerKilled(t *testing.T) {
	for _, o := range outlets() {
		t.Run(o.name, func(t *testing.T) {
			r, _ := newRig(t)
			b, err := o.start()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			target, err := o.open(b.URL)
			if err != nil {
				t.Fatal(err)
			}
			var clock atomic.Int64
			p := r.publisher(target, &clock)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { p.Run(ctx, tenantT); close(ended) }()
			for n := range 20 {
				r.happen("t", work.RunID([]string{"a", "b"}[n%2]), 50, 100)
				switch n {
				case 8:
					b.Kill() // whatever is under way
				case 14:
					if err := b.Start(); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.eventually(p)
			same(t, first(o.kept(t, b.URL)), r.frames())
			stop()
			<-ended

			// Lost before its cursor was written: the part comes again, and the broker knows it.
			c, version, err := p.cursor(t.Context(), "t")
			if err != nil {
				t.Fatal(err)
			}
			if c.Until > p.Now() {
				t.Fatal("a server that stops keeps its tenure")
			}
			c.Position = 0
			if err := p.note(t.Context(), "t", version, c); err != nil {
				t.Fatal(err)
			}
			for more := true; more; {
				if more, err = p.part(t.Context(), "t"); err != nil {
					t.Fatal(err)
				}
			}
			same(t, o.kept(t, b.URL), r.frames())
		})
	}
}

// recorder is what a broker was handed.
type recorder struct {
	broker.Target
	handed int
}

func (r *recorder) Publish(ctx context.Context, tenant work.Tenant, m []broker.Message) (int, error) {
	r.handed += len(m)
	return r.Target.Publish(ctx, tenant, m)
}

// Of two servers one publishes; when it is lost in the middle, the other goes on after its tenure and repeats nothing that was noted.
func TestT10_OneOfTwoServers(t *testing.T) {
	r, _ := newRig(t)
	b, err := testservice.StartValkey()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	var clock atomic.Int64
	clock.Store(1)
	var servers [2]*Publisher
	var handed [2]*recorder
	for i := range servers {
		target, err := brokervalkey.Open(b.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = target.Close() })
		handed[i] = &recorder{Target: target}
		servers[i] = r.publisher(handed[i], &clock)
		servers[i].holder = []string{"one", "two"}[i]
	}
	round := func(i int) {
		t.Helper()
		if _, err := servers[i].round(t.Context(), []work.Tenant{"t"}); err != nil {
			t.Fatal(err)
		}
	}
	r.happen("t", "a", 300, 10)
	round(0)
	round(1)
	r.happen("t", "a", 10, 10)
	round(1)
	if handed[0].handed != 300 || handed[1].handed != 0 {
		t.Fatalf("handed over by the first %d, by the second %d", handed[0].handed, handed[1].handed)
	}
	clock.Add(int64(tenure) + 1)
	round(1)
	round(0)
	if handed[0].handed != 300 || handed[1].handed != 10 {
		t.Fatalf("after its tenure: by the first %d, by the second %d", handed[0].handed, handed[1].handed)
	}
	same(t, keptByValkey(t, b.URL), r.frames())
}

// A stream of Valkey that another installation has filled is no place to lose events in silence.
func TestT10_StreamOfAnother(t *testing.T) {
	b, err := testservice.StartValkey()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	target, err := brokervalkey.Open(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	var clock atomic.Int64
	for i, run := range []work.RunID{"a", "b"} {
		r, _ := newRig(t)
		r.happen("t", run, 5, 10)
		_, err := r.publisher(target, &clock).part(t.Context(), "t")
		if want := []fault.Code{"", fault.Conflict}[i]; err == nil != (want == "") || err != nil && fault.CodeOf(err) != want {
			t.Fatalf("installation %d: %v", i, err)
		}
	}
}
