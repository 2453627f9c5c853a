package keyring

import "orrery.example/orrery/internal/work"

// Ring keeps the keys of a tenant: what is trusted, and the private parts of those that are held here. A Folder is one; servers that share
// a database have one in it. It is safe for concurrent use.
type Ring interface {
	// Trust returns the trust root; the zero value when nobody is trusted. Error: fault.Invalid for one that is damaged.
	Trust() (Trust, error)

	// Generate makes a key, keeps its private part and trusts its public part. A name may have several keys. Error: fault.Invalid.
	Generate(name string, a Algorithm, usage []Usage, now work.Time) (*Private, error)

	// Load returns the private key to sign with at the time now: of those of the name that have the usage and are valid, the newest that
	// is held. Errors: fault.NotFound, fault.Denied, fault.Invalid.
	Load(name string, u Usage, now work.Time) (*Private, error)

	// Held returns the keys whose private part is held, in the order of the trust root.
	Held() ([]Key, error)

	// Import trusts the public key of somebody else, a PEM. Errors: those of NewKey and Trust.With.
	Import(name string, public []byte, usage []Usage, now work.Time) (Key, error)

	// Revoke ends the trust in a key. Errors: those of Trust.Revoke.
	Revoke(id string, r Revocation) error
}
