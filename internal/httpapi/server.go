package httpapi

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Identifier finds out who holds a token, and which tenants there are. What it will want to know is looked up beforehand, with whatever else
// a request needs, so that all of it is one question to the store; what was not looked up it asks for itself.
type Identifier interface {
	// Expect returns what Principal and Tenant will look for, and the subject of the token as far as that is known, else "". The tenant may be "".
	Expect(token string, tenant work.Tenant) (subject string, refs []store.RecordRef)

	// Principal returns who a token stands for. Error: fault.Unauthenticated for a token that is unknown, expired or revoked.
	Principal(ctx context.Context, token string, found store.Found) (access.Principal, error)

	// Tenant returns nil for a tenant that exists, else fault.NotFound.
	Tenant(ctx context.Context, tenant work.Tenant, found store.Found) error
}

// Tickets opens streams for those who cannot send a token along.
type Tickets interface {
	// Redeem returns who a ticket stands for, once, and in which tenant. Error: fault.Unauthenticated.
	Redeem(ctx context.Context, ticket string) (access.Principal, error)

	// Holds returns nil while the token behind a ticket counts. Error: fault.Unauthenticated.
	Holds(ctx context.Context, p access.Principal) error
}

// Config is what a server needs.
type Config struct {
	Routes   []Route
	Identity Identifier

	// Certificate returns who holds the certificate of a connection; nil when nobody comes with one. Error: fault.Unauthenticated.
	Certificate func(context.Context, *x509.Certificate) (access.Principal, error)

	Tickets Tickets       // nil for none
	Records store.Records // keeps answers that may be asked for again, and audit entries
	Version string
	Rate    float64          // requests a second of one token, 0 for no limit
	Burst   int              // requests at once, 0 for twice Rate
	Now     func() work.Time // nil for the time of the machine
	Log     *slog.Logger

	// Observe hears of a request before it is looked at, with a nil route when there is none, and may put its call into a span of its
	// own. What it returns is called once when the request is through, with the status of the answer, 0 when it broke off. Nil for nobody.
	Observe func(r *http.Request, route *Route, c *Call) func(status int)
}

// Server dispatches requests to routes. It is safe for concurrent use.
type Server struct {
	Config
	mux     *http.ServeMux
	routes  map[string]*Route // by pattern
	callers *buckets
	guesses *buckets

	draining chan struct{}
	drain    sync.Once
}

// New returns a server over the routes of the configuration. Error: fault.Internal for two routes in each other's way.
func New(c Config) (s *Server, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = clock
	}
	if c.Burst <= 0 {
		c.Burst = max(1, int(2*c.Rate))
	}
	s = &Server{Config: c, draining: make(chan struct{}), callers: newBuckets(c.Rate, c.Burst), guesses: newBuckets(guessRate, guessBurst), mux: http.NewServeMux(), routes: map[string]*Route{}}
	defer func() {
		if p := recover(); p != nil { // how net/http reports patterns that conflict
			err = fault.New(fault.Internal, "routes: %v", p)
		}
	}()
	for i := range c.Routes {
		r := &c.Routes[i]
		pattern := r.Method + " " + r.Path
		s.routes[pattern] = r
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) { s.answer(w, req, r) })
	}
	return s, nil
}

