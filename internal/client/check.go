package client

import (
	"context"
	"io"
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
)

// Readiness is what a server says to whoever asks, and what the connection to it shows.
type Readiness struct {
	Ready   bool
	Version string
	Skew    time.Duration // how far its clock is ahead of this machine's, to the second
	Took    time.Duration // of a request over a connection that is open
	Ends    time.Time     // of its certificate; zero without TLS
}

// Readiness asks whether the server serves. Error: fault.Unavailable when it does not answer at all.
func (c *Client) Readiness(ctx context.Context) (Readiness, error) {
	var r Readiness
	for range 2 { // the first opens the connection
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/readyz", nil)
		if err != nil {
			return r, fault.Wrap(fault.Invalid, err, "a request")
		}
		begin := time.Now()
		resp, err := c.http.Do(req)
		if err != nil {
			return r, fault.New(fault.Unavailable, "%s does not answer: %v", c.URL, err).WithHint("is it running, and is --server right?")
		}
		r.Took = time.Since(begin)
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection is used again
		resp.Body.Close()
		r.Ready, r.Version = resp.StatusCode == http.StatusOK, resp.Header.Get("X-Orrery-Version")
		if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			if r.Skew = at.Sub(begin.Truncate(time.Second)); r.Skew > -2*time.Second && r.Skew < 2*time.Second {
				r.Skew = 0
			}
		}
		if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
			r.Ends = resp.TLS.PeerCertificates[0].NotAfter
		}
	}
	return r, nil
}

// Checks returns what the server found about itself.
func (c *Client) Checks(ctx context.Context) ([]api.Check, error) {
	var out api.CheckList
	err := c.get(ctx, "/api/v1/checks", nil, &out)
	return out.Items, err
}
