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
	return out, c.get(ctx, "/api/v1/flow", nil, &out)
}

// ControlFlow holds something back or lets it go on.
func (c *Client) ControlFlow(ctx context.Context, q api.FlowControl) (api.Flow, error) {
	var out api.Flow
	return out, c.post(ctx, "/api/v1/flow/control", q, &out)
}

// LimitFlow changes a limit. It takes a reason and a ticket.
func (c *Client) LimitFlow(ctx context.Context, q api.FlowLimit, reason, ticket string) (api.Flow, error) {
	var out api.Flow
	return out, c.do(ctx, request{method: http.MethodPost, path: "/api/v1/flow/limit", body: q, reason: reason, ticket: ticket}, &out)
}

// Why says why a run stands where it stands.
func (c *Client) Why(ctx context.Context, run work.RunID) (api.Why, error) {
	var out api.Why
	return out, c.get(ctx, at(run, "why"), nil, &out)
}

// Retention returns how long runs stay, and the legal holds.
func (c *Client) Retention(ctx context.Context) (api.Retention, error) {
	var out api.Retention
	return out, c.get(ctx, "/api/v1/retention", nil, &out)
}

// SetRetention sets how long runs stay.
func (c *Client) SetRetention(ctx context.Context, q api.RetentionPolicy) (api.Retention, error) {
	var out api.Retention
	return out, c.post(ctx, "/api/v1/retention", q, &out)
}

// Hold sets or releases a legal hold.
func (c *Client) Hold(ctx context.Context, q api.HoldRequest) (api.Retention, error) {
	var out api.Retention
	return out, c.post(ctx, "/api/v1/retention/holds", q, &out)
}

// Expired lists runs that the policy lets go.
func (c *Client) Expired(ctx context.Context) (api.ExpiredRuns, error) {
	var out api.ExpiredRuns
	return out, c.get(ctx, "/api/v1/retention/expired", nil, &out)
}

// Erased lists runs that were deleted.
func (c *Client) Erased(ctx context.Context) (api.ErasedRuns, error) {
	var out api.ErasedRuns
	return out, c.get(ctx, "/api/v1/retention/erased", nil, &out)
}
