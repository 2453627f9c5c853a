package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// Media types of an answer in lines.
const (
	sse    = "text/event-stream"
	ndjson = "application/x-ndjson"
)

func (s *service) historyRoutes() []httpapi.Route {
	const read = access.PacksRead
	events := get(runs+"/{runId}/events", "getEvents", "runs", "Read the history of a run, in order; as NDJSON by Accept", read, api.EventList{}, s.getEvents, httpapi.PageParams(
		httpapi.Param{Name: "from", Type: "integer", Summary: "The number of the first event, from 1", Example: "1"})...)
	events.Stream = ndjson
	logs := get(runs+"/{runId}/logs", "getLogs", "runs", "Read the output of a run, in order; as server-sent events or NDJSON by Accept", read, api.LogList{}, s.getLogs, httpapi.PageParams(
		httpapi.Param{Name: "from", Type: "integer", Summary: "The number of the first line, from 1", Example: "1"},
		httpapi.Param{Name: "step", Type: "string", Summary: "Only this step", Example: "build"})...)
	logs.Stream = sse + "," + ndjson
	logs.Headers = []httpapi.Param{{Name: "Last-Event-ID", Type: "string", Summary: "Of server-sent events: go on behind this line", Example: "17"}}
	export := get(runs+"/{runId}/export", "exportRun", "runs", "Read the output, spans and figures of a run as NDJSON, ordered by time", read, nil, s.exportRun,
		httpapi.Param{Name: "kind", Type: "array", Summary: "Only these kinds of records: log, span, metric", Example: "span"})
	export.Stream = ndjson
	return []httpapi.Route{events, logs, export}
}

func (s *service) exportRun(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", ndjson)
	return control.Export(r.Context(), s.Store, &run, r.URL.Query()["kind"], w)
}

// position reads the number that a request wants to begin with.
func position(r *http.Request, page httpapi.Page) (int64, error) {
	text := page.After
	if text == "" {
		text = r.URL.Query().Get("from")
	}
	if text == "" {
		return 1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return 0, fault.New(fault.Invalid, "from is a number, 1 for the first")
	}
	return n, nil
}

func wants(r *http.Request, media string) bool {
	return strings.Contains(r.Header.Get("Accept"), media)
}

func (s *service) getEvents(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "events")
	if err != nil {
		return err
	}
	from, err := position(r, page)
	if err != nil {
		return err
	}
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	if wants(r, ndjson) {
		return inLines(w, func(line func(any) error) error {
			return eachOf(from, func(from int64, limit int) ([]work.Event, error) {
				return s.Store.Events(r.Context(), c.Tenant, run.ID, from, limit)
			}, func(e *work.Event) error { return line(e) })
		})
	}
	events, err := s.Store.Events(r.Context(), c.Tenant, run.ID, from, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.EventList
	if len(events) > page.Limit {
		out.NextPageToken = page.Next(strconv.FormatInt(events[page.Limit].Seq, 10))
		events = events[:page.Limit]
	}
	if out.Items, err = recastAll[api.Event](events); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// eachOf reads a numbered list to its present end.
func eachOf[T any](from int64, read func(from int64, limit int) ([]T, error), fn func(*T) error) error {
	const page = 1000
	for {
		items, err := read(from, page)
		if err != nil {
			return err
		}
		for i := range items {
			if err := fn(&items[i]); err != nil {
				return err
			}
		}
		if from += int64(len(items)); len(items) < page {
			return nil
		}
	}
}

// inLines writes one JSON document a line.
func inLines(w http.ResponseWriter, write func(line func(any) error) error) error {
	w.Header().Set("Content-Type", ndjson)
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(w)
	return write(func(v any) error { return enc.Encode(v) })
}

func (s *service) getLogs(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "logs")
	if err != nil {
		return err
	}
	from, err := position(r, page)
	if err != nil {
		return err
	}
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	step := work.StepID(r.URL.Query().Get("step"))
	read := func(from int64, limit int) ([]work.LogLine, error) {
		return s.Store.Lines(r.Context(), c.Tenant, run.ID, from, limit)
	}
	meant := func(l *work.LogLine) bool { return step == "" || l.Step == step }
	switch {
	case wants(r, sse):
		if last := r.Header.Get("Last-Event-ID"); last != "" {
			n, err := strconv.ParseInt(last, 10, 64)
			if err != nil || n < 0 {
				return fault.New(fault.Invalid, "Last-Event-ID is the id of an event of this stream")
			}
			from = n + 1
		}
		return s.follow(w, r, c, run, from, meant)
	case wants(r, ndjson):
		return inLines(w, func(line func(any) error) error {
			return eachOf(from, read, func(l *work.LogLine) error {
				if !meant(l) {
					return nil
				}
				return line(l)
			})
		})
	}
	lines, err := read(from, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.LogList
	if len(lines) > page.Limit {
		out.NextPageToken = page.Next(strconv.FormatInt(lines[page.Limit].Seq, 10))
		lines = lines[:page.Limit]
	}
	kept := lines[:0]
	for i := range lines {
		if meant(&lines[i]) {
			kept = append(kept, lines[i])
		}
	}
	if out.Items, err = recastAll[api.LogLine](kept); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// Of a stream of lines.
const (
	heartbeat = 15 * time.Second // so that a proxy does not take the connection for dead
	lookAgain = time.Second      // a hint of the store may get lost
)

// follow sends lines as they come until the run has ended, the client is gone or the server drains. A client that comes back with
// Last-Event-ID misses nothing: lines are numbered by the run.
func (s *service) follow(w http.ResponseWriter, r *http.Request, c *httpapi.Call, run work.Run, from int64, meant func(*work.LogLine) bool) error {
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	wake := s.Store.Watch(ctx)
	h := w.Header()
	h.Set("Content-Type", sse)
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	beat, look := time.NewTicker(heartbeat), time.NewTicker(lookAgain)
	defer beat.Stop()
	defer look.Stop()
	for {
		// The state comes before the lines: when it is final, these lines are all.
		now, err := s.Store.Run(ctx, c.Tenant, string(run.ID))
		if err != nil {
			return err
		}
		err = eachOf(from, func(from int64, limit int) ([]work.LogLine, error) {
			return s.Store.Lines(ctx, c.Tenant, run.ID, from, limit)
		}, func(l *work.LogLine) error {
			from = l.Seq + 1
			if !meant(l) {
				return nil
			}
			return frame(w, strconv.FormatInt(l.Seq, 10), l.EventType, l)
		})
		ended := now.State.Terminal()
		if err == nil && ended {
			err = frame(w, "", "run.ended", map[string]any{"runId": now.ID, "state": now.State, "tenant": now.Tenant, "traceId": c.RequestID})
		}
		if err != nil {
			return err
		}
		if err := flush.Flush(); err != nil || ended {
			return nil // the client is gone, or has all there is
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.Draining:
			return nil
		case <-wake:
		case <-look.C:
		case <-beat.C:
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
				return nil
			}
		}
	}
}

// frame writes one server-sent event.
func frame(w io.Writer, id, event string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a server-sent event")
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, err = fmt.Fprintf(w, "%sevent: %s\ndata: %s\n\n", id, event, raw)
	return err
}
