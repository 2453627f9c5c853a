// Package live sends streams to clients, as server-sent events or over a WebSocket: the same frames, the same ids to go on from.
package live

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/stream"
	"orrery.example/orrery/internal/work"
)

// SSE is the media type of server-sent events.
const SSE = "text/event-stream"

// writeTimeout is how long a client may take nothing: then it is gone.
const writeTimeout = 30 * time.Second

// Headers are those that a stream understands.
func Headers() []httpapi.Param {
	return []httpapi.Param{
		{Name: "Last-Event-ID", Type: "string", Summary: "Of server-sent events: go on behind the frame with this id", Example: "17"},
		{Name: "Sec-WebSocket-Protocol", Type: "string", Summary: "Of a WebSocket: " + Protocol + ", and " + httpapi.TicketProtocol + "… where no token can be sent", Example: Protocol},
	}
}

// Wanted reports whether a request asks for a stream.
func Wanted(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), SSE) || strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// Resumed returns the id that a client wants to go on behind, "" for none.
func Resumed(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return r.URL.Query().Get("after")
}

// sink is what carries frames.
type sink interface {
	// frame hands one frame over; it may wait until flush.
	frame(kind, id string, raw []byte) error
	flush() error
	beat() error

	// close ends the connection after the last frame.
	close(last *stream.Frame)
}

// Serve sends a stream until it ends, the client is gone, may not read any more, or the server drains. Only, when it is not nil, says which
// items are meant.
func Serve(w http.ResponseWriter, r *http.Request, c *httpapi.Call, sub *stream.Subscription, only func(*stream.Item) bool) error {
	ctx, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	var out sink
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s, err := openSocket(ctx, w, r)
		if err != nil || s == nil {
			return err
		}
		ctx, out = s.ctx, s
	} else {
		out = openEvents(w)
	}
	ctx, stop = context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-c.Draining:
			stop(errDraining)
		case <-ctx.Done():
		}
	}()
	s := &session{call: c, sub: sub, out: out, only: only}
	last := s.run(ctx)
	if last != nil {
		_ = s.say(last) // a client that is gone does not mind
	}
	out.close(last)
	return nil
}

var errDraining = errors.New("the server drains")

// session is one client that follows.
type session struct {
	call *httpapi.Call
	sub  *stream.Subscription
	out  sink
	only func(*stream.Item) bool
}

// run sends frames and returns the last one, nil when there is nobody to send it to.
func (s *session) run(ctx context.Context) *stream.Frame {
	heartbeat := s.sub.Heartbeat() // so that a proxy does not take the connection for dead
	opened := s.control(stream.Opened, map[string]any{
		"heartbeatSeconds": heartbeat.Seconds(), "windowFrames": stream.WindowFrames, "windowBytes": stream.WindowBytes,
	})
	opened.ID = s.sub.Place()
	if s.say(opened) != nil {
		return nil
	}
	for checked := time.Now(); ; {
		items, err := s.sub.Next(ctx, heartbeat)
		if err != nil {
			return s.last(ctx, err)
		}
		if time.Since(checked) >= heartbeat {
			checked = time.Now()
			if err := s.call.Again(ctx); err != nil {
				return s.refused(ctx, err)
			}
		}
		if len(items) == 0 {
			err = s.out.beat()
		}
		for i := range items {
			if err == nil && (s.only == nil || s.only(&items[i])) {
				err = s.out.frame(items[i].Type, items[i].ID, items[i].JSON)
			}
		}
		if err == nil {
			err = s.out.flush()
		}
		if err != nil {
			return nil
		}
	}
}

// refused returns the last frame of a caller who could not be let in again: because he may not, or because nobody could find that out.
func (s *session) refused(ctx context.Context, err error) *stream.Frame {
	code := fault.CodeOf(err)
	switch code {
	case fault.Unauthenticated, fault.Denied, fault.NotFound, fault.TenantRequired:
		return s.control(stream.Closing, map[string]string{"reason": "the caller may not read this any more", "code": string(code)})
	}
	if ctx.Err() != nil {
		return s.last(ctx, ctx.Err())
	}
	return s.control(stream.Closing, map[string]string{"reason": "whether the caller may still read this cannot be found out; come back with the id of the last frame", "code": string(code)})
}

// last returns the frame that says why a stream ends.
func (s *session) last(ctx context.Context, err error) *stream.Frame {
	var gap *stream.Gap
	switch {
	case errors.Is(err, io.EOF):
		return s.sub.End()
	case errors.As(err, &gap):
		f := s.control(stream.Resync, map[string]string{"reason": gap.Why})
		f.ID = gap.ID
		return f
	case errors.Is(context.Cause(ctx), errDraining):
		return s.control(stream.Closing, map[string]string{"reason": "the server stops; come back with the id of the last frame"})
	case ctx.Err() != nil:
		return nil
	default:
		return s.control(stream.Closing, map[string]string{"reason": "the server cannot go on; come back with the id of the last frame", "code": string(fault.CodeOf(err))})
	}
}

// control returns a frame about the stream itself.
func (s *session) control(kind string, data any) *stream.Frame {
	raw, err := json.Marshal(data)
	if err != nil { // texts and numbers have a JSON form
		raw = nil
	}
	f := &stream.Frame{
		Type: kind, Tenant: s.call.Tenant, Project: s.sub.About.Project, CorrelationID: s.sub.About.Trace, RunName: s.sub.About.Name, Pack: s.sub.About.Pack, Data: raw,
	}
	if f.Project == "" {
		f.Project, f.CorrelationID = stream.DefaultProject, s.call.RequestID
	}
	return f
}

func (s *session) say(f *stream.Frame) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return errors.Join(s.out.frame(f.Type, f.ID, raw), s.out.flush())
}

// Tickets makes tickets.
type Tickets interface {
	Ticket(ctx context.Context, by access.Principal, tenant work.Tenant) (ticket string, expires work.Time, err error)
}
