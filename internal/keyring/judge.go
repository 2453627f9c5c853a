package keyring

import "orrery.example/orrery/internal/work"

// Validity is what the time of a signature means for the trust in it.
type Validity string

// The validities. Valid and ValidAtTime count; the others do not.
const (
	Valid       Validity = "VALID"         // the key is trusted now, and was then
	ValidAtTime Validity = "VALID_AT_TIME" // the key is retired or revoked by now, but was trusted then
	Revoked     Validity = "REVOKED"       // signed at or after the revocation, or with a compromised key without proof of an earlier time
	UnknownTime Validity = "UNKNOWN_TIME"  // it depends on a time that is claimed but not proved
	OutOfTime   Validity = "OUT_OF_TIME"   // signed before the key's time or after it
)

// Counts reports whether a signature of this validity may be relied on.
func (v Validity) Counts() bool { return v == Valid || v == ValidAtTime }

// Moment is when something was signed, as far as is known. The zero value means that nothing is known.
type Moment struct {
	At     work.Time
	Proved bool // by something that another key signed, such as a checkpoint or a timestamp; else At is a claim of the signer's side
}

// Judge says what a signature of k, made at m, is worth to somebody who looks at it at the time now.
//
// A claimed time is good enough for a key that nobody else ever had: retired, or revoked as superseded. For a compromised
// key it is not, because whoever has the key claims what he likes: only a proved time before the compromise counts.
func Judge(k Key, m Moment, now work.Time) Validity {
	if k.Revoked != nil {
		return judgeRevoked(k, m)
	}
	ended := k.NotAfter != 0 && now > k.NotAfter
	switch {
	case m.At == 0 && (ended || now < k.NotBefore):
		return UnknownTime
	case m.At == 0:
		return Valid
	case outside(k, m.At):
		return OutOfTime
	case ended:
		return ValidAtTime
	default:
		return Valid
	}
}

func judgeRevoked(k Key, m Moment) Validity {
	switch {
	case m.At == 0 && k.Revoked.Reason == Superseded:
		return UnknownTime
	case m.At == 0 || m.At >= k.Revoked.At:
		return Revoked
	case outside(k, m.At):
		return OutOfTime
	case k.Revoked.Reason == Compromised && !m.Proved:
		return UnknownTime
	default:
		return ValidAtTime
	}
}

func outside(k Key, at work.Time) bool {
	return at < k.NotBefore || k.NotAfter != 0 && at > k.NotAfter
}
