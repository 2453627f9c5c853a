package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/pem"
	"regexp"
	"slices"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Usage is what a key is trusted for.
type Usage string

// The usages.
const (
	Submit  Usage = "submit"  // runs, by a person or a machine account
	Approve Usage = "approve" // at gates, by a person
	Attest  Usage = "attest"  // what a run did, by the service
	Log     Usage = "log"     // checkpoints of the ledger; signs nothing else
	Publish Usage = "publish" // packs, by their author
	Worker  Usage = "worker"  // results
	RootKey Usage = "root"    // trust roots that travel as signed files
)

// Usages lists every usage, sorted.
func Usages() []Usage { return []Usage{Approve, Attest, Log, Publish, RootKey, Submit, Worker} }

// Algorithm names a kind of key.
type Algorithm string

// The algorithms: Ed25519 for people and logs, ECDSA P-256 for attestations, which every outside tool verifies. Signatures with
// secp256k1 are verified for those who have such keys; none are made.
const (
	Ed25519        Algorithm = "ed25519"
	ECDSAP256      Algorithm = "ecdsa-p256"
	ECDSASecp256k1 Algorithm = "ecdsa-secp256k1"
)

// Key is a public key and what it is trusted for.
type Key struct {
	ID        string      `json:"id"` // lower-case hexadecimal SHA-256 of the DER SubjectPublicKeyInfo
	Name      string      `json:"name"`
	Usage     []Usage     `json:"usage"` // sorted
	Algorithm Algorithm   `json:"algorithm"`
	Public    string      `json:"public"` // PEM
	NotBefore work.Time   `json:"notBefore"`
	NotAfter  work.Time   `json:"notAfter,omitzero"` // zero: no end is planned
	Revoked   *Revocation `json:"revoked,omitempty"`
}

// Revocation ends the trust in a key.
type Revocation struct {
	At     work.Time        `json:"at"`
	Reason RevocationReason `json:"reason"`
	Note   string           `json:"note,omitempty"`
}

// RevocationReason decides what becomes of earlier signatures.
type RevocationReason string

// The reasons.
const (
	Superseded  RevocationReason = "superseded"  // nobody else had it: what it signed before stays valid
	Compromised RevocationReason = "compromised" // what it signed before is valid only where the time is proved by another key
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// NewKey describes a public key that is trusted from notBefore on. Error: fault.Invalid.
func NewKey(name string, pub crypto.PublicKey, usage []Usage, notBefore work.Time) (Key, error) {
	id, err := dsse.NewKey(pub)
	if err != nil {
		return Key{}, err
	}
	der, err := dsse.MarshalPublic(pub)
	if err != nil {
		return Key{}, fault.Wrap(fault.Invalid, err, "encode the public key of %s", name)
	}
	usage = slices.Compact(slices.Sorted(slices.Values(usage)))
	k := Key{
		ID: id.ID, Name: name, Usage: usage, Algorithm: algorithm(pub), NotBefore: notBefore,
		Public: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
	return k, k.check()
}

func algorithm(pub crypto.PublicKey) Algorithm {
	switch pub.(type) {
	case ed25519.PublicKey:
		return Ed25519
	case *ecdsa.PublicKey:
		return ECDSAP256
	case dsse.Secp256k1:
		return ECDSASecp256k1
	default:
		return ""
	}
}

// ParsePublic reads a PEM "PUBLIC KEY" and nothing else. Error: fault.Invalid.
func ParsePublic(text []byte) (crypto.PublicKey, error) {
	der, err := onePEM(text, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	return dsse.ParsePublic(der)
}

func onePEM(text []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(rest) > 0 || len(block.Headers) > 0 {
		return nil, fault.New(fault.Invalid, "expected one PEM block %q and nothing else", kind)
	}
	return block.Bytes, nil
}

// Verifier returns the key in the form that envelopes are verified with. Error: fault.Invalid.
func (k Key) Verifier() (dsse.Key, error) {
	pub, err := ParsePublic([]byte(k.Public))
	if err != nil {
		return dsse.Key{}, err
	}
	return dsse.NewKey(pub)
}

// May reports whether the key is trusted for the usage.
func (k Key) May(u Usage) bool { return slices.Contains(k.Usage, u) }

// check holds a key to its form: whoever reads it finds one meaning.
func (k Key) check() error {
	if !nameForm.MatchString(k.Name) {
		return fault.New(fault.Invalid, "the name %q of a key is not 1 to 64 letters, digits, dots, dashes, underscores or @", k.Name)
	}
	if len(k.Usage) == 0 || !slices.IsSorted(k.Usage) || len(slices.Compact(slices.Clone(k.Usage))) != len(k.Usage) {
		return fault.New(fault.Invalid, "the key of %s needs usages, sorted and each once", k.Name)
	}
	for _, u := range k.Usage {
		if !slices.Contains(Usages(), u) {
			return fault.New(fault.Invalid, "%q is no usage of a key; the usages are %v", u, Usages())
		}
	}
	if k.May(Log) && (len(k.Usage) > 1 || k.Algorithm != Ed25519) {
		return fault.New(fault.Invalid, "the key of a log is Ed25519 and has no other usage")
	}
	v, err := k.Verifier()
	if err != nil {
		return err
	}
	again, err := dsse.MarshalPublic(v.Public)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the public key of %s", k.Name)
	}
	switch {
	case v.ID != k.ID:
		return fault.New(fault.Invalid, "the id of the key of %s is not the digest of its public key", k.Name)
	case k.Algorithm != algorithm(v.Public):
		return fault.New(fault.Invalid, "the key of %s is not %s", k.Name, k.Algorithm)
	case k.Public != string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: again})):
		return fault.New(fault.Invalid, "the public key of %s is not in the usual form of PEM", k.Name)
	case k.NotAfter != 0 && k.NotAfter < k.NotBefore:
		return fault.New(fault.Invalid, "the key of %s ends before it begins", k.Name)
	case k.Revoked != nil && k.Revoked.Reason != Superseded && k.Revoked.Reason != Compromised:
		return fault.New(fault.Invalid, "%q is no reason to revoke a key; the reasons are superseded and compromised", k.Revoked.Reason)
	case k.Revoked != nil && k.Revoked.At == 0:
		return fault.New(fault.Invalid, "the revocation of the key of %s has no time", k.Name)
	default:
		return nil
	}
}
