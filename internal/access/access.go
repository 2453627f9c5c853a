// Package access decides what a principal may do in a tenant.
//
// There is one list of scopes. Other spellings that clients of earlier systems send are aliases of them, whatever their case.
package access

import (
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Scope is one right.
type Scope string

// The scopes.
const (
	PacksRead    Scope = "packs.read"    // see packs, plans, runs, logs, evidence
	PacksWrite   Scope = "packs.write"   // publish packs
	PacksRun     Scope = "packs.run"     // submit, cancel, retry runs
	PacksApprove Scope = "packs.approve" // decide at gates
	OrchRead     Scope = "orch:read"     // see queues, workers, dead letters
	OrchOperate  Scope = "orch:operate"  // pause, resume, drain, redrive
	OrchQuota    Scope = "orch:quota"    // change limits; demands a reason and a ticket
	OrchBackfill Scope = "orch:backfill" // start backfills; demands a reason and a ticket
	Worker       Scope = "worker"        // claim and report work
	Admin        Scope = "orchestrator:admin"
)

// Scopes lists every scope, sorted.
func Scopes() []Scope {
	return []Scope{OrchBackfill, OrchOperate, OrchQuota, OrchRead, Admin, PacksApprove, PacksRead, PacksRun, PacksWrite, Worker}
}

// ParseScope reads a scope or one of its aliases. Error: fault.Invalid.
func ParseScope(s string) ([]Scope, error) {
	lower := Scope(strings.ToLower(strings.TrimSpace(s)))
	if slices.Contains(Scopes(), lower) {
		return []Scope{lower}, nil
	}
	switch lower {
	case "orchestrator:read", "taskrunner.viewer":
		return []Scope{OrchRead, PacksRead}, nil
	case "orchestrator:write", "taskrunner.operator":
		return []Scope{OrchOperate, PacksRun}, nil
	case "orch:admin", "taskrunner.admin":
		return []Scope{Admin}, nil
	default:
		return nil, fault.New(fault.Invalid, "%q is no scope", s).WithHint("scopes are %v", Scopes())
	}
}

// Principal is who asks: a person, a service or a worker, proved by a token or a certificate.
type Principal struct {
	Subject string      // the name that goes into the audit trail
	Kind    string      // user, service or worker
	Tenant  work.Tenant // the only one it may act in; "" for an administrator of the installation
	Scopes  []Scope
	TokenID string
	Reason  string // given with the request, where an action demands one
	Ticket  string
}

// Allow returns nil when the principal may use the scope in the tenant. Errors: fault.NotFound for another tenant, so that
// its existence does not show; fault.Denied without the scope.
func Allow(p Principal, tenant work.Tenant, need Scope) error {
	if p.Tenant != tenant && (p.Tenant != "" || !slices.Contains(p.Scopes, Admin)) {
		return fault.New(fault.NotFound, "there is no tenant %s", tenant)
	}
	if need == "" || slices.Contains(p.Scopes, need) || slices.Contains(p.Scopes, Admin) && need != Worker {
		return nil
	}
	return fault.New(fault.Denied, "%s lacks the scope %s", p.Subject, need).WithHint("ask an administrator for a token with this scope")
}

// NeedsTicket reports whether a scope is used only with a reason and a ticket.
func NeedsTicket(s Scope) bool { return s == OrchQuota || s == OrchBackfill }
