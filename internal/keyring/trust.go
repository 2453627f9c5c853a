package keyring

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// TrustVersion is the version of the trust document.
const TrustVersion = "orrery.keyring/v1"

// Trust is a trust root: the public keys somebody trusts, and for what. The zero value trusts nobody. It is a value: the
// methods that change it return another.
type Trust struct {
	Version string `json:"version"`
	Keys    []Key  `json:"keys"` // sorted by name, then id
}

// ParseTrust reads what Encode writes. White space is let pass, so that a person may edit the file. Error: fault.Invalid.
func ParseTrust(raw []byte) (Trust, error) {
	var t Trust
	plain, err := canonical.Transform(raw)
	if err != nil {
		return Trust{}, fault.Wrap(fault.Invalid, err, "this is not a keyring")
	}
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return Trust{}, fault.New(fault.Invalid, "this is not a keyring: %s", err)
	}
	again, err := t.Encode()
	if err != nil {
		return Trust{}, err
	}
	if !bytes.Equal(again, plain) {
		return Trust{}, fault.New(fault.Invalid, "a keyring has its keys sorted by name and id, and fields spelled as in the reference")
	}
	return t, nil
}

// Encode returns the document as canonical JSON. Error: fault.Invalid for a key that breaks the form of keys.
func (t Trust) Encode() ([]byte, error) {
	if t.Version == "" {
		t.Version = TrustVersion
	}
	if t.Version != TrustVersion {
		return nil, fault.New(fault.Invalid, "the keyring has version %q; this program knows %q", t.Version, TrustVersion)
	}
	if t.Keys == nil {
		t.Keys = []Key{}
	}
	t.Keys = slices.SortedFunc(slices.Values(t.Keys), order)
	seen := map[string]bool{}
	for _, k := range t.Keys {
		if err := k.check(); err != nil {
			return nil, err
		}
		if seen[k.ID] {
			return nil, fault.New(fault.Invalid, "the key %.12s stands twice in the keyring", k.ID)
		}
		seen[k.ID] = true
	}
	return canonical.Marshal(t)
}

func order(a, b Key) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }

// Find returns the key with the id.
func (t Trust) Find(id string) (Key, bool) {
	i := slices.IndexFunc(t.Keys, func(k Key) bool { return k.ID == id })
	if i < 0 {
		return Key{}, false
	}
	return t.Keys[i], true
}

// Named returns the keys of a name, the one valid from the latest time first.
func (t Trust) Named(name string) []Key {
	var keys []Key
	for _, k := range t.Keys {
		if k.Name == name {
			keys = append(keys, k)
		}
	}
	slices.SortStableFunc(keys, func(a, b Key) int { return cmp.Compare(b.NotBefore, a.NotBefore) })
	return keys
}

// For returns every key with the usage, whatever its time: a verifier first finds who signed, then judges when.
func (t Trust) For(u Usage) []dsse.Key {
	var keys []dsse.Key
	for _, k := range t.Keys {
		if !k.May(u) {
			continue
		}
		if v, err := k.Verifier(); err == nil && v.ID == k.ID {
			keys = append(keys, v)
		}
	}
	return keys
}

// With returns the trust with one more key. A key that is there already with the same name and usage changes nothing.
// Errors: fault.Conflict when the key is there otherwise, fault.Invalid for one that breaks the form.
func (t Trust) With(k Key) (Trust, error) {
	if err := k.check(); err != nil {
		return t, err
	}
	if old, ok := t.Find(k.ID); ok {
		if old.Name == k.Name && slices.Equal(old.Usage, k.Usage) {
			return t, nil
		}
		return t, fault.New(fault.Conflict, "the key %.12s is already trusted as %s for %v", k.ID, old.Name, old.Usage)
	}
	keys := append(slices.Clone(t.Keys), k)
	slices.SortFunc(keys, order)
	return Trust{Version: TrustVersion, Keys: keys}, nil
}

// Revoke returns the trust with a key revoked. A compromise replaces an earlier revocation as superseded, and its time may
// be moved to an earlier one; nothing makes a revocation weaker. Errors: fault.NotFound, fault.Conflict, fault.Invalid.
func (t Trust) Revoke(id string, r Revocation) (Trust, error) {
	return t.change(id, func(k *Key) error {
		if old := k.Revoked; old != nil {
			stronger := r.Reason == Compromised && (old.Reason == Superseded || r.At < old.At)
			if !stronger {
				return fault.New(fault.Conflict, "the key %.12s of %s is revoked as %s since %s", id, k.Name, old.Reason, old.At)
			}
		}
		k.Revoked = &r
		return nil
	})
}

// Retire returns the trust with an end set to a key: what it signs later does not count. Errors: fault.NotFound,
// fault.Conflict when it ends earlier already, fault.Invalid.
func (t Trust) Retire(id string, notAfter work.Time) (Trust, error) {
	return t.change(id, func(k *Key) error {
		if k.NotAfter != 0 && k.NotAfter < notAfter {
			return fault.New(fault.Conflict, "the key %.12s of %s already ends at %s", id, k.Name, k.NotAfter)
		}
		k.NotAfter = notAfter
		return nil
	})
}

func (t Trust) change(id string, change func(*Key) error) (Trust, error) {
	i := slices.IndexFunc(t.Keys, func(k Key) bool { return k.ID == id })
	if i < 0 {
		return t, fault.New(fault.NotFound, "the keyring has no key %.12s", id)
	}
	keys := slices.Clone(t.Keys)
	if err := change(&keys[i]); err != nil {
		return t, err
	}
	if err := keys[i].check(); err != nil {
		return t, err
	}
	return Trust{Version: TrustVersion, Keys: keys}, nil
}
