package evidence

import (
	"context"
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/jwt"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// Statement is an in-toto Statement v1.
type Statement[P any] struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     P         `json:"predicate"`
}

// Subject is what a statement is about; the digest decides, the name helps people.
type Subject struct {
	Name   string    `json:"name"`
	Digest DigestSet `json:"digest"`
}

// DigestSet is a digest as in-toto writes it.
type DigestSet struct {
	SHA256 string `json:"sha256"` // 64 hexadecimal digits
}

func digestSet(d work.Digest) DigestSet { return DigestSet{SHA256: d.Hex()} }

// Answer is what a person says at a gate: the predicate of an approval. Everything that bounds what it counts for is in
// it, so that it counts once: for one tenant, run, gate and plan.
type Answer struct {
	Tenant    work.Tenant `json:"tenant"`
	Run       work.RunID  `json:"run"`
	Gate      work.StepID `json:"gate"`
	PlanHash  work.Digest `json:"planHash"`
	Decision  string      `json:"decision"` // approved or rejected
	Reason    string      `json:"reason"`
	Ticket    string      `json:"ticket,omitempty"`
	DecidedAt work.Time   `json:"decidedAt"`
	Approver  string      `json:"approver"`
	Nonce     string      `json:"nonce"`           // 16 to 128 characters, never used twice by one key
	Token     string      `json:"token,omitempty"` // what the person signed, when the statement is by the service that took it
}

// Witness makes the statement of an answer that came as a token. The token is what counts: the service only vouches that it came, so that
// the evidence has one form of approvals. Errors: those of jwt.Verify and of the signer.
func Witness(ctx context.Context, tenant work.Tenant, token string, trust keyring.Trust, by keyring.Signer) (dsse.Envelope, error) {
	said, _, err := jwt.Verify(token, trust.For(keyring.Approve))
	if err != nil {
		return dsse.Envelope{}, err
	}
	if said.Tenant != "" && said.Tenant != tenant {
		return dsse.Envelope{}, fault.New(fault.Unverified, "the approval token is for another tenant")
	}
	return signAnswer(ctx, answerOf(tenant, token, said), by)
}

func answerOf(tenant work.Tenant, token string, said jwt.Approval) Answer {
	return Answer{
		Tenant: tenant, Run: said.Run, Gate: said.Gate, PlanHash: said.PlanHash, Decision: said.Decision, Reason: said.Reason,
		Ticket: said.Ticket, DecidedAt: said.IssuedAt(), Approver: said.Approver, Nonce: said.ID, Token: token,
	}
}

// SignApproval makes the statement of an answer. The approver is the signer's name. Errors: fault.Invalid for an answer
// that leaves something open, and those of the signer.
func SignApproval(ctx context.Context, a Answer, s keyring.Signer) (dsse.Envelope, error) {
	a.Approver = s.Name()
	return signAnswer(ctx, a, s)
}

func signAnswer(ctx context.Context, a Answer, s keyring.Signer) (dsse.Envelope, error) {
	if err := a.check(); err != nil {
		return dsse.Envelope{}, err
	}
	raw, err := canonical.Marshal(Statement[Answer]{
		Type: StatementType, PredicateType: ApprovalPredicate, Predicate: a,
		Subject: []Subject{{Name: PlanFile, Digest: digestSet(a.PlanHash)}},
	})
	if err != nil {
		return dsse.Envelope{}, err
	}
	return s.Sign(ctx, PayloadStatement, raw)
}

func (a Answer) check() error {
	if _, err := work.ParseDigest(string(a.PlanHash)); err != nil {
		return fault.New(fault.Invalid, "an approval names a plan: %s", err)
	}
	switch {
	case a.Tenant == "" || a.Run == "" || a.Gate == "" || a.Approver == "" || a.DecidedAt == 0:
		return fault.New(fault.Invalid, "an approval names its tenant, run, gate, approver and time")
	case a.Decision != "approved" && a.Decision != "rejected":
		return fault.New(fault.Invalid, "a decision is approved or rejected, not %q", a.Decision)
	case len(a.Nonce) < 16 || len(a.Nonce) > 128:
		return fault.New(fault.Invalid, "the nonce of an approval has 16 to 128 characters")
	default:
		return nil
	}
}

