package rest

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (s *service) incidentRoutes() []httpapi.Route {
	const tag, one, mode = "incidents", "/api/v1/incidents/{incidentId}", "/api/v1/incident-mode"
	return []httpapi.Route{
		get("/api/v1/incidents", "listIncidents", tag, "List what needs people, oldest first", access.OrchRead, api.IncidentList{}, s.listIncidents, httpapi.PageParams(
			httpapi.Param{Name: "all", Type: "boolean", Summary: "Those that are resolved, too", Example: "true"})...),
		get(one, "getIncident", tag, "Show an incident", access.OrchRead, api.Incident{}, s.getIncident),
		post(one+"/acknowledge", "acknowledgeIncident", tag, "Say that you are at it", access.OrchOperate, 0, api.ControlRequest{}, api.Incident{},
			s.endIncident(func(ctx context.Context, t work.Tenant, id string, by work.Actor) (incident.Incident, error) {
				return s.Incidents.Acknowledge(ctx, t, id, by)
			})),
		post(one+"/resolve", "resolveIncident", tag, "End an incident", access.OrchOperate, 0, api.ControlRequest{}, api.Incident{},
			s.endIncident(func(ctx context.Context, t work.Tenant, id string, by work.Actor) (incident.Incident, error) {
				return s.Incidents.Resolve(ctx, t, id, by)
			})),
		get(mode, "getIncidentMode", tag, "Show whether incident mode is on, its policy, and how fast the error budget is used up", access.OrchRead, api.IncidentMode{}, s.getIncidentMode),
		post(mode, "turnIncidentMode", tag, "Turn incident mode on for a time, or off", access.OrchOperate, 0, api.IncidentModeRequest{}, api.IncidentMode{}, s.turnIncidentMode),
		post("/api/v1/incident-policy", "setIncidentPolicy", tag, "Say when incident mode goes on and off by itself, and what it keeps", access.Admin, 0,
			api.IncidentPolicy{}, api.IncidentMode{}, s.setIncidentPolicy),
	}
}

func (s *service) listIncidents(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "incidents")
	if err != nil {
		return err
	}
	found, err := s.Incidents.List(r.Context(), c.Tenant, r.URL.Query().Get("all") == "true", page.After, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.IncidentList
	if len(found) > page.Limit {
		found = found[:page.Limit]
		out.NextPageToken = page.Next(found[page.Limit-1].ID)
	}
	if out.Items, err = recastAll[api.Incident](found); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) getIncident(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	i, err := s.Incidents.Incident(r.Context(), c.Tenant, r.PathValue("incidentId"))
	if err != nil {
		return err
	}
	out, err := recast[api.Incident](i)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// why is who asks for a change, and for what reason; that is in the audit entry, too.
func why(r *http.Request, c *httpapi.Call, reason, ticket string) work.Actor {
	by := work.Actor{Name: c.Principal.Subject, Reason: cmp.Or(c.Principal.Reason, reason), Ticket: cmp.Or(c.Principal.Ticket, ticket)}
	if entry := store.AuditOf(r.Context()); entry != nil {
		entry.Reason, entry.Ticket = by.Reason, by.Ticket
	}
	return by
}

func (s *service) endIncident(end func(ctx context.Context, tenant work.Tenant, id string, by work.Actor) (incident.Incident, error)) handler {
	return func(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
		id := r.PathValue("incidentId")
		if _, err := s.Incidents.Incident(r.Context(), c.Tenant, id); err != nil { // before what the body says
			return err
		}
		var q api.ControlRequest
		if err := httpapi.Read(r, &q); err != nil {
			return err
		}
		i, err := end(r.Context(), c.Tenant, id, why(r, c, q.Reason, ""))
		if err != nil {
			return err
		}
		return replyAs[api.Incident](w, http.StatusOK, i)
	}
}

func (s *service) getIncidentMode(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	m, err := s.Incidents.Mode(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	return s.replyMode(w, r, c, m)
}

func (s *service) replyMode(w http.ResponseWriter, r *http.Request, c *httpapi.Call, m incident.Mode) error {
	out, err := recast[api.IncidentMode](m)
	if err != nil {
		return err
	}
	p, err := s.Incidents.Policy(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	out.Policy = api.IncidentPolicy(p)
	burns, err := s.Incidents.Burns(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	if out.Burn, err = recastAll[api.Burn](burns); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) turnIncidentMode(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.IncidentModeRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if !q.On && q.Minutes != 0 {
		return fault.New(fault.Invalid, "incident mode is off until it is turned on again").WithHint(`leave "minutes" out`)
	}
	by := why(r, c, q.Reason, q.Ticket)
	var m incident.Mode
	var err error
	if q.On {
		m, err = s.Incidents.TurnOn(r.Context(), c.Tenant, time.Duration(q.Minutes)*time.Minute, by)
	} else {
		m, err = s.Incidents.TurnOff(r.Context(), c.Tenant, by)
	}
	if err != nil {
		return err
	}
	return s.replyMode(w, r, c, m)
}

func (s *service) setIncidentPolicy(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.IncidentPolicy
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if err := s.Incidents.SetPolicy(r.Context(), c.Tenant, incident.Policy(q)); err != nil {
		return err
	}
	return s.getIncidentMode(w, r, c)
}
