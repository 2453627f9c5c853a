package rest

import (
	"cmp"
	"net/http"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (s *service) flowRoutes() []httpapi.Route {
	return []httpapi.Route{
		get("/api/v1/flow", "getFlow", "flow", "Show what is held back, the limits, and what waits and runs in each queue", access.OrchRead, api.Flow{}, s.getFlow),
		post("/api/v1/flow/control", "controlFlow", "flow", "Pause or resume a tenant, queue or pack; cordon, uncordon or drain a worker", access.OrchOperate, 0,
			api.FlowControl{}, api.Flow{}, s.controlFlow),
		post("/api/v1/flow/limit", "limitFlow", "flow", "Change a limit, the quota or the share of a tenant", access.OrchQuota, 0,
			api.FlowLimit{}, api.Flow{}, s.limitFlow),
	}
}

func (s *service) getFlow(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	out, err := s.flow(r, c)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) flow(r *http.Request, c *httpapi.Call) (api.Flow, error) {
	f, err := s.Store.Flow(r.Context(), c.Tenant)
	if err != nil {
		return api.Flow{}, err
	}
	out, err := recast[api.Flow](f)
	if err != nil {
		return out, err
	}
	depths, err := s.Store.Depths(r.Context(), c.Tenant)
	if err != nil {
		return out, err
	}
	out.Depths, err = recastAll[api.QueueDepth](depths)
	return out, err
}

func (s *service) controlFlow(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.FlowControl
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	reason := cmp.Or(c.Principal.Reason, q.Reason)
	if reason == "" {
		return fault.New(fault.Invalid, "whoever holds back work, or lets it go on, says why").WithHint(`add "reason"`)
	}
	if q.Verb == "limit" || q.Verb == "weight" || q.Verb == "quota" {
		return fault.New(fault.Invalid, "limits are changed at /api/v1/flow/limit")
	}
	return s.changeFlow(w, r, c, store.FlowChange{Kind: q.Kind, Name: q.Name, Verb: q.Verb}, reason)
}

func (s *service) limitFlow(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.FlowLimit
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	change := store.FlowChange{Kind: q.Kind, Name: q.Name}
	given := 0
	if q.Max != nil {
		change.Verb, change.N = "limit", *q.Max
		given++
	}
	if q.Weight != nil {
		if c.Principal.Tenant != "" {
			return fault.New(fault.Denied, "the share of a tenant is for an account of the installation to say")
		}
		change.Verb, change.N = "weight", *q.Weight
		given++
	}
	if q.Quota != nil {
		change.Verb, change.Quota = "quota", store.Quota(*q.Quota)
		given++
	}
	if given != 1 {
		return fault.New(fault.Invalid, "one of max, weight and quota is changed at a time")
	}
	return s.changeFlow(w, r, c, change, c.Principal.Reason)
}

func (s *service) changeFlow(w http.ResponseWriter, r *http.Request, c *httpapi.Call, change store.FlowChange, reason string) error {
	change.Tenant = c.Tenant
	change.Actor = work.Actor{Name: c.Principal.Subject, Reason: reason, Ticket: c.Principal.Ticket}
	if entry := store.AuditOf(r.Context()); entry != nil {
		entry.Reason = reason
	}
	store.About(r.Context(), change.Subject())
	if _, err := s.Store.ChangeFlow(r.Context(), change); err != nil {
		return err
	}
	out, err := s.flow(r, c)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}
