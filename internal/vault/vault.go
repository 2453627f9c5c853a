// Package vault reads secrets from a server that speaks the HTTP API of Vault and OpenBao: one field of one entry of a key-value engine, of
// version 1 or 2.
//
// A value goes to who asked for it and nowhere else: no answer of the server is repeated in an error, and nothing but the token of a login
// is kept.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Settings say where the server is and as whom it is asked: with a token, from a file that is read every time or as it is, or with the role
// of an application.
type Settings struct {
	Address   string // "https://vault.example.org:8200"
	Namespace string // "" for the root
	CA        string // file with the authorities of its certificate; the system's without

	TokenFile string
	Token     string

	RoleID       string
	SecretIDFile string // read at every login
	SecretID     string
	Mount        string // where AppRole is enabled; "" for "approle"
}

// Bounds of one secret: every request, all tries together, what an answer may have, and how often an answer "later" is asked again.
const (
	requestTimeout = 5 * time.Second
	wholeTimeout   = 20 * time.Second
	maxReply       = 256 << 10
	maxCredential  = 64 << 10
	tries          = 4
	firstWait      = 200 * time.Millisecond
	maxRedirects   = 3
)

// place is what a reference names below the address: segments of plain characters, so that nothing of it can become a query or lead upwards.
var (
	place = regexp.MustCompile(`^[A-Za-z0-9_.@:+=~-]+(/[A-Za-z0-9_.@:+=~-]+)+$`)
	field = regexp.MustCompile(`^[^\x00-\x1f\x7f#]{1,256}$`)
)

// Parse takes a reference apart: the path of the entry as the API has it ("secret/data/deploy" with version 2, "kv/deploy" with version 1)
// and the field of it, in "secret/data/deploy#token". Error: fault.Invalid.
func Parse(ref string) (entry, name string, err error) {
	entry, name, _ = strings.Cut(ref, "#")
	if len(entry) > 1024 || !place.MatchString(entry) || path.Clean(entry) != entry || strings.HasPrefix(entry, "../") || !field.MatchString(name) {
		return "", "", fault.New(fault.Invalid, "a secret from Vault is named by the path of its entry and a field of it").
			WithHint("for example vault:secret/data/deploy#token, or vault:kv/deploy#token with version 1 of the engine")
	}
	return entry, name, nil
}

// Client reads secrets. It may be used by several goroutines.
type Client struct {
	settings Settings
	http     *http.Client

	mu      sync.Mutex
	login   string    // the token of a login
	renewal time.Time // when it is to be renewed; zero when never
	expiry  time.Time // zero when never
}

// New returns a client. Error: fault.Invalid for settings that do not fit together, among them an address without TLS that is not this
// machine: secrets and the token would travel in the open.
func New(s Settings) (*Client, error) {
	u, err := url.Parse(s.Address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.New(fault.Invalid, "%q is not the address of a Vault server", s.Address).WithHint("for example: VAULT_ADDR=https://vault.example.org:8200")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		return nil, fault.New(fault.Invalid, "secrets of %s would travel unencrypted", u.Host).WithHint("VAULT_ADDR=https://%s", u.Host)
	}
	s.Address = strings.TrimRight(s.Address, "/")
	token, role := s.Token != "" || s.TokenFile != "", s.RoleID != ""
	switch {
	case !token && !role:
		return nil, fault.New(fault.Invalid, "nothing says as whom the Vault server is asked").
			WithHint("set VAULT_TOKEN_FILE or VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID_FILE")
	case token && role:
		return nil, fault.New(fault.Invalid, "the Vault server is asked either with a token or with a role, and both are set")
	}
	if s.Mount = strings.Trim(s.Mount, "/"); s.Mount == "" {
		s.Mount = "approle"
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		raw, err := os.ReadFile(s.CA)
		if config.RootCAs = x509.NewCertPool(); err != nil || !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", s.CA)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	transport.ResponseHeaderTimeout = requestTimeout
	return &Client{settings: s, http: &http.Client{Transport: transport, Timeout: requestTimeout, CheckRedirect: sameServer}}, nil
}

// sameServer lets a redirect lead to another path of the same server only: the token is for no other.
func sameServer(next *http.Request, before []*http.Request) error {
	if first := before[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme || len(before) > maxRedirects {
		return http.ErrUseLastResponse
	}
	return nil
}

// Read returns one field of an entry; see Parse for both. A number or a truth value is spelled as in JSON.
// Errors: fault.Invalid for a field that holds no text, fault.NotFound, fault.Denied, fault.Unavailable.
func (c *Client) Read(ctx context.Context, entry, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	token, err := c.token(ctx, "")
	if err != nil {
		return nil, err
	}
	raw, err := c.call(ctx, http.MethodGet, entry, token, nil)
	if fault.CodeOf(err) == fault.Denied && c.settings.RoleID != "" {
		// The login may have been revoked before its time.
		if token, err = c.token(ctx, token); err != nil {
			return nil, err
		}
		raw, err = c.call(ctx, http.MethodGet, entry, token, nil)
	}
	if err != nil {
		return nil, err
	}
	return pick(raw, entry, name)
}

// pick takes a field out of the answer of a key-value engine. Version 2 wraps the fields and what it knows of them once more.
func pick(raw []byte, entry, name string) ([]byte, error) {
	var reply struct{ Data map[string]json.RawMessage }
	if err := json.Unmarshal(raw, &reply); err != nil {
		return nil, fault.New(fault.Unavailable, "the answer of the Vault server for %s cannot be read", entry)
	}
	fields := reply.Data
	if strings.Contains(entry, "/data/") {
		var inner, about map[string]json.RawMessage
		if json.Unmarshal(fields["data"], &inner) == nil && json.Unmarshal(fields["metadata"], &about) == nil && about["version"] != nil {
			fields = inner
		}
	}
	value, ok := fields[name]
	if !ok {
		return nil, fault.New(fault.NotFound, "the entry %s of the Vault server has no field %s", entry, name)
	}
	var text string
	switch {
	case json.Unmarshal(value, &text) == nil && value[0] == '"':
		return []byte(text), nil
	case value[0] == '{' || value[0] == '[' || value[0] == 'n':
		return nil, fault.New(fault.Invalid, "the field %s of %s holds no text", name, entry)
	default:
		return bytes.Clone(value), nil
	}
}

// reach says why nobody answered, without an address that only the operator chose.
func reach(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		if outer.Timeout() {
			return errors.New("it did not answer in time")
		}
		return outer.Err
	}
	return err
}
