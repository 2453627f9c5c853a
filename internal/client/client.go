// Package client speaks to a server for the command line: questions about runs as a store answers them, and what people ask for.
//
// Errors come back with the code, the hint and the place that the server gave them, so that a command ends the same way over a server
// as over a folder. A request that changes something carries an Idempotency-Key, and is sent again when its answer got lost.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// Config says which server, and as whom.
type Config struct {
	URL    string
	Token  string
	Tenant work.Tenant
	Trace  work.Trace // that requests belong to
	CAFile string     // authorities of the server's certificate; "" for the system's
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	Config
	http *http.Client
}

// New returns a client. Errors: fault.Invalid.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fault.New(fault.Invalid, "%q is not the address of a server", c.URL).WithHint("for example: http://127.0.0.1:8420")
	}
	c.URL = strings.TrimRight(c.URL, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c.CAFile != "" {
		raw, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fault.New(fault.NotFound, "the authorities in %s cannot be read", c.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", c.CAFile)
		}
	}
	return &Client{Config: c, http: &http.Client{Transport: transport}}, nil
}

// Close lets go of connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// request is one question or order.
type request struct {
	method, path string
	query        url.Values
	body         any // what becomes JSON, or a func that opens a stream
	media        string
	reason       string // why, where an operation wants to know
	ticket       string
}

// attempts is how often a request is sent whose answer got lost, or that came too soon.
const attempts = 4

// do sends a request and decodes the answer into out, which may be nil, or an io.Writer for the bytes as they are.
func (c *Client) do(ctx context.Context, q request, out any) error {
	key := rand.Text()
	for i := 1; ; i++ {
		wait, err := c.once(ctx, q, key, out)
		if wait == 0 || i == attempts {
			return err
		}
		t := time.NewTimer(wait * time.Duration(i))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// lost is how long to wait after an answer that got lost.
const lost = 200 * time.Millisecond

// once returns how long to wait before the request may be sent again, 0 for not at all.
func (c *Client) once(ctx context.Context, q request, key string, out any) (time.Duration, error) {
	req, err := c.prepare(ctx, q, key)
	if err != nil {
		return 0, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return lost, fault.New(fault.Unavailable, "the server does not answer: %v", errors.Unwrap(err)).WithHint("is it running, and is --server right?")
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusBadRequest {
		return 0, decode(resp, out)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return lost, fault.New(fault.Unavailable, "the answer of the server broke off: %v", err)
	}
	err = refusal(resp.StatusCode, raw)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return time.Second, err
	case http.StatusConflict:
		if strings.Contains(string(raw), "still under way") {
			return time.Second, err
		}
	}
	return 0, err
}

func (c *Client) prepare(ctx context.Context, q request, key string) (*http.Request, error) {
	var body io.Reader
	media := "application/json"
	switch b := q.body.(type) {
	case nil:
	case func() (io.Reader, error):
		var err error
		if body, err = b(); err != nil {
			return nil, err
		}
		media = q.media
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "encode a request")
		}
		body = bytes.NewReader(raw)
	}
	address := c.URL + q.path
	if len(q.query) > 0 {
		address += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, address, body)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "a request")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Tenant != "" {
		req.Header.Set("X-Orrery-Tenant", string(c.Tenant))
	}
	for name, value := range map[string]string{"traceparent": c.Trace.Parent, "tracestate": c.Trace.State, "baggage": c.Trace.Baggage,
		"X-Orrery-Reason": q.reason, "X-Orrery-Ticket": q.ticket} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", media)
	}
	if q.method != http.MethodGet {
		req.Header.Set("Idempotency-Key", key)
	}
	return req, nil
}

func decode(resp *http.Response, out any) error {
	switch o := out.(type) {
	case nil:
		return nil
	case io.Writer:
		_, err := io.Copy(o, resp.Body)
		return fault.Wrap(fault.Unavailable, err, "the answer of the server broke off")
	default:
		err := json.NewDecoder(resp.Body).Decode(out)
		return fault.Wrap(fault.Unavailable, err, "the answer of the server cannot be read")
	}
}

// refusal makes the error that the server had.
func refusal(status int, raw []byte) error {
	var reply api.ErrorReply
	if err := json.Unmarshal(raw, &reply); err != nil || reply.Error.Code == "" {
		return fault.New(fault.Unavailable, "the server answers %d, and not as Orrery does", status).WithHint("is --server right?")
	}
	e := reply.Error
	one := &fault.Error{Code: fault.Code(e.Code), Message: e.Message, Hint: e.Hint, Where: e.Where}
	if e.Where != "" { // the server's message begins with the place
		one.Message = strings.TrimPrefix(one.Message, e.Where+": ")
	}
	if len(e.Problems) > 0 {
		var all manifest.Problems
		for _, p := range e.Problems {
			all = append(all, &fault.Error{Code: fault.Code(e.Code), Message: p.Message, Hint: p.Hint, Where: p.Where})
		}
		return all
	}
	if one.Code == fault.Internal {
		one.Message = fmt.Sprintf("%s (trace %s)", one.Message, e.TraceID)
	}
	return one
}

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query}, out)
}

func (c *Client) post(ctx context.Context, path string, body, out any) error {
	return c.do(ctx, request{method: http.MethodPost, path: path, body: body}, out)
}

// Me returns who the token stands for.
func (c *Client) Me(ctx context.Context) (api.Me, error) {
	var me api.Me
	err := c.get(ctx, "/api/v1/me", nil, &me)
	return me, err
}
