package evidence

import (
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// signed is a document that says itself who signs it and when.
type signed interface {
	check() error
	by() (name string, at work.Time)
}

// opened verifies an envelope by a key that is trusted for a usage, and returns the document and the id of the key. Without a batch it
// is a document that nobody signs in batches.
func opened[S signed](e dsse.Envelope, payloadType string, usage keyring.Usage, trust keyring.Trust, now work.Time, batch dsse.Check) (s S, id string, err error) {
	var none S
	raw, id, err := dsse.VerifyMember(e, payloadType, trust.For(usage), batch)
	if err == nil {
		err = strict(raw, &s)
	}
	if err != nil {
		return none, "", err
	}
	if err := s.check(); err != nil {
		return none, "", fault.New(fault.Unverified, "%s", err)
	}
	name, at := s.by()
	if err := judge(trust, id, name, at, now); err != nil {
		return none, "", err
	}
	return s, id, nil
}
