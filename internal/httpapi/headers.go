package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/work"
)

// TenantHeader names the tenant that a request acts in.
const TenantHeader = "X-Orrery-Tenant"

// tenantHeaders are the spellings that are understood.
func tenantHeaders() []string {
	return []string{TenantHeader, "X-Stella-Tenant", "X-StellaOps-Tenant", "X-Tenant-Id"}
}

// tenantOf reads the tenant, "" when none is named. Error: fault.Invalid for two that disagree.
func tenantOf(h http.Header) (work.Tenant, error) {
	found := ""
	for _, name := range tenantHeaders() {
		for _, v := range h.Values(name) {
			if v = strings.TrimSpace(v); v == "" {
				continue
			}
			if found != "" && found != v {
				return "", fault.New(fault.Invalid, "the request names two tenants").WithHint("send %s only, and once", TenantHeader)
			}
			found = v
		}
	}
	return work.Tenant(found), nil
}

// Bounds of what is written into the audit stream.
const (
	maxReason = 256
	maxTicket = 128
)

// reasonOf reads why somebody does something, in either spelling.
func reasonOf(h http.Header) (reason, ticket string, err error) {
	reason = firstHeader(h, "X-Orrery-Reason", "X-Stella-Operator-Reason", "X-Stella-Reason")
	ticket = firstHeader(h, "X-Orrery-Ticket", "X-Stella-Operator-Ticket", "X-Stella-Ticket")
	if len(reason) > maxReason || len(ticket) > maxTicket || !utf8.ValidString(reason) || !utf8.ValidString(ticket) {
		return "", "", fault.New(fault.Invalid, "a reason has at most %d bytes of UTF-8 and a ticket %d", maxReason, maxTicket)
	}
	return reason, ticket, nil
}

func firstHeader(h http.Header, names ...string) string {
	for _, name := range names {
		if v := strings.TrimSpace(h.Get(name)); v != "" {
			return v
		}
	}
	return ""
}

// bearer returns the token of a request. Error: fault.Unauthenticated.
func bearer(r *http.Request) (string, error) {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(kind, "Bearer") || token == "" {
		return "", fault.New(fault.Unauthenticated, "the request brings no token").WithHint("send the header Authorization: Bearer orr_…")
	}
	return token, nil
}

// TicketProtocol begins the subprotocol that carries a ticket: what a browser can send along with a WebSocket, and what stands in no URL.
const TicketProtocol = "orrery.ticket."

// ticketOf returns the ticket of a request for a WebSocket that brings no token, "" for none.
func ticketOf(r *http.Request) string {
	if r.Header.Get("Authorization") != "" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return ""
	}
	for _, given := range r.Header.Values("Sec-WebSocket-Protocol") {
		for one := range strings.SplitSeq(given, ",") {
			if ticket, ok := strings.CutPrefix(strings.TrimSpace(one), TicketProtocol); ok {
				return ticket
			}
		}
	}
	return ""
}

// traceOf returns the trace of a request, or begins one, with its id.
func traceOf(h http.Header) (t work.Trace, id string) {
	t.Baggage = span.Baggage(strings.Join(h.Values("Baggage"), ","))
	given := h.Get("Traceparent")
	if c, ok := span.Parse(given); ok {
		t.Parent, t.State = given, span.State(strings.Join(h.Values("Tracestate"), ","))
		return t, c.Trace
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	id = hex.EncodeToString(b[:16])
	t.Parent = "00-" + id + "-" + hex.EncodeToString(b[16:]) + "-01"
	return t, id
}

// deprecated is since when superseded routes are, as RFC 9745 writes it (2026-11-01).
const deprecated = "@1793491200"

// supersede tells clients of an old route where to go.
func supersede(h http.Header, route *Route) {
	if route.Successor != "" {
		h.Set("Deprecation", deprecated)
		h.Set("Link", "<"+route.Successor+`>; rel="successor-version"`)
	}
}
