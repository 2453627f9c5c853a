package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"orrery.example/orrery"
	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// sdk returns a client of the SDK.
func (r *rig) sdk(token, tenant string) *orrery.Client {
	r.t.Helper()
	c, err := orrery.NewClient(orrery.Config{Server: r.url, Token: token, Tenant: tenant})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// open opens a stream of server-sent events and returns its lines.
func (r *rig) open(path, token, tenant, last string) (*bufio.Scanner, func()) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), "GET", r.url+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(httpapi.TenantHeader, tenant)
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		r.t.Fatalf("the stream of %s: %s", path, resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return lines, func() { resp.Body.Close() }
}

// frames reads frames until one of a type, and returns them all.
func (r *rig) frames(lines *bufio.Scanner, until string) (out []api.Frame) {
	r.t.Helper()
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var f api.Frame
		if err := json.Unmarshal([]byte(data), &f); err != nil {
			r.t.Fatal(err)
		}
		if out = append(out, f); f.EventType == until {
			return out
		}
	}
	r.t.Fatalf("the stream ended (%v) without %s: %+v", lines.Err(), until, out)
	return nil
}

func (r *rig) submit(token, tenant string) string {
	r.t.Helper()
	return r.want(r.ask("POST", "/api/v1/runs", token, tenant, map[string]any{"manifest": hello}), 201)["runId"].(string)
}

// A tenant's stream has every event of its runs and none of another's; whoever comes back goes on behind what he has.
func TestO4_J13_TenantStream(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	acme := r.tenant("acme", "viewer", "operator")
	zenith := r.tenant("zenith", "viewer", "operator")
	lines, leave := r.open("/api/v1/events", acme["viewer"], "acme", "")
	opened := r.frames(lines, "stream.opened")[0]
	theirs := r.submit(zenith["operator"], "zenith")
	r.finish(zenith["viewer"], "zenith", theirs)
	mine := r.submit(acme["operator"], "acme")
	seen := r.frames(lines, "run.ended")
	leave()
	history := r.want(r.ask("GET", "/api/v1/runs/"+mine+"/events?page_size=500", acme["viewer"], "acme", nil), 200)["items"].([]any)
	states := map[string]bool{}
	for i, f := range seen {
		of := history[i].(map[string]any)
		if f.Tenant != "acme" || f.RunID != mine || f.Sequence != int64(i+1) || f.EventType != of["type"] || f.Timestamp != of["time"] ||
			f.Project != "default" || f.CorrelationID != "4bf92f3577b34da6a3ce929d0e0e4736" || f.JobType != "pack-run" || f.RunName == "" || f.Pack != "hello" {
			t.Fatalf("frame %d is %+v, the event %v", i, f, of)
		}
		if f.EventType == "step.claimed" && f.TaskRunnerID == "" {
			t.Errorf("who claimed the step is not told: %+v", f)
		}
		states[f.StepID+f.State] = true
	}
	if len(seen) != len(history) || !states["queued"] || !states["running"] || !states["succeeded"] {
		t.Errorf("%d frames of %d events, states %v", len(seen), len(history), states)
	}
	for i, id := range []string{opened.ID, seen[0].ID, seen[len(seen)-2].ID} {
		again, leave := r.open("/api/v1/events", acme["viewer"], "acme", id)
		got := r.frames(again, "run.ended")[1:]
		leave()
		want := seen[[]int{0, 1, len(seen) - 1}[i]:]
		if len(got) != len(want) || got[0].ID != want[0].ID {
			t.Errorf("behind %s: %d frames instead of %d, the first %s instead of %s", id, len(got), len(want), got[0].ID, want[0].ID)
		}
	}
	// The same as a list, and from the beginning.
	list := r.want(r.ask("GET", "/api/v1/events?page_size=500&after="+opened.ID, acme["viewer"], "acme", nil), 200)
	whole := r.want(r.ask("GET", "/api/v1/events?page_size=500", acme["viewer"], "acme", nil), 200)
	if len(list["items"].([]any)) != len(seen) || list["end"] != seen[len(seen)-1].ID || len(whole["items"].([]any)) != len(seen) {
		t.Errorf("listed: %v, from the beginning %v", len(list["items"].([]any)), len(whole["items"].([]any)))
	}
	r.code(r.ask("GET", "/api/v1/events?after=9-1", acme["viewer"], "acme", nil), 409, "CONFLICT")
	r.code(r.ask("GET", "/api/v1/events?after=nonsense", acme["viewer"], "acme", nil, "Accept", "text/event-stream"), 400, "INVALID")
	restored, leave := r.open("/api/v1/events", acme["viewer"], "acme", "9-1")
	if f := r.frames(restored, "stream.resync"); f[len(f)-1].ID == "" {
		t.Errorf("a position of another incarnation: %+v", f)
	}
	leave()
}

