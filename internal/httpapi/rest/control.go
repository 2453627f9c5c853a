package rest

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

func (s *service) controlRoutes() []httpapi.Route {
	const may = access.PacksRun
	submit := post(runs, "submitRun", "runs", "Submit a run", may, http.StatusCreated, api.SubmitRequest{}, api.SubmitReply{}, s.submit)
	submit.Limit = maxManifest
	batch := post("/api/v1/run-batches", "submitRuns", "runs", "Submit many runs of one pack", may, http.StatusCreated, api.BatchRequest{}, api.BatchReply{}, s.submitBatch)
	batch.Limit = maxManifest
	decide := post(runs+"/{runId}/approve", "decideGate", "gates", "Approve or reject a gate of a run", access.PacksApprove, 0, api.ApproveRequest{}, api.Run{}, s.decide)
	retry := post(runs+"/{runId}/retry", "retryRun", "runs", "Run again what did not succeed, keeping the results of what did", may, http.StatusCreated, api.RetryRequest{}, api.RetryReply{}, s.retry)
	retry.Limit = maxManifest
	verb := func(verb, summary string) httpapi.Route {
		return post(runs+"/{runId}/"+verb, verb+"Run", "runs", summary, may, 0, api.ControlRequest{}, api.Run{}, s.control(verb))
	}
	rerun := post(runs+"/{runId}/rerun", "rerunRun", "runs", "Run the same plan again from the start", may, http.StatusCreated, api.RetryRequest{}, api.RetryReply{}, s.rerun)
	dead := post("/api/v1/dead-letters/{runId}/retry", "retryDeadLetter", "runs", "Retry the run of a dead step, keeping the results of what succeeded", access.OrchOperate, http.StatusCreated, api.RetryRequest{}, api.RetryReply{}, s.retry)
	for _, r := range []*httpapi.Route{&submit, &batch, &retry, &rerun, &dead} {
		r.Runs = true
	}
	return []httpapi.Route{
		submit, batch, decide, retry, rerun, dead,
		verb("cancel", "Stop a run; its finally steps still run"),
		verb("pause", "Let nothing new of a run start"),
		verb("resume", "Carry on a paused run"),
		post(runs+"/{runId}/acknowledge", "acknowledgeRun", "runs", "Note that the end of a run has been seen", may, http.StatusNoContent, nil, nil, s.acknowledge),
	}
}

func (s *service) submit(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.SubmitRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	p, err := s.plan(r.Context(), c, api.PlanRequest{PackSource: q.PackSource, Inputs: q.Inputs})
	if err != nil {
		return err
	}
	defer p.close()
	if q.PlanHash != "" && q.PlanHash != string(p.built.Hash) {
		return fault.New(fault.PlanMismatch, "the plan is %s, not %s", p.built.Hash, q.PlanHash)
	}
	notBefore, err := optionalTime("notBefore", q.At)
	if err != nil {
		return err
	}
	project, err := projectOf(c, q.Project)
	if err != nil {
		return err
	}
	answer := func(w http.ResponseWriter, made []store.Submitted) error {
		w.Header().Set("Location", runs+"/"+string(made[0].Run.ID))
		return httpapi.Reply(w, http.StatusCreated, submitted(&made[0].Run))
	}
	c.Answers(answer)
	var run work.Run
	if len(q.Request) > 0 {
		envelope, err := dsse.Decode(q.Request)
		if err != nil {
			return err
		}
		run, err = sp.Control.Accept(r.Context(), control.Signed{
			Tenant: c.Tenant, Built: p.built, Files: p.files, Request: envelope, Labels: q.Labels, Project: project, At: notBefore, Trace: c.Trace,
		})
		if err != nil {
			return err
		}
	} else {
		sub, err := s.submission(sp, c, q.Note, q.RunToken, q.Labels)
		if err != nil {
			return err
		}
		sub.Built, sub.Files, sub.Project, sub.At = p.built, p.files, project, notBefore
		if run, err = sp.Control.Submit(r.Context(), sub); err != nil {
			return err
		}
	}
	return answer(w, []store.Submitted{{Run: run}})
}

// optionalTime reads a time, 0 for none.
func optionalTime(name, text string) (work.Time, error) {
	if text == "" {
		return 0, nil
	}
	at, err := work.ParseTime(text)
	if err != nil {
		return 0, fault.New(fault.Invalid, "%s: %v", name, err)
	}
	return at, nil
}

var projectForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// projectOf is the project of a request: what its body says, else its header. Error: fault.Invalid.
func projectOf(c *httpapi.Call, given string) (string, error) {
	project := cmp.Or(given, c.Project)
	if project != "" && !projectForm.MatchString(project) {
		return "", fault.New(fault.Invalid, "a project is named with 1 to 63 small letters, digits and dashes, not %q", project)
	}
	if c.Project != "" && project != c.Project {
		return "", fault.New(fault.Denied, "the request is for project %s, not %s", c.Project, project)
	}
	return project, nil
}

func submitted(run *work.Run) api.SubmitReply {
	return api.SubmitReply{RunID: string(run.ID), Name: run.Name, PlanHash: string(run.PlanHash), State: string(run.State)}
}

// submission is what a request without a signature asks for, to be signed with the key that the server keeps for the account.
func (s *service) submission(sp *Space, c *httpapi.Call, note, token string, labels map[string]string) (control.Submission, error) {
	key, err := s.signer(sp, c.Principal, keyring.Submit)
	if err != nil {
		return control.Submission{}, err
	}
	if token == "" && c.Key != "" {
		// A server that is lost between the commit and its answer must not make two runs of one request.
		token = "key:" + canonical.Digest([]byte(c.Principal.Subject+"\x00"+c.Key)).Hex()
	}
	return control.Submission{Tenant: c.Tenant, By: key, Note: note, RunToken: token, Labels: labels, Trace: c.Trace}, nil
}

func (s *service) decide(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	var q api.ApproveRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	var envelope dsse.Envelope
	if len(q.Statement) > 0 {
		if envelope, err = dsse.Decode(q.Statement); err != nil {
			return err
		}
	} else if q.Token != "" {
		if envelope, err = sp.Control.Witness(r.Context(), c.Tenant, q.Token, sp.Attest.Attestor); err != nil {
			return err
		}
	} else if envelope, err = s.decideByToken(r, c, sp, &run, q); err != nil {
		return err
	}
	trust, err := sp.Keys.Trust()
	if err != nil {
		return err
	}
	_, said, err := evidence.Approval(envelope, trust, s.Now())
	if err != nil {
		return err
	}
	if said.Tenant != c.Tenant || said.Run != run.ID {
		return fault.New(fault.Invalid, "the statement is about another run")
	}
	if _, err := sp.Control.Decide(r.Context(), c.Tenant, envelope); err != nil {
		return err
	}
	return s.replyRun(w, r, c, run.ID)
}

// decideByToken makes the statement of a decision that was made with a token bound to it.
func (s *service) decideByToken(r *http.Request, c *httpapi.Call, sp *Space, run *work.Run, q api.ApproveRequest) (dsse.Envelope, error) {
	b := c.Principal.Bound
	if b == nil {
		return dsse.Envelope{}, fault.New(fault.Denied, "a decision needs your signature, or a token that is bound to run, gate and plan hash").
			WithHint("POST /api/v1/tokens with \"bound\", and decide with that token")
	}
	gate, hash := work.StepID(q.Gate), work.Digest(q.PlanHash)
	if gate == "" {
		gate = b.Gate
	}
	if hash == "" {
		hash = b.PlanHash
	}
	switch {
	case b.Run != run.ID || b.Gate != gate:
		return dsse.Envelope{}, fault.New(fault.Denied, "the token is bound to another decision")
	case b.PlanHash != run.PlanHash || hash != run.PlanHash:
		return dsse.Envelope{}, fault.New(fault.PlanMismatch, "the plan of the run is %s", run.PlanHash)
	case q.Reason == "":
		return dsse.Envelope{}, fault.New(fault.Invalid, "a decision needs a reason")
	}
	key, err := s.signer(sp, c.Principal, keyring.Approve)
	if err != nil {
		return dsse.Envelope{}, err
	}
	if q.Decision == "" {
		q.Decision = "approved"
	}
	return sp.Control.Sign(r.Context(), control.Answer{
		Tenant: c.Tenant, Run: *run, Gate: gate, PlanHash: hash, Decision: q.Decision, Reason: q.Reason, Ticket: q.Ticket, By: key,
	})
}

// replyRun answers with a run as it stands now.
func (s *service) replyRun(w http.ResponseWriter, r *http.Request, c *httpapi.Call, id work.RunID) error {
	run, err := s.Store.Run(r.Context(), c.Tenant, string(id))
	if err != nil {
		return err
	}
	out, err := toRun(&run)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) control(verb string) handler {
	return func(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
		run, err := s.run(r, c)
		if err != nil {
			return err
		}
		var q api.ControlRequest
		if err := httpapi.Read(r, &q); err != nil {
			return err
		}
		if q.Reason == "" {
			q.Reason = c.Principal.Reason
		}
		sp, err := s.Space(r.Context(), c.Tenant)
		if err != nil {
			return err
		}
		actor := work.Actor{Name: c.Principal.Subject, Reason: q.Reason, Ticket: c.Principal.Ticket}
		if err := sp.Control.Control(r.Context(), c.Tenant, run.ID, verb, actor); err != nil {
			return err
		}
		return s.replyRun(w, r, c, run.ID)
	}
}

