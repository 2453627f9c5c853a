package dsse

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
)

// The limits of an envelope. What comes from people and machines is small; the attestation of a run with very many steps
// is not, and who expects one says so with DecodeUpTo.
const (
	MaxEnvelope   = 1 << 20   // bytes of JSON that Decode takes
	MaxPayload    = 128 << 20 // bytes after base64, for any envelope
	maxSignatures = 16
	maxSignature  = 512 // bytes after base64
	maxType       = 256
	maxKeyID      = 256
)

// Envelope is one signed document. The zero value is not valid. Its JSON is canonical (RFC 8785) when written by this package.
type Envelope struct {
	Type       string
	Signatures []Signature

	payload []byte // reachable through Verify, Signers and Unverified only
}

// Signature is one signature over the PAE of the envelope, or over a batch that the envelope is one of.
type Signature struct {
	KeyID string // which key to try; not authenticated
	Sig   []byte
	Batch *Place // nil for a signature of this document alone
}

// PAE is the text that is signed: the pre-authentication encoding of the type and the payload.
func PAE(payloadType string, payload []byte) []byte {
	out := make([]byte, 0, len(payload)+len(payloadType)+32)
	out = append(out, "DSSEv1 "...)
	out = strconv.AppendInt(out, int64(len(payloadType)), 10)
	out = append(out, ' ')
	out = append(out, payloadType...)
	out = append(out, ' ')
	out = strconv.AppendInt(out, int64(len(payload)), 10)
	out = append(out, ' ')
	return append(out, payload...)
}

// Sign makes an envelope with one signature. sign receives the PAE and returns the signature of the key named by keyID.
// Errors: fault.Invalid for a type or payload beyond the limits, and those of sign.
func Sign(payloadType string, payload []byte, keyID string, sign func(pae []byte) ([]byte, error)) (Envelope, error) {
	if err := signable(payloadType, payload); err != nil {
		return Envelope{}, err
	}
	sig, err := sign(PAE(payloadType, payload))
	if err != nil {
		return Envelope{}, err
	}
	return Envelope{Type: payloadType, Signatures: []Signature{{KeyID: keyID, Sig: sig}}, payload: bytes.Clone(payload)}, nil
}

func signable(payloadType string, payload []byte) error {
	if payloadType == "" || len(payloadType) > maxType || !utf8.ValidString(payloadType) {
		return fault.New(fault.Invalid, "a payload type has 1 to %d bytes of UTF-8", maxType)
	}
	if len(payload) > MaxPayload {
		return fault.New(fault.Invalid, "a payload of %d bytes is above the limit of %d", len(payload), MaxPayload)
	}
	return nil
}

// Join returns the envelope with the signatures that other has beside. Error: fault.Invalid when the two are not of the same document, or
// have more signatures than an envelope may have.
func (e Envelope) Join(other Envelope) (Envelope, error) {
	if e.Type != other.Type || !bytes.Equal(e.payload, other.payload) {
		return Envelope{}, fault.New(fault.Invalid, "the signatures are of two documents")
	}
	out := Envelope{Type: e.Type, Signatures: slices.Clone(e.Signatures), payload: e.payload}
	for _, s := range other.Signatures {
		same := func(o Signature) bool {
			return o.KeyID == s.KeyID && bytes.Equal(o.Sig, s.Sig) && o.Batch.equal(s.Batch)
		}
		if !slices.ContainsFunc(out.Signatures, same) {
			out.Signatures = append(out.Signatures, s)
		}
	}
	if len(out.Signatures) > maxSignatures {
		return Envelope{}, fault.New(fault.Invalid, "there are more than %d signatures", maxSignatures)
	}
	return out, nil
}

// Unverified returns the payload for whoever decides by it whose signature to ask for. Nothing in it may be relied on before Verify or
// Signers. Error: fault.Invalid when the type is another.
func (e Envelope) Unverified(payloadType string) ([]byte, error) {
	if e.Type != payloadType {
		return nil, fault.New(fault.Invalid, "the payload type is %q, expected %q", e.Type, payloadType)
	}
	return bytes.Clone(e.payload), nil
}

// Encode returns the envelope as canonical JSON, without a line break at the end.
func (e Envelope) Encode() []byte {
	out := append(make([]byte, 0, len(e.payload)*4/3+len(e.Type)+256), `{"payload":"`...)
	out = base64.StdEncoding.AppendEncode(out, e.payload)
	out = append(out, `","payloadType":`...)
	out = appendString(out, e.Type)
	out = append(out, `,"signatures":[`...)
	for i, s := range e.Signatures {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '{')
		if s.Batch != nil {
			out = s.Batch.append(out)
		}
		if s.KeyID != "" {
			out = append(out, `"keyid":`...)
			out = appendString(out, s.KeyID)
			out = append(out, ',')
		}
		out = append(out, `"sig":"`...)
		out = base64.StdEncoding.AppendEncode(out, s.Sig)
		out = append(out, `"}`...)
	}
	return append(out, "]}"...)
}

// MarshalJSON is Encode.
func (e Envelope) MarshalJSON() ([]byte, error) { return e.Encode(), nil }

// UnmarshalJSON is Decode.
func (e *Envelope) UnmarshalJSON(data []byte) error {
	d, err := Decode(data)
	*e = d
	return err
}