// The history and the output of a run come to their end; the SDK comes back by itself when a server goes away in between.
func TestO4_RunStreams(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator")
	run := r.submit(tokens["operator"], "acme")
	c := r.sdk(tokens["viewer"], "acme")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var events []api.Frame
	for f, err := range c.Follow(ctx, run, "") {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, f)
	}
	last := events[len(events)-1]
	if last.EventType != "stream.ended" || last.State != "succeeded" || events[len(events)-2].EventType != "run.ended" {
		t.Errorf("the last frames are %+v", events[len(events)-2:])
	}
	for i, f := range events[:len(events)-1] {
		if f.Sequence != int64(i+1) {
			t.Errorf("event %d has the number %d", i+1, f.Sequence)
		}
	}
	text := ""
	for f, err := range c.FollowLogs(ctx, run, "") {
		if err != nil {
			t.Fatal(err)
		}
		text += f.EventType + " " + f.StepID + " " + f.Message + " " + f.State + "\n"
	}
	if !strings.Contains(text, " hello ") || !strings.HasSuffix(text, "run.ended   succeeded\n") {
		t.Errorf("the output is %q", text)
	}
	rest := 0
	for _, err := range c.Follow(ctx, run, "3") {
		if err != nil {
			t.Fatal(err)
		}
		rest++
	}
	if rest != len(events)-3 {
		t.Errorf("behind event 3 there are %d frames of %d", rest, len(events))
	}
	for _, err := range c.Follow(ctx, "nobody", "") {
		if orrery.Code(err) != "NOT_FOUND" {
			t.Errorf("a run that is not there: %v", err)
		}
	}
}

