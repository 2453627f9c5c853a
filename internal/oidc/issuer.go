// Package oidc verifies tokens of the identity providers that an installation trusts, and says whom they stand for.
//
// What a provider says counts only as far as its configuration goes: its signature with a key that it publishes, for an audience
// that is this installation's, within the token's time; its claims only where they are mapped to a tenant, a name and roles.
package oidc

import (
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
)

// Issuer is one identity provider that is trusted, as its operator wrote it down.
type Issuer struct {
	Name       string        `yaml:"name"`       // for people: orrery login --provider NAME
	URL        string        `yaml:"issuer"`     // exactly as in the claim iss
	ClientID   string        `yaml:"clientId"`   // of the command line, a public client with a loopback redirect
	Audiences  []string      `yaml:"audiences"`  // a token is for one of these; the client id without any
	Algorithms []string      `yaml:"algorithms"` // of signatures; asymmetric ones only
	Scopes     []string      `yaml:"scopes"`     // what the command line asks for
	Skew       time.Duration `yaml:"skew"`       // how far clocks may be apart
	Session    time.Duration `yaml:"session"`    // how long a login at the command line counts
	CA         string        `yaml:"ca"`         // file with the authorities of the provider's certificate; the system's without
	Tenant     TenantRule    `yaml:"tenant"`
	Account    string        `yaml:"account"` // claim with the name of the account
	Roles      RoleRule      `yaml:"roles"`
	Provision  bool          `yaml:"provision"` // an unknown person gets an account, whose roles follow the claims
}

// TenantRule says in which tenant the people of a provider are: a fixed one, or the one that a claim names.
type TenantRule struct {
	Fixed  string            `yaml:"fixed"`
	Claim  string            `yaml:"claim"`
	Values map[string]string `yaml:"values"` // value of the claim -> tenant; without any the claim is the tenant's name
}

// RoleRule says which roles people have.
type RoleRule struct {
	Claim   string              `yaml:"claim"`
	Values  map[string][]string `yaml:"values"`  // value of the claim -> roles
	Default []string            `yaml:"default"` // of everybody
}

// Lives and distances where the configuration names none.
const (
	defaultSkew    = time.Minute
	maxSkew        = 10 * time.Minute
	defaultSession = 8 * time.Hour
	maxSession     = 24 * time.Hour
)

// safeAlgorithms are those that a configuration may allow: with the others, whoever can verify can sign, or nobody need sign.
func safeAlgorithms() []string {
	return []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
	}
}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// complete checks an issuer and fills in what it leaves open. Error: fault.Invalid.
func (i *Issuer) complete() error {
	if !issuerName.MatchString(i.Name) {
		return fault.New(fault.Invalid, "an identity provider is named with 1 to 32 small letters, digits and dashes, not %q", i.Name)
	}
	if i.ClientID == "" {
		return fault.New(fault.Invalid, "the identity provider %s has no clientId", i.Name)
	}
	if err := secure(i.URL); err != nil {
		return fault.Wrap(fault.Invalid, err, "the identity provider %s", i.Name)
	}
	if len(i.Audiences) == 0 {
		i.Audiences = []string{i.ClientID}
	}
	if len(i.Algorithms) == 0 {
		i.Algorithms = []string{oidc.RS256, oidc.PS256, oidc.ES256, oidc.EdDSA}
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(safeAlgorithms(), a) {
			return fault.New(fault.Invalid, "the identity provider %s may not sign with %q", i.Name, a).WithHint("algorithms are %v", safeAlgorithms())
		}
	}
	if len(i.Scopes) == 0 {
		i.Scopes = []string{oidc.ScopeOpenID, "profile", "email"}
	} else if !slices.Contains(i.Scopes, oidc.ScopeOpenID) {
		i.Scopes = append([]string{oidc.ScopeOpenID}, i.Scopes...)
	}
	if i.Skew == 0 {
		i.Skew = defaultSkew
	}
	if i.Session == 0 {
		i.Session = defaultSession
	}
	if i.Skew < 0 || i.Skew > maxSkew || i.Session < time.Minute || i.Session > maxSession {
		return fault.New(fault.Invalid, "the identity provider %s has a skew of up to %s and a session of a minute to %s", i.Name, maxSkew, maxSession)
	}
	if i.Account == "" {
		i.Account = "preferred_username"
	}
	return i.checkRules()
}

func (i *Issuer) checkRules() error {
	if (i.Tenant.Fixed == "") == (i.Tenant.Claim == "") {
		return fault.New(fault.Invalid, "the identity provider %s needs a tenant: either fixed or the name of a claim", i.Name)
	}
	roles := slices.Clone(i.Roles.Default)
	for _, r := range i.Roles.Values {
		roles = append(roles, r...)
	}
	if _, err := access.ParseRoles(roles); err != nil {
		return fault.Wrap(fault.Invalid, err, "the identity provider %s", i.Name)
	}
	if i.Provision && len(roles) == 0 {
		return fault.New(fault.Invalid, "the identity provider %s makes accounts without any role", i.Name).WithHint("map a claim to roles, or name default roles")
	}
	if len(i.Roles.Values) > 0 && i.Roles.Claim == "" {
		return fault.New(fault.Invalid, "the identity provider %s maps roles of no claim", i.Name)
	}
	return nil
}

// secure refuses an address that somebody on the way could answer for.
func secure(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fault.New(fault.Invalid, "%q is not the address of an issuer", address)
	}
	local := u.Hostname() == "127.0.0.1" || u.Hostname() == "::1" || u.Hostname() == "localhost"
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return fault.New(fault.Invalid, "an issuer is reached with https, not as %s", address)
	}
	return nil
}
