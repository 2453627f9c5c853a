package identity

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// ticketLife is how long a ticket waits to be used, in microseconds.
const ticketLife work.Time = 30 * 1_000_000

// Ticket makes a ticket with which its holder may once, soon, follow what happens in a tenant: for browsers, which cannot send a token along
// with a WebSocket. It gives the right to read and no other.
func (s *Service) Ticket(ctx context.Context, by access.Principal, tenant work.Tenant) (ticket string, expires work.Time, err error) {
	ticket, expires = rand.Text(), s.Now()+ticketLife
	by.Tenant, by.Scopes, by.Bound = tenant, []access.Scope{access.PacksRead}, nil
	change, err := put(store.Record{Tenant: store.Installation, Kind: kindTicket, ID: hashOf(ticket), Expires: expires}, by)
	if err != nil {
		return "", 0, err
	}
	return ticket, expires, s.Records.Change(ctx, change)
}

// Redeem returns who a ticket stands for and ends it. Error: fault.Unauthenticated.
func (s *Service) Redeem(ctx context.Context, ticket string) (access.Principal, error) {
	refused := fault.New(fault.Unauthenticated, "the ticket is not known, was used or has expired").WithHint("ask for a new ticket")
	r, err := s.Records.Record(ctx, store.Installation, kindTicket, hashOf(ticket))
	if fault.CodeOf(err) == fault.NotFound {
		return access.Principal{}, refused
	}
	if err != nil {
		return access.Principal{}, err
	}
	var p access.Principal
	if err := json.Unmarshal(r.Doc, &p); err != nil {
		return p, fault.Wrap(fault.Internal, err, "a ticket")
	}
	err = s.Records.Change(ctx, store.RecordChange{Record: r, Delete: true})
	if fault.CodeOf(err) == fault.Conflict { // somebody was faster
		return access.Principal{}, refused
	}
	if err != nil {
		return access.Principal{}, err
	}
	return p, s.Holds(ctx, p)
}

// Holds returns nil while the token that a principal came with counts, and for a login of an identity provider while his account does. A
// principal of a certificate is not judged here. Error: fault.Unauthenticated.
func (s *Service) Holds(ctx context.Context, p access.Principal) error {
	refused := fault.New(fault.Unauthenticated, "the token has expired or was revoked")
	if strings.HasPrefix(p.TokenID, federatedToken) {
		return s.enabled(ctx, p.Tenant, p.Subject, refused)
	}
	k, _, err := s.kept(ctx, p.TokenID, nil)
	if fault.CodeOf(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if k.Revoked != 0 || k.Expires != 0 && k.Expires <= s.Now() {
		return refused
	}
	return s.enabled(ctx, k.Tenant, k.Account, refused)
}

// enabled returns the refusal for an account that is disabled or gone.
func (s *Service) enabled(ctx context.Context, tenant work.Tenant, account string, refused error) error {
	a, _, err := s.account(ctx, tenant, account, nil)
	if fault.CodeOf(err) == fault.NotFound || err == nil && a.Disabled {
		return refused
	}
	return err
}
