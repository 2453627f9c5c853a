package app

import (
	"context"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/oidc"
)

// callers finds out who holds a token: one that the installation made, or one of an identity provider.
type callers struct {
	own       *identity.Service
	federated *oidc.Service
}

// Principal implements httpapi.Identifier.
func (c callers) Principal(ctx context.Context, token string) (access.Principal, error) {
	if !oidc.Looks(token) {
		return c.own.Principal(ctx, token)
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
