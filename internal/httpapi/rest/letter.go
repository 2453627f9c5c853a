package rest

import (
	"cmp"
	"context"
	"net/http"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/deadletter"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// redriveMost is how many runs one request retries, and how many without saying.
const redriveMost = 100

func (s *service) letterRoutes() []httpapi.Route {
	const read, change = access.OrchRead, access.OrchOperate
	const letters = "/api/v1/dead-letters"
	redrive := post(letters+"/redrive", "redriveDeadLetters", "runs", "Retry the runs of the dead steps that a query selects, oldest first, or say which", change, 0, api.RedriveRequest{}, api.RedriveReply{}, s.redrive)
	return []httpapi.Route{
		get(letters, "listDeadLetters", "runs", "List dead steps that nobody has dealt with, oldest first", read, api.DeadLetterList{}, s.listDeadLetters,
			httpapi.Param{Name: "pack", Type: "string", Summary: "Only of runs of this pack"},
			httpapi.Param{Name: "step", Type: "string", Summary: "Only steps with this id, perhaps with wildcards", Example: "shard[*]::load"},
			httpapi.Param{Name: "code", Type: "string", Summary: "Only those that ended for this reason", Example: "EXIT_CODE"},
			httpapi.Param{Name: "since", Type: "string", Summary: "Only those that died at or after this time", Example: "2026-01-02T03:04:05.000000Z"},
			httpapi.Param{Name: "before", Type: "string", Summary: "Only those that died before this time"},
			httpapi.Param{Name: "label", Type: "array", Summary: "Only of runs with all of these labels, each KEY=VALUE", Example: "env=prod"},
			httpapi.Param{Name: "state", Type: "string", Summary: "Only those that are open, or acknowledged", Example: "open"},
		),
		get(letters+"/{runId}", "getDeadLetters", "runs", "Show the dead steps of a run with what people said of them, also those that were dealt with", read, api.DeadLetterList{}, s.getDeadLetters),
		post(letters+"/{runId}/notes", "noteDeadLetter", "runs", "Add a note to the dead steps of a run", change, 0, api.LetterNoteRequest{}, api.DeadLetterList{}, s.noteLetter),
		post(letters+"/{runId}/acknowledge", "acknowledgeDeadLetter", "runs", "Say that somebody looks after the dead steps of a run", change, 0, api.LetterRequest{}, api.DeadLetterList{}, s.acknowledgeLetter),
		post(letters+"/{runId}/resolve", "resolveDeadLetter", "runs", "Discard the dead steps of a run: nobody needs them", change, http.StatusNoContent, api.LetterRequest{}, nil, s.discardLetter),
		redrive,
	}
}

func (s *service) letters() *deadletter.Service {
	return &deadletter.Service{Store: s.Store, Now: s.Now}
}

func (s *service) listDeadLetters(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	v := r.URL.Query()
	q, err := letterQuery(api.LetterQuery{
		Pack: v.Get("pack"), Step: v.Get("step"), Code: v.Get("code"), Since: v.Get("since"), Before: v.Get("before"), Labels: v["label"], State: v.Get("state"),
	})
	if err != nil {
		return err
	}
	found, err := s.letters().List(r.Context(), c.Tenant, q)
	if err != nil {
		return err
	}
	return replyLetters(w, r, found[:min(len(found), httpapi.MaxPage)])
}

// letterQuery reads a query. Error: fault.Invalid.
func letterQuery(from api.LetterQuery) (q deadletter.Query, err error) {
	q = deadletter.Query{Pack: from.Pack, Step: from.Step, Code: work.ReasonCode(from.Code), State: deadletter.State(from.State)}
	if q.Since, err = optionalTime("since", from.Since); err != nil {
		return q, err
	}
	if q.Before, err = optionalTime("before", from.Before); err != nil {
		return q, err
	}
	q.Labels, err = labelsOf(from.Labels)
	return q, err
}

func replyLetters(w http.ResponseWriter, r *http.Request, cases []deadletter.Case) error {
	var out api.DeadLetterList
	var err error
	if out.Items, err = recastAll[api.DeadLetter](cases); err != nil {
		return err
	}
	if r.Method == http.MethodGet {
		return httpapi.ReplyTagged(w, r, out)
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) getDeadLetters(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	return s.showLetters(w, r, run)
}

func (s *service) showLetters(w http.ResponseWriter, r *http.Request, run work.Run) error {
	cases, err := s.letters().Show(r.Context(), run)
	if err != nil {
		return err
	}
	return replyLetters(w, r, cases)
}

func (s *service) noteLetter(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	var q api.LetterNoteRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if err := s.letters().Note(r.Context(), run, work.StepID(q.Step), c.Principal.Subject, q.Text); err != nil {
		return err
	}
	return s.showLetters(w, r, run)
}

// letterRequest reads which letters of a run are meant, and why.
func (s *service) letterRequest(r *http.Request, c *httpapi.Call) (run work.Run, step work.StepID, by work.Actor, err error) {
	if run, err = s.run(r, c); err != nil {
		return run, "", by, err
	}
	var q api.LetterRequest
	if err = httpapi.Read(r, &q); err != nil {
		return run, "", by, err
	}
	by = actorOf(r, c, q.Reason)
	return run, work.StepID(q.Step), by, nil
}

// actorOf is who asks, with the reason that goes into the audit stream as well.
func actorOf(r *http.Request, c *httpapi.Call, reason string) work.Actor {
	reason = cmp.Or(reason, c.Principal.Reason)
	if entry := store.AuditOf(r.Context()); entry != nil {
		entry.Reason = reason
	}
	return work.Actor{Name: c.Principal.Subject, Reason: reason, Ticket: c.Principal.Ticket}
}

func (s *service) acknowledgeLetter(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, step, by, err := s.letterRequest(r, c)
	if err != nil {
		return err
	}
	if err := s.letters().Acknowledge(r.Context(), run, step, by); err != nil {
		return err
	}
	return s.showLetters(w, r, run)
}

func (s *service) discardLetter(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, step, by, err := s.letterRequest(r, c)
	if err != nil {
		return err
	}
	if err := s.letters().Discard(r.Context(), run, step, by); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *service) redrive(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.RedriveRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if q.Limit < 0 || q.Limit > redriveMost {
		return fault.New(fault.Invalid, "one request redrives 1 to %d runs, not %d", redriveMost, q.Limit).WithHint("ask again while left is not 0")
	}
	if q.Limit == 0 {
		q.Limit = redriveMost
	}
	query, err := letterQuery(q.LetterQuery)
	if err != nil {
		return err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	planned, left, err := s.letters().Plan(r.Context(), c.Tenant, query, q.Limit)
	if err != nil {
		return err
	}
	if !q.DryRun {
		by := actorOf(r, c, q.Reason)
		err = s.letters().Redrive(r.Context(), planned, by, func(ctx context.Context, run work.Run) (work.Run, error) {
			sub, err := s.submission(sp, c, by.Reason, deadletter.Token(run.ID), run.Labels)
			if err != nil {
				return work.Run{}, err
			}
			sub.Project = run.Project
			made, _, err := sp.Control.Retry(ctx, run, sub, nil)
			return made, err
		})
		if err != nil {
			return err
		}
	}
	return httpapi.Reply(w, http.StatusOK, redriven(planned, left, q.DryRun))
}

func redriven(planned []deadletter.Outcome, left int, dry bool) api.RedriveReply {
	out := api.RedriveReply{Items: make([]api.Redriven, len(planned)), Left: left, DryRun: dry}
	for i := range planned {
		p := &planned[i]
		out.Items[i] = api.Redriven{Run: string(p.Run.ID), RunName: p.Run.Name, Steps: words(p.Steps), Again: string(p.Again.ID), AgainName: p.Again.Name}
		if p.Err != nil {
			out.Items[i].Error = &api.Error{Code: string(fault.CodeOf(p.Err)), Message: p.Err.Error()}
		}
	}
	return out
}
