package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"orrery.example/orrery/internal/fault"
)

// keys are the public keys of a provider, fetched where its discovery document says, and kept.
type keys struct {
	issuer     *Issuer
	algorithms []jose.SignatureAlgorithm
	client     *http.Client
	now        func() time.Time
	log        *slog.Logger

	fetching sync.Mutex // one fetch at a time
	mu       sync.Mutex // of what follows
	set      jose.JSONWebKeySet
	fetched  time.Time // when set was got, zero for never
	tried    time.Time // when somebody last asked the provider
	problem  error     // of that
}

// How long keys are kept. A key that the provider takes back is gone after freshFor; while it does not answer, what it last said
// counts up to staleFor. A token with an unknown key makes nobody ask more often than every askEvery.
const (
	freshFor  = time.Hour
	staleFor  = 24 * time.Hour
	askEvery  = 5 * time.Second
	askFor    = 10 * time.Second
	maxAnswer = 1 << 20 // bytes of a document of a provider
)

func newKeys(i *Issuer, now func() time.Time, log *slog.Logger) (*keys, error) {
	k := &keys{issuer: i, now: now, log: log}
	for _, a := range i.Algorithms {
		k.algorithms = append(k.algorithms, jose.SignatureAlgorithm(a))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if i.CA != "" {
		raw, err := os.ReadFile(i.CA)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the authorities of the identity provider %s cannot be read: %v", i.Name, err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", i.CA)
		}
	}
	k.client = &http.Client{Transport: bounded{transport}, Timeout: askFor}
	return k, nil
}

// bounded cuts answers off that are too long to be meant.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// VerifySignature implements oidc.KeySet. Errors: fault.Unauthenticated, fault.Unavailable when the keys cannot be had.
func (k *keys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, k.algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return nil, fault.New(fault.Unauthenticated, "the token is not signed with an algorithm that is allowed for %s", k.issuer.Name)
	}
	header := signed.Signatures[0].Header
	set, err := k.among(ctx, header.KeyID)
	if err != nil {
		return nil, err
	}
	for _, key := range candidates(set, header) {
		if payload, err := signed.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, fault.New(fault.Unauthenticated, "the token is not signed by a key that %s publishes", k.issuer.Name)
}

// candidates are the keys that may have made a signature. A key says itself what it is for; that is held to.
func candidates(set jose.JSONWebKeySet, h jose.Header) []jose.JSONWebKey {
	return slices.DeleteFunc(slices.Clone(set.Keys), func(key jose.JSONWebKey) bool {
		return h.KeyID != "" && key.KeyID != h.KeyID || key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != h.Algorithm ||
			!key.IsPublic() || !key.Valid()
	})
}

// among returns keys among which the named one is, if the provider has it.
func (k *keys) among(ctx context.Context, id string) (jose.JSONWebKeySet, error) {
	set, age, known := k.kept(id)
	if known && age < freshFor {
		return set, nil
	}
	if known && age < staleFor {
		go func() { _ = k.fetch(context.WithoutCancel(ctx)) }() // nobody waits: what is kept still counts; a failure is logged
		return set, nil
	}
	err := k.fetch(ctx)
	if set, age, known = k.kept(id); known && age < staleFor {
		return set, nil
	}
	if err != nil {
		return set, fault.New(fault.Unavailable, "the identity provider %s does not give its keys, so its tokens cannot be verified: %v", k.issuer.Name, err).
			WithHint("tokens that this server made itself (orr_…) count as before")
	}
	return set, nil
}

func (k *keys) kept(id string) (set jose.JSONWebKeySet, age time.Duration, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fetched.IsZero() {
		return k.set, 0, false
	}
	return k.set, k.now().Sub(k.fetched), id == "" || len(k.set.Key(id)) > 0
}

// fetch asks the provider, unless somebody has just done so, and returns what went wrong the last time.
func (k *keys) fetch(ctx context.Context) error {
	k.fetching.Lock()
	defer k.fetching.Unlock()
	k.mu.Lock()
	recent, problem := !k.tried.IsZero() && k.now().Sub(k.tried) < askEvery, k.problem
	k.mu.Unlock()
	if recent {
		return problem
	}
	set, err := k.ask(ctx)
	if err != nil {
		k.log.Warn("an identity provider does not give its keys", "provider", k.issuer.Name, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tried, k.problem = k.now(), err; err == nil {
		k.set, k.fetched = set, k.tried
	}
	return err
}

func (k *keys) ask(ctx context.Context) (set jose.JSONWebKeySet, err error) {
	ctx, stop := context.WithTimeout(oidc.ClientContext(ctx, k.client), askFor)
	defer stop()
	provider, err := oidc.NewProvider(ctx, k.issuer.URL) // holds the document to the issuer that was asked
	if err != nil {
		return set, err
	}
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return set, err
	}
	if err := secure(document.Keys); err != nil {
		return set, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, document.Keys, nil)
	if err != nil {
		return set, err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return set, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return set, fault.New(fault.Unavailable, "%s answers %s", document.Keys, resp.Status)
	}
	return set, json.NewDecoder(resp.Body).Decode(&set)
}
