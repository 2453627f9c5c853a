package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"orrery.example/orrery/api"
)

// LoginOptions returns how people can log in; no token is needed.
func (c *Client) LoginOptions(ctx context.Context) (api.LoginOptions, error) {
	var out api.LoginOptions
	err := c.get(ctx, "/api/v1/login", nil, &out)
	return out, err
}

// Accounts returns the accounts of the tenant.
func (c *Client) Accounts(ctx context.Context) ([]api.Account, error) {
	return pages[api.Account](ctx, c, "/api/v1/accounts", nil, 0)
}

// CreateAccount makes an account.
func (c *Client) CreateAccount(ctx context.Context, q api.AccountRequest) (api.Account, error) {
	var out api.Account
	err := c.post(ctx, "/api/v1/accounts", q, &out)
	return out, err
}

// Account returns an account.
func (c *Client) Account(ctx context.Context, name string) (api.Account, error) {
	var out api.Account
	err := c.get(ctx, "/api/v1/accounts/"+url.PathEscape(name), nil, &out)
	return out, err
}

// ChangeAccount replaces what can change of an account.
func (c *Client) ChangeAccount(ctx context.Context, name string, q api.AccountRequest) (api.Account, error) {
	var out api.Account
	err := c.do(ctx, request{method: http.MethodPut, path: "/api/v1/accounts/" + url.PathEscape(name), body: q}, &out)
	return out, err
}

// CreateTenant makes a tenant.
func (c *Client) CreateTenant(ctx context.Context, q api.TenantRequest) (api.Tenant, error) {
	var out api.Tenant
	err := c.post(ctx, "/api/v1/tenants", q, &out)
	return out, err
}

// Tokens returns the tokens that the caller may see.
func (c *Client) Tokens(ctx context.Context) ([]api.Token, error) {
	return pages[api.Token](ctx, c, "/api/v1/tokens", nil, 0)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, q api.TokenRequest) (api.NewToken, error) {
	var out api.NewToken
	err := c.post(ctx, "/api/v1/tokens", q, &out)
	return out, err
}

// RevokeToken ends a token at once.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/tokens/" + url.PathEscape(id)}, nil)
}

// PublishTrustRoot gives the tenant its next signed trust root.
func (c *Client) PublishTrustRoot(ctx context.Context, signed []byte) (api.TrustRoot, error) {
	var out api.TrustRoot
	err := c.post(ctx, "/api/v1/trust-roots", json.RawMessage(signed), &out)
	return out, err
}
