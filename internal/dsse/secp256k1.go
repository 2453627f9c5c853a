package dsse

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"orrery.example/orrery/internal/fault"
)

// Secp256k1 is a public key on the curve of that name. Its signatures are verified, ECDSA over SHA-256 in ASN.1 DER; none are made.
type Secp256k1 struct{ key *secp256k1.PublicKey }

// NewSecp256k1 reads a point in either of the forms of SEC 1. Error: fault.Invalid.
func NewSecp256k1(point []byte) (Secp256k1, error) {
	key, err := secp256k1.ParsePubKey(point)
	if err != nil {
		return Secp256k1{}, fault.New(fault.Invalid, "this is no point on secp256k1: %v", err)
	}
	return Secp256k1{key}, nil
}

func (k Secp256k1) holds(message, sig []byte) bool {
	if k.key == nil {
		return false
	}
	parsed, err := ecdsa.ParseDERSignature(sig)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(message)
	return parsed.Verify(sum[:], k.key)
}

// subjectPublicKeyInfo is how X.509 writes a public key; the standard library does not know this curve.
type subjectPublicKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	PublicKey asn1.BitString
}

func oidECPublicKey() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} }
func oidSecp256k1() asn1.ObjectIdentifier   { return asn1.ObjectIdentifier{1, 3, 132, 0, 10} }

// MarshalPublic returns the DER SubjectPublicKeyInfo of a key. Error: fault.Invalid for a kind of key that is not supported.
func MarshalPublic(pub crypto.PublicKey) ([]byte, error) {
	k, ok := pub.(Secp256k1)
	if !ok {
		der, err := x509.MarshalPKIXPublicKey(pub)
		return der, fault.Wrap(fault.Invalid, err, "encode the public key")
	}
	if k.key == nil {
		return nil, fault.New(fault.Invalid, "the public key is empty")
	}
	curve, err := asn1.Marshal(oidSecp256k1())
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "encode the public key")
	}
	point := k.key.SerializeUncompressed()
	der, err := asn1.Marshal(subjectPublicKeyInfo{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECPublicKey(), Parameters: asn1.RawValue{FullBytes: curve}},
		PublicKey: asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
	return der, fault.Wrap(fault.Invalid, err, "encode the public key")
}

// ParsePublic reads what MarshalPublic writes. Error: fault.Invalid.
func ParsePublic(der []byte) (crypto.PublicKey, error) {
	var info subjectPublicKeyInfo
	var curve asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(der, &info)
	if err == nil && len(rest) == 0 && info.Algorithm.Algorithm.Equal(oidECPublicKey()) {
		if rest, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &curve); err == nil && len(rest) == 0 && curve.Equal(oidSecp256k1()) {
			return NewSecp256k1(info.PublicKey.RightAlign())
		}
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	return pub, fault.Wrap(fault.Invalid, err, "this is not a public key")
}
