package client

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store answers questions about runs over HTTP as a store does, so that what is worked out of the answers is the same code. The tenant of a
// question is that of the client.
type Store struct{ *Client }

var (
	_ store.Runs    = Store{}
	_ store.Reader  = Store{}
	_ store.History = Store{}
)

const runs = "/api/v1/runs/"

func at(run work.RunID, what string) string { return runs + url.PathEscape(string(run)) + "/" + what }

// page is a part of a list.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next_page_token"`
}

// maxPage is what a server gives at once.
const maxPage = 500

// pages reads a list to its end, or to limit entries when that is not 0.
func pages[T any](ctx context.Context, c *Client, path string, q url.Values, limit int) ([]T, error) {
	if q == nil {
		q = url.Values{}
	}
	var out []T
	for {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-len(out))
		}
		q.Set("page_size", strconv.Itoa(size))
		var p page[T]
		if err := c.get(ctx, path, q, &p); err != nil {
			return nil, err
		}
		out = append(out, p.Items...)
		if p.Next == "" || limit > 0 && len(out) >= limit {
			return out, nil
		}
		q.Set("page_token", p.Next)
	}
}

// Run implements store.Reader.
func (s Store) Run(ctx context.Context, _ work.Tenant, idOrName string) (work.Run, error) {
	var run work.Run
	err := s.get(ctx, runs+url.PathEscape(idOrName), nil, &run)
	if fault.CodeOf(err) == fault.NotFound {
		err = fault.New(fault.NotFound, "there is no run %s", idOrName).WithHint("orrery runs list")
	}
	return run, err
}

// Find implements store.Reader.
func (s Store) Find(ctx context.Context, _ work.Tenant, q store.RunQuery) ([]work.Run, error) {
	v := url.Values{}
	for _, state := range q.States {
		v.Add("state", string(state))
	}
	for name, value := range map[string]string{"pack": q.Pack, "planHash": string(q.PlanHash), "since": q.Since.String(), "before": q.Before.String(), "project": q.Project} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for key, value := range q.Labels {
		v.Add("label", key+"="+value)
	}
	if q.Open {
		v.Set("open", "true")
	}
	return pages[work.Run](ctx, s.Client, "/api/v1/runs", v, q.Limit)
}

// Steps implements store.Reader. The token of a page is the server's own, so that what comes before after is read and left out.
func (s Store) Steps(ctx context.Context, _ work.Tenant, run work.RunID, after work.StepID, limit int) ([]work.Step, error) {
	all, err := pages[work.Step](ctx, s.Client, at(run, "steps"), nil, 0)
	if err != nil {
		return nil, err
	}
	for len(all) > 0 && all[0].ID <= after {
		all = all[1:]
	}
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, nil
}

// DeadLetters implements store.Reader.
func (s Store) DeadLetters(ctx context.Context, _ work.Tenant, limit int) ([]store.DeadLetter, error) {
	var p page[store.DeadLetter]
	if err := s.get(ctx, "/api/v1/dead-letters", nil, &p); err != nil {
		return nil, err
	}
	return p.Items[:min(len(p.Items), limit)], nil
}

// Plan implements store.Reader.
func (s Store) Plan(ctx context.Context, _ work.Tenant, hash work.Digest) ([]byte, error) {
	var out bytes.Buffer
	err := s.get(ctx, "/api/v1/plans/"+string(hash), nil, &out)
	return out.Bytes(), err
}

// Document implements store.Reader. Documents beside runs are the server's affair; what a reader needs of them is in the evidence.
func (s Store) Document(context.Context, work.Tenant, work.RunID, string) ([]byte, error) {
	return nil, notHere("documents beside runs")
}

// Cached implements store.Reader.
func (s Store) Cached(context.Context, work.Tenant, work.Digest) (*store.CachedResult, error) {
	return nil, notHere("earlier results")
}

func notHere(what string) error {
	return fault.New(fault.Unavailable, "a server keeps %s to itself", what)
}

// Events implements store.History.
func (s Store) Events(ctx context.Context, _ work.Tenant, run work.RunID, from int64, limit int) ([]work.Event, error) {
	return pages[work.Event](ctx, s.Client, at(run, "events"), first(from), limit)
}

// Lines implements store.History.
func (s Store) Lines(ctx context.Context, _ work.Tenant, run work.RunID, from int64, limit int) ([]work.LogLine, error) {
	return pages[work.LogLine](ctx, s.Client, at(run, "logs"), first(from), limit)
}

func first(from int64) url.Values { return url.Values{"from": {strconv.FormatInt(max(from, 1), 10)}} }

// lookEvery is how often a follower over HTTP looks again.
const lookEvery = 400 * time.Millisecond

// Watch implements store.History: a hint every now and then.
func (s Store) Watch(ctx context.Context) <-chan struct{} {
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				select {
				case hints <- struct{}{}:
				default:
				}
			}
		}
	}()
	return hints
}

// Submit implements store.Runs. A server makes a run of a pack, not of rows.
func (s Store) Submit(_ context.Context, batch []store.Submission) []store.Submitted {
	out := make([]store.Submitted, len(batch))
	for i := range out {
		out[i].Err = notHere("the making of runs")
	}
	return out
}

// Decide implements store.Runs with the signed statements.
func (s Store) Decide(ctx context.Context, batch []store.DecideCommand) []error {
	errs := make([]error, len(batch))
	for i, c := range batch {
		errs[i] = s.post(ctx, at(c.Run, "approve"), api.ApproveRequest{Statement: c.Decision.Statement}, nil)
	}
	return errs
}

// Control implements store.Runs. Who does it is whom the token stands for.
func (s Store) Control(ctx context.Context, batch []store.ControlCommand) []error {
	errs := make([]error, len(batch))
	for i, c := range batch {
		errs[i] = s.post(ctx, at(c.Run, c.Verb), api.ControlRequest{Reason: c.Actor.Reason}, nil)
	}
	return errs
}

// Acknowledge implements store.Runs.
func (s Store) Acknowledge(ctx context.Context, _ work.Tenant, run work.RunID) error {
	return s.do(ctx, request{method: http.MethodPost, path: at(run, "acknowledge")}, nil)
}

// ResolveDeadLetter implements store.Runs.
func (s Store) ResolveDeadLetter(ctx context.Context, _ work.Tenant, run work.RunID, _ work.StepID, by work.Actor) error {
	return s.DiscardDeadLetter(ctx, run, api.LetterRequest{Reason: by.Reason})
}

// Attach implements store.Runs.
func (s Store) Attach(context.Context, work.Tenant, work.RunID, string, []byte) error {
	return notHere("documents beside runs")
}

// DecideSigned sends a decision that was signed here.
func (c *Client) DecideSigned(ctx context.Context, run work.RunID, e dsse.Envelope) error {
	return c.post(ctx, at(run, "approve"), api.ApproveRequest{Statement: e.Encode()}, nil)
}
