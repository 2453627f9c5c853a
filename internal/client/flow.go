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
