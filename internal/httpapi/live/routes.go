package live

import (
	"net/http"
	"slices"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/stream"
)

// Deps are what the operations work on.
type Deps struct {
	Store    stream.Store
	Streams  *stream.Hub
	Identity Tickets
}

type service struct{ Deps }

// Routes returns the operations.
func Routes(d Deps) []httpapi.Route {
	s := &service{d}
	return []httpapi.Route{
		{
			Method: http.MethodGet, Path: "/api/v1/events", Name: "followTenant", Tag: "streams", Scope: access.PacksRead,
			Summary: "Read what happens to all runs of the tenant, in one order; as server-sent events by Accept, or over a WebSocket",
			Reply:   api.FrameList{}, Stream: SSE, Headers: Headers(), Handle: s.events,
			Query: []httpapi.Param{
				{Name: "after", Type: "string", Summary: "Go on behind the frame with this id; a stream without begins now, a list at the first event", Example: "1-4711"},
				{Name: "page_size", Type: "integer", Summary: "How many at most in a list: 1 to 500, 50 without", Example: "50"},
			},
		},
		{
			Method: http.MethodPost, Path: "/api/v1/stream-tickets", Name: "makeStreamTicket", Tag: "streams", Scope: access.PacksRead, Plain: true,
			Summary: "Make a ticket with which a browser opens one WebSocket within 30 seconds", Status: http.StatusCreated, Reply: api.StreamTicket{}, Handle: s.ticket,
		},
	}
}

func (s *service) ticket(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	ticket, expires, err := s.Identity.Ticket(r.Context(), c.Principal, c.Tenant)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusCreated, api.StreamTicket{
		Ticket: ticket, Protocols: []string{Protocol, httpapi.TicketProtocol + ticket}, Expires: expires.String(),
	})
}

func (s *service) events(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var after store.Position
	var err error
	id := Resumed(r)
	if id != "" {
		if after, err = store.ParsePosition(id); err != nil {
			return err
		}
	}
	if !Wanted(r) {
		return s.list(w, r, c, id, after)
	}
	if id == "" {
		if after, err = s.Store.FeedEnd(r.Context(), c.Tenant); err != nil {
			return err
		}
	}
	sub, err := s.Streams.Tenant(r.Context(), c.Tenant, c.Principal.Subject, after)
	if err != nil {
		return err
	}
	defer sub.Close()
	return Serve(w, r, c, sub, nil)
}

// gone is the answer to a position that means nothing here.
func gone(err error) error {
	if gap, ok := err.(*stream.Gap); ok {
		return fault.New(fault.Conflict, "the stream cannot go on there: %s", gap.Why).WithHint("list the runs, then follow from %s", gap.ID)
	}
	return err
}

func (s *service) list(w http.ResponseWriter, r *http.Request, c *httpapi.Call, id string, after store.Position) error {
	page, err := httpapi.ReadPage(r, "feed")
	if err != nil {
		return err
	}
	end, err := s.Store.FeedEnd(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	if id == "" {
		after = store.Position{Incarnation: end.Incarnation, Number: -1} // the first event that is kept
	}
	if after.Incarnation != end.Incarnation {
		return gone(&stream.Gap{ID: end.String(), Why: "the store was restored from a backup since"})
	}
	frames, err := s.Streams.List(r.Context(), c.Tenant, after, page.Limit)
	if err != nil {
		return gone(err)
	}
	if len(frames) == 0 && id == "" {
		after = end
	}
	out := api.FrameList{Items: make([]api.Frame, len(frames)), End: after.String()}
	for i := range frames {
		out.Items[i] = wire(&frames[i])
		out.End = frames[i].ID
	}
	out.Items = slices.Clip(out.Items)
	return httpapi.ReplyTagged(w, r, out)
}

func wire(f *stream.Frame) api.Frame {
	out := api.Frame{
		EventType: f.Type, ID: f.ID, Tenant: string(f.Tenant), Project: f.Project, CorrelationID: f.CorrelationID, JobType: f.JobType, TaskRunnerID: f.TaskRunner,
		RunID: string(f.Run), RunName: f.RunName, Pack: f.Pack, State: string(f.State), Sequence: f.Sequence, StepID: string(f.Step),
		Attempt: f.Attempt, Level: f.Level, Message: f.Message, Data: f.Data,
	}
	if f.Time != 0 {
		out.Timestamp = f.Time.String()
	}
	return out
}
