// Package jwt is the compact form of a decision: a token of the type orrery-approval+jwt, by which a person decides at one gate of one
// run of one plan; bytes in, verdict out.
package jwt

import (
	"encoding/json"

	"github.com/go-jose/go-jose/v4"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Type is the type in the header: no other token does for a decision, and a decision for no other token.
const Type = "orrery-approval+jwt"

// The bounds of a token: of its bytes, and of its time in seconds, from its issue to its end and between two clocks.
const (
	maxToken = 16 << 10
	MaxLife  = 600
	Skew     = 60
)

// Approval is what a token says. Other claims are let pass.
type Approval struct {
	Run      work.RunID  `json:"pack_run_id"`
	Gate     work.StepID `json:"pack_gate_id"`
	PlanHash work.Digest `json:"pack_plan_hash"`
	Decision string      `json:"decision"` // approved or rejected
	Reason   string      `json:"reason"`
	Ticket   string      `json:"ticket,omitempty"`
	Tenant   work.Tenant `json:"tenant,omitempty"` // the run's, where it is said
	Approver string      `json:"sub"`              // whose key signs
	ID       string      `json:"jti"`              // 16 to 128 characters, never used twice by one key
	Issued   int64       `json:"iat"`              // seconds since 1970, as the two below
	Expires  int64       `json:"exp"`
}

// IssuedAt is when the person decided, as they claim.
func (a Approval) IssuedAt() work.Time { return work.Time(a.Issued * 1_000_000) }

// SignedBy is the end of the second in which the person signed: keys begin and end in between.
func (a Approval) SignedBy() work.Time { return a.IssuedAt() + 999_999 }

// Counts reports whether a token may be used at a time. Error: fault.Unverified.
func (a Approval) Counts(at work.Time) error {
	second := int64(at) / 1_000_000
	switch {
	case a.Issued <= 0 || a.Expires <= a.Issued || a.Expires-a.Issued > MaxLife:
		return fault.New(fault.Unverified, "an approval token counts for up to %d seconds, said by iat and exp", MaxLife)
	case second < a.Issued-Skew:
		return fault.New(fault.Unverified, "the approval token is of the future, %s", a.IssuedAt())
	case second >= a.Expires+Skew:
		return fault.New(fault.Unverified, "the approval token expired at %s", work.Time(a.Expires*1_000_000))
	default:
		return nil
	}
}

// Verify checks the form of a token and its signature by one of keys, which its kid names, and returns what it says and which key that
// was. Whether it counts now, and for whom, is for the caller. Errors: fault.Untrusted for a key that is not among keys, fault.Unverified.
func Verify(token string, keys []dsse.Key) (Approval, string, error) {
	var a Approval
	if len(token) > maxToken {
		return a, "", fault.New(fault.Unverified, "an approval token has at most %d bytes", maxToken)
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil || len(signed.Signatures) != 1 {
		return a, "", fault.New(fault.Unverified, "this is no approval token that is signed with EdDSA or ES256")
	}
	header := signed.Signatures[0].Protected
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != Type {
		return a, "", fault.New(fault.Unverified, "the type of an approval token is %s, not %q", Type, typ)
	}
	for _, k := range keys {
		if header.KeyID != k.ID {
			continue
		}
		payload, err := signed.Verify(k.Public)
		if err != nil {
			return a, "", fault.New(fault.Unverified, "the signature of the approval token does not hold")
		}
		plain, err := canonical.Transform(payload) // one meaning: no member twice, no fractions
		if err == nil {
			err = json.Unmarshal(plain, &a)
		}
		if err != nil {
			return a, "", fault.New(fault.Unverified, "the claims of the approval token cannot be read: %v", err)
		}
		return a, k.ID, a.check()
	}
	return a, "", fault.New(fault.Untrusted, "the approval token is signed by the key %.12q, which may not approve here", header.KeyID).
		WithHint("kid is the id of the key in the keyring: orrery keys list")
}

func (a Approval) check() error {
	if _, err := work.ParseDigest(string(a.PlanHash)); err != nil {
		return fault.New(fault.Unverified, "pack_plan_hash: %v", err)
	}
	switch {
	case a.Run == "" || a.Gate == "" || a.Approver == "" || a.Reason == "":
		return fault.New(fault.Unverified, "an approval token has the claims pack_run_id, pack_gate_id, pack_plan_hash, sub and reason")
	case a.Decision != "approved" && a.Decision != "rejected":
		return fault.New(fault.Unverified, "the claim decision is approved or rejected, not %q", a.Decision)
	case len(a.ID) < 16 || len(a.ID) > 128:
		return fault.New(fault.Unverified, "the claim jti has 16 to 128 characters")
	default:
		return nil
	}
}

// Sign makes a token. sign gets the text and returns the Ed25519 signature of the key. Errors: fault.Unverified for one that would
// not count, and those of sign.
func Sign(a Approval, key dsse.Key, sign func(text []byte) ([]byte, error)) (string, error) {
	if err := a.check(); err != nil {
		return "", err
	}
	payload, err := canonical.Marshal(a)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.EdDSA, Key: opaque{key, sign}}, (&jose.SignerOptions{}).WithType(Type),
	)
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "sign a token")
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// opaque is a key that lies elsewhere.
type opaque struct {
	key  dsse.Key
	sign func(text []byte) ([]byte, error)
}

// Public implements jose.OpaqueSigner.
func (o opaque) Public() *jose.JSONWebKey {
	return &jose.JSONWebKey{KeyID: o.key.ID, Key: o.key.Public}
}

// Algs implements jose.OpaqueSigner.
func (o opaque) Algs() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.EdDSA} }

// SignPayload implements jose.OpaqueSigner.
func (o opaque) SignPayload(text []byte, _ jose.SignatureAlgorithm) ([]byte, error) {
	return o.sign(text)
}
