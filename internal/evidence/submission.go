package evidence

import (
	"context"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// Submission is what a person signs to have a plan executed.
type Submission struct {
	Version      string       `json:"v"`
	Tenant       work.Tenant  `json:"tenant"`
	Run          work.RunID   `json:"run,omitempty"`      // when the submitter chose it
	RunToken     string       `json:"runToken,omitempty"` // the submitter's idempotency token
	Pack         work.PackRef `json:"pack"`
	InputsDigest work.Digest  `json:"inputsDigest"` // InputsDigest of the plan's inputs
	PlanHash     work.Digest  `json:"planHash"`
	Nonce        string       `json:"nonce"` // 16 to 128 characters, never used twice by one key
	IssuedAt     work.Time    `json:"issuedAt"`
	ExpiresAt    work.Time    `json:"expiresAt,omitzero"` // not to be admitted later
	Submitter    string       `json:"submitter"`
	Note         string       `json:"note,omitempty"`
}

// InputsDigest is the digest of a plan's resolved inputs: canonical JSON of the list, empty as [].
func InputsDigest(inputs []work.Input) (work.Digest, error) {
	if inputs == nil {
		inputs = []work.Input{}
	}
	d, _, err := canonical.DigestOf(inputs)
	return d, err
}

// SignSubmission makes the signed document. The submitter is the signer's name. Errors: fault.Invalid for a submission
// that leaves something open, and those of the signer.
func SignSubmission(ctx context.Context, s Submission, by keyring.Signer) (dsse.Envelope, error) {
	s.Version, s.Submitter = JobVersion, by.Name()
	return sign(ctx, s, PayloadJob, by)
}

// sign makes the envelope of a document that leaves nothing open.
func sign(ctx context.Context, s signed, payloadType string, by keyring.Signer) (dsse.Envelope, error) {
	if err := s.check(); err != nil {
		return dsse.Envelope{}, err
	}
	raw, err := canonical.Marshal(s)
	if err != nil {
		return dsse.Envelope{}, err
	}
	return by.Sign(ctx, payloadType, raw)
}

func (s Submission) by() (string, work.Time) { return s.Submitter, s.IssuedAt }

// SubmissionOf returns what somebody is to sign. Error: fault.Invalid for a submission that leaves something open.
func SubmissionOf(s Submission, submitter string) ([]byte, error) {
	s.Version, s.Submitter = JobVersion, submitter
	if err := s.check(); err != nil {
		return nil, err
	}
	return canonical.Marshal(s)
}

// SignSubmissions makes the signed documents of several submissions with one signature. Errors: those of the signer.
func SignSubmissions(ctx context.Context, submissions [][]byte, by keyring.Signer) ([]dsse.Envelope, error) {
	return dsse.SignBatch(PayloadJob, submissions, func(payloadType string, payload []byte) (dsse.Envelope, error) {
		return by.Sign(ctx, payloadType, payload)
	})
}

func (s Submission) check() error {
	for _, d := range []struct {
		what   string
		digest work.Digest
	}{{"plan hash", s.PlanHash}, {"digest of inputs", s.InputsDigest}, {"digest of the pack", s.Pack.Digest}} {
		if _, err := work.ParseDigest(string(d.digest)); err != nil {
			return fault.New(fault.Invalid, "the %s of a submission is wrong: %s", d.what, err)
		}
	}
	switch {
	case s.Version != JobVersion:
		return fault.New(fault.Invalid, "the submission has version %q; this program knows %q", s.Version, JobVersion)
	case s.Tenant == "" || s.Pack.Name == "" || s.Submitter == "" || s.IssuedAt == 0:
		return fault.New(fault.Invalid, "a submission names its tenant, pack, submitter and time")
	case len(s.Nonce) < 16 || len(s.Nonce) > 128:
		return fault.New(fault.Invalid, "the nonce of a submission has 16 to 128 characters")
	case s.ExpiresAt != 0 && s.ExpiresAt <= s.IssuedAt:
		return fault.New(fault.Invalid, "the submission expires before it is issued")
	default:
		return nil
	}
}

// VerifySubmission verifies a signed submission and returns it with the id of the key. Whether it expired, was seen before
// or is about the plan at hand is for the caller to compare. It may be signed alone or in a batch; batch checks signatures of batches and
// is dsse.Holds for who remembers none.
//
// Errors: fault.Untrusted for an unknown signer or a key that did not count at the claimed time, fault.Unverified for
// everything else that is wrong with it.
func VerifySubmission(e dsse.Envelope, trust keyring.Trust, now work.Time, batch dsse.Check) (Submission, string, error) {
	return opened[Submission](e, PayloadJob, keyring.Submit, trust, now, batch)
}
