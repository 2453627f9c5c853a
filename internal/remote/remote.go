// Package remote is what a worker works on when the store is elsewhere: the worker protocol over HTTP, in the form in which the
// worker knows it from a store of its own.
//
// Whatever the network does, nothing is done twice under one token: a request whose answer got lost is sent again or resolved by
// saying what is held. While there is nothing to do, one request waits at the server and nothing else happens.
package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/wire"
)

// Config says where the server is and how the worker proves who it is.
type Config struct {
	Server string        // https://host:port
	Token  func() string // the bearer token of the moment; nil where a certificate says who it is
	TLS    *tls.Config   // trusted authorities and the worker's certificate; nil for the system's
	Tenant string        // sent along; "" for the one of the identity
	Log    *slog.Logger
}

// Client is a connection to a server. It is safe for concurrent use.
type Client struct {
	Config
	base *url.URL
	http atomic.Pointer[http.Client]
	gate gate

	signs identity // of SignResults
}

// New returns a client. Error: fault.Invalid for an address that is none, or that would send a token in the clear to another machine.
func New(c Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(c.Server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fault.New(fault.Invalid, "%q is no address of a server", c.Server).WithHint("write it as https://host:port")
	}
	if base.Scheme == "http" && !local(base.Hostname()) {
		return nil, fault.New(fault.Denied, "a token must not travel in the clear to %s", base.Host).WithHint("use https://")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	client := &Client{Config: c, base: base}
	client.Reconnect()
	return client, nil
}

// Reconnect lets requests from now on use new connections, and with them the certificate of the moment. Those under way are not disturbed.
func (c *Client) Reconnect() {
	old := c.http.Swap(&http.Client{
		Transport: &http.Transport{
			TLSClientConfig: c.TLS, MaxIdleConnsPerHost: 16, IdleConnTimeout: 2 * time.Minute, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if old != nil {
		old.CloseIdleConnections()
	}
}

func local(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.Load().CloseIdleConnections() }

const (
	callTimeout  = 20 * time.Second // of a request that is answered at once
	compressFrom = 8 << 10          // bytes from which compressing a body is worth its time
	maxReply     = 256 << 20
)

// call sends one message and reads its answer. Errors: that of the server with its code; fault.Unavailable when it is not known whether
// the message arrived, or when the last failure was too recent to try again.
func (c *Client) call(ctx context.Context, path string, in, out any, timeout time.Duration) error {
	if err := c.gate.closed(time.Now()); err != nil {
		return err
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "encode a message")
	}
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	var body io.Reader = bytes.NewReader(raw)
	packed := len(raw) >= compressFrom && c.base.Scheme == "https"
	if packed {
		body = pack(raw)
	}
	req, err := c.request(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if packed {
		req.Header.Set("Content-Encoding", "gzip")
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(io.LimitReader(res.Body, maxReply))
	if err := dec.Decode(out); err != nil {
		return c.lost(err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<10)) // so that the connection can be used again
	return nil
}

func pack(raw []byte) io.Reader {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed) // the level exists
	_, _ = z.Write(raw)                             // into memory
	_ = z.Close()
	return &b
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+"/api/v1/worker/"+path, body)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "a request")
	}
	if c.Token != nil {
		req.Header.Set("Authorization", "Bearer "+c.Token())
	}
	if c.Tenant != "" {
		req.Header.Set("X-Orrery-Tenant", c.Tenant)
	}
	return req, nil
}

// send does a request and turns an answer that is no success into its error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Load().Do(req)
	if err != nil {
		if req.Context().Err() == nil || errors.Is(req.Context().Err(), context.DeadlineExceeded) {
			return nil, c.lost(err)
		}
		return nil, fault.Wrap(fault.Unavailable, err, "the request was given up")
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		c.gate.open()
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.refused(res)
}

// refused reads the error of an answer, and how long not to come back.
func (c *Client) refused(res *http.Response) error {
	var e api.ErrorReply
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || json.Unmarshal(raw, &e) != nil || e.Error.Code == "" {
		e.Error = api.Error{Code: string(fault.Unavailable), Message: "the server answered " + res.Status}
	}
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInternalServerError:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After")) // 0 for none
		c.gate.close(time.Now(), time.Duration(min(seconds, 300))*time.Second)
	default:
		c.gate.open()
	}
	return wire.FromError(&e.Error)
}

func (c *Client) lost(err error) error {
	c.gate.close(time.Now(), 0)
	return fault.Wrap(fault.Unavailable, err, "the server did not answer")
}

// gate keeps a worker from hammering a server that is in trouble: after each failure in a row nothing is sent for a time that is
// random between nothing and a bound that doubles, so that the workers of a server that comes back do not all come back at once.
type gate struct {
	mu       sync.Mutex
	failures int
	until    time.Time
}

const (
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 15 * time.Second
)

func (g *gate) closed(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := g.until.Sub(now); wait > 0 {
		return fault.New(fault.Unavailable, "the server is not asked again for %s", wait.Round(time.Millisecond))
	}
	return nil
}

// close notes a failure. The server's own word about when to come back is kept to.
func (g *gate) close(now time.Time, atLeast time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	bound := min(backoffMost, backoffFirst<<min(g.failures, 10))
	g.failures++
	g.until = now.Add(atLeast + rand.N(bound))
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures, g.until = 0, time.Time{}
}

// wait returns when the gate is open again or ctx has ended.
func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	d := time.Until(g.until)
	g.mu.Unlock()
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
