package torture

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"orrery.example/orrery"
	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/testservice"
)

// site is a few servers of one installation that are killed and started again.
type site struct {
	*folder
	args  []string
	ports []string
	token string
	mu    sync.Mutex
	live  []*exec.Cmd
	turn  atomic.Int64
}

func newSite(t *testing.T, servers int, args ...string) *site {
	t.Helper()
	s := &site{folder: newFolder(t), args: args, live: make([]*exec.Cmd, servers)}
	for range servers {
		s.ports = append(s.ports, testservice.PortFor(t).Address())
	}
	t.Cleanup(func() {
		for i := range s.live {
			s.kill(i)
		}
	})
	for i := range servers {
		s.up(i)
	}
	raw, err := os.ReadFile(filepath.Join(s.dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(raw))
	return s
}

// up starts a server and waits until it is ready.
func (s *site) up(i int) {
	s.t.Helper()
	role := "up"
	if i > 0 { // one works: the folder of workspaces is swept by whoever starts
		role = "server"
	}
	c := s.command(context.Background(), append([]string{role, "--listen", s.ports[i], "--rate", "0", "--stream-heartbeat", "1s"}, s.args...)...)
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	var log strings.Builder
	c.Stderr = &log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "ready") {
			s.mu.Lock()
			s.live[i] = c
			s.mu.Unlock()
			go func() {
				for lines.Scan() {
				}
			}()
			return
		}
	}
	_ = c.Wait()
	s.t.Fatalf("server %d does not start: %s", i, log.String())
}

// kill ends a server with everything that it runs.
func (s *site) kill(i int) {
	s.mu.Lock()
	c := s.live[i]
	s.live[i] = nil
	s.mu.Unlock()
	if c == nil {
		return
	}
	_ = syscall.Kill(c.Process.Pid, syscall.SIGKILL)
	_ = c.Wait() // it was killed
}

// RoundTrip sends each request to the next server.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	next := r.Clone(r.Context())
	next.URL.Host = s.ports[int(s.turn.Add(1))%len(s.ports)]
	return http.DefaultTransport.RoundTrip(next)
}

func (s *site) client() *orrery.Client {
	s.t.Helper()
	c, err := orrery.NewClient(orrery.Config{Server: "http://site", Token: s.token, Tenant: "local", HTTP: &http.Client{Transport: s}})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// account is what a follower has seen.
type account struct {
	mu   sync.Mutex
	next map[string]int64
	last string
	seen int
	bad  string
}

// take notes a frame of a run. Every run's events must come in order, each once. What happens to the tenant, such as an incident on a machine that
// is slow, is not looked at.
func (a *account) take(f api.Frame) {
	if f.RunID == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next[f.RunID]++; f.Sequence != a.next[f.RunID] && a.bad == "" {
		a.bad = fmt.Sprintf("event %d of %s (%s, frame %s) instead of %d, behind %s", f.Sequence, f.RunID, f.EventType, f.ID, a.next[f.RunID], a.last)
	}
	a.last = f.ID
	a.seen++
}

func (a *account) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// socket follows over WebSockets, one after the other.
func (s *site) socket(ctx context.Context, a *account, from string) {
	for after := from; ctx.Err() == nil; {
		port := s.ports[int(s.turn.Add(1))%len(s.ports)]
		conn, _, err := websocket.Dial(ctx, "ws://"+port+"/api/v1/events?after="+after, &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + s.token}, "X-Orrery-Tenant": {"local"}},
		})
		if err != nil {
			continue // that server is down
		}
		conn.SetReadLimit(8 << 20)
		for {
			_, raw, err := conn.Read(ctx)
			if err != nil {
				break
			}
			var f api.Frame
			if json.Unmarshal(raw, &f) != nil || f.RunID == "" { // a frame about the stream is no place to go on behind
				continue
			}
			after = f.ID
			a.take(f)
		}
		_ = conn.CloseNow()
	}
}

const busy = `
name: busy
steps:
  - id: one
    run: echo one
  - id: two
    run: echo two
  - id: many
    map:
      items: [1, 2, 3]
      step: {run: echo item}
`

// Servers are killed in the middle of streams and under load, again and again. Whoever follows, by server-sent events or a WebSocket, sees every
// event of every run exactly once and in order.
func TestJ13_StreamsSurviveKills(t *testing.T) {
	onStores(t, 3, (*site).survive)
}

// onStores does something with one server on a folder, and with several on PostgreSQL.
func onStores(t *testing.T, several int, do func(*site)) {
	t.Run("sqlite", func(t *testing.T) { do(newSite(t, 1)) })
	t.Run("postgres", func(t *testing.T) {
		pg, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pg.Close() })
		url, err := pg.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		do(newSite(t, several, "--store", url))
	})
}

func (s *site) survive() {
	t, dice := s.t, dice(s.t)
	client := s.client()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var start struct {
		End string `json:"end"`
	}
	s.get("/api/v1/events", &start)
	followers := []*account{{next: map[string]int64{}}, {next: map[string]int64{}}}
	var followed sync.WaitGroup
	followed.Go(func() {
		for f, err := range client.Watch(ctx, start.End) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			followers[0].take(f)
		}
	})
	followed.Go(func() { s.socket(ctx, followers[1], start.End) })
	var runs sync.Map
	var load sync.WaitGroup
	enough := make(chan struct{})
	for w := range 4 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-enough:
					return
				default:
				}
				token := fmt.Sprintf("%d-%d", w, n)
				for {
					reply, err := client.Submit(ctx, api.SubmitRequest{PackSource: api.PackSource{Manifest: busy}, RunToken: token}, nil)
					if err == nil {
						runs.Store(reply.RunID, true)
						_, _ = client.Wait(ctx, reply.RunID) // the next one when it has ended, in whatever way: that is looked at below
						break
					}
					if c := orrery.Code(err); ctx.Err() != nil || c != "UNAVAILABLE" && c != "EXHAUSTED" && !strings.Contains(err.Error(), "still under way") {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for n := range rounds(t, 5) {
		more := followers[n%2].count() + 30 + dice.IntN(120)
		eventually(t, fmt.Sprintf("frame %d of follower %d", more, n%2), func() bool { return followers[n%2].count() >= more })
		i := dice.IntN(len(s.ports))
		s.kill(i)
		s.up(i)
	}
	close(enough)
	load.Wait()
	total := 0
	runs.Range(func(id, _ any) bool {
		run, err := client.Wait(ctx, id.(string))
		if err != nil { // a step that was killed too often has failed; that is another matter
			t.Errorf("%s ended %s: %v", id, run.State, err)
		}
		events := 0
		for f, err := range client.Follow(ctx, id.(string), "") {
			if err != nil {
				t.Fatal(err)
			}
			if f.Sequence != 0 {
				events++
			}
		}
		total += events
		for i, a := range followers {
			eventually(t, fmt.Sprintf("all %d events of %s for follower %d", events, id, i), func() bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				return a.bad != "" || a.next[id.(string)] >= int64(events)
			})
		}
		return true
	})
	stop()
	followed.Wait()
	for i, a := range followers {
		if a.bad != "" {
			t.Errorf("follower %d: %s", i, a.bad)
		}
		if a.seen != total {
			t.Errorf("follower %d has %d frames of %d events", i, a.seen, total)
		}
	}
	if total < 200 {
		t.Errorf("only %d events: this shows nothing", total)
	}
	t.Logf("%d events", total)
}

// get asks one of the servers.
func (s *site) get(path string, into any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", "http://site"+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("X-Orrery-Tenant", "local")
	resp, err := s.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		s.t.Fatal(err)
	}
}
