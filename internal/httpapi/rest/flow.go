package rest

import (
	"cmp"
	"net/http"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/retention"
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
	if out.Depths, err = recastAll[api.QueueDepth](depths); err != nil {
		return out, err
	}
	out.StoredBytes, err = s.Usage(r.Context(), c.Tenant)
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

func (s *service) retentionRoutes() []httpapi.Route {
	const read, change = access.OrchRead, access.Admin
	return []httpapi.Route{
		get("/api/v1/retention", "getRetention", "retention", "Show how long runs stay, and the legal holds", read, api.Retention{}, s.getRetention),
		post("/api/v1/retention", "setRetention", "retention", "Set how long runs stay", change, 0, api.RetentionPolicy{}, api.Retention{}, s.setRetention),
		post("/api/v1/retention/holds", "holdRetention", "retention", "Set or release a legal hold on a run, a pack or a label", change, 0, api.HoldRequest{}, api.Retention{}, s.hold),
		get("/api/v1/retention/expired", "listExpired", "retention", "List runs that the policy lets go", read, api.ExpiredRuns{}, s.listExpired),
		post("/api/v1/gc", "collectBlobs", "retention", "Remove files that nothing names any more, or say what would go", change, 0, api.CollectRequest{}, api.Collection{}, s.collect),
		get("/api/v1/retention/erased", "listErased", "retention", "List runs that were deleted, with the digest of their evidence", read, api.ErasedRuns{}, s.listErased),
	}
}

func (s *service) keeper(r *http.Request, c *httpapi.Call) (*retention.Service, error) {
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return nil, err
	}
	return sp.Retention, nil
}

func (s *service) getRetention(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	k, err := s.keeper(r, c)
	if err != nil {
		return err
	}
	p, err := k.Policy(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	out, err := recast[api.Retention](p)
	if err != nil {
		return err
	}
	holds, err := k.Holds(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	if out.Holds, err = recastAll[api.Hold](holds); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) setRetention(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.RetentionPolicy
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	p, err := recast[retention.Policy](q)
	if err != nil {
		return err
	}
	k, err := s.keeper(r, c)
	if err != nil {
		return err
	}
	if err := k.SetPolicy(r.Context(), c.Tenant, p); err != nil {
		return err
	}
	return s.getRetention(w, r, c)
}

func (s *service) hold(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.HoldRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	k, err := s.keeper(r, c)
	if err != nil {
		return err
	}
	reason := cmp.Or(c.Principal.Reason, q.Reason)
	if reason == "" {
		return fault.New(fault.Invalid, "whoever sets or releases a legal hold says why").WithHint(`add "reason"`)
	}
	if entry := store.AuditOf(r.Context()); entry != nil {
		entry.Reason = reason
	}
	if q.Release {
		err = k.Release(r.Context(), c.Tenant, q.On)
	} else {
		err = k.SetHold(r.Context(), c.Tenant, retention.Hold{On: q.On, By: work.Actor{Name: c.Principal.Subject, Reason: reason, Ticket: c.Principal.Ticket}})
	}
	if err != nil {
		return err
	}
	return s.getRetention(w, r, c)
}

func (s *service) listExpired(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	k, err := s.keeper(r, c)
	if err != nil {
		return err
	}
	found, err := k.Candidates(r.Context(), c.Tenant, httpapi.MaxPage)
	if err != nil {
		return err
	}
	out := api.ExpiredRuns{Items: make([]api.ExpiredRun, len(found))}
	for i, f := range found {
		out.Items[i] = api.ExpiredRun{
			Run: string(f.Run.ID), Name: f.Run.Name, Pack: f.Run.Pack.Name, State: string(f.Run.State), Ended: f.Run.Ended.String(), Held: f.Held,
		}
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) listErased(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	k, err := s.keeper(r, c)
	if err != nil {
		return err
	}
	erased, err := k.Erased(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	var out api.ErasedRuns
	if out.Items, err = recastAll[api.ErasedRun](erased); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// collect removes blobs that nothing names. It takes as long as there is to look at.
func (s *service) collect(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.CollectRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	found, err := sp.Collect(r.Context(), c.Tenant, q.DryRun)
	if err != nil {
		return err
	}
	out, err := recast[api.Collection](found)
	if err != nil {
		return err
	}
	out.DryRun = q.DryRun
	return httpapi.Reply(w, http.StatusOK, out)
}
