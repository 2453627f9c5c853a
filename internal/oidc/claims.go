package oidc

import (
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// person maps claims that are verified. Error: fault.Denied for somebody whom the configuration gives no place.
func (i *Issuer) person(claims map[string]any) (Person, error) {
	p := Person{Provider: i.Name, Issuer: i.URL, Provision: i.Provision}
	p.Subject, _ = claims["sub"].(string) // verified
	tenant, err := i.tenant(claims)
	if err != nil {
		return p, err
	}
	p.Tenant = tenant
	if names := texts(claims, i.Account); len(names) > 0 {
		p.Account = names[0]
	}
	p.Roles = slices.Clone(i.Roles.Default)
	for _, group := range texts(claims, i.Roles.Claim) {
		p.Roles = append(p.Roles, i.Roles.Values[group]...)
	}
	slices.Sort(p.Roles)
	p.Roles = slices.Compact(p.Roles)
	if i.Provision && len(p.Roles) == 0 {
		return p, fault.New(fault.Denied, "%s gives you no role here", i.Name).
			WithHint("ask for a group that is mapped to a role (claim %s)", i.Roles.Claim)
	}
	return p, nil
}

func (i *Issuer) tenant(claims map[string]any) (work.Tenant, error) {
	if i.Tenant.Fixed != "" {
		return work.Tenant(i.Tenant.Fixed), nil
	}
	var found []string
	for _, v := range texts(claims, i.Tenant.Claim) {
		if t := i.Tenant.Values[v]; len(i.Tenant.Values) > 0 {
			v = t
		}
		if v != "" && !slices.Contains(found, v) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 1:
		return work.Tenant(found[0]), nil
	case 0:
		return "", fault.New(fault.Denied, "%s says of no tenant that you belong to it (claim %s)", i.Name, i.Tenant.Claim)
	default:
		return "", fault.New(fault.Denied, "%s says that you belong to several tenants (claim %s)", i.Name, i.Tenant.Claim).
			WithHint("whoever runs the server can give each tenant a client of its own")
	}
}

// texts returns the text or texts of a claim. A name with dots that is no claim itself leads into objects: realm_access.roles.
func texts(claims map[string]any, name string) []string {
	if name == "" {
		return nil
	}
	v, ok := claims[name]
	if !ok {
		outer, inner, dotted := strings.Cut(name, ".")
		if object, is := claims[outer].(map[string]any); is && dotted {
			return texts(object, inner)
		}
		return nil
	}
	switch x := v.(type) {
	case string:
		return []string{x}
	case []any:
		var out []string
		for _, e := range x {
			if s, is := e.(string); is {
				out = append(out, s)
			}
		}
		return out
	default:
		return nil
	}
}
