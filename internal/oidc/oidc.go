package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Service verifies tokens of the providers that are trusted. It is safe for concurrent use.
type Service struct {
	issuers []*Issuer
	keys    []*keys
	now     func() time.Time
}

// New returns a service that trusts the issuers. Nobody is asked before the first token comes. Error: fault.Invalid.
func New(issuers []Issuer, now func() work.Time, log *slog.Logger) (*Service, error) {
	s := &Service{now: func() time.Time { return now().Std() }}
	for i := range issuers {
		issuer := issuers[i]
		if err := issuer.complete(); err != nil {
			return nil, err
		}
		for _, other := range s.issuers {
			if other.Name == issuer.Name {
				return nil, fault.New(fault.Invalid, "two identity providers are called %s", issuer.Name)
			}
			if both := shared(other.Audiences, issuer.Audiences); other.URL == issuer.URL && both != "" {
				return nil, fault.New(fault.Invalid, "the identity providers %s and %s are one issuer with one audience, %s", other.Name, issuer.Name, both)
			}
		}
		k, err := newKeys(&issuer, s.now, log)
		if err != nil {
			return nil, err
		}
		s.issuers, s.keys = append(s.issuers, &issuer), append(s.keys, k)
	}
	return s, nil
}

func shared(a, b []string) string {
	for _, x := range a {
		if slices.Contains(b, x) {
			return x
		}
	}
	return ""
}

// Issuers returns what is trusted, complete.
func (s *Service) Issuers() []Issuer {
	out := make([]Issuer, len(s.issuers))
	for i := range s.issuers {
		out[i] = *s.issuers[i]
	}
	return out
}

// Person is whom a token stands for.
type Person struct {
	Provider  string // its name in the configuration
	Issuer    string
	Subject   string // who it is, for ever, at the issuer
	Tenant    work.Tenant
	Account   string // what the person would be called here
	Roles     []string
	Provision bool // there may be an account for somebody new
}

// maxToken bounds a token: more is no token, and costs somebody the time to read it.
const maxToken = 16 << 10

// Looks reports whether a token has the form of those that providers give.
func Looks(token string) bool { return strings.Count(token, ".") == 2 }

// Person verifies a token and returns whom it stands for. Errors: fault.Unauthenticated for a token that does not count here,
// fault.Unavailable when that cannot be found out, fault.Denied for somebody whom the configuration gives no place.
func (s *Service) Person(ctx context.Context, token string) (Person, error) {
	said, err := peek(token)
	if err != nil {
		return Person{}, err
	}
	at := -1
	for i, issuer := range s.issuers {
		if issuer.URL != said.Issuer {
			continue
		}
		if shared(issuer.Audiences, said.Audience) != "" {
			at = i
			break
		}
		err = fault.New(fault.Unauthenticated, "the token of %s is for another audience", issuer.Name)
	}
	if at < 0 {
		if err == nil {
			err = fault.New(fault.Unauthenticated, "the token is of an issuer that is not trusted here")
		}
		return Person{}, err
	}
	claims, err := s.verify(ctx, s.issuers[at], s.keys[at], token)
	if err != nil {
		return Person{}, err
	}
	return s.issuers[at].person(claims)
}

// said is what a token says before anybody has looked at its signature: enough to know whose signature that would have to be.
type said struct {
	Issuer   string
	Audience []string
}

func peek(token string) (said, error) {
	refused := fault.New(fault.Unauthenticated, "the token cannot be read")
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return said{}, refused
	}
	var header struct {
		Type string `json:"typ"`
	}
	var claims struct {
		Issuer   string          `json:"iss"`
		Audience json.RawMessage `json:"aud"`
		Events   json.RawMessage `json:"events"`
	}
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(raw, into) != nil {
			return said{}, refused
		}
	}
	// One kind of token must not do for another: neither the word that somebody has logged out nor a decision is a login.
	switch strings.ToLower(strings.TrimPrefix(header.Type, "application/")) {
	case "", "jwt", "at+jwt":
	default:
		return said{}, fault.New(fault.Unauthenticated, "a token of the type %q is no login", header.Type)
	}
	if claims.Events != nil {
		return said{}, fault.New(fault.Unauthenticated, "a token about events is no login")
	}
	out := said{Issuer: claims.Issuer}
	if json.Unmarshal(claims.Audience, &out.Audience) != nil {
		out.Audience = make([]string, 1)
		if json.Unmarshal(claims.Audience, &out.Audience[0]) != nil {
			return said{}, refused
		}
	}
	return out, nil
}

// verify checks a token and returns its claims.
func (s *Service) verify(ctx context.Context, i *Issuer, k *keys, token string) (map[string]any, error) {
	noted := &noting{keys: k}
	verified, err := oidc.NewVerifier(i.URL, noted, &oidc.Config{
		SkipClientIDCheck:    true, // the audience is one of several, and was looked at
		SupportedSigningAlgs: i.Algorithms,
		// The library allows more than enough for a token that is not valid yet; for one that has expired it allows nothing.
		Now: func() time.Time { return s.now().Add(-i.Skew) },
	}).Verify(ctx, token)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return nil, fault.New(fault.Unauthenticated, "the token of %s expired at %s", i.Name, expired.Expiry.UTC().Format(time.RFC3339)).
			WithHint("orrery login --oidc")
	case noted.err != nil:
		return nil, noted.err
	case err != nil:
		return nil, fault.New(fault.Unauthenticated, "the token of %s does not count: %v", i.Name, err)
	case verified.Subject == "":
		return nil, fault.New(fault.Unauthenticated, "the token of %s names nobody", i.Name)
	}
	var claims map[string]any
	if err := verified.Claims(&claims); err != nil {
		return nil, fault.New(fault.Unauthenticated, "the claims of the token cannot be read")
	}
	return claims, nil
}

// noting remembers why a signature was refused, which the library puts into words.
type noting struct {
	*keys
	err error
}

// VerifySignature implements oidc.KeySet.
func (n *noting) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := n.keys.VerifySignature(ctx, token)
	n.err = err
	return payload, err
}
