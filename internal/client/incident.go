package client

import (
	"context"
	"net/url"
	"time"

	"orrery.example/orrery/api"
)

const incidents = "/api/v1/incidents"

func ofIncident(id, what string) string { return incidents + "/" + url.PathEscape(id) + what }

// Incidents lists what needs people, oldest first; with all, what is resolved, too.
func (c *Client) Incidents(ctx context.Context, all bool) ([]api.Incident, error) {
	q := url.Values{}
	if all {
		q.Set("all", "true")
	}
	return pages[api.Incident](ctx, c, incidents, q, 0)
}

// Incident returns one.
func (c *Client) Incident(ctx context.Context, id string) (api.Incident, error) {
	var out api.Incident
	err := c.get(ctx, ofIncident(id, ""), nil, &out)
	return out, err
}

// EndIncident acknowledges or resolves one: that is the verb.
func (c *Client) EndIncident(ctx context.Context, id, verb, reason string) (api.Incident, error) {
	var out api.Incident
	err := c.post(ctx, ofIncident(id, "/"+verb), api.ControlRequest{Reason: reason}, &out)
	return out, err
}

// IncidentMode returns whether incident mode is on, and what decides that.
func (c *Client) IncidentMode(ctx context.Context) (api.IncidentMode, error) {
	var out api.IncidentMode
	err := c.get(ctx, "/api/v1/incident-mode", nil, &out)
	return out, err
}

// TurnIncidentMode turns incident mode on for a time; 0 turns it off.
func (c *Client) TurnIncidentMode(ctx context.Context, long time.Duration, reason, ticket string) (api.IncidentMode, error) {
	var out api.IncidentMode
	err := c.post(ctx, "/api/v1/incident-mode", api.IncidentModeRequest{On: long > 0, Minutes: int(long.Minutes()), Reason: reason, Ticket: ticket}, &out)
	return out, err
}

// SetIncidentPolicy says when incident mode goes on and off by itself.
func (c *Client) SetIncidentPolicy(ctx context.Context, p api.IncidentPolicy) (api.IncidentMode, error) {
	var out api.IncidentMode
	err := c.post(ctx, "/api/v1/incident-policy", p, &out)
	return out, err
}
