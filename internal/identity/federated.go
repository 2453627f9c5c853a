package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// External is who an account is at an identity provider. A name is never enough: only this pair makes two logins one person.
type External struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// federatedToken begins what stands for the id of a token in a principal whose token an identity provider has made.
const federatedToken = "oidc/"

// kindLink finds the account of somebody from outside. Its id is the digest of issuer and subject.
const kindLink = "link"

func (e External) id() string {
	sum := sha256.Sum256([]byte(e.Issuer + "\x00" + e.Subject))
	return hex.EncodeToString(sum[:])
}

// link is where the account of somebody from outside stands.
type link struct {
	Account string `json:"account"`
}

// Foreign is somebody for whom a trusted provider vouches.
type Foreign struct {
	External
	Provider  string // for people
	Tenant    work.Tenant
	Name      string   // of an account that is made for him
	Roles     []string // of such an account; they follow the provider
	Provision bool     // whether one may be made
}

// Federated returns who somebody from outside is here. With Provision an account is made at the first login, and its roles become those
// that the provider gives. Errors: fault.Denied when there is no account and none may be made, or its name is somebody else's;
// fault.Unauthenticated for an account that is disabled.
func (s *Service) Federated(ctx context.Context, f Foreign) (access.Principal, error) {
	if !tenantForm.MatchString(string(f.Tenant)) || s.KnowTenant(ctx, f.Tenant, nil) != nil {
		return access.Principal{}, fault.New(fault.Denied, "%s places you in the tenant %q, which does not exist here", f.Provider, f.Tenant)
	}
	const tries = 3 // two first logins at once: one makes the account, the other finds it
	for i := 1; ; i++ {
		a, err := s.federated(ctx, f)
		if fault.CodeOf(err) == fault.Conflict && i < tries {
			continue
		}
		if err != nil {
			return access.Principal{}, err
		}
		if a.Disabled {
			return access.Principal{}, fault.New(fault.Unauthenticated, "the account %s is disabled", a.Name)
		}
		scopes, err := a.rights()
		return access.Principal{Subject: a.Name, Kind: a.Kind, Tenant: a.Tenant, Scopes: scopes, TokenID: federatedToken + f.Provider + "/" + a.Name}, err
	}
}

func (s *Service) federated(ctx context.Context, f Foreign) (Account, error) {
	r, err := s.Records.Record(ctx, f.Tenant, kindLink, f.id())
	if fault.CodeOf(err) == fault.NotFound {
		return s.provision(ctx, f)
	}
	if err != nil {
		return Account{}, err
	}
	var to link
	if err := decode(r, &to); err != nil {
		return Account{}, err
	}
	a, version, err := s.account(ctx, f.Tenant, to.Account, nil)
	if err != nil || !f.Provision || a.Disabled || slices.Equal(a.Roles, f.Roles) && len(a.Scopes) == 0 {
		return a, err
	}
	a.Roles, a.Scopes = f.Roles, nil
	change, err := put(store.Record{Tenant: a.home(), Kind: kindAccount, ID: a.Name, Version: version}, a)
	if err != nil {
		return a, err
	}
	return a, s.Records.Change(f.audit(ctx, "followRoles", a.Name), change)
}

// provision makes the account of somebody new.
func (s *Service) provision(ctx context.Context, f Foreign) (Account, error) {
	if !f.Provision {
		return Account{}, fault.New(fault.Denied, "there is no account for you in the tenant %s", f.Tenant).
			WithHint("an administrator makes one: orrery user create NAME --role … --issuer %s --subject %s", f.Issuer, f.Subject)
	}
	if !nameForm.MatchString(f.Name) {
		return Account{}, fault.New(fault.Denied, "%s calls you %q, which is no name of an account here", f.Provider, f.Name).
			WithHint("names have 1 to 64 letters, digits, dots, dashes, underscores or @; another claim may have such a one (account: …)")
	}
	for _, home := range []work.Tenant{f.Tenant, store.Installation} {
		_, err := s.Records.Record(ctx, home, kindAccount, f.Name)
		if err == nil {
			if _, err := s.Records.Record(ctx, f.Tenant, kindLink, f.id()); err == nil {
				return Account{}, fault.New(fault.Conflict, "made meanwhile")
			}
			return Account{}, fault.New(fault.Denied, "the name %s belongs to another account here", f.Name).
				WithHint("an administrator makes one of another name for you: orrery user create NAME --role … --issuer %s --subject %s", f.Issuer, f.Subject)
		}
		if fault.CodeOf(err) != fault.NotFound {
			return Account{}, err
		}
	}
	a := Account{Tenant: f.Tenant, Name: f.Name, Kind: "user", Roles: f.Roles, External: &f.External, Created: s.Now()}
	changes, err := s.create(a)
	if err != nil {
		return a, err
	}
	return a, s.Records.Change(f.audit(ctx, "provisionAccount", a.Name), changes...)
}

// create is the change that makes an account, with the link to it.
func (s *Service) create(a Account) ([]store.RecordChange, error) {
	account, err := put(store.Record{Tenant: a.home(), Kind: kindAccount, ID: a.Name}, a)
	if err != nil || a.External == nil {
		return []store.RecordChange{account}, err
	}
	to, err := put(store.Record{Tenant: a.home(), Kind: kindLink, ID: a.External.id()}, link{a.Name})
	return []store.RecordChange{account, to}, err
}

// audit notes what a login changes by itself, whatever the request is about.
func (f Foreign) audit(ctx context.Context, action, account string) context.Context {
	return store.WithAudit(ctx, &store.Audit{
		Tenant: f.Tenant, Action: action, Actor: account, Kind: "user", Token: federatedToken + f.Provider, Subject: account,
	})
}