// appendString writes s as RFC 8785 does.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case strings.IndexByte("\b\t\n\f\r", c) >= 0:
			dst = append(dst, '\\', "btn.fr"[c-'\b'])
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(dst, '"')
}

// Decode reads one envelope and checks its form, not its signatures. Unknown fields are ignored, as the specification
// says. Error: fault.Invalid.
func Decode(raw []byte) (Envelope, error) { return DecodeUpTo(raw, MaxEnvelope) }

// DecodeUpTo is Decode for an envelope of at most limit bytes.
func DecodeUpTo(raw []byte, limit int) (Envelope, error) {
	if len(raw) > limit {
		return Envelope{}, fault.New(fault.Invalid, "an envelope of %d bytes is above the limit of %d", len(raw), limit)
	}
	if !utf8.Valid(raw) {
		return Envelope{}, fault.New(fault.Invalid, "an envelope is UTF-8")
	}
	e, err := decode(raw)
	if err != nil {
		return Envelope{}, fault.Wrap(fault.Invalid, err, "this is not a DSSE envelope")
	}
	return e, nil
}

func decode(raw []byte) (Envelope, error) {
	var (
		e       Envelope
		payload *string
	)
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err := readObject(dec, []string{"payload", "payloadType", "signatures"}, func(field string) error {
		switch field {
		case "payload":
			return readString(dec, &payload)
		case "payloadType":
			var s *string
			err := readString(dec, &s)
			if err == nil {
				e.Type = *s
			}
			return err
		default:
			sigs, err := readSignatures(dec)
			e.Signatures = sigs
			return err
		}
	})
	if err != nil {
		return Envelope{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return Envelope{}, fault.New(fault.Invalid, "there is text after the envelope")
	}
	switch {
	case payload == nil:
		return Envelope{}, fault.New(fault.Invalid, "payload is missing")
	case e.Type == "" || len(e.Type) > maxType:
		return Envelope{}, fault.New(fault.Invalid, "payloadType has 1 to %d bytes", maxType)
	case len(e.Signatures) == 0:
		return Envelope{}, fault.New(fault.Invalid, "there is no signature")
	}
	e.payload, err = readBase64(*payload, MaxPayload)
	return e, err
}

func readSignatures(dec *json.Decoder) ([]Signature, error) {
	if err := expect(dec, '['); err != nil {
		return nil, err
	}
	var sigs []Signature
	for dec.More() {
		if len(sigs) == maxSignatures {
			return nil, fault.New(fault.Invalid, "there are more than %d signatures", maxSignatures)
		}
		var keyid, sig *string
		s := Signature{}
		err := readObject(dec, []string{"batch", "keyid", "sig"}, func(field string) (err error) {
			switch field {
			case "batch":
				s.Batch, err = readPlace(dec)
				return err
			case "keyid":
				return readString(dec, &keyid)
			default:
				return readString(dec, &sig)
			}
		})
		if err != nil {
			return nil, err
		}
		if sig == nil {
			return nil, fault.New(fault.Invalid, "a signature has no sig")
		}
		if keyid != nil {
			s.KeyID = *keyid
		}
		if len(s.KeyID) > maxKeyID {
			return nil, fault.New(fault.Invalid, "a keyid has at most %d bytes", maxKeyID)
		}
		if s.Sig, err = readBase64(*sig, maxSignature); err != nil {
			return nil, err
		}
		sigs = append(sigs, s)
	}
	return sigs, expect(dec, ']')
}

// readObject calls field for every name of known and skips the other fields. encoding/json would take a field twice and
// in any case; two readers could then see two documents.
func readObject(dec *json.Decoder, known []string, field func(name string) error) error {
	if err := expect(dec, '{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if seen[name] {
			return fault.New(fault.Invalid, "the field %q appears twice", name)
		}
		seen[name] = true
		mine := false
		for _, k := range known {
			if k != name && strings.EqualFold(k, name) {
				return fault.New(fault.Invalid, "the field %q differs from %q by case only", name, k)
			}
			mine = mine || k == name
		}
		if !mine {
			var skipped json.RawMessage
			err = dec.Decode(&skipped)
		} else {
			err = field(name)
		}
		if err != nil {
			return err
		}
	}
	return expect(dec, '}')
}

func expect(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if d, ok := t.(json.Delim); !ok || d != want {
		return fault.New(fault.Invalid, "expected %q", want.String())
	}
	return nil
}

func readString(dec *json.Decoder, into **string) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	s, ok := t.(string)
	if !ok {
		return fault.New(fault.Invalid, "expected a string")
	}
	*into = &s
	return nil
}

// readBase64 takes either alphabet of RFC 4648, as the specification demands, and exactly one spelling within it.
func readBase64(s string, limit int) ([]byte, error) {
	if len(s) > base64.StdEncoding.EncodedLen(limit) {
		return nil, fault.New(fault.Invalid, "a field is above its limit of %d bytes", limit)
	}
	if strings.ContainsAny(s, "\r\n") {
		return nil, fault.New(fault.Invalid, "base64 has no line breaks")
	}
	alphabet := base64.StdEncoding
	if strings.ContainsAny(s, "-_") {
		alphabet = base64.URLEncoding
	}
	b, err := alphabet.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fault.New(fault.Invalid, "a field is above its limit of %d bytes", limit)
	}
	return b, nil
}
