// Package api is the wire types of Orrery's HTTP API: what requests and answers say, as JSON.
//
// A field that is here stays as it is for the whole of v1; further fields may join. Readers ignore what they do not know.
package api

// ErrorReply is the body of every answer that is not a success.
type ErrorReply struct {
	Error Error `json:"error"`
}

// Error says what went wrong, where, and what to do about it.
type Error struct {
	Code     string    `json:"code"` // stable, for programs; see docs/reference/exit-codes.md
	Message  string    `json:"message"`
	Hint     string    `json:"hint,omitempty"`
	Where    string    `json:"where,omitempty"` // a place in a file, "pack.yaml:14:15"
	Problems []Problem `json:"problems,omitempty"`
	TraceID  string    `json:"trace_id"` // to find the request in the server's log
}

// Problem is one of several mistakes in a pack.
type Problem struct {
	Message string `json:"message"`
	Where   string `json:"where,omitempty"`
	Hint    string `json:"hint,omitempty"`
}