// Approval verifies a signed answer: its signature by a key that is trusted to approve, its form, and that it says what
// its signer may say for himself. Whether the run waits for it is for the caller to compare: tenant and run are in Answer.
//
// Errors: fault.Untrusted for an unknown signer or a key that did not count at the claimed time, fault.Unverified for
// everything else that is wrong with it.
func Approval(e dsse.Envelope, trust keyring.Trust, now work.Time) (work.Decision, Answer, error) {
	raw, id, err := dsse.Verify(e, PayloadStatement, trust.For(keyring.Approve))
	witnessed := false
	if fault.CodeOf(err) == fault.Untrusted { // perhaps by the service, about a token
		var none error
		raw, _, none = dsse.Verify(e, PayloadStatement, trust.For(keyring.Attest))
		witnessed = none == nil
	}
	if err != nil && !witnessed {
		return work.Decision{}, Answer{}, err
	}
	var s Statement[Answer]
	if err := strict(raw, &s); err != nil {
		return work.Decision{}, Answer{}, err
	}
	a := s.Predicate
	if err := a.check(); err != nil {
		return work.Decision{}, Answer{}, fault.New(fault.Unverified, "%s", err)
	}
	switch {
	case witnessed && a.Token == "":
		return work.Decision{}, Answer{}, err // the service has nothing to decide
	case !witnessed && a.Token != "":
		return work.Decision{}, Answer{}, fault.New(fault.Unverified, "an approval is signed by the approver, or by the service around a token of the approver")
	}
	signed := a.DecidedAt
	if witnessed {
		said, key, err := jwt.Verify(a.Token, trust.For(keyring.Approve))
		if err != nil {
			return work.Decision{}, Answer{}, err
		}
		if a != answerOf(a.Tenant, a.Token, said) || said.Tenant != "" && said.Tenant != a.Tenant {
			return work.Decision{}, Answer{}, fault.New(fault.Unverified, "the approval says something else than the token in it")
		}
		if err := said.Counts(now); err != nil {
			return work.Decision{}, Answer{}, err
		}
		id, signed = key, said.SignedBy()
	}
	about := []Subject{{Name: PlanFile, Digest: digestSet(a.PlanHash)}}
	if s.Type != StatementType || s.PredicateType != ApprovalPredicate || !slices.Equal(s.Subject, about) {
		return work.Decision{}, Answer{}, fault.New(fault.Unverified, "this is not an approval of plan %s", a.PlanHash.Short())
	}
	if err := judge(trust, id, a.Approver, signed, now); err != nil {
		return work.Decision{}, Answer{}, err
	}
	return work.Decision{
		Gate: a.Gate, Decision: a.Decision, Approver: a.Approver, Key: id, PlanHash: a.PlanHash, Reason: a.Reason,
		Ticket: a.Ticket, DecidedAt: a.DecidedAt, Statement: e.Encode(),
	}, a, nil
}

// strict reads a canonical document whose every field is known: one text, one meaning.
func strict[T any](raw []byte, into *T) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fault.New(fault.Unverified, "the signed document is not of its type: %s", err)
	}
	again, err := canonical.MarshalUpTo(*into, maxDocument)
	if err != nil || string(again) != string(raw) {
		return fault.New(fault.Unverified, "the signed document is not canonical JSON with the fields of its type")
	}
	return nil
}

// judge holds a signer to his name and his key to its time.
func judge(trust keyring.Trust, id, name string, at, now work.Time) error {
	k, ok := trust.Find(id)
	if !ok || k.Name != name {
		return fault.New(fault.Unverified, "the document says it is by %s, but the key is that of %s", name, k.Name)
	}
	if v := keyring.Judge(k, keyring.Moment{At: at}, now); !v.Counts() {
		return fault.New(fault.Untrusted, "the key %.12s of %s does not count for a signature of %s: %s", id, name, at, v)
	}
	return nil
}
