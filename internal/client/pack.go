package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/work"
)

// Packs returns the packs of the tenant by digest.
func (c *Client) Packs(ctx context.Context) ([]api.Pack, error) {
	return pages[api.Pack](ctx, c, "/api/v1/packs", nil, 0)
}

// Pack returns a pack by name@version or digest.
func (c *Client) Pack(ctx context.Context, ref string) (api.Pack, error) {
	var out api.Pack
	err := c.get(ctx, "/api/v1/packs/"+url.PathEscape(ref), nil, &out)
	return out, err
}

// PackSignatures returns what authors have signed of a pack.
func (c *Client) PackSignatures(ctx context.Context, digest string) ([]api.PackSignature, error) {
	var out api.PackSignatureList
	err := c.get(ctx, "/api/v1/packs/"+url.PathEscape(digest)+"/signatures", nil, &out)
	return out.Items, err
}

// SignPack keeps what an author has signed of a pack.
func (c *Client) SignPack(ctx context.Context, digest work.Digest, signed []byte) (api.PackSignature, error) {
	var out api.PackSignature
	err := c.post(ctx, "/api/v1/packs/"+url.PathEscape(string(digest))+"/signatures", json.RawMessage(signed), &out)
	return out, err
}

// RunRules returns the rules of the tenant about whose signatures may run what.
func (c *Client) RunRules(ctx context.Context) (api.RunRules, error) {
	var out api.RunRules
	err := c.get(ctx, "/api/v1/run-rules", nil, &out)
	return out, err
}

// SetRunRules replaces them.
func (c *Client) SetRunRules(ctx context.Context, q api.RunRules) (api.RunRules, error) {
	var out api.RunRules
	err := c.do(ctx, request{method: http.MethodPut, path: "/api/v1/run-rules", body: q}, &out)
	return out, err
}
