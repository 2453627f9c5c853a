package evidence

import (
	"context"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// PackVersion is the version of the statement about a pack.
const PackVersion = "orrery.pack-statement/v1"

// PackStatement is what an author signs of a pack: these bytes, under this name and version, are mine. It names no tenant, so that it travels with the
// pack wherever that goes.
type PackStatement struct {
	Version  string       `json:"v"`
	Pack     work.PackRef `json:"pack"`
	Author   string       `json:"author"`
	SignedAt work.Time    `json:"signedAt"`
	Note     string       `json:"note,omitempty"`
}

// SignPack makes the signed document. The author is the signer's name. Errors: fault.Invalid, and those of the signer.
func SignPack(ctx context.Context, s PackStatement, by keyring.Signer) (dsse.Envelope, error) {
	s.Version, s.Author = PackVersion, by.Name()
	return sign(ctx, s, PayloadPack, by)
}

func (s PackStatement) by() (string, work.Time) { return s.Author, s.SignedAt }

func (s PackStatement) check() error {
	if _, err := work.ParseDigest(string(s.Pack.Digest)); err != nil {
		return fault.New(fault.Invalid, "the digest of the pack is wrong: %s", err)
	}
	if s.Version != PackVersion || s.Pack.Name == "" || s.Author == "" || s.SignedAt == 0 {
		return fault.New(fault.Invalid, "the statement about a pack names pack, author and time, and has the version %q", PackVersion)
	}
	return nil
}

// VerifyPack verifies the statement of an author whom the trust root trusts to publish, and returns it with the id of the key. Which pack it is
// about is for the caller to compare.
//
// Errors: fault.Untrusted for an unknown signer or a key that did not count at the claimed time, fault.Unverified for everything else that is
// wrong with it.
func VerifyPack(e dsse.Envelope, trust keyring.Trust, now work.Time) (PackStatement, string, error) {
	return opened[PackStatement](e, PayloadPack, keyring.Publish, trust, now, nil)
}

// Authors returns who, of those whom the trust root trusts to publish, has signed a pack, each once. Statements of others, about others, or that do not hold, do not count, for good
// or bad: anybody can put one beside a pack.
func Authors(statements []dsse.Envelope, pack work.PackRef, trust keyring.Trust, now work.Time) []string {
	var out []string
	seen := map[string]bool{}
	for _, e := range statements {
		s, _, err := VerifyPack(e, trust, now)
		if err == nil && s.Pack == pack && !seen[s.Author] {
			out, seen[s.Author] = append(out, s.Author), true
		}
	}
	return out
}
