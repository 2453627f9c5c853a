// Package identity keeps who may ask for what: tenants, accounts of people and services, and their API tokens.
//
// A token is shown once. What is kept is its SHA-256, found by an id that is part of the token, so that whoever reads the store
// cannot use it. Every request looks the token and its account up again, both with one question: a revocation counts from the next
// request on.
package identity

import (
	"context"
	"encoding/json"
	"regexp"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Service answers who somebody is. It is safe for concurrent use.
type Service struct {
	Records store.Records
	Now     func() work.Time

	holders holders
}

// Kinds of records.
const (
	kindTenant  = "tenant"  // of the installation
	kindAccount = "account" // of a tenant, or of the installation
	kindToken   = "token"   // of the installation: found before the tenant is known
	kindHeld    = "held"    // of a tenant: "account/token id", for lists
	kindTicket  = "ticket"  // of the installation
)

// maxExternal bounds what an account keeps of a provider.
const maxExternal = 1024

var (
	tenantForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)
)

// Tenant is the wall that nothing crosses.
type Tenant struct {
	Name    work.Tenant `json:"name"`
	Title   string      `json:"title,omitempty"`
	Created work.Time   `json:"created"`
}

// CreateTenant makes a tenant. Errors: fault.Invalid, fault.Conflict.
func (s *Service) CreateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	if !tenantForm.MatchString(string(t.Name)) {
		return t, fault.New(fault.Invalid, "a tenant is named with 1 to 63 small letters, digits and dashes")
	}
	store.About(ctx, string(t.Name))
	t.Created = s.Now()
	change, err := put(store.Record{Tenant: store.Installation, Kind: kindTenant, ID: string(t.Name)}, t)
	if err != nil {
		return t, err
	}
	return t, s.Records.Change(ctx, change)
}

// KnowTenant returns nil for a tenant that exists. Found is what was looked up beforehand, nil for nothing. Error: fault.NotFound.
func (s *Service) KnowTenant(ctx context.Context, t work.Tenant, found store.Found) error {
	_, err := found.Record(ctx, s.Records, tenantRef(t))
	return err
}

func tenantRef(t work.Tenant) store.RecordRef {
	return store.RecordRef{Tenant: store.Installation, Kind: kindTenant, ID: string(t)}
}

// Tenants returns tenants by name, those after the given one.
func (s *Service) Tenants(ctx context.Context, after string, limit int) ([]Tenant, error) {
	return list[Tenant](ctx, s.Records, store.Installation, kindTenant, "", after, limit)
}

// Account is somebody who may hold tokens: a person, or a program.
type Account struct {
	Tenant   work.Tenant    `json:"tenant,omitempty"` // "" for an account of the installation
	Name     string         `json:"name"`
	Kind     string         `json:"kind"` // user or service
	Roles    []string       `json:"roles,omitempty"`
	Scopes   []access.Scope `json:"scopes,omitempty"` // beside those of the roles
	Disabled bool           `json:"disabled,omitempty"`
	External *External      `json:"external,omitempty"` // who it is at an identity provider
	Created  work.Time      `json:"created"`
}

// rights returns every scope of an account.
func (a Account) rights() ([]access.Scope, error) {
	scopes, err := access.ParseRoles(a.Roles)
	return append(scopes, a.Scopes...), err
}

func (a Account) home() work.Tenant {
	if a.Tenant == "" {
		return store.Installation
	}
	return a.Tenant
}

// CreateAccount makes an account. Errors: fault.Invalid, fault.Conflict for a name that is taken, in the tenant or in the installation;
// fault.Denied when by does not have the rights it hands out.
func (s *Service) CreateAccount(ctx context.Context, by access.Principal, a Account) (Account, error) {
	if err := s.checkAccount(by, a); err != nil {
		return a, err
	}
	if a.Tenant != "" { // one name is one person, also in evidence
		if _, err := s.Records.Record(ctx, store.Installation, kindAccount, a.Name); fault.CodeOf(err) != fault.NotFound {
			if err == nil {
				err = fault.New(fault.Conflict, "the name %s belongs to an account of the installation", a.Name)
			}
			return a, err
		}
	}
	store.About(ctx, a.Name)
	a.Created, a.Disabled = s.Now(), false
	changes, err := s.create(a)
	if err != nil {
		return a, err
	}
	return a, s.Records.Change(ctx, changes...)
}

