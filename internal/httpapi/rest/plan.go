package rest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

func (s *service) lint(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.PlanRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	dir, loaded, err := s.open(r.Context(), c, q.PackSource)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = control.Lint(loaded)
	if err != nil && fault.CodeOf(err) != fault.Invalid {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, api.LintReply{Valid: err == nil, Problems: problems(err)})
}

func problems(err error) []api.Problem {
	var all manifest.Problems
	if one := (*fault.Error)(nil); !errors.As(err, &all) && errors.As(err, &one) {
		all = manifest.Problems{one}
	}
	var out []api.Problem
	for _, p := range all {
		out = append(out, api.Problem{Message: p.Message, Where: p.Where, Hint: p.Hint})
	}
	return out
}

func (s *service) planPack(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.PlanRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	p, err := s.plan(r.Context(), c, q)
	if err != nil {
		return err
	}
	defer p.close()
	return httpapi.Reply(w, http.StatusOK, api.PlanReply{PlanHash: string(p.built.Hash), Plan: p.built.Canonical})
}

func (s *service) simulate(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.PlanRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	p, err := s.plan(r.Context(), c, q)
	if err != nil {
		return err
	}
	defer p.close()
	out := api.Simulation{PlanHash: string(p.built.Hash)}
	if out.Steps, err = recastAll[api.Preview](plan.Simulate(p.built.Plan)); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) getPlan(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	raw, err := s.Store.Plan(r.Context(), c.Tenant, digestIn(r.PathValue("planHash")))
	if err != nil {
		return err
	}
	return download(w, r, "application/json", r.PathValue("planHash"), strings.NewReader(string(raw)), int64(len(raw)))
}

// digestIn reads a digest from an address, where it may stand without its algorithm.
func digestIn(text string) work.Digest {
	if !strings.HasPrefix(text, "sha256:") {
		text = "sha256:" + text
	}
	return work.Digest(text)
}

func (s *service) diff(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.DiffRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	var sides [2]*work.Plan
	for i, ref := range []api.PlanRef{q.Before, q.After} {
		p, err := s.side(r.Context(), c, ref)
		if err != nil {
			return err
		}
		sides[i] = p
	}
	var out api.DiffReply
	var err error
	if out.Changes, err = recastAll[api.Change](plan.Diff(sides[0], sides[1])); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) side(ctx context.Context, c *httpapi.Call, ref api.PlanRef) (*work.Plan, error) {
	hash := digestIn(ref.Plan)
	switch {
	case ref.Pack != nil:
		p, err := s.plan(ctx, c, *ref.Pack)
		if err != nil {
			return nil, err
		}
		p.close()
		return p.built.Plan, nil
	case ref.Run != "":
		run, err := s.Store.Run(ctx, c.Tenant, ref.Run)
		if err != nil {
			return nil, err
		}
		hash = run.PlanHash
	case ref.Plan == "":
		return nil, fault.New(fault.Invalid, "each side of a diff is a run, a plan or a pack")
	}
	raw, err := s.Store.Plan(ctx, c.Tenant, hash)
	if err != nil {
		return nil, err
	}
	return plan.Decode(raw)
}
