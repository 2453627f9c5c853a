package api

import "encoding/json"

// NotificationRequest says what is told to whom.
type NotificationRequest struct {
	Name     string   `json:"name"`
	Events   []string `json:"events,omitempty"` // run.ended, approval.needed, dead-letter; all of them without
	States   []string `json:"states,omitempty"` // of run.ended; failed and timed-out without
	Packs    []string `json:"packs,omitempty"`  // only runs of these; all without
	Channel  string   `json:"channel"`          // webhook, mail, chat
	URL      string   `json:"url,omitempty"`    // of a webhook or a chat
	To       []string `json:"to,omitempty"`     // of mail
	Disabled bool     `json:"disabled,omitempty"`
}

// Notification is a rule. The address of a chat is a secret and not shown.
type Notification struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Events   []string `json:"events"`
	States   []string `json:"states"`
	Packs    []string `json:"packs"`
	Channel  string   `json:"channel"`
	URL      string   `json:"url,omitempty"`
	To       []string `json:"to,omitempty"`
	Disabled bool     `json:"disabled"`
	Created  string   `json:"created"`
}

// NewNotification is a rule with the secret of its webhook, which is in this answer and nowhere else.
type NewNotification struct {
	Notification
	Secret string `json:"secret,omitempty"`
}

// NotificationList is all rules of a tenant.
type NotificationList struct {
	Items []Notification `json:"items"`
}

// Delivery is one message to one receiver.
type Delivery struct {
	ID       string            `json:"id"`
	Type     string            `json:"type"`
	State    string            `json:"state"` // pending, delivered, failed
	Created  string            `json:"created"`
	Next     string            `json:"next,omitempty"`
	Tries    int               `json:"tries"`
	Attempts []DeliveryAttempt `json:"attempts"` // the last ten
	Body     json.RawMessage   `json:"body"`
}

// DeliveryAttempt is one try.
type DeliveryAttempt struct {
	At      string `json:"at"`
	TookMs  int64  `json:"tookMs"`
	Status  int    `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
	Excerpt string `json:"excerpt,omitempty"`
}

// DeliveryList is a page of deliveries.
type DeliveryList struct {
	Items         []Delivery `json:"items"`
	NextPageToken string     `json:"next_page_token,omitempty"`
}
