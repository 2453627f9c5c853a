package control

import (
	"context"
	"io/fs"
	"regexp"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/work"
)

// Signed is a submission that its author signed elsewhere.
type Signed struct {
	Tenant  work.Tenant
	Built   *plan.Built
	Files   fs.FS // where the files of the plan are, nil when their bytes are known already
	Request dsse.Envelope
	Labels  map[string]string
	RetryOf work.RunID
	Carried []work.Carried
	Trace   work.Trace
}

var runIDForm = regexp.MustCompile(`^run_[0-9abcdefghjkmnpqrstvwxyz]{26}$`)

// Accept verifies a signed submission against the plan that was made here, and creates the run. Its author chose the id of the run, so the
// same document cannot make two. Errors: those of evidence.VerifySubmission, fault.PlanMismatch, fault.Invalid, fault.Conflict.
func (s *Service) Accept(ctx context.Context, a Signed) (work.Run, error) {
	trust, err := s.Trust()
	if err != nil {
		return work.Run{}, err
	}
	now := s.Now()
	said, key, err := evidence.VerifySubmission(a.Request, trust, now)
	if err != nil {
		return work.Run{}, err
	}
	p := a.Built.Plan
	inputs, err := evidence.InputsDigest(p.Inputs)
	if err != nil {
		return work.Run{}, err
	}
	switch {
	case said.Tenant != a.Tenant:
		return work.Run{}, fault.New(fault.Denied, "the submission is signed for another tenant")
	case said.PlanHash != a.Built.Hash:
		return work.Run{}, fault.New(fault.PlanMismatch, "the submission is signed for plan %s, what was sent makes %s", said.PlanHash.Short(), a.Built.Hash.Short())
	case said.Pack != p.Pack || said.InputsDigest != inputs:
		return work.Run{}, fault.New(fault.PlanMismatch, "the submission is signed for another pack or other inputs")
	case !runIDForm.MatchString(string(said.Run)):
		return work.Run{}, fault.New(fault.Invalid, "the author of a signed submission chooses the id of the run: run_ and 26 letters of Crockford's base32")
	case said.ExpiresAt != 0 && said.ExpiresAt <= now:
		return work.Run{}, fault.New(fault.Conflict, "the submission was to be admitted before %s", said.ExpiresAt)
	}
	sub := Submission{Tenant: a.Tenant, Built: a.Built, Files: a.Files, Carried: a.Carried}
	if err := s.keepFiles(ctx, sub); err != nil {
		return work.Run{}, err
	}
	run := work.Run{
		Tenant: a.Tenant, ID: said.Run, PlanHash: a.Built.Hash, Pack: p.Pack, Submitter: said.Submitter, SubmitterKey: key,
		Note: said.Note, RunToken: said.RunToken, RetryOf: a.RetryOf, Labels: a.Labels,
	}
	carry(&run, a.Trace)
	if run.ConcurrencyKey, err = concurrencyKey(p); err != nil {
		return work.Run{}, err
	}
	return s.create(ctx, run, sub, inputs, a.Request.Encode())
}
