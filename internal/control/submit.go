package control

import (
	"context"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Submit signs the request, stores the files of the pack and creates the run. Errors: fault.Conflict for a run token that
// was used for another plan.
func (s *Service) Submit(ctx context.Context, sub Submission) (work.Run, error) {
	out := s.SubmitAll(ctx, []Submission{sub})[0]
	return out.Run, out.Err
}

// SubmitAll is Submit for many: what can be created is created in one transaction. Each succeeds or fails by itself.
func (s *Service) SubmitAll(ctx context.Context, subs []Submission) []store.Submitted {
	made := make([]prepared, len(subs))
	for i := range subs {
		made[i] = s.prepare(ctx, subs[i])
	}
	return s.create(ctx, made)
}

// prepared is a run that is about to be created, or why it cannot be.
type prepared struct {
	store.Submission
	err error
}

func (s *Service) prepare(ctx context.Context, sub Submission) (out prepared) {
	p := sub.Built.Plan
	if out.err = s.admit(ctx, sub.Tenant, p.Pack, sub.By.Name()); out.err != nil {
		return out
	}
	if out.err = s.keepFiles(ctx, sub); out.err != nil {
		return out
	}
	id, inputs, envelope, err := Request(ctx, sub, s.Now())
	if out.err = err; err != nil {
		return out
	}
	out.Run = work.Run{
		Tenant: sub.Tenant, ID: id, PlanHash: sub.Built.Hash, Pack: p.Pack, Submitter: sub.By.Name(), SubmitterKey: sub.By.KeyID(),
		Note: sub.Note, RunToken: sub.RunToken, RetryOf: sub.RetryOf, Labels: sub.Labels,
		Project: sub.Project, NotBefore: sub.At,
	}
	out.complete(sub, sub.Trace, inputs, envelope.Encode())
	return out
}

// complete adds what follows from the rest.
func (p *prepared) complete(sub Submission, trace work.Trace, inputs work.Digest, request []byte) {
	run := &p.Run
	carry(run, trace)
	if run.ConcurrencyKey, p.err = concurrencyKey(sub.Built.Plan); p.err != nil {
		return
	}
	p.Canonical, p.Request = sub.Built.Canonical, request
	p.Data = work.SubmittedData{
		PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, SubmitterKey: run.SubmitterKey, Note: run.Note,
		RunToken: run.RunToken, InputsHash: inputs, RetryOf: run.RetryOf, Labels: run.Labels,
		TraceParent: run.TraceParent, TraceState: run.TraceState, Baggage: run.Baggage,
		ReplayToken: string(canonical.Digest([]byte(string(inputs) + "\n" + string(run.PlanHash)))),
		Request:     canonical.Digest(request), Carried: sub.Carried, Concurrency: run.ConcurrencyKey,
	}
}

// create gives runs names to choose from and creates them.
func (s *Service) create(ctx context.Context, runs []prepared) []store.Submitted {
	batch := make([]store.Submission, len(runs))
	var ids []string
	for i := range runs {
		batch[i] = runs[i].Submission
		if batch[i].Refused = runs[i].err; batch[i].Refused != nil {
			continue
		}
		names := newNames(len(runs) == 1)
		batch[i].Run.Name, batch[i].Names = names[0], names[1:]
		ids = append(ids, string(batch[i].Run.ID))
	}
	if len(ids) == 0 {
		out := make([]store.Submitted, len(runs))
		for i := range runs {
			out[i].Err = runs[i].err
		}
		return out
	}
	store.About(ctx, strings.Join(ids, " "))
	return s.Store.Submit(ctx, batch)
}
