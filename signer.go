package orrery

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"orrery.example/orrery/api"
)

// Signer signs requests and decisions in somebody's name. The server must trust the key for that.
type Signer struct {
	name string
	id   string
	key  crypto.Signer
}

// NewSigner returns the signer of a name with a key: Ed25519 or ECDSA on P-256.
func NewSigner(name string, key crypto.Signer) (*Signer, error) {
	switch k := key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("an ECDSA key is on P-256")
		}
	default:
		return nil, fmt.Errorf("keys are Ed25519 or ECDSA on P-256, not %T", key.Public())
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Signer{name: name, id: hex.EncodeToString(sum[:]), key: key}, nil
}

// envelope signs a document as DSSE.
func (s *Signer) envelope(kind string, document any) (json.RawMessage, error) {
	payload, err := canonical(document)
	if err != nil {
		return nil, err
	}
	text := pae(kind, payload)
	options, digest := crypto.SignerOpts(crypto.Hash(0)), text
	if _, ok := s.key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(text)
		options, digest = crypto.SHA256, sum[:]
	}
	sig, err := s.key.Sign(rand.Reader, digest, options)
	if err != nil {
		return nil, err
	}
	return canonical(map[string]any{
		"payloadType": kind, "payload": base64.StdEncoding.EncodeToString(payload),
		"signatures": []any{map[string]any{"keyid": s.id, "sig": base64.StdEncoding.EncodeToString(sig)}},
	})
}

// pae is what DSSE signs.
func pae(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
}

// canonical returns RFC 8785 for the documents of this package: strings, lists, and objects with names in ASCII.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	// encoding/json escapes two characters for the sake of JavaScript, which RFC 8785 does not.
	return unescape(out), nil
}

func unescape(in []byte) []byte {
	if !bytes.Contains(in, []byte(`\u202`)) {
		return in
	}
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		switch {
		case in[i] != '\\':
			out = append(out, in[i])
		case bytes.HasPrefix(in[i:], []byte(`\u2028`)), bytes.HasPrefix(in[i:], []byte(`\u2029`)):
			out = append(out, 0xe2, 0x80, 0xa8+in[i+5]-'8')
			i += 5
		default:
			out = append(out, in[i], in[i+1])
			i++
		}
	}
	return out
}

// The types of what is signed.
const (
	typeRequest  = "application/vnd.orrery.job+json"
	typeBatch    = "application/vnd.orrery.batch+json"
	versionJob   = "orrery.job/v1"
	typeDecision = "application/vnd.in-toto+json"
)

// request signs for a run of a plan.
func (s *Signer) request(tenant string, r *api.SubmitRequest, p *api.PlanReply) (json.RawMessage, error) {
	var plan struct {
		Pack   api.PackRef     `json:"pack"`
		Inputs json.RawMessage `json:"inputs"`
	}
	if err := json.Unmarshal(p.Plan, &plan); err != nil {
		return nil, fmt.Errorf("the plan cannot be read: %w", err)
	}
	if got := digestOf(p.Plan); got != p.PlanHash {
		return nil, fmt.Errorf("the plan hashes to %s, the server says %s", got, p.PlanHash)
	}
	if len(plan.Inputs) == 0 {
		plan.Inputs = []byte("[]")
	}
	document := map[string]any{
		"v": versionJob, "tenant": tenant, "run": newRunID(), "inputsDigest": digestOf(plan.Inputs), "planHash": p.PlanHash,
		"pack":  map[string]any{"name": plan.Pack.Name, "version": plan.Pack.Version, "digest": plan.Pack.Digest},
		"nonce": newKey(), "issuedAt": instant(time.Now()), "submitter": s.name,
	}
	if r.RunToken != "" {
		document["runToken"] = r.RunToken
	}
	if r.Note != "" {
		document["note"] = r.Note
	}
	return s.envelope(typeRequest, document)
}

// decision signs an answer at a gate.
func (s *Signer) decision(run *api.Run, d Decision) (json.RawMessage, error) {
	hash, said := d.PlanHash, "rejected"
	if hash == "" {
		hash = run.PlanHash
	}
	if d.Approved {
		said = "approved"
	}
	answer := map[string]any{
		"tenant": run.Tenant, "run": run.ID, "gate": d.Gate, "planHash": hash, "decision": said, "reason": d.Reason,
		"decidedAt": instant(time.Now()), "approver": s.name, "nonce": newKey(),
	}
	if d.Ticket != "" {
		answer["ticket"] = d.Ticket
	}
	return s.envelope(typeDecision, map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://orrery.example/attestation/approval/v1", "predicate": answer,
		"subject": []any{map[string]any{"name": "plan.json", "digest": map[string]any{"sha256": strings.TrimPrefix(hash, "sha256:")}}},
	})
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// instant writes a time as the API has it.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

func newKey() string { return rand.Text() }

// newRunID makes an id that sorts by time: "run_" and 26 letters of Crockford's base32 over a UUID of version 7.
func newRunID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return "run_" + base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding).EncodeToString(id[:])
}
