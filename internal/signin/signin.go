// Package signin asks an identity provider who somebody at a command line is: with a browser on this machine by the authorization code
// flow with PKCE and a loopback redirect (RFC 8252), or with one elsewhere by the device authorization flow (RFC 8628).
package signin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"orrery.example/orrery/internal/fault"
)

// Request says at which provider, and how, somebody logs in.
type Request struct {
	Issuer   string
	ClientID string
	Scopes   []string
	CAFile   string // authorities of the provider's certificate; the system's without

	Device bool                   // with a browser elsewhere
	Port   int                    // of the loopback redirect, 0 for any
	Open   func(url string) error // shows a page in a browser; nil when there is none
	Say    func(format string, args ...any)
}

// patience is how long somebody has for the pages of a provider.
const patience = 10 * time.Minute

// Login returns the ID token of whoever logs in. Errors: fault.Unavailable when the provider does not answer, fault.Denied when it or the
// person says no, fault.Unauthenticated for an answer that cannot be trusted.
func Login(ctx context.Context, q Request) (string, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	client, err := q.client()
	if err != nil {
		return "", err
	}
	ctx = oidc.ClientContext(ctx, client)
	provider, err := oidc.NewProvider(ctx, q.Issuer)
	if err != nil {
		return "", fault.New(fault.Unavailable, "the identity provider %s does not answer: %v", q.Issuer, err)
	}
	config := &oauth2.Config{ClientID: q.ClientID, Endpoint: provider.Endpoint(), Scopes: q.Scopes}
	nonce := ""
	var token *oauth2.Token
	if q.Device {
		token, err = q.elsewhere(ctx, config)
	} else {
		nonce = rand.Text()
		token, err = q.here(ctx, config, nonce)
	}
	if err != nil {
		return "", outcome(ctx, err)
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return "", fault.New(fault.Unauthenticated, "the provider gave no ID token").WithHint("the scopes of the provider must have openid among them")
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: q.ClientID}).Verify(ctx, raw)
	if err != nil {
		return "", fault.New(fault.Unauthenticated, "the provider's ID token does not count: %v", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return "", fault.New(fault.Unauthenticated, "the provider's ID token belongs to another login")
	}
	return raw, nil
}

func (q Request) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if q.CAFile != "" {
		raw, err := os.ReadFile(q.CAFile)
		pool, noSystem := x509.SystemCertPool() // the provider's certificate may be one of everybody's, the server's one of our own
		if noSystem != nil {
			pool = x509.NewCertPool()
		}
		if err != nil || !pool.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", q.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: time.Minute}, nil
}

// outcome says in our words why nobody was logged in.
func outcome(ctx context.Context, err error) error {
	var refused *oauth2.RetrieveError
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &refused) && refused.ErrorCode != "":
		return fault.New(fault.Denied, "the provider says %s: %s", refused.ErrorCode, refused.ErrorDescription)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault.New(fault.Unavailable, "nobody logged in within %s", patience)
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fault.New(fault.Unavailable, "the identity provider: %v", err)
	}
}

// elsewhere shows a code and waits until it was typed in somewhere.
func (q Request) elsewhere(ctx context.Context, config *oauth2.Config) (*oauth2.Token, error) {
	if config.Endpoint.DeviceAuthURL == "" {
		return nil, fault.New(fault.Invalid, "the provider %s has no device authorization", q.Issuer).WithHint("log in on a machine with a browser, or with a token")
	}
	asked, err := config.DeviceAuth(ctx)
	if err != nil {
		return nil, err
	}
	q.Say("open %s and enter the code %s", asked.VerificationURI, asked.UserCode)
	if asked.VerificationURIComplete != "" {
		q.Say("or open %s", asked.VerificationURIComplete)
	}
	return config.DeviceAccessToken(ctx, asked)
}

// answer is what the browser brings back.
type answer struct {
	code string
	err  error
}

// here opens a browser and waits for its return to an address of this machine.
func (q Request) here(ctx context.Context, config *oauth2.Config, nonce string) (*oauth2.Token, error) {
	var lc net.ListenConfig
	back, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(q.Port)))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "the browser has nowhere to come back to: %v", err)
	}
	config.RedirectURL = "http://" + back.Addr().String() + "/callback"
	verifier, state := oauth2.GenerateVerifier(), rand.Text()
	answers := make(chan answer, 1)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: callback(state, answers)}
	go func() { _ = server.Serve(back) }() // until it is shut down
	defer func() {
		soon, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // the page that says so is on its way
		defer stop()
		_ = server.Shutdown(soon)
	}()
	address := config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	if q.Open == nil || q.Open(address) != nil {
		q.Say("open this address in a browser on this machine:")
	} else {
		q.Say("a browser opens; if it does not, open this address:")
	}
	q.Say("%s", address)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answers:
		if a.err != nil {
			return nil, a.err
		}
		return config.Exchange(ctx, a.code, oauth2.VerifierOption(verifier))
	}
}

// callback takes what the browser brings back, once, and tells the person.
func callback(state string, answers chan<- answer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		got := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(got.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the login that was begun here.", http.StatusBadRequest)
			return // somebody else's; the real one may still come
		}
		a, words := answer{code: got.Get("code")}, "You are logged in. This window may be closed."
		if a.code == "" {
			a.err = fault.New(fault.Denied, "the provider says %s: %s", got.Get("error"), got.Get("error_description"))
			words = "Nobody was logged in. The command line says why."
		}
		select {
		case answers <- a:
		default:
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		fmt.Fprintf(w, "<!doctype html><title>Orrery</title><p>%s\n", html.EscapeString(words))
	})
	return mux
}
