package api

// Incident is something that needs people.
type Incident struct {
	ID           string `json:"id"`
	Cause        string `json:"cause"`             // error-budget, dead-letters, worker-lost, publisher-down or store-down
	Subject      string `json:"subject,omitempty"` // of dead letters the reason of their end, of a publisher the broker
	State        string `json:"state"`             // open, acknowledged or resolved
	Message      string `json:"message"`
	Closes       string `json:"closes"` // the condition under which it is resolved without people
	Opened       string `json:"opened"`
	Seen         string `json:"seen"` // when its cause was there last
	Acknowledged *Actor `json:"acknowledged,omitempty"`
	Resolved     *Actor `json:"resolved,omitempty"`
}

// IncidentList is a page of incidents, oldest first.
type IncidentList struct {
	Items         []Incident `json:"items"`
	NextPageToken string     `json:"next_page_token,omitempty"`
}

// IncidentMode is whether incident mode is on, what decides that, and how fast the error budget is used up.
type IncidentMode struct {
	On     bool           `json:"on"`
	Since  string         `json:"since,omitempty"`
	By     *Actor         `json:"by,omitempty"`
	Until  string         `json:"until,omitempty"` // a person has turned it on until then; without, the burn decides
	Quiet  string         `json:"quiet,omitempty"` // since when the burn is below the reset
	Kept   string         `json:"kept,omitempty"`  // until then nothing is deleted
	Policy IncidentPolicy `json:"policy"`
	Burn   []Burn         `json:"burn"`
}

// IncidentPolicy says when incident mode goes on and off by itself, and what it keeps.
type IncidentPolicy struct {
	Objective   float64 `json:"objective"`       // share of runs that do not fail, 0.5 to 0.9999
	Threshold   float64 `json:"threshold"`       // the burn over an hour that turns incident mode on
	Reset       float64 `json:"reset"`           // below it for the whole cooldown, incident mode goes off
	Cooldown    int     `json:"cooldownMinutes"` // also how long a cause is gone before its incident is resolved
	Retain      int     `json:"retainHours"`     // how long nothing is deleted after incident mode
	DeadLetters int     `json:"deadLetters"`     // of one class that open an incident
}

// Burn is how fast the error budget is used up over a window that ends now: 1 uses it up in its time.
type Burn struct {
	Window string  `json:"window"` // 1h, 6h, 24h or 30d
	Burn   float64 `json:"burn"`
	Ended  int     `json:"ended"` // runs, cancelled ones left out
	Failed int     `json:"failed"`
}

// IncidentModeRequest turns incident mode on for a time, or off.
type IncidentModeRequest struct {
	On      bool   `json:"on"`
	Minutes int    `json:"minutes,omitempty"` // that it stays on
	Reason  string `json:"reason"`
	Ticket  string `json:"ticket,omitempty"`
}
