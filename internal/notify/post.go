package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Poster sends requests to addresses that tenants have named. See Outside.
type Poster struct {
	client *http.Client
}

// Outside returns a poster that reaches public addresses, and of the others only those that the operator allows. The address is judged when the
// connection is made, behind every name, so that a name that means something else the second time gains nothing. Redirects are not
// followed, and no proxy of the environment is used.
func Outside(allowed []netip.Prefix) Poster {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || !reachable(to.Addr(), allowed) {
			return fault.New(fault.Denied, "%s is no public address", address).WithHint("the operator may allow it with --notify-allow")
		}
		return nil
	}}
	return Poster{&http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 15 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		},
	}}
}

// special returns addresses that are neither public nor recognised by package netip: shared by providers, for documents and tests, the way from
// IPv6 to IPv4, reserved.
func special() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func reachable(a netip.Addr, allowed []netip.Prefix) bool {
	a = a.Unmap().WithZone("")
	for _, p := range allowed {
		if p.Contains(a) {
			return true
		}
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	for _, p := range special() {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

const maxURL = 2048

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURL || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fault.New(fault.Invalid, "a webhook has an address like https://example.org/hook")
	case u.User != nil || u.Fragment != "":
		return fault.New(fault.Invalid, "the address of a webhook has neither a password nor a fragment")
	}
	return nil
}

// webhook sends a message as Standard Webhooks have it: the signature is HMAC-SHA256 over id, time and body.
func (p Poster) webhook(ctx context.Context, to, secret, id string, body []byte, now time.Time) (Attempt, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return Attempt{}, fault.Wrap(fault.Internal, err, "the secret of a webhook")
	}
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return p.post(ctx, to, body, http.Header{
		"Webhook-Id": {id}, "Webhook-Timestamp": {at}, "Webhook-Signature": {"v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))},
	})
}

// chat sends a message as {"text": "…"}, which Slack, Mattermost, Rocket.Chat, Google Chat and others take.
func (p Poster) chat(ctx context.Context, to string, m *Message) (Attempt, error) {
	text := plain(m.line())
	if next := m.next(); next != "" {
		text += "\n" + plain(next)
	}
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return Attempt{}, fault.Wrap(fault.Internal, err, "a notification")
	}
	return p.post(ctx, to, body, http.Header{})
}

const maxExcerpt = 1 << 10

func (p Poster) post(ctx context.Context, to string, body []byte, header http.Header) (Attempt, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return Attempt{}, fault.New(fault.Invalid, "the address is none")
	}
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "Orrery")
	req.Header = header
	resp, err := p.client.Do(req)
	if err != nil {
		var e *url.Error // it has the address in it, which may be a secret
		if errors.As(err, &e) {
			err = e.Err
		}
		return Attempt{}, fault.New(fault.Unavailable, "the receiver was not reached: %v", err)
	}
	defer resp.Body.Close()
	excerpt, _ := io.ReadAll(io.LimitReader(resp.Body, maxExcerpt)) // whatever came
	a := Attempt{Status: resp.StatusCode, Excerpt: strings.ToValidUTF8(string(excerpt), "?")}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return a, fault.New(fault.Unavailable, "the receiver answered %d", resp.StatusCode)
	}
	return a, nil
}
