// Package httpapi serves the HTTP API: it decodes, authenticates, authorises, calls a service, and encodes.
//
// Everything that is the same for all operations is here, in the order in which a request meets it: its trace, its route, who
// asks, how often, in which tenant, with which right, how much, and whether it was asked before. The operations themselves are
// routes of other packages (rest, workerapi, live), and one table of them is what the server dispatches by and what the OpenAPI
// document says.
package httpapi

import (
	"context"
	"net/http"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Route is one operation. An operation that changes something (any method but GET and HEAD) takes an Idempotency-Key and leaves an
// entry in the audit stream of its tenant, unless it is Plain.
type Route struct {
	Method  string
	Path    string // with {name} for parameters, as net/http has it
	Name    string // operationId; also the action in the audit stream
	Tag     string
	Summary string

	Scope    access.Scope // the right it needs; "" when any known caller may ask
	Public   bool         // answers without a token and without a tenant
	NoTenant bool         // the tenant header is optional: the operation is about the caller or the installation
	Runs     bool         // makes runs and says with Call.Answers how: with them its answer is kept
	Plain    bool         // a protocol with its own idempotency and no action of a person: neither Idempotency-Key nor audit entry

	Query     []Param
	Headers   []Param
	Body      any    // a zero value of what is read, nil for none
	BodyType  string // media type of a body that is not JSON; Body is nil then
	Limit     int64  // bytes of the body at most, 0 for 1 MiB
	Reply     any    // a zero value of what is written, nil for none
	Status    int    // of success; 0 means 200
	Stream    string // media types of an answer that is not JSON, separated by commas, "" for none
	Successor string // path of the route that replaces this one: answers carry Deprecation and Link headers

	// Handle answers. An error that it returns becomes the error envelope with the status of its fault code; then it must not have written.
	Handle func(w http.ResponseWriter, r *http.Request, c *Call) error
}

// Param is one parameter in the query or a header. Type is string, integer, boolean or "array" of strings (given several times).
type Param struct {
	Name, Type, Summary string
	Example             string
	Required            bool
}

// Call is a request after its caller is known and allowed.
type Call struct {
	Principal access.Principal
	Tenant    work.Tenant
	Project   string
	RequestID string     // the trace id
	Trace     work.Trace // of the caller, or one that begins here
	Key       string     // Idempotency-Key, "" for none

	// Again asks whether the caller may still do this, for answers that go on for long. Errors: as at the start.
	Again func(ctx context.Context) error

	// Draining is closed when the server stops: streams end then, and their clients go on at another server.
	Draining <-chan struct{}

	found   store.Found // what was looked up when the request came
	answers func(render)
}

type render func(w http.ResponseWriter, made []store.Submitted) error

// Answers says how the operation answers when its command has made runs. With an Idempotency-Key the answer is kept in the transaction of the
// runs; the operation writes the same answer itself when the command has returned.
func (c *Call) Answers(how func(w http.ResponseWriter, made []store.Submitted) error) {
	if c.answers != nil {
		c.answers(how)
	}
}