func (s *Service) checkAccount(by access.Principal, a Account) error {
	if !nameForm.MatchString(a.Name) {
		return fault.New(fault.Invalid, "an account is named with 1 to 64 letters, digits, dots, dashes, underscores or @")
	}
	if a.Kind != "user" && a.Kind != "service" {
		return fault.New(fault.Invalid, "an account is of a user or of a service, not %q", a.Kind)
	}
	if e := a.External; e != nil && (a.Tenant == "" || a.Kind != "user" || e.Issuer == "" || e.Subject == "" || len(e.Issuer)+len(e.Subject) > maxExternal) {
		return fault.New(fault.Invalid, "an account from outside is a user of a tenant, with the issuer and the subject that a provider names")
	}
	scopes, err := a.rights()
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		if _, err := access.ParseScope(string(scope)); err != nil {
			return err
		}
		if !access.Covers(by.Scopes, scope) {
			return fault.New(fault.Denied, "%s cannot hand out the scope %s", by.Subject, scope)
		}
	}
	return nil
}

// Account returns an account. Error: fault.NotFound.
func (s *Service) Account(ctx context.Context, tenant work.Tenant, name string) (Account, error) {
	a, _, err := s.account(ctx, tenant, name, nil)
	return a, err
}

func accountRef(tenant work.Tenant, name string) store.RecordRef {
	return store.RecordRef{Tenant: (Account{Tenant: tenant}).home(), Kind: kindAccount, ID: name}
}

func (s *Service) account(ctx context.Context, tenant work.Tenant, name string, found store.Found) (a Account, version int64, err error) {
	r, err := found.Record(ctx, s.Records, accountRef(tenant, name))
	if err != nil {
		return a, 0, err
	}
	return a, r.Version, decode(r, &a)
}

// Accounts returns the accounts of a tenant by name, those after the given one.
func (s *Service) Accounts(ctx context.Context, tenant work.Tenant, after string, limit int) ([]Account, error) {
	return list[Account](ctx, s.Records, (Account{Tenant: tenant}).home(), kindAccount, "", after, limit)
}

// ChangeAccount replaces roles, scopes and whether an account is disabled. Errors: fault.NotFound, fault.Invalid, fault.Denied.
func (s *Service) ChangeAccount(ctx context.Context, by access.Principal, next Account) (Account, error) {
	a, version, err := s.account(ctx, next.Tenant, next.Name, nil)
	if err != nil {
		return a, err
	}
	a.Roles, a.Scopes, a.Disabled = next.Roles, next.Scopes, next.Disabled
	if err := s.checkAccount(by, a); err != nil {
		return a, err
	}
	change, err := put(store.Record{Tenant: a.home(), Kind: kindAccount, ID: a.Name, Version: version}, a)
	if err != nil {
		return a, err
	}
	return a, s.Records.Change(ctx, change)
}

// put makes the change that stores v.
func put(r store.Record, v any) (store.RecordChange, error) {
	var err error
	r.Doc, err = json.Marshal(v)
	return store.RecordChange{Record: r}, fault.Wrap(fault.Internal, err, "the record %s %s", r.Kind, r.ID)
}

func decode(r store.Record, v any) error {
	return fault.Wrap(fault.Internal, json.Unmarshal(r.Doc, v), "the record %s %s", r.Kind, r.ID)
}

func list[T any](ctx context.Context, records store.Records, tenant work.Tenant, kind, prefix, after string, limit int) ([]T, error) {
	rows, err := records.Records(ctx, tenant, kind, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(rows))
	for i, r := range rows {
		if err := decode(r, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
