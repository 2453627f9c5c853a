package app

import (
	"context"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/oidc"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// callers finds out who holds a token: one that the installation made, or one of an identity provider.
type callers struct {
	own       *identity.Service
	federated *oidc.Service
	sealed    bool // no provider counts
}

// Expect implements httpapi.Identifier.
func (c callers) Expect(token string, tenant work.Tenant) (string, []store.RecordRef) {
	return c.own.Expect(token, tenant) // a token of an identity provider is none of ours
}

// Tenant implements httpapi.Identifier.
func (c callers) Tenant(ctx context.Context, tenant work.Tenant, found store.Found) error {
	return c.own.KnowTenant(ctx, tenant, found)
}

// Principal implements httpapi.Identifier.
func (c callers) Principal(ctx context.Context, token string, found store.Found) (access.Principal, error) {
	if !oidc.Looks(token) {
		return c.own.Principal(ctx, token, found)
	}
	if c.sealed {
		return access.Principal{}, fault.New(fault.Unauthenticated, "this installation is sealed: logins of identity providers do not count").
			WithHint("use a token of this installation: orrery login --token-file FILE")
	}
	p, err := c.federated.Person(ctx, token)
	if err != nil {
		return access.Principal{}, err
	}
	return c.own.Federated(ctx, identity.Foreign{
		External: identity.External{Issuer: p.Issuer, Subject: p.Subject}, Provider: p.Provider,
		Tenant: p.Tenant, Name: p.Account, Roles: p.Roles, Provision: p.Provision,
	})
}

// logins tells clients where people can log in.
func (s *Server) logins() []api.LoginProvider {
	var out []api.LoginProvider
	for _, i := range s.federated.Issuers() {
		out = append(out, api.LoginProvider{
			Name: i.Name, Issuer: i.URL, ClientID: i.ClientID, Scopes: i.Scopes, Seconds: int64(i.Session / time.Second),
		})
	}
	return out
}
