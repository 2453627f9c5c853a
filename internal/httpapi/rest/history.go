package rest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/httpapi/live"
	"orrery.example/orrery/internal/stream"
	"orrery.example/orrery/internal/work"
)

// ndjson is the media type of an answer in lines.
const ndjson = "application/x-ndjson"

func (s *service) historyRoutes() []httpapi.Route {
	const read = access.PacksRead
	after := httpapi.Param{Name: "after", Type: "string", Summary: "Of streams: go on behind the frame with this id", Example: "17"}
	events := get(runs+"/{runId}/events", "getEvents", "runs", "Read the history of a run, in order; as server-sent events or NDJSON by Accept, or over a WebSocket", read, api.EventList{}, s.getEvents, httpapi.PageParams(
		httpapi.Param{Name: "from", Type: "integer", Summary: "The number of the first event, from 1", Example: "1"}, after)...)
	events.Stream, events.Headers = live.SSE+","+ndjson, live.Headers()
	logs := get(runs+"/{runId}/logs", "getLogs", "runs", "Read the output of a run, in order; as server-sent events or NDJSON by Accept, or over a WebSocket", read, api.LogList{}, s.getLogs, httpapi.PageParams(
		httpapi.Param{Name: "from", Type: "integer", Summary: "The number of the first line, from 1", Example: "1"},
		httpapi.Param{Name: "step", Type: "string", Summary: "Only this step", Example: "build"}, after)...)
	logs.Stream, logs.Headers = live.SSE+","+ndjson, live.Headers()
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

// part is what a request asks of a list of a run that is numbered from 1: its history, its output.
type part struct {
	httpapi.Page
	from int64
	run  work.Run
}

func (s *service) readPart(r *http.Request, c *httpapi.Call, list string) (p part, err error) {
	if p.Page, err = httpapi.ReadPage(r, list); err != nil {
		return p, err
	}
	if p.from, err = position(r, p.Page); err != nil {
		return p, err
	}
	p.run, err = s.run(r, c)
	return p, err
}

// cut leaves of one item more than a page what is on the page, and returns the token of the next.
func cut[T any](p part, items []T, number func(*T) int64) ([]T, string) {
	if len(items) <= p.Limit {
		return items, ""
	}
	return items[:p.Limit], p.Next(strconv.FormatInt(number(&items[p.Limit]), 10))
}

func (s *service) getEvents(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	p, err := s.readPart(r, c, "events")
	if err != nil {
		return err
	}
	read := func(from int64, limit int) ([]work.Event, error) {
		return s.Store.Events(r.Context(), c.Tenant, p.run.ID, from, limit)
	}
	if live.Wanted(r) {
		return s.follow(w, r, c, &p, s.Streams.Events, nil)
	}
	if wants(r, ndjson) {
		return inLines(w, func(line func(any) error) error {
			return eachOf(p.from, read, func(e *work.Event) error { return line(e) })
		})
	}
	events, err := read(p.from, p.Limit+1)
	if err != nil {
		return err
	}
	var out api.EventList
	events, out.NextPageToken = cut(p, events, func(e *work.Event) int64 { return e.Seq })
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
	p, err := s.readPart(r, c, "logs")
	if err != nil {
		return err
	}
	step := work.StepID(r.URL.Query().Get("step"))
	read := func(from int64, limit int) ([]work.LogLine, error) {
		return s.Store.Lines(r.Context(), c.Tenant, p.run.ID, from, limit)
	}
	meant := func(l *work.LogLine) bool { return step == "" || l.Step == step }
	switch {
	case live.Wanted(r):
		var only func(*stream.Item) bool
		if step != "" {
			only = func(i *stream.Item) bool { return i.Step == step }
		}
		return s.follow(w, r, c, &p, s.Streams.Lines, only)
	case wants(r, ndjson):
		return inLines(w, func(line func(any) error) error {
			return eachOf(p.from, read, func(l *work.LogLine) error {
				if !meant(l) {
					return nil
				}
				return line(l)
			})
		})
	}
	lines, err := read(p.from, p.Limit+1)
	if err != nil {
		return err
	}
	var out api.LogList
	lines, out.NextPageToken = cut(p, lines, func(l *work.LogLine) int64 { return l.Seq })
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

// follower is how a stream of a run begins.
type follower func(run *work.Run, caller string, after int64) (*stream.Subscription, error)

// follow sends what comes, from a number on, until the run has ended.
func (s *service) follow(w http.ResponseWriter, r *http.Request, c *httpapi.Call, p *part, begin follower, only func(*stream.Item) bool) error {
	after := p.from - 1
	if id := live.Resumed(r); id != "" {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n < 0 {
			return fault.New(fault.Invalid, "a stream of a run goes on behind the id of one of its frames, which is a number")
		}
		after = n
	}
	sub, err := begin(&p.run, c.Principal.Subject, after)
	if err != nil {
		return err
	}
	defer sub.Close()
	return live.Serve(w, r, c, sub, only)
}
