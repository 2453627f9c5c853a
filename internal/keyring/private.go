package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Signer signs documents with one key, wherever that key lies.
type Signer interface {
	// KeyID returns the id of the key.
	KeyID() string
	// Name returns whose key it is.
	Name() string
	// Sign returns an envelope with one signature. Errors: fault.Unavailable when the key cannot be reached,
	// fault.Denied when it must not sign documents.
	Sign(ctx context.Context, payloadType string, payload []byte) (dsse.Envelope, error)
}

// Private is a private key in memory. It implements Signer.
type Private struct {
	Key Key

	signer crypto.Signer
}

// Generate makes a new key from the system's randomness. Error: fault.Invalid.
func Generate(name string, a Algorithm, usage []Usage, notBefore work.Time) (*Private, error) {
	var (
		s   crypto.Signer
		err error
	)
	switch a {
	case Ed25519:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	case ECDSAP256:
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return nil, fault.New(fault.Invalid, "%q is no algorithm; there are %s and %s", a, Ed25519, ECDSAP256)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "generate a key for %s", name)
	}
	k, err := NewKey(name, s.Public(), usage, notBefore)
	if err != nil {
		return nil, err
	}
	return &Private{Key: k, signer: s}, nil
}

// ParsePrivate reads a PKCS#8 PEM. Error: fault.Invalid, also when it is not the private part of k.
func ParsePrivate(text []byte, k Key) (*Private, error) {
	der, err := onePEM(text, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the private key of %s is damaged", k.Name)
	}
	s, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.Invalid, "the private key of %s cannot sign", k.Name)
	}
	id, err := dsse.NewKey(s.Public())
	if err != nil {
		return nil, err
	}
	if id.ID != k.ID {
		return nil, fault.New(fault.Invalid, "this private key is %.12s, not %.12s of %s", id.ID, k.ID, k.Name)
	}
	return &Private{Key: k, signer: s}, nil
}

// PEM returns the key as PKCS#8. It is a secret.
func (p *Private) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.signer)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "encode the key of %s", p.Key.Name)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// KeyID returns the id of the key.
func (p *Private) KeyID() string { return p.Key.ID }

// Name returns whose key it is.
func (p *Private) Name() string { return p.Key.Name }

// Sign implements Signer. The signature is a function of the key and the document, for ECDSA by RFC 6979: signing a
// document twice gives the same bytes. Error: fault.Denied for the key of a log.
func (p *Private) Sign(_ context.Context, payloadType string, payload []byte) (dsse.Envelope, error) {
	if p.Key.May(Log) {
		return dsse.Envelope{}, fault.New(fault.Denied, "the key of a log signs checkpoints only")
	}
	return dsse.Sign(payloadType, payload, p.Key.ID, p.sign)
}

// SignToken signs the text of a JWT with EdDSA. No such text is that of an envelope. Error: fault.Denied for a key that is not a person's to
// approve with.
func (p *Private) SignToken(text []byte) ([]byte, error) {
	if !p.Key.May(Approve) || p.Key.Algorithm != Ed25519 {
		return nil, fault.New(fault.Denied, "the key of %s is not an Ed25519 key to approve with", p.Key.Name)
	}
	return p.sign(text)
}

// SignCheckpoint signs the text of a checkpoint. Error: fault.Denied for any key but that of a log.
func (p *Private) SignCheckpoint(text []byte) ([]byte, error) {
	if !p.Key.May(Log) {
		return nil, fault.New(fault.Denied, "the key of %s is not for checkpoints", p.Key.Name)
	}
	return p.sign(text)
}

// LogKey returns the public key of a log. Error: fault.Invalid for any other key.
func (k Key) LogKey() (ed25519.PublicKey, error) {
	v, err := k.Verifier()
	if err != nil {
		return nil, err
	}
	pub, ok := v.Public.(ed25519.PublicKey)
	if !ok || !k.May(Log) {
		return nil, fault.New(fault.Invalid, "the key of %s is not for checkpoints", k.Name)
	}
	return pub, nil
}

func (p *Private) sign(message []byte) ([]byte, error) {
	if p.Key.Algorithm == Ed25519 {
		return p.signer.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return p.signer.Sign(nil, sum[:], crypto.SHA256)
}