// dial opens a WebSocket.
func (r *rig) dial(path string, header http.Header, protocols ...string) (*websocket.Conn, int) {
	r.t.Helper()
	conn, resp, err := websocket.Dial(r.t.Context(), "ws"+strings.TrimPrefix(r.url, "http")+path, &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	if err != nil {
		if resp == nil {
			r.t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	conn.SetReadLimit(1 << 20)
	r.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, resp.StatusCode
}

// message reads one frame, or the status that the connection was closed with.
func (r *rig) message(conn *websocket.Conn) (api.Frame, websocket.StatusCode) {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.t.Context(), patience)
	defer stop()
	_, raw, err := conn.Read(ctx)
	if err != nil {
		var closed websocket.CloseError
		if !errors.As(err, &closed) {
			r.t.Fatal(err)
		}
		return api.Frame{}, closed.Code
	}
	var f api.Frame
	if err := json.Unmarshal(raw, &f); err != nil {
		r.t.Fatal(err)
	}
	return f, 0
}

// Over a WebSocket the frames are the same, with a token or a ticket, from a page of the server itself or from no page.
func TestO4_WebSocket(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	acme := r.tenant("acme", "viewer", "operator")
	zenith := r.tenant("zenith", "viewer")
	header := func(token, tenant string, more ...string) http.Header {
		h := http.Header{"Authorization": {"Bearer " + token}, httpapi.TenantHeader: {tenant}}
		for i := 0; i+1 < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	conn, _ := r.dial("/api/v1/events", header(acme["viewer"], "acme"), "orrery.stream.v1")
	if conn.Subprotocol() != "orrery.stream.v1" {
		t.Errorf("the subprotocol is %q", conn.Subprotocol())
	}
	if f, _ := r.message(conn); f.EventType != "stream.opened" || f.ID == "" {
		t.Fatalf("the first frame is %+v", f)
	}
	run := r.submit(acme["operator"], "acme")
	var seen []api.Frame
	for len(seen) == 0 || seen[len(seen)-1].EventType != "run.ended" {
		f, closed := r.message(conn)
		if closed != 0 || f.RunID != run || f.Tenant != "acme" || f.Sequence != int64(len(seen)+1) {
			t.Fatalf("%v %+v", closed, f)
		}
		seen = append(seen, f)
	}
	again, _ := r.dial("/api/v1/events?after="+seen[2].ID, header(acme["viewer"], "acme"))
	r.message(again)
	if f, _ := r.message(again); f.ID != seen[3].ID {
		t.Errorf("behind %s comes %s, not %s", seen[2].ID, f.ID, seen[3].ID)
	}
	for path, last := range map[string]string{"/events": "stream.ended", "/logs": "run.ended"} {
		conn, _ := r.dial("/api/v1/runs/"+run+path, header(acme["viewer"], "acme"))
		var f api.Frame
		for closed := websocket.StatusCode(0); ; {
			before := f
			if f, closed = r.message(conn); closed != 0 {
				if closed != websocket.StatusNormalClosure || before.EventType != last || before.State != "succeeded" {
					t.Errorf("%s was closed with %d behind %+v", path, closed, before)
				}
				break
			}
		}
	}
	// Who may not.
	for what, test := range map[string]struct {
		path   string
		header http.Header
		status int
	}{
		"nobody":                {"/api/v1/events", http.Header{httpapi.TenantHeader: {"acme"}}, 401},
		"another tenant":        {"/api/v1/events", header(zenith["viewer"], "acme"), 404},
		"another tenant's run":  {"/api/v1/runs/" + run + "/events", header(zenith["viewer"], "zenith"), 404},
		"a page from elsewhere": {"/api/v1/events", header(acme["viewer"], "acme", "Origin", "https://evil.example"), 403},
	} {
		if conn, status := r.dial(test.path, test.header); conn != nil || status != test.status {
			t.Errorf("%s: %d instead of %d", what, status, test.status)
		}
	}
	// A browser.
	ticket := func() string {
		return r.want(r.ask("POST", "/api/v1/stream-tickets", acme["viewer"], "acme", nil), 201)["ticket"].(string)
	}
	one := ticket()
	page := http.Header{"Origin": {r.url}}
	browser, status := r.dial("/api/v1/events", page, "orrery.stream.v1", "orrery.ticket."+one)
	if browser == nil || browser.Subprotocol() != "orrery.stream.v1" {
		t.Fatalf("with a ticket: %d", status)
	}
	if f, _ := r.message(browser); f.Tenant != "acme" {
		t.Errorf("the first frame is %+v", f)
	}
	if conn, status := r.dial("/api/v1/events", page, "orrery.stream.v1", "orrery.ticket."+one); conn != nil || status != 401 {
		t.Errorf("the same ticket again: %d", status)
	}
	if conn, status := r.dial("/api/v1/events", http.Header{httpapi.TenantHeader: {"zenith"}}, "orrery.ticket."+ticket()); conn != nil || status != 404 && status != 403 {
		t.Errorf("a ticket in another tenant: %d", status)
	}
	a := r.ask("GET", "/api/v1/runs", "", "acme", nil, "Sec-WebSocket-Protocol", "orrery.ticket."+ticket())
	if a.status != 401 {
		t.Errorf("a ticket for something else than a stream: %d", a.status)
	}
}

// A stream ends when its caller may not read any more, and with a hint when the server stops.
func TestJ13_StreamsEnd(t *testing.T) {
	r := start(t, app.ServerOptions{Heartbeat: 50 * time.Millisecond})
	tokens := r.tenant("acme", "viewer", "operator")
	spare := r.want(r.ask("POST", "/api/v1/tokens", r.root, "acme", map[string]any{"account": "acme-viewer", "scopes": []string{"packs.read"}}), 201)
	lines, leave := r.open("/api/v1/events", spare["token"].(string), "acme", "")
	defer leave()
	ticket := r.want(r.ask("POST", "/api/v1/stream-tickets", spare["token"].(string), "acme", nil), 201)["ticket"].(string)
	browser, _ := r.dial("/api/v1/events", nil, "orrery.stream.v1", "orrery.ticket."+ticket)
	stays, leave := r.open("/api/v1/events", tokens["viewer"], "acme", "")
	defer leave()
	socket, _ := r.dial("/api/v1/events", http.Header{"Authorization": {"Bearer " + tokens["viewer"]}, httpapi.TenantHeader: {"acme"}})
	for _, c := range []*websocket.Conn{browser, socket} {
		r.message(c)
	}
	r.want(r.ask("DELETE", "/api/v1/tokens/"+spare["id"].(string), r.root, "acme", nil), 204)
	f := r.frames(lines, "stream.closing")
	if last := f[len(f)-1]; !strings.Contains(string(last.Data), "UNAUTHENTICATED") || lines.Scan() && lines.Text() != "" {
		t.Errorf("the last frame of a revoked token is %s, then %q", last.Data, lines.Text())
	}
	if f, _ := r.message(browser); f.EventType != "stream.closing" {
		t.Errorf("the ticket of a revoked token: %+v", f)
	}
	run := r.submit(tokens["operator"], "acme")
	if f := r.frames(stays, "run.submitted"); f[len(f)-1].RunID != run {
		t.Errorf("the other stream: %+v", f)
	}
	r.stop()
	f = r.frames(stays, "stream.closing")
	if last := f[len(f)-1]; !strings.Contains(string(last.Data), "come back") {
		t.Errorf("the last frame of a drain is %s", last.Data)
	}
	for {
		f, closed := r.message(socket)
		if closed != 0 {
			if closed != websocket.StatusServiceRestart {
				t.Errorf("the WebSocket was closed with %d", closed)
			}
			break
		}
		if f.EventType == "stream.closing" && !strings.Contains(string(f.Data), "come back") {
			t.Errorf("%s", f.Data)
		}
	}
}

// Where something on the way lets no streams through, the command line looks instead and tells the same.
func TestJ13_FollowsWhereStreamsDoNotGetThrough(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator")
	run := r.submit(tokens["operator"], "acme")
	target, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Header.Del("Accept")
	}})
	defer proxy.Close()
	c, err := client.New(client.Config{URL: proxy.URL, Token: tokens["viewer"], Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	told := make(chan string, 10)
	tail, err := client.Store{Client: c}.Tail(ctx, work.RunID(run), 0, 0, func(format string, args ...any) { told <- fmt.Sprintf(format, args...) })
	if err != nil {
		t.Fatal(err)
	}
	var events []work.Event
	for hints := tail.Watch(ctx); len(events) == 0 || events[len(events)-1].Type != work.RunEnded; <-hints {
		more, err := tail.Events(ctx, "acme", work.RunID(run), int64(len(events)+1), 100)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, more...)
	}
	for i := range events {
		if events[i].Seq != int64(i+1) {
			t.Errorf("event %d has the number %d", i+1, events[i].Seq)
		}
	}
	lines, err := tail.Lines(ctx, "acme", work.RunID(run), 1, 100)
	if err != nil || len(lines) == 0 || lines[0].Seq != 1 {
		t.Errorf("the output is %v, %v", lines, err)
	}
	if text := <-told; !strings.Contains(text, "looking every") || len(told) > 0 {
		t.Errorf("people were told %q and %d things more", text, len(told))
	}
}
