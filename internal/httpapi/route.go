// Package httpapi serves the HTTP API: it decodes, authenticates, authorises, calls a service, and encodes.
package httpapi

import (
	"net/http"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/work"
)

// Route is one operation: what the server dispatches and what the OpenAPI document says come from this one table.
type Route struct {
	Method    string
	Path      string // with {name} for parameters, as net/http has it
	Name      string // operationId
	Tag       string
	Summary   string
	Scope     access.Scope // "" with Public for nobody in particular
	Public    bool         // answers without a token
	Query     []Param
	Body      any    // a zero value of what is read, nil for none
	Reply     any    // a zero value of what is written, nil for none
	Status    int    // of success; 0 means 200
	Stream    string // media type of a stream instead of Reply, "" for none
	Successor string // path of the route that replaces this one: answers carry Deprecation and Link headers
	Handle    func(w http.ResponseWriter, r *http.Request, c *Call) error
}

// Param is one query parameter.
type Param struct {
	Name, Type, Summary string
	Example             string
}

// Call is a request after its caller is known and allowed.
type Call struct {
	Principal access.Principal
	Tenant    work.Tenant
	RequestID string
}
