package rest

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// maxRuns is how many runs one request may ask for: their commit must not keep others waiting for long.
const maxRuns = 500

// submitBatch plans all runs before it creates any: when one cannot be planned, none is created.
func (s *service) submitBatch(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.BatchRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if len(q.Runs) == 0 || len(q.Runs) > maxRuns {
		return fault.New(fault.Invalid, "a batch has 1 to %d runs", maxRuns)
	}
	dir, loaded, err := s.open(r.Context(), c, q.PackSource)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	whens, err := whenAll(c, q.Runs)
	if err != nil {
		return err
	}
	plans, err := planAll(loaded, q.Runs)
	if err != nil {
		return err
	}
	answer := func(w http.ResponseWriter, made []store.Submitted) error {
		out := api.BatchReply{Runs: make([]api.BatchEntry, len(made))}
		for i := range made {
			if made[i].Err != nil {
				out.Runs[i].Error = httpapi.Failure(made[i].Err, c)
				continue
			}
			out.Runs[i].SubmitReply = submitted(&made[i].Run)
		}
		return httpapi.Reply(w, http.StatusCreated, out)
	}
	c.Answers(answer)
	made, err := s.createAll(r, c, q.Runs, whens, loaded, plans)
	if err != nil {
		return err
	}
	return answer(w, made)
}

// planAll plans every run of a batch. Runs with the same inputs have one plan.
func planAll(p *pack.Pack, runs []api.BatchRun) ([]*plan.Built, error) {
	out := make([]*plan.Built, len(runs))
	known := map[string]*plan.Built{}
	for i := range runs {
		key, err := json.Marshal(runs[i].Inputs)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "run %d of the batch", i)
		}
		if out[i] = known[string(key)]; out[i] == nil {
			inputs := map[string]plan.InputValue{}
			for name, raw := range runs[i].Inputs {
				inputs[name] = plan.InputValue{JSON: raw}
			}
			if out[i], err = control.Plan(p, inputs); err != nil {
				return nil, err
			}
			known[string(key)] = out[i]
		}
		if want := runs[i].PlanHash; want != "" && want != string(out[i].Hash) {
			return nil, fault.New(fault.PlanMismatch, "the plan of run %d of the batch is %s, not %s", i, out[i].Hash, want)
		}
	}
	return out, nil
}

// when is where a run belongs, and the time before which it does not start.
type when struct {
	project string
	at      work.Time
}

func whenAll(c *httpapi.Call, runs []api.BatchRun) ([]when, error) {
	out := make([]when, len(runs))
	for i := range runs {
		var err error
		if out[i].at, err = optionalTime("notBefore", runs[i].At); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "run %d of the batch", i)
		}
		if out[i].project, err = projectOf(c, runs[i].Project); err != nil {
			return nil, fault.Wrap(fault.CodeOf(err), err, "run %d of the batch", i)
		}
	}
	return out, nil
}

// createAll creates the runs of a batch: those that their author signed, or with the key that the server keeps for the account.
func (s *service) createAll(r *http.Request, c *httpapi.Call, runs []api.BatchRun, whens []when, p *pack.Pack, plans []*plan.Built) ([]store.Submitted, error) {
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return nil, err
	}
	if len(runs[0].Request) > 0 {
		asked := make([]control.Signed, len(runs))
		for i, q := range runs {
			envelope, err := dsse.Decode(q.Request)
			if err != nil {
				return nil, err
			}
			asked[i] = control.Signed{
				Tenant: c.Tenant, Built: plans[i], Files: p.FS, Request: envelope, Labels: q.Labels, Trace: c.Trace,
				Project: whens[i].project, At: whens[i].at,
			}
		}
		return sp.Control.AcceptAll(r.Context(), asked), nil
	}
	shared, err := s.submission(sp, c, "", "", nil)
	if err != nil {
		return nil, err
	}
	asked := make([]control.Submission, len(runs))
	for i, q := range runs {
		if len(q.Request) > 0 {
			return nil, fault.New(fault.Invalid, "either all runs of a batch are signed or none is")
		}
		asked[i] = shared
		asked[i].Built, asked[i].Files, asked[i].Note, asked[i].Labels = plans[i], p.FS, q.Note, q.Labels
		asked[i].Project, asked[i].At = whens[i].project, whens[i].at
		if asked[i].RunToken = q.RunToken; q.RunToken == "" && shared.RunToken != "" {
			asked[i].RunToken = shared.RunToken + "/" + strconv.Itoa(i)
		}
	}
	return sp.Control.SubmitAll(r.Context(), asked), nil
}
