package orrery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery/api"
)

// Config says where a server is and who asks.
type Config struct {
	Server string       // https://host:port
	Token  string       // "" where the HTTP client brings a certificate
	Tenant string       // "" for the tenant of the token, where an operation allows that
	HTTP   *http.Client // nil for one with keep-alive and without a time limit

	// Stream is told about the connection of a stream: nil when there is one, else why it was lost, each time before the stream comes back; an
	// error that it returns then ends the stream. Without it streams come back until their context ends. Several streams may call it at once.
	Stream func(lost error) error
}

// Client asks a server. It is safe for concurrent use.
type Client struct {
	config Config
	http   *http.Client
}

// NewClient returns a client. It does not connect yet.
func NewClient(c Config) (*Client, error) {
	u, err := url.Parse(strings.TrimSuffix(c.Server, "/"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("the address of a server is written as https://host:port")
	}
	c.Server = u.String()
	client := &Client{config: c, http: c.HTTP}
	if client.http == nil {
		client.http = &http.Client{}
	}
	return client, nil
}

// send makes a request below /api/v1/. The body is JSON unless it is a reader.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body any) (*http.Response, error) {
	var from io.Reader
	kind := "application/octet-stream"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		from = b
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		from, kind = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, method, c.config.Server+"/api/v1/"+path, from)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if from != nil {
		req.Header.Set("Content-Type", kind)
	}
	if c.config.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.config.Token)
	}
	if c.config.Tenant != "" {
		req.Header.Set("X-Orrery-Tenant", c.config.Tenant)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, unavailable(err)
	}
	if res.StatusCode < 300 || res.StatusCode == http.StatusNotModified {
		return res, nil
	}
	defer res.Body.Close()
	return nil, refused(res)
}

func refused(res *http.Response) error {
	var reply api.ErrorReply
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || json.Unmarshal(raw, &reply) != nil || reply.Error.Code == "" {
		reply.Error = api.Error{Code: codeUnavailable, Message: "the server answered " + res.Status}
	}
	return &Error{Reply: reply.Error, Status: res.StatusCode}
}

// ask makes a request and decodes its answer. What changes something has a key of its own, so that trouble on the way can be answered by
// sending it again.
func (c *Client) ask(ctx context.Context, method, path string, body, out any) error {
	header := http.Header{}
	if method != http.MethodGet {
		header.Set("Idempotency-Key", newKey())
	}
	for try := 0; ; try++ {
		err := c.once(ctx, method, path, header, body, out)
		if try == 4 || Code(err) != codeUnavailable && Code(err) != codeExhausted {
			return err
		}
		if !pause(ctx, rand.N(200*time.Millisecond<<try)) {
			return context.Cause(ctx)
		}
	}
}

func (c *Client) once(ctx context.Context, method, path string, header http.Header, body, out any) error {
	res, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil || res.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return unavailable(err)
	}
	return nil
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Plan returns what would run, and its hash.
func (c *Client) Plan(ctx context.Context, r api.PlanRequest) (api.PlanReply, error) {
	var out api.PlanReply
	err := c.ask(ctx, http.MethodPost, "plans", r, &out)
	return out, err
}

// Submit starts a run. Without a signer the server signs with the key that it keeps for the caller's account. With one, the request is
// signed here, for the plan that Plan gives now; to be sure of what is signed, look at that plan and put its hash into r.PlanHash.
func (c *Client) Submit(ctx context.Context, r api.SubmitRequest, by *Signer) (api.SubmitReply, error) {
	var out api.SubmitReply
	if by != nil {
		plan, err := c.Plan(ctx, api.PlanRequest{PackSource: r.PackSource, Inputs: r.Inputs})
		if err != nil {
			return out, err
		}
		if r.PlanHash != "" && r.PlanHash != plan.PlanHash {
			return out, failure(codePlanMismatch, "the server makes the plan %s of this", plan.PlanHash)
		}
		if r.Request, err = by.request(c.config.Tenant, &r, &plan); err != nil {
			return out, err
		}
		r.PlanHash = plan.PlanHash
	}
	err := c.ask(ctx, http.MethodPost, "runs", r, &out)
	return out, err
}

// SubmitMany starts many runs of one pack, up to 500, with one request and one commit. The server signs with the key that it keeps for the
// caller's account, unless every run brings a signed request. When one cannot be planned none is started; each entry of the answer names
// its run or says why it was not started.
func (c *Client) SubmitMany(ctx context.Context, r api.BatchRequest) (api.BatchReply, error) {
	var out api.BatchReply
	err := c.ask(ctx, http.MethodPost, "run-batches", r, &out)
	return out, err
}

