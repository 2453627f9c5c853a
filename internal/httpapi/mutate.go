package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// mutate runs an operation that changes something: its answer is held back until the audit entry is written and, with an
// Idempotency-Key, the answer is kept.
func (s *Server) mutate(w http.ResponseWriter, r *http.Request, route *Route, c *Call) error {
	body, err := spool(r.Body)
	if err != nil {
		return err
	}
	defer body.close()
	if c.Key = r.Header.Get("Idempotency-Key"); c.Key == "" {
		a, err := s.perform(r, route, c, body)
		if err != nil {
			return err
		}
		a.send(w)
		return nil
	}
	return s.once(w, r, route, c, body)
}

// perform runs the operation and writes its audit entry, unless the store has written it with the change.
func (s *Server) perform(r *http.Request, route *Route, c *Call, body *spooled) (*answer, error) {
	entry := s.entry(r, route, c)
	ctx := store.WithAudit(r.Context(), entry)
	again := r.WithContext(ctx)
	again.Body = body.reader()
	a := newAnswer()
	if err := route.Handle(a, again, c); err != nil {
		return nil, err
	}
	if !entry.Written() {
		// What was done is done; whether the caller has gone meanwhile does not matter.
		if err := s.Records.Change(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (s *Server) entry(r *http.Request, route *Route, c *Call) *store.Audit {
	return &store.Audit{
		Tenant: homeOf(c), Action: route.Name, Actor: c.Principal.Subject, Kind: c.Principal.Kind, Token: c.Principal.TokenID,
		Subject: subjectOf(r, route), Reason: c.Principal.Reason, Ticket: c.Principal.Ticket, Scope: string(route.Scope),
		Project: c.Project, Trace: c.RequestID,
	}
}

// homeOf is where what is kept of a request belongs.
func homeOf(c *Call) work.Tenant {
	if c.Tenant == "" {
		return store.Installation
	}
	return c.Tenant
}

// subjectOf is what an operation is done to: the parameters of its path.
func subjectOf(r *http.Request, route *Route) string {
	var parts []string
	for _, name := range pathParams(route.Path) {
		parts = append(parts, strings.ToValidUTF8(r.PathValue(name), "?"))
	}
	return strings.Join(parts, " ")
}

// pathParams returns the names in braces.
func pathParams(path string) []string {
	var names []string
	for {
		_, rest, ok := strings.Cut(path, "{")
		if !ok {
			return names
		}
		name, after, _ := strings.Cut(rest, "}")
		names = append(names, strings.TrimSuffix(name, "..."))
		path = after
	}
}

// answer holds an answer back.
type answer struct {
	header http.Header
	Status int               `json:"status"`
	Head   map[string]string `json:"head,omitempty"`
	Body   []byte            `json:"body"`
}

func newAnswer() *answer { return &answer{header: http.Header{}, Status: http.StatusOK} }

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.Status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.Body = append(a.Body, p...)
	return len(p), nil
}

// fold takes what belongs to the answer out of its headers, so that it can be kept.
func (a *answer) fold() {
	if a.Head != nil {
		return
	}
	a.Head = map[string]string{}
	for name := range a.header {
		a.Head[name] = a.header.Get(name)
	}
}

// send writes the answer.
func (a *answer) send(w http.ResponseWriter) {
	a.fold()
	for name, value := range a.Head {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.Status)
	_, _ = bytes.NewReader(a.Body).WriteTo(w) // a client that is gone does not mind
}
