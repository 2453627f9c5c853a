package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
)

// token returns what requests prove themselves with. A login is kept while it lasts, and renewed when most of its time is over, because a
// secret id may be good for few logins; one that was refused is not used again.
func (c *Client) token(ctx context.Context, refused string) (string, error) {
	s := &c.settings
	if s.RoleID == "" {
		if s.TokenFile == "" {
			return s.Token, nil
		}
		return credential(s.TokenFile, "token")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.login != "" && c.login != refused && (c.expiry.IsZero() || now.Before(c.expiry)) {
		if c.renewal.IsZero() || now.Before(c.renewal) {
			return c.login, nil
		}
		if c.grant(ctx, "auth/token/renew-self", c.login, map[string]string{}) != nil {
			// It is still good for a while: later again. A new login may be one too many for the secret id.
			c.renewal = now.Add(c.expiry.Sub(now) / 2)
		}
		return c.login, nil
	}
	c.login = ""
	secret := s.SecretID
	if s.SecretIDFile != "" {
		var err error
		if secret, err = credential(s.SecretIDFile, "secret id"); err != nil {
			return "", err
		}
	}
	err := c.grant(ctx, "auth/"+s.Mount+"/login", "", map[string]string{"role_id": s.RoleID, "secret_id": secret})
	if code := fault.CodeOf(err); code == fault.Invalid || code == fault.Denied || code == fault.NotFound {
		return "", fault.New(fault.Denied, "the Vault server refuses the role of this worker").
			WithHint("see that VAULT_ROLE_ID and the secret id belong together and are still good")
	}
	return c.login, err
}

// grant asks for a token, the first time or for longer, and keeps it. The caller holds mu.
func (c *Client) grant(ctx context.Context, entry, token string, body map[string]string) error {
	raw, err := c.call(ctx, http.MethodPost, entry, token, body)
	if err != nil {
		return err
	}
	var reply struct {
		Auth struct {
			ClientToken   string `json:"client_token"`
			LeaseDuration int64  `json:"lease_duration"` // seconds; 0 for ever
			Renewable     bool
		}
	}
	if json.Unmarshal(raw, &reply) != nil || reply.Auth.ClientToken == "" || len(reply.Auth.ClientToken) > maxCredential {
		return fault.New(fault.Unavailable, "the Vault server answers a login with no token")
	}
	c.login, c.renewal, c.expiry = reply.Auth.ClientToken, time.Time{}, time.Time{}
	if d := time.Duration(min(max(reply.Auth.LeaseDuration, 0), 1<<30)) * time.Second; d > 0 {
		now := time.Now()
		c.expiry = now.Add(d - d/10)
		if reply.Auth.Renewable {
			c.renewal = now.Add(d / 2)
		}
	}
	return nil
}

// credential reads a file that proves who we are, without the white space around it.
func credential(path, what string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fault.New(fault.NotFound, "the %s for the Vault server: %v", what, err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fault.New(fault.Denied, "others may read the %s %s", what, path).WithHint("chmod o= %s", path)
	}
	if info.Size() > maxCredential {
		return "", fault.New(fault.Invalid, "%s is too large for a %s", path, what)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fault.New(fault.NotFound, "the %s for the Vault server: %v", what, err)
	}
	text := strings.TrimSpace(string(raw))
	if text == "" || strings.ContainsAny(text, "\r\n\x00") {
		return "", fault.New(fault.Invalid, "%s holds no %s", path, what)
	}
	return text, nil
}

// call sends a request, again after a while when the server is not reached or says "later", and returns the body of an answer that is one.
func (c *Client) call(ctx context.Context, method, entry, token string, body map[string]string) ([]byte, error) {
	wait := firstWait
	for try := 1; ; try++ {
		raw, err := c.once(ctx, method, entry, token, body)
		if fault.CodeOf(err) != fault.Unavailable || errors.Is(err, fault.New(fault.Unavailable, sealed)) || try == tries {
			return raw, err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-t.C:
		}
		wait *= 2
	}
}

// sealed is what asking again does not help against: somebody has to unseal the server.
const sealed = "the Vault server is sealed or not initialised"

func (c *Client) once(ctx context.Context, method, entry, token string, body map[string]string) ([]byte, error) {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "a request to the Vault server")
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.settings.Address+"/v1/"+entry, in)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the Vault server cannot be asked for %s", entry)
	}
	req.Header.Set("X-Vault-Request", "true") // a proxy that lets itself be led to other addresses does not send it
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if c.settings.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.settings.Namespace)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "the Vault server: %v", reach(err))
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fault.New(fault.Unavailable, "the Vault server: %v", reach(err))
	case len(raw) > maxReply:
		return nil, fault.New(fault.Invalid, "the answer of the Vault server for %s has more than %d bytes", entry, maxReply)
	case resp.StatusCode == http.StatusOK:
		return raw, nil
	}
	return nil, refusal(resp.StatusCode, entry, raw)
}

// refusal says what an answer means that is not the one hoped for. Of the body it only looks whether it speaks of a seal.
func refusal(status int, entry string, body []byte) error {
	switch {
	case status >= 300 && status < 400:
		return fault.New(fault.Denied, "the Vault server sends us to another server, where our token does not go").
			WithHint("set VAULT_ADDR to the server that answers")
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return fault.New(fault.Denied, "the Vault server does not let this worker read %s", entry).
			WithHint("see that its token is still good and its policy allows to read this path")
	case status == http.StatusNotFound:
		return fault.New(fault.NotFound, "the Vault server has no %s", entry).
			WithHint("with version 2 of the key-value engine the path has data/ after the mount: secret/data/deploy")
	case status == http.StatusServiceUnavailable && bytes.Contains(bytes.ToLower(body), []byte("sealed")), status == http.StatusNotImplemented:
		return fault.New(fault.Unavailable, sealed).WithHint("bao operator unseal, or vault operator unseal")
	case status == http.StatusTooManyRequests, status == http.StatusPreconditionFailed, status >= 500, status == 472, status == 473:
		return fault.New(fault.Unavailable, "the Vault server answers %d", status)
	default:
		return fault.New(fault.Invalid, "the Vault server answers %d when asked for %s", status, entry)
	}
}
