package control

import (
	"context"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/evidence"
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
	kept := map[filesOf]bool{}
	for i := range subs {
		made[i] = s.prepare(ctx, &subs[i], kept)
	}
	for i := range subs {
		if made[i].err == nil && made[i].Request == nil {
			sign(ctx, subs, made, i)
		}
	}
	return s.create(ctx, made)
}

// prepared is a run that is about to be created, or why it cannot be.
type prepared struct {
	store.Submission
	asked []byte // what is to be signed
	err   error
}

// filesOf names the files of a plan, to look after them once for all runs of it that are submitted at once.
type filesOf struct {
	tenant work.Tenant
	plan   *work.Plan
}

func (s *Service) prepare(ctx context.Context, sub *Submission, kept map[filesOf]bool) (out prepared) {
	p := sub.Built.Plan
	if out.err = s.admit(ctx, sub.Tenant, p.Pack, sub.By.Name()); out.err != nil {
		return out
	}
	if files := (filesOf{sub.Tenant, p}); !kept[files] || len(sub.Carried) > 0 {
		if out.err = s.keepFiles(ctx, *sub); out.err != nil {
			return out
		}
		kept[files] = true
	}
	asked, err := ask(sub, s.Now())
	if err == nil {
		out.asked, err = evidence.SubmissionOf(asked, sub.By.Name())
	}
	if out.err = err; err != nil {
		return out
	}
	out.Run = work.Run{
		Tenant: sub.Tenant, ID: asked.Run, PlanHash: sub.Built.Hash, Pack: p.Pack, Submitter: sub.By.Name(), SubmitterKey: sub.By.KeyID(),
		Note: sub.Note, RunToken: sub.RunToken, RetryOf: sub.RetryOf, Labels: sub.Labels,
		Project: sub.Project, NotBefore: sub.At,
	}
	out.complete(*sub, sub.Trace, asked.InputsDigest)
	return out
}

// sign signs a submission together with the later ones of the same signer: one signature for all of them.
func sign(ctx context.Context, subs []Submission, made []prepared, first int) {
	by := subs[first].By
	var which []int
	var asked [][]byte
	for i := first; i < len(subs); i++ {
		if other := subs[i].By; made[i].err == nil && other.KeyID() == by.KeyID() && other.Name() == by.Name() {
			which, asked = append(which, i), append(asked, made[i].asked)
		}
	}
	signed, err := evidence.SignSubmissions(ctx, asked, by)
	for at, i := range which {
		if made[i].err = err; err == nil {
			made[i].requested(signed[at].Encode())
		}
	}
}

// requested adds the signed request.
func (p *prepared) requested(request []byte) {
	p.Request, p.Data.Request = request, canonical.Digest(request)
}

// complete adds what follows from the rest.
func (p *prepared) complete(sub Submission, trace work.Trace, inputs work.Digest) {
	run := &p.Run
	carry(run, trace)
	if run.ConcurrencyKey, p.err = concurrencyKey(sub.Built.Plan); p.err != nil {
		return
	}
	p.Canonical = sub.Built.Canonical
	p.Data = work.SubmittedData{
		PlanHash: run.PlanHash, Pack: run.Pack, Submitter: run.Submitter, SubmitterKey: run.SubmitterKey, Note: run.Note,
		RunToken: run.RunToken, InputsHash: inputs, RetryOf: run.RetryOf, Labels: run.Labels,
		TraceParent: run.TraceParent, TraceState: run.TraceState, Baggage: run.Baggage,
		ReplayToken: string(canonical.Digest([]byte(string(inputs) + "\n" + string(run.PlanHash)))),
		Carried:     sub.Carried, Concurrency: run.ConcurrencyKey,
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
