package orrery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"orrery.example/orrery/api"
)

// Types of frames that are about a stream itself.
const (
	streamOpened  = "stream.opened"
	streamResync  = "stream.resync"
	streamClosing = "stream.closing"
	streamEnded   = "stream.ended"
)

// Watch returns what happens to all runs of the tenant from now on, or behind the frame with an id that was received before. It goes on until ctx
// ends: when a connection or a server is lost it comes back behind the last frame, so that nothing is missed and nothing comes twice. Its
// error is one that coming back does not help against; RESYNC (see Code) says that events have been deleted or the server was restored:
// then list the runs, and watch again without an id; STREAM_BLOCKED that something between here and the server lets no streams through.
func (c *Client) Watch(ctx context.Context, after string) iter.Seq2[api.Frame, error] {
	return c.watch(ctx, &watch{path: "events", after: after})
}

// Follow returns the history of a run, event by event, behind a sequence number (0 for all), until the run has ended.
func (c *Client) Follow(ctx context.Context, run string, after string) iter.Seq2[api.Frame, error] {
	return c.watch(ctx, &watch{path: "runs/" + url.PathEscape(run) + "/events", after: after, last: streamEnded})
}

// FollowLogs returns the output of a run, line by line, behind a sequence number ("" for all), until the run has ended.
func (c *Client) FollowLogs(ctx context.Context, run string, after string) iter.Seq2[api.Frame, error] {
	return c.watch(ctx, &watch{path: "runs/" + url.PathEscape(run) + "/logs", after: after, last: "run.ended"})
}

// watch is a stream over however many connections.
type watch struct {
	path  string
	after string
	last  string // the frame behind which nothing comes, "" when there is always more
	yield func(api.Frame, error) bool

	resynced string // where the server said last that it cannot go on from the window
}

var (
	errEnough = errors.New("enough")      // the caller does not want more, or nothing comes any more
	errAgain  = errors.New("come back")   // at once
	errLost   = errors.New("interrupted") // after a while
)

func (c *Client) watch(ctx context.Context, w *watch) iter.Seq2[api.Frame, error] {
	return func(yield func(api.Frame, error) bool) {
		w.yield = yield
		wait := 50 * time.Millisecond
		for {
			got, err := c.watchOnce(ctx, w)
			switch {
			case errors.Is(err, errEnough):
				return
			case ctx.Err() != nil:
				yield(api.Frame{}, context.Cause(ctx))
				return
			case !errors.Is(err, errAgain) && !errors.Is(err, errLost) && Code(err) != codeUnavailable && Code(err) != codeExhausted:
				yield(api.Frame{}, err)
				return
			}
			if got {
				wait = 50 * time.Millisecond
			}
			if err := c.tell(err); err != nil {
				yield(api.Frame{}, err)
				return
			}
			if !pause(ctx, rand.N(wait)+wait/2) {
				continue // ctx has ended
			}
			wait = min(2*wait, 5*time.Second)
		}
	}
}

// watchOnce reads one connection to its end and reports whether anything came.
func (c *Client) watchOnce(ctx context.Context, w *watch) (got bool, err error) {
	// A connection may be dead without anybody saying so. What is silent for far longer than a heartbeat is.
	whole := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	header := http.Header{"Accept": {"text/event-stream"}}
	if w.after != "" {
		header.Set("Last-Event-ID", w.after)
	}
	silent := time.AfterFunc(firstFrame, stop)
	defer silent.Stop()
	res, err := c.send(ctx, http.MethodGet, w.path, header, nil)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return false, c.heldBack(whole)
		}
		return false, err
	}
	defer res.Body.Close()
	if kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); kind != "text/event-stream" {
		return false, failure(codeBlocked, "the answer is %q and no stream", kind)
	}
	in := bufio.NewReaderSize(res.Body, 64<<10)
	limit := time.Minute
	for opened := false; ; {
		kind, id, data, err := nextEvent(in)
		if err != nil && !opened && !silent.Stop() {
			return false, c.heldBack(whole)
		}
		silent.Reset(limit)
		if err != nil {
			return got, errLost
		}
		if len(data) == 0 {
			continue // a heartbeat
		}
		var f api.Frame
		if err := json.Unmarshal(data, &f); err != nil {
			return got, errLost
		}
		switch kind {
		case streamOpened:
			opened, limit = true, quiet(f.Data)
			_ = c.tell(nil) // nobody is asked
			if w.after == "" {
				w.after = id // what comes from now on is not missed, even when nothing comes before the connection breaks
			}
			continue
		case streamClosing:
			return got, errLost
		case streamResync:
			return got, w.resync(id)
		}
		if id != "" {
			w.after, w.resynced, got = id, "", true
		}
		if !w.yield(f, nil) || w.last != "" && kind == w.last && id == "" {
			return got, errEnough
		}
	}
}

// tell hands on what becomes of a connection.
func (c *Client) tell(lost error) error {
	if c.config.Stream == nil || errors.Is(lost, errAgain) {
		return nil
	}
	return c.config.Stream(lost)
}

// firstFrame is how long the first frame may take, which a server sends at once.
const firstFrame = 15 * time.Second

// heldBack finds out why the first frame does not come: a server that answers another question meanwhile has sent it, and something on the
// way collects an answer before it passes it on.
func (c *Client) heldBack(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, firstFrame)
	defer stop()
	if err := c.once(ctx, http.MethodGet, "me", nil, nil, nil); err != nil {
		return errLost
	}
	return failure(codeBlocked, "the server answers, but nothing of its stream arrives")
}

// resync goes on from the store when the server says that this was too slow. When it says so again at the same place, what follows is not
// there any more.
func (w *watch) resync(id string) error {
	if id != w.after || w.resynced == id {
		return &Error{Reply: api.Error{Code: codeResync, Message: "the stream cannot go on behind " + w.after, Hint: "list the runs, then watch again without an id"}}
	}
	w.resynced = id
	return errAgain
}

// quiet is how long a stream may be silent, from what its first frame says.
func quiet(data json.RawMessage) time.Duration {
	var said struct {
		Heartbeat float64 `json:"heartbeatSeconds"`
	}
	if json.Unmarshal(data, &said) != nil || said.Heartbeat <= 0 || said.Heartbeat > 600 {
		return time.Minute
	}
	return time.Duration(3*said.Heartbeat*float64(time.Second)) + 5*time.Second
}

// maxEvent bounds what a server may send as one event.
const maxEvent = 64 << 20

// nextEvent reads one server-sent event, or a comment, which has no data.
func nextEvent(in *bufio.Reader) (kind, id string, data []byte, err error) {
	for size := 0; ; {
		line, err := in.ReadSlice('\n')
		var whole []byte
		for errors.Is(err, bufio.ErrBufferFull) && size+len(whole) < maxEvent {
			whole = append(whole, line...)
			line, err = in.ReadSlice('\n')
		}
		if whole != nil {
			line = append(whole, line...)
		}
		if err != nil {
			return "", "", nil, err
		}
		if size += len(line); size > maxEvent {
			return "", "", nil, io.ErrShortBuffer
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return kind, id, data, nil
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			kind = string(value)
		case "id":
			if !strings.ContainsRune(string(value), 0) {
				id = string(value)
			}
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
}
