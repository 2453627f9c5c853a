package keyring

import (
	"bytes"
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// RootType is the payload type of a signed trust root, and RootVersion the version of its document.
const (
	RootType    = "application/vnd.orrery.trust-root+json"
	RootVersion = "orrery.trust-root/v1"
)

// MaxRoot is how many bytes a signed trust root has at most.
const MaxRoot = dsse.MaxEnvelope

// Root is a trust root that travels: a keyring with a number and an end, signed by some of its own keys with the usage root. Who holds
// one takes the next from anybody, because only those keys could have made it: whoever hands it on can neither change it nor put an
// older one in its place, and can withhold a newer one only until this one ends.
type Root struct {
	Version   string    `json:"version"`
	Number    int64     `json:"number"` // 1, 2, 3, … without a gap
	IssuedAt  work.Time `json:"issuedAt"`
	ExpiresAt work.Time `json:"expiresAt"`
	Threshold int       `json:"threshold"` // how many keys with the usage root sign this one and the next
	Keyring   Trust     `json:"keyring"`
}

// NextRoot is the document that follows prev (the zero Root for the first), not signed yet. Error: fault.Invalid when the keyring has
// fewer keys of the usage root than the threshold, or the end does not come after the beginning.
func NextRoot(prev Root, t Trust, threshold int, now, expires work.Time) (Root, error) {
	r := Root{Version: RootVersion, Number: prev.Number + 1, IssuedAt: now, ExpiresAt: expires, Threshold: threshold, Keyring: t}
	return r, r.check()
}

// Sign makes the signed file with one signature. Errors: fault.Denied for a key without the usage root, those of Signer.
func (r Root) Sign(key *Private) (dsse.Envelope, error) {
	if !key.Key.May(RootKey) {
		return dsse.Envelope{}, fault.New(fault.Denied, "the key of %s is not for trust roots", key.Key.Name)
	}
	if err := r.check(); err != nil {
		return dsse.Envelope{}, err
	}
	raw, err := canonical.Marshal(r)
	if err != nil {
		return dsse.Envelope{}, err
	}
	return dsse.Sign(RootType, raw, key.Key.ID, key.sign)
}

func (r Root) check() error {
	switch {
	case r.Version != RootVersion:
		return fault.New(fault.Invalid, "the trust root has version %q; this program knows %q", r.Version, RootVersion)
	case r.Number < 1:
		return fault.New(fault.Invalid, "trust roots are numbered from 1 on, not %d", r.Number)
	case r.ExpiresAt <= r.IssuedAt:
		return fault.New(fault.Invalid, "the trust root ends at %s, before it begins", r.ExpiresAt)
	case r.Threshold < 1 || r.Threshold > len(r.signers()):
		return fault.New(fault.Invalid, "%d keys must sign the trust root, and its keyring has %d with the usage %s", r.Threshold, len(r.signers()), RootKey).
			WithHint("orrery keys generate NAME --usage root")
	}
	_, err := r.Keyring.Encode()
	return err
}

// signers are the keys of the root that count when it was issued. A key that is revoked by the root itself does not.
func (r Root) signers() []dsse.Key {
	var out []dsse.Key
	for _, k := range r.Keyring.For(RootKey) {
		if own, _ := r.Keyring.Find(k.ID); Judge(own, Moment{At: r.IssuedAt}, r.IssuedAt).Counts() {
			out = append(out, k)
		}
	}
	return out
}

// OpenRoot reads the root that somebody pins: a signed file that enough of its own keys have signed. That it is the right one is the
// word of whoever handed it over. Errors: fault.Invalid for what is none, fault.Unverified when too few have signed.
func OpenRoot(raw []byte) (Root, error) {
	r, e, err := readRoot(raw)
	if err != nil {
		return Root{}, err
	}
	return r, r.signedBy(e, r)
}

// Accept reads the root that follows r directly, from anybody. Enough keys of r and enough of its own have signed it. Errors:
// fault.Invalid for what is none, fault.Conflict for another number than the next, fault.Unverified when too few have signed.
func (r Root) Accept(raw []byte) (Root, error) {
	next, e, err := readRoot(raw)
	if err != nil {
		return Root{}, err
	}
	if next.Number != r.Number+1 {
		return Root{}, fault.New(fault.Conflict, "trust root %d does not follow %d", next.Number, r.Number)
	}
	if err := next.signedBy(e, r); err != nil {
		return Root{}, err
	}
	return next, next.signedBy(e, next)
}

// signedBy returns nil when enough keys of by have signed r.
func (r Root) signedBy(e dsse.Envelope, by Root) error {
	_, ids, err := dsse.Signers(e, RootType, by.signers())
	if err != nil {
		return err
	}
	if len(ids) < by.Threshold {
		return fault.New(fault.Unverified, "trust root %d has %d signatures of the keys of root %d, and needs %d", r.Number, len(ids), by.Number, by.Threshold)
	}
	return nil
}

// Missing says how many signatures a file still needs, by its own keys and by those of prev (the zero Root for none).
// Error: fault.Invalid for what is no trust root.
func Missing(raw []byte, prev Root) (own, before int, err error) {
	r, e, err := readRoot(raw)
	if err != nil {
		return 0, 0, err
	}
	for _, c := range []struct {
		by    Root
		lacks *int
	}{{r, &own}, {prev, &before}} {
		_, ids, err := dsse.Signers(e, RootType, c.by.signers())
		if err != nil {
			return 0, 0, err
		}
		*c.lacks = max(0, c.by.Threshold-len(ids))
	}
	return own, before, nil
}

// CosignRoot adds a signature to a file. Errors: fault.Invalid, fault.Denied, those of Signer.
func CosignRoot(raw []byte, key *Private) (dsse.Envelope, error) {
	r, e, err := readRoot(raw)
	if err != nil {
		return dsse.Envelope{}, err
	}
	mine, err := r.Sign(key)
	if err != nil {
		return dsse.Envelope{}, err
	}
	return e.Join(mine)
}

// Current returns nil while the root has not ended. Error: fault.Unavailable, because a newer one mends it.
func (r Root) Current(now work.Time) error {
	if now <= r.ExpiresAt {
		return nil
	}
	return fault.New(fault.Unavailable, "trust root %d ended at %s", r.Number, r.ExpiresAt).WithHint("get the newer one from those who sign it")
}

// ReadRoot reads what a signed file says without asking who signed it. Error: fault.Invalid.
func ReadRoot(raw []byte) (Root, error) {
	r, _, err := readRoot(raw)
	return r, err
}

func readRoot(raw []byte) (Root, dsse.Envelope, error) {
	e, err := dsse.Decode(raw)
	if err != nil {
		return Root{}, e, err
	}
	payload, err := e.Unverified(RootType)
	if err != nil {
		return Root{}, e, err
	}
	plain, err := canonical.Transform(payload)
	if err != nil || !bytes.Equal(plain, payload) {
		return Root{}, e, fault.New(fault.Invalid, "a trust root is canonical JSON")
	}
	var r Root
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return Root{}, e, fault.New(fault.Invalid, "this is not a trust root: %s", err)
	}
	if err := r.check(); err != nil {
		return Root{}, e, err
	}
	again, err := canonical.Marshal(r)
	if err != nil || !bytes.Equal(again, payload) {
		return Root{}, e, fault.New(fault.Invalid, "a trust root has its keys sorted by name and id, and fields spelled as in the reference")
	}
	return r, e, nil
}

// ParseTrustFile reads a trust root in either form: a keyring, or a signed trust root, which must hold under its own keys.
// Errors: fault.Invalid, fault.Unverified.
func ParseTrustFile(raw []byte) (Trust, error) {
	if !SignedRoot(raw) {
		return ParseTrust(raw)
	}
	r, err := OpenRoot(bytes.TrimSpace(raw))
	return r.Keyring, err
}

// SignedRoot reports whether a file has the form of a signed trust root, rather than that of a keyring.
func SignedRoot(raw []byte) bool {
	e, err := dsse.Decode(bytes.TrimSpace(raw))
	return err == nil && e.Type == RootType
}
