package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/testservice"
)

// A server that is killed between the commit of an event and the receiver's answer delivers after its restart: the same message under the same id.
// The metrics count the attempt.
func TestB13_KilledWhileItDelivers(t *testing.T) {
	t.Parallel()
	type message struct{ id, body string }
	got, hold := make(chan message, 10), make(chan struct{})
	var asked atomic.Int64
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		waits := asked.Add(1) == 1
		got <- message{r.Header.Get("Webhook-Id"), string(body)}
		if waits { // the server is killed before it has an answer
			<-hold
		}
	}))
	t.Cleanup(hook.Close)
	s := newSite(t, 1, "--notify-allow", "127.0.0.1/32")
	rule, err := json.Marshal(map[string]any{"name": "ended", "events": []string{"run.ended"}, "states": []string{"succeeded"}, "channel": "webhook", "url": hook.URL})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://site/api/v1/notifications", bytes.NewReader(rule))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + s.token}, "X-Orrery-Tenant": {"local"}, "Content-Type": {"application/json"}}
	resp, err := s.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Fatal(resp.Status)
	}
	reply, err := s.client().Submit(t.Context(), api.SubmitRequest{PackSource: api.PackSource{Manifest: busy}, RunToken: "once"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := func() message {
		t.Helper()
		select {
		case m := <-got:
			return m
		case <-time.After(patience):
			t.Fatalf("the receiver has got nothing for %s", patience)
			return message{}
		}
	}
	before := next()
	s.kill(0)
	close(hold)
	s.up(0)
	after := next()
	if before.id == "" || after != before || !bytes.Contains([]byte(after.body), []byte(reply.RunID)) {
		t.Errorf("before the kill %+v, after it %+v", before, after)
	}
	eventually(t, "the counter of deliveries", func() bool {
		resp, err := http.Get("http://" + s.ports[0] + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && bytes.Contains(text, []byte(`orchestrator_deliveries_total{channel="webhook",result="delivered"} 1`))
	})
}

// Servers and the broker are killed while runs go on: every event of every run is at the broker, in order, as it was.
func TestT10_PublishedThroughKills(t *testing.T) {
	b, err := testservice.StartValkey()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	s := newSite(t, 1, "--publish", b.URL)
	client, ids := s.client(), []string{}
	for n := range rounds(t, 3) {
		reply, err := client.Submit(t.Context(), api.SubmitRequest{PackSource: api.PackSource{Manifest: busy}, RunToken: string(rune('a' + n))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, reply.RunID)
		b.Kill()
		s.kill(0)
		s.up(0)
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
	}
	events := map[string]int64{}
	for _, id := range ids {
		if run, err := client.Wait(t.Context(), id); err != nil {
			t.Errorf("%s ended %s: %v", id, run.State, err)
		}
		for f, err := range client.Follow(t.Context(), id, "") {
			if err != nil {
				t.Fatal(err)
			}
			events[id] = max(events[id], f.Sequence)
		}
	}
	o, err := valkey.ParseURL(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	o.DisableCache, o.ForceSingleClient = true, true
	c, err := valkey.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var reached map[string]int64
	eventually(t, "all events at the broker", func() bool {
		found, err := c.Do(context.Background(), c.B().Xrange().Key("orrery:events:local").Start("-").End("+").Build()).AsXRange()
		if err != nil {
			return false
		}
		reached = map[string]int64{}
		for _, e := range found {
			var f api.Frame
			if err := json.Unmarshal([]byte(e.FieldValues["frame"]), &f); err != nil {
				t.Fatal(err)
			}
			if reached[f.RunID]++; reached[f.RunID] != f.Sequence {
				t.Fatalf("event %d of %s instead of %d", f.Sequence, f.RunID, reached[f.RunID])
			}
		}
		for id, n := range events {
			if reached[id] < n {
				return false
			}
		}
		return true
	})
}