func (s *service) rerun(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, q, sp, err := s.again(r, c)
	if err != nil {
		return err
	}
	if q.Source != nil || len(q.From) > 0 || len(q.Inputs) > 0 || len(q.Request) > 0 {
		return fault.New(fault.Invalid, "a rerun takes the plan as it is").WithHint("retry takes another pack, other inputs or steps")
	}
	sub, err := s.submission(sp, c, q.Note, q.RunToken, q.Labels)
	if err != nil {
		return err
	}
	answer := answerRetry(&run, &control.Carry{})
	c.Answers(answer)
	made, err := sp.Control.Rerun(r.Context(), run, sub)
	if err != nil {
		return err
	}
	return answer(w, []store.Submitted{{Run: made}})
}

func (s *service) again(r *http.Request, c *httpapi.Call) (work.Run, api.RetryRequest, *Space, error) {
	var q api.RetryRequest
	run, err := s.run(r, c)
	if err != nil {
		return run, q, nil, err
	}
	if err := httpapi.Read(r, &q); err != nil {
		return run, q, nil, err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	return run, q, sp, err
}

func (s *service) retry(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, q, sp, err := s.again(r, c)
	if err != nil {
		return err
	}
	built, err := sp.Control.Stored(r.Context(), run)
	if err != nil {
		return err
	}
	next := &planned{built: built}
	if q.Source != nil {
		if next, err = s.plan(r.Context(), c, api.PlanRequest{PackSource: *q.Source, Inputs: q.Inputs}); err != nil {
			return err
		}
		defer next.close()
	} else if len(q.Inputs) > 0 {
		return fault.New(fault.Invalid, "changed inputs need the pack").WithHint("give the source, too")
	}
	if len(q.Request) > 0 {
		return s.retrySigned(w, r, c, sp, &run, q, next)
	}
	sub, err := s.submission(sp, c, q.Note, q.RunToken, q.Labels)
	if err != nil {
		return err
	}
	sub.Built, sub.Files = next.built, next.files
	carry, err := sp.Control.CarryEnded(r.Context(), run, sub.Built, q.From)
	if err != nil {
		return err
	}
	answer := answerRetry(&run, &carry)
	c.Answers(answer)
	made, err := sp.Control.RetryCarrying(r.Context(), run, sub, carry)
	if err != nil {
		return err
	}
	return answer(w, []store.Submitted{{Run: made}})
}

func (s *service) retrySigned(w http.ResponseWriter, r *http.Request, c *httpapi.Call, sp *Space, run *work.Run, q api.RetryRequest, next *planned) error {
	envelope, err := dsse.Decode(q.Request)
	if err != nil {
		return err
	}
	carry, err := sp.Control.CarryEnded(r.Context(), *run, next.built, q.From)
	if err != nil {
		return err
	}
	answer := answerRetry(run, &carry)
	c.Answers(answer)
	made, err := sp.Control.Accept(r.Context(), control.Signed{
		Tenant: c.Tenant, Built: next.built, Files: next.files, Request: envelope, Labels: q.Labels, Trace: control.TraceOf(run, c.Trace),
		RetryOf: run.ID, Carried: carry.Carried,
	})
	if err != nil {
		return err
	}
	return answer(w, []store.Submitted{{Run: made}})
}

// answerRetry tells which run has been made of another one, and what of that is in it.
func answerRetry(run *work.Run, carry *control.Carry) func(http.ResponseWriter, []store.Submitted) error {
	return func(w http.ResponseWriter, made []store.Submitted) error {
		next := &made[0].Run
		out := api.RetryReply{SubmitReply: submitted(next), RetryOf: string(run.ID), Carried: []string{}, Again: words(carry.Again)}
		for _, x := range carry.Carried {
			out.Carried = append(out.Carried, string(x.Step))
		}
		slices.Sort(out.Carried)
		w.Header().Set("Location", runs+"/"+string(next.ID))
		return httpapi.Reply(w, http.StatusCreated, out)
	}
}

func (s *service) acknowledge(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	if !run.State.Terminal() {
		return fault.New(fault.Conflict, "run %s has not ended", run.Name)
	}
	if err := s.Store.Acknowledge(r.Context(), c.Tenant, run.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
