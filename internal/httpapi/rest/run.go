package rest

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const runs = "/api/v1/runs"

func (s *service) runRoutes() []httpapi.Route {
	const read = access.PacksRead
	return []httpapi.Route{
		get(runs, "listRuns", "runs", "List runs, newest first", read, api.RunList{}, s.listRuns, httpapi.PageParams(
			httpapi.Param{Name: "state", Type: "array", Summary: "Only runs in one of these states", Example: "running"},
			httpapi.Param{Name: "pack", Type: "string", Summary: "Only runs of this pack", Example: "hello"},
			httpapi.Param{Name: "planHash", Type: "string", Summary: "Only runs of this plan"},
			httpapi.Param{Name: "since", Type: "string", Summary: "Only runs created at or after this time", Example: "2026-01-02T03:04:05.000000Z"},
			httpapi.Param{Name: "label", Type: "array", Summary: "Only runs with all of these labels, each KEY=VALUE", Example: "env=prod"},
			httpapi.Param{Name: "project", Type: "string", Summary: "Only runs of this project", Example: "shop"},
			httpapi.Param{Name: "before", Type: "string", Summary: "Only runs created before this time"},
			httpapi.Param{Name: "open", Type: "boolean", Summary: "Only runs that have not ended, or whose end nobody has seen", Example: "true"},
		)...),
		get(runs+"/{runId}", "getRun", "runs", "Show a run with its steps and the gates that wait", read, api.RunDetail{}, s.getRun),
		get(runs+"/{runId}/steps", "listSteps", "runs", "List the steps that something has happened to, by id", read, api.StepList{}, s.listSteps, httpapi.PageParams()...),
		get(runs+"/{runId}/graph", "getGraph", "runs", "Show the plan as a graph with the state of each step", read, api.Graph{}, s.getGraph),
		get(runs+"/{runId}/why", "whyRun", "runs", "Say why a run waits, or why it ended as it did", read, api.Why{}, s.why),
		get(runs+"/{runId}/artifacts", "listArtifacts", "runs", "List the outputs of a run", read, api.ArtifactList{}, s.listArtifacts),
		{
			Method: http.MethodGet, Path: runs + "/{runId}/artifacts/{digest}", Name: "getArtifact", Tag: "runs", Scope: read,
			Summary: "Download an output by its digest", Stream: "application/octet-stream", Handle: s.getArtifact,
		},
		get("/api/v1/approvals", "listApprovals", "gates", "List the gates that wait for people", read, api.ApprovalList{}, s.listApprovals),
	}
}

func toRun(run *work.Run) (api.Run, error) {
	out, err := recast[api.Run](run)
	out.RunID = out.ID
	return out, err
}

func (s *service) listRuns(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "runs")
	if err != nil {
		return err
	}
	q, err := runQuery(r, c)
	if err != nil {
		return err
	}
	found, err := s.runsAfter(r, c, q, page)
	if err != nil {
		return err
	}
	out := api.RunList{Items: []api.Run{}}
	for i := range found {
		if i == page.Limit {
			last := &found[i-1]
			out.NextPageToken = page.Next(last.Created.String() + "/" + string(last.ID))
			break
		}
		run, err := toRun(&found[i])
		if err != nil {
			return err
		}
		out.Items = append(out.Items, run)
	}
	return httpapi.ReplyTagged(w, r, out)
}

func runQuery(r *http.Request, c *httpapi.Call) (store.RunQuery, error) {
	v := r.URL.Query()
	q := store.RunQuery{Pack: v.Get("pack"), PlanHash: work.Digest(v.Get("planHash")), Open: v.Get("open") == "true"}
	for _, given := range v["state"] {
		for one := range strings.SplitSeq(given, ",") {
			state := work.State(one)
			if !slices.ContainsFunc(work.States(), func(w work.StateWord) bool { return w.State == state }) {
				return q, fault.New(fault.Invalid, "there is no state %q", one)
			}
			q.States = append(q.States, state)
		}
	}
	var err error
	if q.Labels, err = labelsOf(v["label"]); err != nil {
		return q, err
	}
	if q.Since, err = optionalTime("since", v.Get("since")); err != nil {
		return q, err
	}
	if q.Before, err = optionalTime("before", v.Get("before")); err != nil {
		return q, err
	}
	q.Project, err = projectOf(c, v.Get("project"))
	return q, err
}

