package client

import (
	"context"
	"net/http"
	"net/url"

	"orrery.example/orrery/api"
)

const notifications = "/api/v1/notifications"

// Notifications returns who is told of what.
func (c *Client) Notifications(ctx context.Context) ([]api.Notification, error) {
	return pages[api.Notification](ctx, c, notifications, nil, 0)
}

// CreateNotification makes a notification.
func (c *Client) CreateNotification(ctx context.Context, q api.NotificationRequest) (api.NewNotification, error) {
	var out api.NewNotification
	err := c.post(ctx, notifications, q, &out)
	return out, err
}

// UpdateNotification replaces a notification.
func (c *Client) UpdateNotification(ctx context.Context, id string, q api.NotificationRequest) (api.Notification, error) {
	var out api.Notification
	err := c.do(ctx, request{method: http.MethodPut, path: notifications + "/" + url.PathEscape(id), body: q}, &out)
	return out, err
}

// DeleteNotification removes a notification.
func (c *Client) DeleteNotification(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: notifications + "/" + url.PathEscape(id)}, nil)
}

// TestNotification sends a message to try a notification.
func (c *Client) TestNotification(ctx context.Context, id string) (api.Delivery, error) {
	var out api.Delivery
	err := c.do(ctx, request{method: http.MethodPost, path: notifications + "/" + url.PathEscape(id) + "/test"}, &out)
	return out, err
}

// Deliveries returns what was sent.
func (c *Client) Deliveries(ctx context.Context, id string) ([]api.Delivery, error) {
	return pages[api.Delivery](ctx, c, notifications+"/"+url.PathEscape(id)+"/deliveries", nil, 0)
}

// Redeliver sends the message of a delivery again.
func (c *Client) Redeliver(ctx context.Context, id, delivery string) (api.Delivery, error) {
	var out api.Delivery
	err := c.do(ctx, request{method: http.MethodPost, path: notifications + "/" + url.PathEscape(id) + "/deliveries/" + url.PathEscape(delivery) + "/redeliver"}, &out)
	return out, err
}
