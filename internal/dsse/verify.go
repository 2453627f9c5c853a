package dsse

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"orrery.example/orrery/internal/fault"
)

// Key is a public key that a verifier trusts for the purpose at hand.
type Key struct {
	ID     string // lower-case hexadecimal SHA-256 of the DER SubjectPublicKeyInfo
	Public crypto.PublicKey
}

// NewKey names a public key. Error: fault.Invalid for anything but Ed25519, ECDSA P-256 and Secp256k1.
func NewKey(pub crypto.PublicKey) (Key, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return Key{}, fault.New(fault.Invalid, "an Ed25519 key has %d bytes, not %d", ed25519.PublicKeySize, len(k))
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return Key{}, fault.New(fault.Invalid, "an ECDSA key must be on P-256, not %s", k.Curve.Params().Name)
		}
	case Secp256k1:
	default:
		return Key{}, fault.New(fault.Invalid, "keys are Ed25519, ECDSA P-256 or secp256k1, not %T", pub)
	}
	der, err := MarshalPublic(pub)
	if err != nil {
		return Key{}, err
	}
	sum := sha256.Sum256(der)
	return Key{ID: hex.EncodeToString(sum[:]), Public: pub}, nil
}

// Verify checks that the envelope has the given type and exactly one signature, by one of keys, and returns the payload
// and the id of the key that signed it. The signature must be of this document alone: VerifyMember takes those of batches, too.
//
// Errors: fault.Untrusted when none of keys is the one the envelope names, fault.Unverified when the type is another, the
// signatures are not exactly one, or the signature does not hold.
func Verify(e Envelope, payloadType string, keys []Key) (payload []byte, keyID string, err error) {
	return verify(e, payloadType, keys, nil)
}

// verify takes signatures of batches when there is a check for them.
func verify(e Envelope, payloadType string, keys []Key, batch Check) (payload []byte, keyID string, err error) {
	if e.Type != payloadType {
		return nil, "", fault.New(fault.Unverified, "the payload type is %q, expected %q", e.Type, payloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, "", fault.New(fault.Unverified, "the envelope has %d signatures, expected exactly 1", len(e.Signatures))
	}
	sig, check := e.Signatures[0], Check(Holds)
	if sig.Batch != nil {
		if check = batch; check == nil {
			return nil, "", fault.New(fault.Unverified, "the signature is one of a batch; documents of type %q are signed one by one", e.Type)
		}
	}
	message := e.message(&sig)
	if message == nil {
		return nil, "", fault.New(fault.Unverified, "the proof that the document is one of a batch has not the length that its place asks for")
	}
	tried := false
	for _, k := range keys {
		if sig.KeyID != "" && sig.KeyID != k.ID {
			continue
		}
		tried = true
		if check(k, message, sig.Sig) {
			return bytes.Clone(e.payload), k.ID, nil
		}
	}
	if !tried || sig.KeyID == "" {
		return nil, "", fault.New(fault.Untrusted, "signed by %s, which is not among the trusted keys", name(sig.KeyID))
	}
	return nil, "", fault.New(fault.Unverified, "the signature of key %s does not hold", name(sig.KeyID))
}

// Signers returns the payload and which of keys have signed it: each once, in the order of keys. Signatures of others, and of batches, do not
// count, for good or bad. Error: fault.Unverified when the type is another.
func Signers(e Envelope, payloadType string, keys []Key) (payload []byte, keyIDs []string, err error) {
	if e.Type != payloadType {
		return nil, nil, fault.New(fault.Unverified, "the payload type is %q, expected %q", e.Type, payloadType)
	}
	pae := PAE(e.Type, e.payload)
	for _, k := range keys {
		signed := slices.ContainsFunc(e.Signatures, func(s Signature) bool {
			return s.Batch == nil && (s.KeyID == "" || s.KeyID == k.ID) && holds(k.Public, pae, s.Sig)
		})
		if signed && !slices.Contains(keyIDs, k.ID) {
			keyIDs = append(keyIDs, k.ID)
		}
	}
	return bytes.Clone(e.payload), keyIDs, nil
}

// holds reports whether sig is a signature of pub over message: what Verify does with the PAE.
func holds(pub crypto.PublicKey, message, sig []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return false
		}
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case Secp256k1:
		return k.holds(message, sig)
	default:
		return false
	}
}

func name(keyID string) string {
	if keyID == "" {
		return "an unnamed key"
	}
	if len(keyID) > 16 {
		return keyID[:16] + "…"
	}
	return keyID
}
