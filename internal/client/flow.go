package client

import (
	"context"
	"net/http"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/work"
)

// Flow returns what is held back, the limits, and what waits and runs.
func (c *Client) Flow(ctx context.Context) (api.Flow, error) {
	var out api.Flow
	err := c.get(ctx, "/api/v1/flow", nil, &out)
	return out, err
}

// ControlFlow holds something back or lets it go on.
func (c *Client) ControlFlow(ctx context.Context, q api.FlowControl) (api.Flow, error) {
	var out api.Flow
	err := c.post(ctx, "/api/v1/flow/control", q, &out)
	return out, err
}

// LimitFlow changes a limit. It takes a reason and a ticket.
func (c *Client) LimitFlow(ctx context.Context, q api.FlowLimit, reason, ticket string) (api.Flow, error) {
	var out api.Flow
	err := c.do(ctx, request{method: http.MethodPost, path: "/api/v1/flow/limit", body: q, reason: reason, ticket: ticket}, &out)
	return out, err
}

// Why says why a run stands where it stands.
func (c *Client) Why(ctx context.Context, run work.RunID) (api.Why, error) {
	var out api.Why
	err := c.get(ctx, at(run, "why"), nil, &out)
	return out, err
}

// Retention returns how long runs stay, and the legal holds.
func (c *Client) Retention(ctx context.Context) (api.Retention, error) {
	var out api.Retention
	err := c.get(ctx, "/api/v1/retention", nil, &out)
	return out, err
}

// SetRetention sets how long runs stay.
func (c *Client) SetRetention(ctx context.Context, q api.RetentionPolicy) (api.Retention, error) {
	var out api.Retention
	err := c.post(ctx, "/api/v1/retention", q, &out)
	return out, err
}

// Hold sets or releases a legal hold.
func (c *Client) Hold(ctx context.Context, q api.HoldRequest) (api.Retention, error) {
	var out api.Retention
	err := c.post(ctx, "/api/v1/retention/holds", q, &out)
	return out, err
}

// Expired lists runs that the policy lets go.
func (c *Client) Expired(ctx context.Context) (api.ExpiredRuns, error) {
	var out api.ExpiredRuns
	err := c.get(ctx, "/api/v1/retention/expired", nil, &out)
	return out, err
}

// Collect removes files that nothing names any more, or says what would go.
func (c *Client) Collect(ctx context.Context, q api.CollectRequest) (api.Collection, error) {
	var out api.Collection
	err := c.post(ctx, "/api/v1/gc", q, &out)
	return out, err
}

// Erased lists runs that were deleted.
func (c *Client) Erased(ctx context.Context) (api.ErasedRuns, error) {
	var out api.ErasedRuns
	err := c.get(ctx, "/api/v1/retention/erased", nil, &out)
	return out, err
}
