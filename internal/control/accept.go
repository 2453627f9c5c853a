package control

import (
	"context"
	"io/fs"
	"regexp"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Signed is a submission that its author signed elsewhere.
type Signed struct {
	Tenant  work.Tenant
	Built   *plan.Built
	Files   fs.FS // where the files of the plan are, nil when their bytes are known already
	Request dsse.Envelope
	Labels  map[string]string
	Project string
	At      work.Time // not before, 0 for at once
	RetryOf work.RunID
	Carried []work.Carried
	Trace   work.Trace
}

var runIDForm = regexp.MustCompile(`^run_[0-9abcdefghjkmnpqrstvwxyz]{26}$`)

// Accept verifies a signed submission against the plan that was made here, and creates the run. Its author chose the id of the run, so the
// same document cannot make two. Errors: those of evidence.VerifySubmission, fault.PlanMismatch, fault.Invalid, fault.Conflict.
func (s *Service) Accept(ctx context.Context, a Signed) (work.Run, error) {
	out := s.AcceptAll(ctx, []Signed{a})[0]
	return out.Run, out.Err
}

// AcceptAll is Accept for many: what can be created is created in one transaction. Each succeeds or fails by itself.
func (s *Service) AcceptAll(ctx context.Context, all []Signed) []store.Submitted {
	made := make([]prepared, len(all))
	for i := range all {
		var err error
		if made[i], err = s.accept(ctx, all[i]); err != nil {
			made[i].err = err
		}
	}
	return s.create(ctx, made)
}

func (s *Service) accept(ctx context.Context, a Signed) (out prepared, err error) {
	trust, err := s.Trust()
	if err != nil {
		return out, err
	}
	now := s.Now()
	said, key, err := evidence.VerifySubmission(a.Request, trust, now, dsse.Holds)
	if err != nil {
		return out, err
	}
	p := a.Built.Plan
	inputs, err := evidence.InputsDigest(p.Inputs)
	if err != nil {
		return out, err
	}
	switch {
	case said.Tenant != a.Tenant:
		return out, fault.New(fault.Denied, "the submission is signed for another tenant")
	case said.PlanHash != a.Built.Hash:
		return out, fault.New(fault.PlanMismatch, "the submission is signed for plan %s, what was sent makes %s", said.PlanHash.Short(), a.Built.Hash.Short())
	case said.Pack != p.Pack || said.InputsDigest != inputs:
		return out, fault.New(fault.PlanMismatch, "the submission is signed for another pack or other inputs")
	case !runIDForm.MatchString(string(said.Run)):
		return out, fault.New(fault.Invalid, "the author of a signed submission chooses the id of the run: run_ and 26 letters of Crockford's base32")
	case said.ExpiresAt != 0 && said.ExpiresAt <= now:
		return out, fault.New(fault.Conflict, "the submission was to be admitted before %s", said.ExpiresAt)
	}
	if err := s.admit(ctx, a.Tenant, p.Pack, said.Submitter); err != nil {
		return out, err
	}
	sub := Submission{Tenant: a.Tenant, Built: a.Built, Files: a.Files, Carried: a.Carried}
	if err := s.keepFiles(ctx, sub); err != nil {
		return out, err
	}
	out.Run = work.Run{
		Tenant: a.Tenant, ID: said.Run, PlanHash: a.Built.Hash, Pack: p.Pack, Submitter: said.Submitter, SubmitterKey: key,
		Note: said.Note, RunToken: said.RunToken, RetryOf: a.RetryOf, Labels: a.Labels,
		Project: a.Project, NotBefore: a.At,
	}
	out.complete(sub, a.Trace, inputs)
	out.requested(a.Request.Encode())
	return out, out.err
}
