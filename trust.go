package orrery

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"orrery.example/orrery/api"
)

// Trust is the trust root of a worker: the keys of those whose runs it takes. The zero value trusts nobody.
type Trust struct{ keys []trusted }

type trusted struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Usage     []string `json:"usage"`
	Public    string   `json:"public"`
	NotBefore string   `json:"notBefore"`
	NotAfter  string   `json:"notAfter"`
	Revoked   *struct {
		At     string `json:"at"`
		Reason string `json:"reason"`
	} `json:"revoked"`

	key any
}

// ParseTrust reads a keyring file, as "orrery keys" keeps it. Keys of kinds that the standard library does not know are passed over.
func ParseTrust(raw []byte) (Trust, error) {
	var doc struct {
		Version string    `json:"version"`
		Keys    []trusted `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Version != "orrery.keyring/v1" {
		return Trust{}, errors.New("this is no keyring of version orrery.keyring/v1")
	}
	var t Trust
	for _, k := range doc.Keys {
		block, _ := pem.Decode([]byte(k.Public))
		if block == nil {
			return Trust{}, fmt.Errorf("the key of %s is no PEM", k.Name)
		}
		if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != k.ID {
			return Trust{}, fmt.Errorf("the id of the key of %s is not its own", k.Name)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil || !slices.Contains(k.Usage, "submit") {
			continue
		}
		k.key = pub
		t.keys = append(t.keys, k)
	}
	return t, nil
}

// signed is a DSSE envelope.
type signed struct {
	Type       string `json:"payloadType"`
	Payload    string `json:"payload"`
	Signatures []struct {
		KeyID string `json:"keyid"`
		Sig   string `json:"sig"`
		Batch *place `json:"batch"`
	} `json:"signatures"`
}

// place is where a request stands among those that were signed at once.
type place struct {
	Index int64    `json:"index"`
	Proof [][]byte `json:"proof"`
	Size  int64    `json:"size"`
}

// message returns what was signed for a document of a batch: the root of the Merkle tree (RFC 6962) over the documents.
func (p *place) message(document []byte) ([]byte, error) {
	i, last, node := p.Index, p.Size-1, sha256.Sum256(append([]byte{0}, document...))
	bad := i < 0 || i > last
	for _, other := range p.Proof {
		if bad = bad || last == 0 || len(other) != sha256.Size; bad {
			break
		}
		if i%2 == 1 || i == last {
			node = sha256.Sum256(slices.Concat([]byte{1}, other, node[:]))
			for i%2 == 0 && i != 0 {
				i, last = i/2, last/2
			}
		} else {
			node = sha256.Sum256(slices.Concat([]byte{1}, node[:], other))
		}
		i, last = i/2, last/2
	}
	if bad || last != 0 {
		return nil, errors.New("the proof that the request is one of a batch does not fit its place")
	}
	return pae(typeBatch, fmt.Appendf(nil, `{"root":"sha256:%x","size":%d,"v":"orrery.batch/v1"}`, node, p.Size)), nil
}

// asked is the request of a run, as far as a worker compares it.
type asked struct {
	Version   string      `json:"v"`
	Tenant    string      `json:"tenant"`
	Run       string      `json:"run"`
	PlanHash  string      `json:"planHash"`
	Pack      api.PackRef `json:"pack"`
	IssuedAt  string      `json:"issuedAt"`
	ExpiresAt string      `json:"expiresAt"`
	Submitter string      `json:"submitter"`
}

// check returns nil when somebody trusted has asked for exactly this. Times compare as text, because they have one form.
func (t Trust) check(raw []byte, tenant string, g *api.WorkerGrant, pack api.PackRef, now time.Time) error {
	if len(raw) == 0 {
		return failure(codeUntrusted, "nobody has signed for the run")
	}
	a, k, err := t.open(raw)
	if err != nil {
		return failure(codeUntrusted, "%v", err)
	}
	switch {
	case a.Submitter != k.Name:
		return failure(codeUntrusted, "the request is by %s, its key is that of %s", a.Submitter, k.Name)
	case a.IssuedAt < k.NotBefore || k.NotAfter != "" && a.IssuedAt > k.NotAfter:
		return failure(codeUntrusted, "the key of %s does not count for a request of %s", k.Name, a.IssuedAt)
	case k.Revoked != nil && (k.Revoked.Reason != "superseded" || a.IssuedAt >= k.Revoked.At):
		return failure(codeUntrusted, "the key of %s is revoked", k.Name)
	case a.Tenant != tenant || a.Run != g.Run:
		return failure(codeUntrusted, "the request is for run %s of %s", a.Run, a.Tenant)
	case a.ExpiresAt != "" && a.ExpiresAt < instant(now):
		return failure(codeUntrusted, "the request expired at %s", a.ExpiresAt)
	case a.PlanHash != g.PlanHash || a.Pack != pack:
		return failure(codePlanMismatch, "%s asked for another plan", a.Submitter)
	}
	return nil
}

// open verifies the signature of a request.
func (t Trust) open(raw []byte) (a asked, k trusted, err error) {
	var e signed
	if err := json.Unmarshal(raw, &e); err != nil || len(e.Signatures) != 1 || e.Type != typeRequest {
		return a, k, errors.New("the request is no envelope with one signature")
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(e.Payload)
	if err != nil {
		return a, k, errors.New("the request cannot be decoded")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(e.Signatures[0].Sig)
	if err != nil {
		return a, k, errors.New("the signature cannot be decoded")
	}
	i := slices.IndexFunc(t.keys, func(k trusted) bool { return k.ID == e.Signatures[0].KeyID })
	if i < 0 {
		return a, k, errors.New("the request is signed by nobody whom this worker trusts")
	}
	k = t.keys[i]
	text := pae(e.Type, payload)
	if b := e.Signatures[0].Batch; b != nil {
		if text, err = b.message(text); err != nil {
			return a, k, err
		}
	}
	if !holds(k.key, text, sig) {
		return a, k, errors.New("the signature of the request does not hold")
	}
	if err := json.Unmarshal(payload, &a); err != nil || a.Version != versionJob {
		return a, k, errors.New("the request is of another version")
	}
	return a, k, nil
}

func holds(key any, text, sig []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		return k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], sig)
	default:
		return false
	}
}