// Get returns a run, by its id or by its name.
func (c *Client) Get(ctx context.Context, run string) (api.RunDetail, error) {
	var out api.RunDetail
	err := c.ask(ctx, http.MethodGet, "runs/"+url.PathEscape(run), nil, &out)
	return out, err
}

// Query selects runs. Zero fields select all.
type Query struct {
	States []string
	Pack   string
	Open   bool // only those that have not ended
}

// List returns runs, newest first, page by page as they are read.
func (c *Client) List(ctx context.Context, q Query) iter.Seq2[api.Run, error] {
	return func(yield func(api.Run, error) bool) {
		v := url.Values{"page_size": {"100"}, "state": q.States}
		if q.Pack != "" {
			v.Set("pack", q.Pack)
		}
		if q.Open {
			v.Set("open", "true")
		}
		for {
			var page api.RunList
			if err := c.ask(ctx, http.MethodGet, "runs?"+v.Encode(), nil, &page); err != nil {
				yield(api.Run{}, err)
				return
			}
			for _, run := range page.Items {
				if !yield(run, nil) {
					return
				}
			}
			if page.NextPageToken == "" {
				return
			}
			v.Set("page_token", page.NextPageToken)
		}
	}
}

// Ended reports whether a run will not change any more.
func Ended(run *api.Run) bool { return run.Phase == "ended" }

// Wait returns the run when it has ended, however it did. Trouble on the way is waited out until ctx ends.
func (c *Client) Wait(ctx context.Context, run string) (api.Run, error) {
	header, wait := http.Header{}, 20*time.Millisecond
	for {
		res, err := c.send(ctx, http.MethodGet, "runs/"+url.PathEscape(run), header, nil)
		if err == nil {
			var out api.RunDetail
			if res.StatusCode != http.StatusNotModified {
				err = json.NewDecoder(res.Body).Decode(&out)
				header.Set("If-None-Match", res.Header.Get("ETag"))
			}
			res.Body.Close()
			if err == nil && Ended(&out.Run) {
				return out.Run, nil
			}
		}
		if err != nil && Code(err) != codeUnavailable && Code(err) != codeExhausted {
			return api.Run{}, err
		}
		if !pause(ctx, wait) {
			return api.Run{}, context.Cause(ctx)
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// Logs returns the output of a run that is there now, from a sequence number on; the first is 1.
func (c *Client) Logs(ctx context.Context, run string, from int64) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		v := url.Values{"page_size": {"500"}}
		if from > 1 {
			v.Set("from", strconv.FormatInt(from, 10))
		}
		for {
			var page api.LogList
			if err := c.ask(ctx, http.MethodGet, "runs/"+url.PathEscape(run)+"/logs?"+v.Encode(), nil, &page); err != nil {
				yield(api.LogLine{}, err)
				return
			}
			for _, line := range page.Items {
				if !yield(line, nil) {
					return
				}
			}
			if page.NextPageToken == "" {
				return
			}
			v.Set("page_token", page.NextPageToken)
		}
	}
}

// Cancel stops a run. It has ended when Wait says so.
func (c *Client) Cancel(ctx context.Context, run, reason string) error {
	return c.ask(ctx, http.MethodPost, "runs/"+url.PathEscape(run)+"/cancel", api.ControlRequest{Reason: reason}, nil)
}

// Decision is what a person says at a gate.
type Decision struct {
	Gate     string
	Approved bool
	Reason   string
	Ticket   string
	PlanHash string // what the person looked at; "" for the plan of the run
}

// Decide answers at a gate of a run, in a statement that the signer signs here.
func (c *Client) Decide(ctx context.Context, run string, d Decision, by *Signer) error {
	detail, err := c.Get(ctx, run)
	if err != nil {
		return err
	}
	statement, err := by.decision(&detail.Run, d)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPost, "runs/"+url.PathEscape(run)+"/approve", api.ApproveRequest{Gate: d.Gate, Statement: statement}, nil)
}

// Evidence writes the evidence of an ended run: a tar that anybody can verify offline.
func (c *Client) Evidence(ctx context.Context, run string, to io.Writer) error {
	res, err := c.send(ctx, http.MethodGet, "runs/"+url.PathEscape(run)+"/evidence", nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(to, res.Body)
	return err
}