// labelsOf reads labels, each KEY=VALUE. Error: fault.Invalid.
func labelsOf(given []string) (map[string]string, error) {
	var out map[string]string
	for _, one := range given {
		key, value, ok := strings.Cut(one, "=")
		if !ok || key == "" {
			return nil, fault.New(fault.Invalid, "label %q is not KEY=VALUE", one)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	return out, nil
}

// runsAfter returns one run more than the page has, if there is one. Runs of one microsecond are ordered by id.
func (s *service) runsAfter(r *http.Request, c *httpapi.Call, q store.RunQuery, page httpapi.Page) ([]work.Run, error) {
	q.Limit = page.Limit + 1
	if page.After == "" {
		return s.Store.Find(r.Context(), c.Tenant, q)
	}
	at, id, _ := strings.Cut(page.After, "/")
	created, err := work.ParseTime(at)
	if err != nil {
		return nil, fault.New(fault.Invalid, "page_token is not from this list")
	}
	if q.Before == 0 || created < q.Before {
		q.Before = created + 1
	}
	for {
		found, err := s.Store.Find(r.Context(), c.Tenant, q)
		if err != nil {
			return nil, err
		}
		full := len(found) == q.Limit
		found = slices.DeleteFunc(found, func(x work.Run) bool { return x.Created == created && string(x.ID) >= id })
		if len(found) > page.Limit || !full {
			return found, nil
		}
		q.Limit *= 2
	}
}

func (s *service) getRun(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	out := api.RunDetail{Steps: []api.Step{}, Pending: []string{}}
	if out.Run, err = toRun(&run); err != nil {
		return err
	}
	// A run of very many steps shows the first page; the rest is in the list of steps.
	rows, err := s.Store.Steps(r.Context(), c.Tenant, run.ID, "", httpapi.MaxPage)
	if err != nil {
		return err
	}
	if out.Steps, err = recastAll[api.Step](rows); err != nil {
		return err
	}
	gates, err := sp.Control.Gates(r.Context(), run)
	if err != nil {
		return err
	}
	for i := range gates {
		out.Pending = append(out.Pending, string(gates[i].ID))
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) listSteps(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "steps")
	if err != nil {
		return err
	}
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	rows, err := s.Store.Steps(r.Context(), c.Tenant, run.ID, work.StepID(page.After), page.Limit+1)
	if err != nil {
		return err
	}
	var out api.StepList
	if len(rows) > page.Limit {
		rows = rows[:page.Limit]
		out.NextPageToken = page.Next(string(rows[page.Limit-1].ID))
	}
	if out.Items, err = recastAll[api.Step](rows); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) getGraph(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	built, err := sp.Control.Stored(r.Context(), run)
	if err != nil {
		return err
	}
	states, err := sp.Control.States(r.Context(), run)
	if err != nil {
		return err
	}
	out := api.Graph{Nodes: make([]api.GraphNode, len(built.Plan.Steps))}
	for i := range built.Plan.Steps {
		p := &built.Plan.Steps[i]
		out.Nodes[i] = api.GraphNode{
			ID: string(p.ID), Kind: string(p.Kind), Parent: string(p.Parent), Needs: words(p.Needs),
			State: string(cmp.Or(states[p.ID], work.Pending)),
		}
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) why(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	why, err := sp.Control.Why(r.Context(), run)
	if err != nil {
		return err
	}
	return replyAs[api.Why](w, http.StatusOK, why)
}

func (s *service) listApprovals(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	open, err := s.Store.Find(r.Context(), c.Tenant, store.RunQuery{States: []work.State{work.Running, work.Waiting}, Open: true, Limit: httpapi.MaxPage})
	if err != nil {
		return err
	}
	out := api.ApprovalList{Items: []api.Approval{}}
	for i := range open {
		run := &open[i]
		gates, err := sp.Control.Gates(r.Context(), *run)
		if err != nil {
			return err
		}
		for _, g := range gates {
			given := 0
			for _, d := range g.Decisions {
				if d.Decision == "approved" {
					given++
				}
			}
			out.Items = append(out.Items, api.Approval{
				Run: string(run.ID), RunName: run.Name, Gate: string(g.ID), PlanHash: string(run.PlanHash), Pack: run.Pack.Name,
				Since: g.Started.String(), Expires: g.Timer.String(), Given: given,
			})
		}
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) listArtifacts(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	out := api.ArtifactList{Items: []api.RunArtifact{}}
	err = sp.Control.EachStep(r.Context(), run, func(row *work.Step) {
		for _, a := range row.Artifacts {
			out.Items = append(out.Items, api.RunArtifact{
				Artifact: api.Artifact{Name: a.Name, Path: a.Path, Digest: string(a.Digest), Size: a.Size, Executable: a.Executable},
				Step:     string(row.ID), Type: "file", Status: "captured", StoredPath: runs + "/" + string(run.ID) + "/artifacts/" + string(a.Digest),
			})
		}
	})
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// getArtifact sends an output of the run; nothing else of the tenant can be read by its digest here.
func (s *service) getArtifact(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	text := r.PathValue("digest")
	if !strings.HasPrefix(text, "sha256:") {
		text = "sha256:" + text
	}
	var found *work.Artifact
	err = sp.Control.EachStep(r.Context(), run, func(row *work.Step) {
		for i := range row.Artifacts {
			if string(row.Artifacts[i].Digest) == text {
				found = &row.Artifacts[i]
			}
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fault.New(fault.NotFound, "run %s has no output %s", run.Name, text)
	}
	body, size, err := s.Blobs.Open(r.Context(), c.Tenant, found.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	return download(w, r, "application/octet-stream", string(found.Digest), body, size)
}

// download sends bytes that never change. What a step wrote is never shown by a browser as a page of this server.
func download(w http.ResponseWriter, r *http.Request, media, tag string, body io.Reader, size int64) error {
	h := w.Header()
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Content-Disposition", "attachment")
	if httpapi.Matches(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", media)
	if size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(http.StatusOK)
	_, err := io.Copy(w, body)
	return err
}
