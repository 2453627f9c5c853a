package control

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Witness makes the statement of a decision that came as a token, signed by the service. Errors: fault.Untrusted, fault.Unverified.
func (s *Service) Witness(ctx context.Context, tenant work.Tenant, token string, by keyring.Signer) (dsse.Envelope, error) {
	trust, err := s.Trust()
	if err != nil {
		return dsse.Envelope{}, err
	}
	return evidence.Witness(ctx, tenant, token, trust, by)
}

// nonceKind remembers a nonce of a key, or the jti of its token, for longer than any run waits.
const (
	nonceKind = "nonce"
	nonceLife = 366 * 24 * time.Hour
	nonceTime = 10 * time.Second
)

// useUp sees that nobody decides twice with one nonce, and returns how to give it back when the decision is refused. The same decision may
// come again: whether it counts is the gate's affair. Error: fault.Conflict.
func (s *Service) useUp(tenant work.Tenant, key, nonce string, e dsse.Envelope) (giveBack func(), err error) {
	giveBack = func() {}
	if s.Nonces == nil {
		return giveBack, nil
	}
	// Not in the context of the request: what is noted in the audit stream is the decision.
	ctx, stop := context.WithTimeout(context.Background(), nonceTime)
	defer stop()
	statement, err := json.Marshal(canonical.Digest(e.Encode()))
	if err != nil {
		return giveBack, fault.Wrap(fault.Internal, err, "a nonce")
	}
	r := store.Record{
		Tenant: tenant, Kind: nonceKind, ID: canonical.Digest([]byte(key + "\x00" + nonce)).Hex(), Doc: statement, Expires: s.Now().Add(nonceLife),
	}
	err = s.Nonces.Change(ctx, store.RecordChange{Record: r})
	if err == nil {
		return func() {
			ctx, stop := context.WithTimeout(context.Background(), nonceTime)
			defer stop()
			r.Version = 1
			_ = s.Nonces.Change(ctx, store.RecordChange{Record: r, Delete: true}) // then it stays used up, which harms nobody
		}, nil
	}
	if fault.CodeOf(err) != fault.Conflict {
		return giveBack, err
	}
	earlier, err := s.Nonces.Record(ctx, tenant, nonceKind, r.ID)
	if err == nil && !bytes.Equal(earlier.Doc, statement) {
		err = fault.New(fault.Conflict, "this nonce, or jti, was used for another decision").WithHint("make a new one for each decision")
	}
	return giveBack, err
}
