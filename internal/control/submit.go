package control

import (
	"context"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
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

// create gives runs their names and creates them. A name that is taken costs another try.
func (s *Service) create(ctx context.Context, runs []prepared) []store.Submitted {
	out := make([]store.Submitted, len(runs))
	var left []int
	var ids []string
	for i := range runs {
		if out[i].Err = runs[i].err; out[i].Err == nil {
			left, ids = append(left, i), append(ids, string(runs[i].Run.ID))
		}
	}
	store.About(ctx, strings.Join(ids, " "))
	for attempt := s.firstName(len(runs)); len(left) > 0; attempt++ {
		batch := make([]store.Submission, len(left))
		for at, i := range left {
			runs[i].Run.Name = newName(attempt)
			runs[i].Data.Name = runs[i].Run.Name
			batch[at] = runs[i].Submission
		}
		var again []int
		for at, made := range s.Store.Submit(ctx, batch) {
			i := left[at]
			if out[i] = made; fault.CodeOf(made.Err) == fault.Conflict && attempt < maxNames {
				if _, err := s.Store.Run(ctx, batch[at].Run.Tenant, batch[at].Run.Name); err == nil {
					again = append(again, i) // only the name was taken
				}
			}
		}
		s.tried(attempt, len(again), len(left)-len(again))
		left = again
	}
	return out
}

// most is how many tries for a short name may fail, more than succeed, before no more are made.
const most = 20

// firstName is the attempt to begin with. Where nearly all short names are taken it is not worth the while to try them; and those of many runs
// would meet those that others create at the same moment, whose transactions then fail again and again.
func (s *Service) firstName(runs int) int {
	if runs > 1 || s.crowded.Load() >= most {
		return firstLong
	}
	return 0
}

func (s *Service) tried(attempt, taken, free int) {
	if attempt < firstLong {
		s.crowded.Store(min(max(0, s.crowded.Load()+int32(taken-free)), most))
	}
}
