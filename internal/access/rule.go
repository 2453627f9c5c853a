package access

import (
	"path"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Rule says whose signatures may run packs of a name: who may ask for it, and who must have signed the pack. The first rule that fits decides; where
// there are rules, what fits none is refused.
type Rule struct {
	Tenant     work.Tenant `json:"tenant,omitempty"`  // "" for any
	Pack       string      `json:"pack"`              // a pattern, * for any text without a slash
	Submitters []string    `json:"submitters"`        // names of people whose keys are trusted to submit; "*" for all of them
	Authors    []string    `json:"authors,omitempty"` // one of them has signed the pack; "*" for anybody trusted to publish; nobody need have without
}

// CheckRules returns nil for rules that can be gone by. Error: fault.Invalid.
func CheckRules(rules []Rule) error {
	for _, r := range rules {
		if _, err := path.Match(r.Pack, ""); err != nil || r.Pack == "" || len(r.Submitters) == 0 {
			return fault.New(fault.Invalid, "a rule names a pattern of packs and submitters, not %q and %q", r.Pack, r.Submitters).
				WithHint(`for example {"pack": "deploy-*", "submitters": ["alice"], "authors": ["release-team"]}`)
		}
	}
	return nil
}

// Asked is what somebody wants to have run.
type Asked struct {
	Tenant    work.Tenant
	Pack      string
	Submitter string
}

// Fitting returns the rule that decides about what is asked for, nil when none fits.
func Fitting(rules []Rule, a Asked) *Rule {
	for i := range rules {
		r := &rules[i]
		if fits, _ := path.Match(r.Pack, a.Pack); fits && (r.Tenant == "" || r.Tenant == a.Tenant) {
			return r
		}
	}
	return nil
}

// Permit returns nil when the rules let a pack run for somebody. Authors is asked for only when a rule wants to know who, of those who
// are trusted, has signed the pack. Errors: fault.Untrusted, those of authors.
func Permit(rules []Rule, a Asked, authors func() ([]string, error)) error {
	if len(rules) == 0 {
		return nil
	}
	r := Fitting(rules, a)
	if r == nil {
		return fault.New(fault.Untrusted, "there is no rule for the pack %s here", a.Pack)
	}
	if !slices.Contains(r.Submitters, a.Submitter) && !slices.Contains(r.Submitters, "*") {
		return fault.New(fault.Untrusted, "%s is not run for %s here", a.Pack, a.Submitter)
	}
	if len(r.Authors) == 0 {
		return nil
	}
	have, err := authors()
	if err != nil {
		return err
	}
	for _, name := range have {
		if slices.Contains(r.Authors, name) || slices.Contains(r.Authors, "*") {
			return nil
		}
	}
	if len(have) == 0 {
		return fault.New(fault.Untrusted, "nobody who is trusted has signed the pack %s", a.Pack).WithHint("orrery packs sign")
	}
	return fault.New(fault.Untrusted, "the pack %s is signed by %q, and must be by one of %q", a.Pack, have, r.Authors)
}
