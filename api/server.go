package api

// Check is one thing that a server needs, tried.
type Check struct {
	Check  string `json:"check"`
	Result string `json:"result"` // pass, warn or fail
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// CheckList is what a server found.
type CheckList struct {
	Items []Check `json:"items"`
}
