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
	for _, a := range Aliases() {
		if slices.Contains(a.Names, string(lower)) {
			return slices.Clone(a.Scopes), nil
		}
	}
	return nil, fault.New(fault.Invalid, "%q is no scope", s).WithHint("scopes are %v", Scopes())
}

// Alias is what clients of earlier systems call scopes.
type Alias struct {
	Names  []string
	Scopes []Scope
}

// Aliases lists them.
func Aliases() []Alias {
	return []Alias{
		{[]string{"orchestrator:read", "taskrunner.viewer"}, []Scope{OrchRead, PacksRead}},
		{[]string{"orchestrator:write", "taskrunner.operator"}, []Scope{OrchOperate, PacksRun}},
		{[]string{"orch:admin", "taskrunner.admin"}, []Scope{Admin}},
	}
}

// Principal is who asks: a person, a service or a worker, proved by a token or a certificate.
type Principal struct {
	Subject string      // the name that goes into the audit trail
	Kind    string      // user, service or worker
	Tenant  work.Tenant // the only one it may act in; "" for an account of the installation, which may act in each
	Scopes  []Scope
	TokenID string
	Bound   *Bound // set when the token counts for one decision only
	Reason  string // given with the request, where an action demands one
	Ticket  string
}

// Bound ties a token to one decision, as the claims pack_run_id, pack_gate_id and pack_plan_hash do.
type Bound struct {
	Run      work.RunID  `json:"pack_run_id"`
	Gate     work.StepID `json:"pack_gate_id"`
	PlanHash work.Digest `json:"pack_plan_hash"`
}

// Role is a bundle of scopes that an account is given by name.
type Role struct {
	Name   string
	Scopes []Scope
}

// Roles lists the roles.
func Roles() []Role {
	return []Role{
		{"viewer", []Scope{OrchRead, PacksRead}},
		{"operator", []Scope{OrchOperate, OrchRead, PacksRead, PacksRun}},
		{"publisher", []Scope{PacksRead, PacksWrite}},
		{"approver", []Scope{PacksApprove, PacksRead}},
		{"quota-manager", []Scope{OrchBackfill, OrchQuota, OrchRead}},
		{"worker", []Scope{Worker}},
		{"admin", []Scope{Admin}},
	}
}

// ParseRoles returns the scopes of roles, sorted and each once. Error: fault.Invalid.
func ParseRoles(names []string) ([]Scope, error) {
	var out []Scope
	for _, name := range names {
		i := slices.IndexFunc(Roles(), func(r Role) bool { return r.Name == name })
		if i < 0 {
			return nil, fault.New(fault.Invalid, "%q is no role", name).WithHint("roles are viewer, operator, publisher, approver, quota-manager, worker and admin")
		}
		out = append(out, Roles()[i].Scopes...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Covers reports whether somebody with the scopes have may use, and so may hand on, the scope need.
func Covers(have []Scope, need Scope) bool {
	return slices.Contains(have, need) || slices.Contains(have, Admin)
}

// Allow returns nil when the principal may use the scope in the tenant. Errors: fault.NotFound for another tenant, so that
// its existence does not show; fault.Denied without the scope.
func Allow(p Principal, tenant work.Tenant, need Scope) error {
	if p.Tenant != "" && p.Tenant != tenant {
		return fault.New(fault.NotFound, "there is no tenant %s", tenant)
	}
	if need == "" || slices.Contains(p.Scopes, need) || slices.Contains(p.Scopes, Admin) && need != Worker {
		return nil
	}
	return fault.New(fault.Denied, "%s lacks the scope %s", p.Subject, need).WithHint("ask an administrator for a token with this scope")
}

// NeedsTicket reports whether a scope is used only with a reason and a ticket.
func NeedsTicket(s Scope) bool { return s == OrchQuota || s == OrchBackfill }