// Drain ends streams and makes readiness say no. Requests are answered as before.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, pattern := s.mux.Handler(r)
	escaped := r.URL.EscapedPath()
	if s.routes[pattern] == nil || path.Clean(escaped) != escaped { // net/http would redirect
		s.answer(w, r, nil)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// answer takes a request through everything that all operations share; the route is nil when there is none.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, route *Route) {
	c := &Call{Draining: s.draining}
	c.Trace, c.RequestID = traceOf(r.Header)
	t := &tracked{ResponseWriter: w}
	if s.Observe != nil {
		through := s.Observe(r, route, c)
		defer func() { through(t.status) }()
	}
	h := w.Header()
	h.Set("X-Request-Id", c.RequestID)
	h.Set("X-Orrery-Version", s.Version)
	h.Set("X-Api-Version", "v1")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		s.Log.Error("a request broke", "trace_id", c.RequestID, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		if t.status != 0 {
			t.status = 0
			panic(http.ErrAbortHandler) // the rest of the answer is lost: the client must notice
		}
		s.fail(t, c, fault.New(fault.Internal, "it broke"))
	}()
	if err := s.serve(t, r, route, c); err != nil {
		if statusOf(err) >= http.StatusInternalServerError {
			s.Log.Error("a request failed", "trace_id", c.RequestID, "path", r.URL.Path, "error", err)
		}
		if t.status != 0 {
			t.status = 0
			panic(http.ErrAbortHandler)
		}
		s.fail(t, c, err)
	} else if t.status == 0 {
		t.status = http.StatusOK // an answer without a body
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, route *Route, c *Call) error {
	if route == nil {
		return s.nowhere(r)
	}
	supersede(w.Header(), route)
	if !route.Public {
		if err := s.admit(w, r, route, c); err != nil {
			return err
		}
	}
	limit := route.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !route.Plain {
		return s.mutate(w, r, route, c)
	}
	return route.Handle(w, r, c)
}

const defaultLimit = 1 << 20

// nowhere is the error for a request without an operation.
func (s *Server) nowhere(r *http.Request) error {
	if methods := s.methods(r); len(methods) > 0 {
		e := fault.New(fault.Invalid, "%s is not possible here", r.Method).WithHint("use %s", strings.Join(methods, ", "))
		return &refusal{http.StatusMethodNotAllowed, e}
	}
	return fault.New(fault.NotFound, "there is no operation %s", r.URL.Path)
}

// methods returns what else could be asked of the path.
func (s *Server) methods(r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = m
		if _, pattern := s.mux.Handler(other); s.routes[pattern] != nil {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// who finds out who asks: by the token, and without one by the certificate of the connection. Found is what was looked up for it.
func (s *Server) who(r *http.Request, found store.Found) (access.Principal, error) {
	if s.certified(r) {
		return s.Certificate(r.Context(), r.TLS.PeerCertificates[0])
	}
	if ticket := ticketOf(r); ticket != "" && s.Tickets != nil {
		p, err := s.Tickets.Redeem(r.Context(), ticket)
		if fault.CodeOf(err) == fault.Unauthenticated {
			return p, s.guessed(r, err)
		}
		return p, err
	}
	token, err := bearer(r)
	if err != nil {
		return access.Principal{}, err
	}
	p, err := s.Identity.Principal(r.Context(), token, found)
	if fault.CodeOf(err) == fault.Unauthenticated {
		return p, s.guessed(r, err)
	}
	return p, err
}

func (s *Server) certified(r *http.Request) bool {
	return s.Certificate != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && r.Header.Get("Authorization") == ""
}

// look asks the store at once for all that is known to be needed: who asks, the tenant, and the answer that the request may have had.
func (s *Server) look(r *http.Request, route *Route, c *Call) error {
	token, err := bearer(r)
	if err != nil || s.certified(r) {
		return nil // who asks is found out in another way, or not at all
	}
	subject, refs := s.Identity.Expect(token, c.Tenant)
	if len(refs) == 0 {
		return nil
	}
	if c.Key = r.Header.Get("Idempotency-Key"); c.Key != "" && subject != "" && !route.Plain && r.Method != http.MethodGet {
		refs = append(refs, answerRef(r, homeOf(c), subject, c.Key))
	}
	c.found, err = s.Records.Look(r.Context(), refs...)
	return err
}

// again asks whether a caller who was admitted still would be. A ticket counts once: what it stood for is asked about.
func (s *Server) again(ctx context.Context, r *http.Request, route *Route, c *Call) error {
	p := c.Principal
	if ticketOf(r) == "" {
		var err error
		if p, err = s.who(r.WithContext(ctx), nil); err != nil {
			return err
		}
	} else if err := s.Tickets.Holds(ctx, p); err != nil {
		return err
	}
	return access.Allow(p, c.Tenant, route.Scope)
}

// admit finds out who asks, in which tenant, and whether that is allowed.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, route *Route, c *Call) error {
	tenant, ambiguous := tenantOf(r.Header)
	c.Tenant = tenant
	err := s.look(r, route, c)
	if err != nil {
		return err
	}
	if c.Principal, err = s.who(r, c.found); err != nil {
		return err
	}
	if !route.Plain {
		if err := s.slow(w.Header(), c.Principal.TokenID); err != nil {
			return err
		}
	}
	if ambiguous != nil {
		return ambiguous
	}
	if c.Tenant == "" && ticketOf(r) != "" {
		c.Tenant = c.Principal.Tenant // a browser cannot send the header along
	}
	c.Again = func(ctx context.Context) error { return s.again(ctx, r, route, c) }
	c.Project = r.Header.Get("X-Orrery-Project")
	c.Principal.Reason, c.Principal.Ticket, err = reasonOf(r.Header)
	if err != nil {
		return err
	}
	if c.Tenant == "" {
		if !route.NoTenant {
			return fault.New(fault.TenantRequired, "the request names no tenant").WithHint("send the header %s", TenantHeader)
		}
		c.Tenant = c.Principal.Tenant
		return access.Allow(c.Principal, c.Tenant, route.Scope)
	}
	if err := access.Allow(c.Principal, c.Tenant, route.Scope); err != nil {
		return err
	}
	if err := s.Identity.Tenant(r.Context(), c.Tenant, c.found); err != nil {
		return err
	}
	if access.NeedsTicket(route.Scope) && (c.Principal.Reason == "" || c.Principal.Ticket == "") {
		return fault.New(fault.Invalid, "the scope %s is used with a reason and a ticket only", route.Scope).
			WithHint("send the headers X-Orrery-Reason and X-Orrery-Ticket")
	}
	return nil
}

// fail writes the error envelope.
func (s *Server) fail(w http.ResponseWriter, c *Call, err error) {
	status := statusOf(err)
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="orrery"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		if w.Header().Get("Retry-After") == "" {
			w.Header().Set("Retry-After", "1")
		}
	}
	if e := Reply(w, status, envelope(err, c.RequestID)); e != nil {
		s.Log.Error("an error could not be written", "trace_id", c.RequestID, "error", errors.Join(err, e))
	}
}

// tracked knows whether an answer has begun.
type tracked struct {
	http.ResponseWriter
	status int // 0 until it has
}

// WriteHeader implements http.ResponseWriter.
func (t *tracked) WriteHeader(status int) {
	if t.status == 0 || t.status < http.StatusOK {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (t *tracked) Write(p []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }
